from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from accelerate.state import AcceleratorState, PartialState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from sterna.config import DataConfig
from sterna.data import shards as shards_module
from sterna.data.dataset import Batch, BatchDataset, DataSplits, Normalization
from sterna.data.image_folder import MEAN, STD, load_image_folder
from sterna.data.loader import WindowShuffleSampler, make_loader
from sterna.data.shards import ShardDataset, index_shards, list_shards, load_shards
from sterna.errors import ConfigError, DataError, SternaError
from sterna.pictures import UnreadableImageError

CLASSES = ("cat", "dog", "owl")
SHARDS = 6
PER_SHARD = 5


def picture(number: int, size: tuple[int, int] = (50, 40)) -> bytes:
    # Smooth pictures, so that resampling does not average everything to grey.
    coarse = np.random.default_rng(number).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(stream, "PNG")
    return stream.getvalue()


PICTURE = picture(0)


def write_shard(path: Path, members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as shard:
        for name, payload in members:
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            shard.addfile(member, io.BytesIO(payload))
    return path


def sample(number: int, label: int) -> list[tuple[str, bytes]]:
    return [(f"{number:06d}.png", picture(number)), (f"{number:06d}.cls", str(label).encode())]


def write_split(pattern: str, root: Path, shards: int = SHARDS) -> list[Path]:
    """Shards of five samples; picture n has label n modulo 3."""
    paths = []
    for shard in range(shards):
        numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        members = chain.from_iterable(sample(number, number % 3) for number in numbers)
        paths.append(write_shard(root / pattern.format(shard), members))
    return paths


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """30 training and 10 test pictures of three classes in folders of shards."""
    write_split("train/{:06d}.tar", tmp_path)
    write_split("val/{:06d}.tar", tmp_path, 2)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return tmp_path


@pytest.fixture
def accelerate_state() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def config(root: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"name": "shards", "path": str(root), "image_size": 32, **values})


def load(root: Path, **values: object) -> DataSplits:
    return load_shards(config(root, **values))


def dataset_of(*paths: Path) -> ShardDataset:
    return ShardDataset(index_shards(paths), 32, Normalization(MEAN, STD, channels=3))


def train_of(root: Path, **values: object) -> ShardDataset:
    train = load(root, **values).train
    assert isinstance(train, ShardDataset)
    return train


def first(batch: Batch) -> Batch:
    return batch


def window_loader(dataset: ShardDataset, batch_size: int, window: int = 2, workers: int = 0) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=WindowShuffleSampler(dataset, 0, dataset.shards, window),
        num_workers=workers,
        collate_fn=first,
        drop_last=True,
        generator=torch.Generator().manual_seed(0),
    )


def assert_same_batches(ours: Sequence[Batch], theirs: Sequence[Batch]) -> None:
    assert len(ours) == len(theirs) > 0
    for (images, labels), (their_images, their_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(images, their_images)
        assert torch.equal(labels, their_labels)


def fingerprints(images: Tensor) -> list[float]:
    """A number for each picture, different for all pictures of these tests."""
    return [round(image.double().abs().sum().item(), 3) for image in images]


# Reading


@pytest.mark.parametrize("augment", [False, True])
def test_shards_give_the_inputs_of_the_same_pictures_in_folders(tmp_path: Path, augment: bool) -> None:
    numbers = sorted(range(12), key=lambda number: number % 3)
    for name in ("train", "test"):
        for shard in range(3):
            members = chain.from_iterable(sample(number, number % 3) for number in numbers[4 * shard : 4 * shard + 4])
            write_shard(tmp_path / "shards" / name / f"{shard}.tar", members)
        for number in numbers:
            path = tmp_path / "folders" / name / CLASSES[number % 3] / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number))
    ours = load_shards(config(tmp_path / "shards", augment=augment), seed=4)
    theirs = load_image_folder(config(tmp_path / "folders", name="image-folder", augment=augment), seed=4)
    assert ours.preprocessing == theirs.preprocessing
    for mine, their in ((ours.train, theirs.train), (ours.test, theirs.test)):
        mine.set_epoch(1)
        their.set_epoch(1)
        assert_same_batches([mine.__getitems__(range(12))], [their.__getitems__(range(12))])
        assert mine.__getitems__([3])[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "a/b.c/", "x" * 90 + "/" + "y" * 50 + "/"])
def test_samples_are_found_under_names_of_any_length(tmp_path: Path, tar_format: int, folder: str) -> None:
    members = [(folder + name, payload) for number in range(3) for name, payload in sample(number, number + 4)]
    samples = index_shards([write_shard(tmp_path / "x.tar", members, tar_format)])
    assert samples.labels.tolist() == [4, 5, 6]
    assert samples.describe(2) == f"'{tmp_path / 'x.tar'}', member '{folder}000002.png',"


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_found_under_names_longer_than_any_header(tmp_path: Path, tar_format: int) -> None:
    members = [("ü" * 300 + name, payload) for name, payload in sample(7, 1)]
    samples = index_shards([write_shard(tmp_path / "x.tar", members, tar_format)])
    assert "ü" * 300 + "000007.png" in samples.describe(0)


def test_offsets_and_sizes_are_those_of_tarfile(root: Path) -> None:
    paths = list_shards(root, "train")
    samples = index_shards(paths)
    expected = []
    for path in paths:
        with tarfile.open(path) as shard:
            expected += [(member.offset_data, member.size) for member in shard if member.name.endswith(".png")]
    assert list(zip(samples.offsets, samples.sizes, strict=True)) == expected
    assert samples.shards.tolist() == np.repeat(range(SHARDS), PER_SHARD).tolist()
    assert (samples.shards.dtype, samples.labels.dtype) == (np.int32, np.int64)


def test_a_global_pax_header_and_numbers_in_pax_headers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as shard:
        for name, payload in sample(0, 2):
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            member.pax_headers = {"size": str(len(payload)), "mtime": "1.5"}
            shard.addfile(member, io.BytesIO(payload))
    assert index_shards([path]).labels.tolist() == [2]


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("a.cls", b"7\n", 7),
        ("a.CLS", b"0", 0),
        ("a.json", b'{"label": 3, "class": 4}', 3),
        ("a.json", b'{"class": 4}', 4),
    ],
)
def test_labels_are_decimal_text_or_json(tmp_path: Path, name: str, text: bytes, label: int) -> None:
    members = [("a.jpg", PICTURE), (name, text)]
    assert index_shards([write_shard(tmp_path / "x.tar", members)]).labels.tolist() == [label]


def test_a_cls_member_goes_before_json_whatever_the_order(tmp_path: Path) -> None:
    members = [("a.json", b"[]"), ("a.cls", b"1"), ("a.png", PICTURE), ("a.seg.png", b""), ("a.txt", b"")]
    assert index_shards([write_shard(tmp_path / "x.tar", members)]).labels.tolist() == [1]


def test_members_that_are_no_part_of_a_sample_are_ignored(tmp_path: Path) -> None:
    members = [("README", b"x"), ("._a.jpg", b"x"), *sample(0, 1), ("d/.hidden", b"x")]
    assert len(index_shards([write_shard(tmp_path / "x.tar", members)])) == 1


def test_links_and_folders_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as shard:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("secret.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            shard.addfile(member)
        for name, payload in sample(0, 1):
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            shard.addfile(member, io.BytesIO(payload))
    assert index_shards([path]).labels.tolist() == [1]


def test_the_index_reports_its_progress(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    index_shards(list_shards(root, "train"), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, SHARDS) for done in range(1, SHARDS + 1)]


def test_few_shards_are_open_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_shards() -> int:
        # The listing's own descriptor is gone when its link is followed.
        links = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
        return sum(link.readlink().suffix == ".tar" for link in links)

    monkeypatch.setattr(shards_module, "LARGEST_OPEN_SHARDS", 2)
    data = train_of(root)
    everything = data.__getitems__(range(30))[0]
    assert open_shards() == 2
    assert torch.equal(data.__getitems__([0, 29, 14, 1])[0], everything[[0, 29, 14, 1]])
    del data
    assert open_shards() == 0


def test_other_processes_read_the_same_pictures(root: Path) -> None:
    data = train_of(root)
    here = data.__getitems__(range(30))  # Opens the shards, so that the other process inherits them.
    assert_same_batches(list(make_loader(data, 30, shuffle=False, seed=0, workers=1)), [here])
    copy = pickle.loads(pickle.dumps(data))
    assert_same_batches([copy.__getitems__(range(30))], [here])


# Splits


def test_a_lone_validation_folder_is_the_test_split(root: Path) -> None:
    splits = load(root)
    assert (len(splits.train), len(splits.test)) == (30, 10)
    assert splits.validation is splits.test
    assert splits.labels == CLASSES


@pytest.mark.parametrize("pattern", ["{}/{{}}.tar", "{}-{{:06d}}.tar", "imagenet-1k-{}-{{}}.tar"])
def test_shards_lie_in_folders_or_side_by_side(tmp_path: Path, pattern: str) -> None:
    for name, shards in (("train", 3), ("validation", 2), ("test", 1)):
        write_split(pattern.format(name), tmp_path, shards)
    splits = load(tmp_path)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (15, 10, 5)
    with pytest.raises(ConfigError, match=r"validation_size must be 0 where .* has 'validation' and 'test', got 5"):
        load(tmp_path, validation_size=5)


def test_shards_are_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        write_shard(tmp_path / "train" / f"{name}.tar", sample(0, 0))
    assert [path.stem for path in list_shards(tmp_path, "train")] == ["a", "b", "c"]


def test_held_out_images_are_those_of_the_training_shards_that_are_left_out(root: Path) -> None:
    splits = load(root, validation_size=7, augment=False)
    whole = fingerprints(train_of(root, augment=False).__getitems__(range(30))[0])
    kept = fingerprints(splits.train.__getitems__(range(23))[0])
    held_out = fingerprints(splits.validation.__getitems__(range(7))[0])
    assert len(set(whole)) == 30
    assert sorted(kept + held_out) == sorted(whole)
    assert (len(kept), len(held_out), len(splits.test)) == (23, 7, 10)


def test_classes_without_names_are_numbered(root: Path) -> None:
    (root / "classes.txt").unlink()
    write_shard(root / "val" / "x.tar", sample(0, 4))
    assert load(root).labels == ("0", "1", "2", "3", "4")


# Order


def assert_permutation(order: Iterable[int]) -> None:
    assert sorted(order) == list(range(30))


def test_every_sample_is_read_exactly_once_an_epoch(root: Path) -> None:
    data = train_of(root, augment=False)
    everything = sorted(fingerprints(data.__getitems__(range(30))[0]))
    for epoch in (0, 1):
        data.set_epoch(epoch)
        for loader in (window_loader(data, 5), make_loader(data, 7, shuffle=True, seed=0)):
            assert sorted(chain.from_iterable(fingerprints(images) for images, _ in loader)) == everything


def test_the_window_order_depends_on_seed_and_epoch_alone(root: Path) -> None:
    def order(epoch: int, seed: int) -> list[int]:
        data = train_of(root)
        sampler = WindowShuffleSampler(data, seed, data.shards)
        sampler.set_epoch(epoch)
        assert data.epoch == epoch
        assert len(sampler) == 30
        return list(sampler)

    assert order(3, seed=1) == order(3, seed=1)
    assert order(4, seed=1) != order(3, seed=1)
    assert order(3, seed=2) != order(3, seed=1)
    assert_permutation(order(3, seed=1))


@pytest.mark.parametrize("window", [1, 2, 3])
def test_all_samples_of_a_window_come_from_its_shards(root: Path, window: int) -> None:
    data = train_of(root)
    order = np.array(list(WindowShuffleSampler(data, 0, data.shards, window)))
    pools = order.reshape(-1, window * PER_SHARD)
    assert_permutation(order)
    for pool in pools:
        assert len(np.unique(data.shards[pool])) == window
        assert pool.tolist() != sorted(pool.tolist())


def test_shards_of_a_window_change_between_epochs(root: Path) -> None:
    data = train_of(root)
    windows = set()
    for epoch in range(10):
        data.set_epoch(epoch)
        order = list(WindowShuffleSampler(data, 0, data.shards, 2))
        windows.add(tuple(sorted(set(data.shards[order[:10]].tolist()))))
    assert len(windows) > 3


def test_a_window_over_held_out_samples_leaves_out_nothing(root: Path) -> None:
    data = train_of(root, validation_size=25)
    assert sorted(WindowShuffleSampler(data, 0, data.shards, 2)) == list(range(5))


class Nothing(BatchDataset[Batch]):
    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        raise NotImplementedError


@given(
    shards=st.lists(st.integers(0, 9), max_size=40),
    window=st.integers(1, 12),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 99),
)
def test_the_window_order_is_a_permutation_that_visits_a_shard_once(
    shards: list[int], window: int, seed: int, epoch: int
) -> None:
    data = Nothing(len(shards))
    data.set_epoch(epoch)
    order = list(WindowShuffleSampler(data, seed, np.array(shards, np.int32), window))
    assert sorted(order) == list(range(len(shards)))
    visited: list[set[int]] = [set()]
    for index in order:
        if shards[index] not in visited[-1] and len(visited[-1]) == window:
            visited.append(set())
        visited[-1].add(shards[index])
    assert sum(map(len, visited)) == len(set(shards))


def test_windows_that_cannot_be_are_refused(root: Path) -> None:
    data = train_of(root)
    with pytest.raises(ConfigError, match=r"window \(=0\) must be at least 1 shard"):
        WindowShuffleSampler(data, 0, data.shards, 0)
    with pytest.raises(ValueError, match=r"shards must have shape \(30,\), one for each image, got \(29,\)"):
        WindowShuffleSampler(data, 0, data.shards[1:])


@pytest.mark.parametrize("window", [None, 2])
def test_workers_give_the_same_batches(root: Path, window: int | None) -> None:
    data = train_of(root)
    data.set_epoch(2)
    alone, helped = (
        list(
            make_loader(data, 6, shuffle=True, seed=0, workers=workers)
            if window is None
            else window_loader(data, 6, window, workers)
        )
        for workers in (0, 2)
    )
    assert_same_batches(helped, alone)


def rank_loaders(root: Path, batch_size: int) -> list[DataLoader[Batch]]:
    """The loaders that Accelerate gives to each of two processes; each has a data set of its own there."""
    return [
        prepare_data_loader(
            window_loader(train_of(root), batch_size),
            num_processes=2,
            process_index=rank,
            split_batches=True,
            use_seedable_sampler=True,
        )
        for rank in range(2)
    ]


@pytest.mark.usefixtures("accelerate_state")
@pytest.mark.parametrize("skipped", [0, 2])
def test_two_ranks_read_every_sample_once(root: Path, skipped: int) -> None:
    data = train_of(root)
    for epoch in (0, 3):
        data.set_epoch(epoch)
        expected = list(window_loader(data, 6))[skipped:]
        shares = []
        for loader in rank_loaders(root, 6):
            loader.set_epoch(epoch)
            shares.append(list(skip_first_batches(loader, skipped) if skipped else loader))
        assert [len(labels) for share in shares for _, labels in share] == [3] * (2 * len(expected))
        together = [
            (torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts]))
            for parts in zip(*shares, strict=True)
        ]
        assert_same_batches(together, expected)


@pytest.mark.usefixtures("accelerate_state")
@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_batches_gives_the_rest_of_the_epoch(root: Path, workers: int) -> None:
    data = train_of(root)
    data.set_epoch(2)
    expected = list(window_loader(data, 6))
    prepared = prepare_data_loader(window_loader(train_of(root), 6, workers=workers), split_batches=True)
    prepared.set_epoch(2)
    assert_same_batches(list(skip_first_batches(prepared, 2)), expected[2:])


# Errors


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", [*sample(0, 0), ("b.jpg", b"not a picture"), ("b.cls", b"1")])
    with pytest.raises(UnreadableImageError, match=r"x\.tar', member 'b\.jpg', is not a readable image: unknown form"):
        dataset_of(path).__getitems__([0, 1])


def test_a_truncated_picture_is_named_in_one_line_by_a_worker(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", [("b\n.png", PICTURE[:-40]), ("b\n.cls", b"1")])
    loader = make_loader(dataset_of(path), 1, shuffle=False, seed=0, workers=1)
    with pytest.raises(UnreadableImageError, match=r"^'.*x\.tar', member 'b\\n\.png', is not a readable im") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_a_picture_of_an_unexpected_format_is_not_decoded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "EPS")
    path = write_shard(tmp_path / "x.tar", [("b.jpg", stream.getvalue()), ("b.cls", b"1")])
    with pytest.raises(UnreadableImageError, match="unknown format"):
        dataset_of(path)[0]


def test_a_shard_that_shrinks_or_vanishes_after_indexing_is_named(root: Path) -> None:
    data = train_of(root)
    path = root / "train" / "000000.tar"
    os.truncate(path, 700)
    with pytest.raises(
        UnreadableImageError, match=r"000000\.tar' at offset 512 is not a readable image: .* bytes want"
    ):
        data[0]
    (root / "train" / "000001.tar").unlink()
    with pytest.raises(
        UnreadableImageError, match=r"000001\.tar' at offset 512 is not a readable image: .*No such fil"
    ):
        data[PER_SHARD]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", PICTURE)], r"sample 'a' must have one picture and a label .* got \['jpg'\]"),
        ([("a.cls", b"1")], r"sample 'a' must have one picture .* got \['cls'\]"),
        ([("a.txt", b"1")], r"sample 'a' must have one picture .* got \['txt'\]"),
        ([("a.jpg", PICTURE), ("a.png", PICTURE), ("a.cls", b"1")], r"one picture .* got \['jpg', 'png', 'cls'\]"),
        ([("a.jpg", PICTURE), ("b.cls", b"1")], r"sample 'a' must .* next to each other, got \['jpg'\]"),
        ([("a.jpg", PICTURE), ("a.JPG", PICTURE), ("a.cls", b"1")], r"sample 'a' has two members '\.jpg'"),
        ([("a.\n", b""), ("a.\n", b"")], r"sample 'a' has two members '\.\\n'"),
        ([("a.jpg", PICTURE), ("a.cls", b"cat")], r"'a\.cls' must hold a whole number from 0 to 1048575, got 'cat'"),
        ([("a.jpg", PICTURE), ("a.cls", b"-1")], r"must hold a whole number from 0 to 1048575, got '-1'"),
        ([("a.jpg", PICTURE), ("a.cls", b"1_0")], r"must hold a whole number from 0 to 1048575, got '1_0'"),
        ([("a.jpg", PICTURE), ("a.cls", b"")], r"must hold a whole number from 0 to 1048575, got ''"),
        ([("a.jpg", PICTURE), ("a.cls", b"1048576")], r"whole number from 0 to 1048575, got '1048576'"),
        ([("a.jpg", PICTURE), ("a.cls", b"9" * 9999)], rf"whole number .* got '{'9' * 40}'\.\.\."),
        (
            [("a.jpg", PICTURE), ("a.json", b'{"x": 1}')],
            r"from 0 to 1048575 under 'label' or 'class', got '{\"x\": 1}'",
        ),
        ([("a.jpg", PICTURE), ("a.json", b'{"label": true}')], r"under 'label' or 'class', got"),
        ([("a.jpg", PICTURE), ("a.json", b'{"label": 1.5}')], r"under 'label' or 'class', got"),
        ([("a.jpg", PICTURE), ("a.json", b"{")], r"under 'label' or 'class', got '{'"),
        ([("a.jpg", PICTURE), ("a.json", b"\xff\xfe\xff")], r"under 'label' or 'class', got '\\xff"),
        ([("a.jpg", PICTURE), ("a.json", b"[" * 500_000)], r"under 'label' or 'class', got '\[+'\.\.\."),
        (
            [("a.jpg", PICTURE), ("a.cls", bytes((1 << 20) + 1))],
            r"1048577 bytes, at most 1048576 are allowed for a lab",
        ),
        ([], r"no samples in 1 shards, the first is '.*x\.tar'"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_impossible_samples_are_refused(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    path = write_shard(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=message) as caught:
        index_shards([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_huge_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_shard(tmp_path / "x.tar", sample(0, 0))
    monkeypatch.setattr(shards_module, "LARGEST_PICTURE_BYTES", 100)
    with pytest.raises(DataError, match=r"sample '000000' has a picture of \d+ bytes, at most 100 are allowed"):
        index_shards([path])


def test_a_label_without_a_class_is_refused(root: Path) -> None:
    write_shard(root / "val" / "x.tar", [*sample(0, 1), *sample(1, 3)])
    with pytest.raises(
        DataError, match=r"x\.tar', member '000001\.png', has label 3, which is outside 0 \.\. 2: '.*' names 3 classes"
    ):
        load(root)


def test_classes_that_are_no_text_are_refused(root: Path) -> None:
    (root / "classes.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"classes\.txt' cannot be read as text: "):
        load(root)


@pytest.mark.parametrize("left", [0, 100, 511, 512, 600, 1024, 5000])
def test_a_truncated_shard_is_refused(tmp_path: Path, left: int) -> None:
    path = write_shard(tmp_path / "x.tar", chain(sample(0, 0), sample(1, 1)))
    os.truncate(path, left)
    with pytest.raises(DataError, match=r"x\.tar' is truncated: it "):
        index_shards([path])


def test_a_shard_cut_between_two_samples_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", chain(sample(0, 0), sample(1, 1)))
    os.truncate(path, int(index_shards([path]).offsets[1]) - 512)
    with pytest.raises(DataError, match=r"x\.tar' is truncated: it ends without an end mark"):
        index_shards([path])


def test_archives_written_one_behind_the_other_are_refused(tmp_path: Path) -> None:
    parts = [write_shard(tmp_path / f"{number}.tar", sample(number, 0)).read_bytes() for number in range(2)]
    (tmp_path / "x.tar").write_bytes(b"".join(parts))
    with pytest.raises(DataError, match=r"x\.tar' at offset \d+: data follow the end mark"):
        index_shards([tmp_path / "x.tar"])


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", sample(0, 0))
    data = bytearray(path.read_bytes())
    second = data.index(b"000000.cls")
    data[second] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"x\.tar' at offset {second}: not a tar header, or a damaged one"):
        index_shards([path])


def with_checksum(header: bytes) -> bytes:
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return header[:148] + b"%06o\0 " % checksum + header[156:]


def header_of(name: bytes = b"a.jpg", size: bytes = b"00000000000\0", kind: bytes = b"0") -> bytes:
    fields = name.ljust(100, b"\0") + bytes(24) + size + bytes(12) + bytes(8) + kind
    return with_checksum(fields.ljust(512, b"\0"))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (header_of(size=b"7" * 12), r"is truncated: it has 2048 bytes, member 'a\.jpg' ends at 68719477247"),
        (header_of(size=b"\x80" + b"\xff" * 11), r"is truncated: it has 2048 bytes"),
        (header_of(size=b"\xff" * 12), r"offset 0: the size of the member is not a number"),
        (header_of(size=b"-0000000001\0"), r"offset 0: the size of the member is not a number"),
        (header_of(kind=b"S"), r"offset 0: member 'a\.jpg' is sparse, which is not supported"),
        (header_of(kind=b"x", size=b"00000000004\0") + b"abcd".ljust(512, b"\0"), r"offset 0: damaged pax header"),
        (header_of(kind=b"x", size=b"00000000004\0") + b"0 =\n".ljust(512, b"\0"), r"offset 0: damaged pax header"),
        (header_of(kind=b"x", size=b"00000000004\0") + b"-9 =".ljust(512, b"\0"), r"offset 0: damaged pax header"),
        (
            header_of(kind=b"x", size=b"00000000013\0") + b"11 size=-9\n".ljust(512, b"\0") + header_of(),
            r"offset 1024: the size of the member is not a number",
        ),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, blocks: bytes, message: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(blocks + bytes(1536))
    with pytest.raises(DataError, match=message):
        index_shards([path])


def test_the_size_in_a_pax_header_goes_before_that_in_the_header(tmp_path: Path) -> None:
    record = f"13 size={len(PICTURE)}\n".encode()
    assert len(record) == 13
    picture_blocks = PICTURE.ljust(-(-len(PICTURE) // 512) * 512, b"\0")
    label_blocks = header_of(b"a.cls", b"00000000001\0") + b"7".ljust(512, b"\0")
    pax_blocks = header_of(kind=b"x", size=b"00000000015\0") + record.ljust(512, b"\0")
    (tmp_path / "x.tar").write_bytes(pax_blocks + header_of() + picture_blocks + label_blocks + bytes(1024))
    samples = index_shards([tmp_path / "x.tar"])
    assert (samples.sizes.tolist(), samples.labels.tolist()) == ([len(PICTURE)], [7])


def test_large_metadata_are_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", [("a" * (1 << 20) + ".jpg", PICTURE)], tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match=r"offset 0: 1048581 bytes of metadata, at most 1048576 are allowed"):
        index_shards([path])


def test_compressed_shards_are_refused(root: Path) -> None:
    path = root / "train" / "000003.tar"
    data = gzip.compress(path.read_bytes())
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"000003\.tar' is compressed with gzip; shards must be uncompressed \.tar fil"):
        load(root)
    path.rename(root / "train" / "000003.tar.gz")
    with pytest.raises(DataError, match=r"000003\.tar\.gz' is compressed; shards must be uncompressed \.tar files"):
        load(root)


def test_missing_and_ambiguous_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere' does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"has no shards of 'train', neither in a folder 'train' nor as 'train-\*\.tar'"
    ):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"train' has no shards \(\*\.tar\)"):
        load(tmp_path)
    path = write_shard(tmp_path / "train" / "0.tar", sample(0, 0))
    with pytest.raises(DataError, match=r"has no shards of 'validation', 'val' or 'test'"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"0\.tar' is not a folder"):
        load(path)
    write_split("val-{}.tar", tmp_path, 1)
    write_split("validation-{}.tar", tmp_path, 1)
    with pytest.raises(DataError, match=r"has both 'validation' and 'val'; only one may be there"):
        load(tmp_path)
    write_split("train-{}.tar", tmp_path, 1)
    with pytest.raises(DataError, match=r"has both a folder 'train' and 'train-0\.tar'; only one may be there"):
        load(tmp_path)


def test_a_shard_that_is_no_file_is_refused(root: Path) -> None:
    (root / "train" / "x.tar").mkdir()
    with pytest.raises(DataError, match=r"x\.tar' is not a file"):
        load(root)


def test_a_path_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"data\.path must be given for shards: the folder that holds "):
        load_shards(DataConfig(name="shards"))


LABEL_JSON = json.dumps({"label": 2}).encode()
INTACT = [*sample(0, 1), ("d" * 120 + ".png", PICTURE), ("d" * 120 + ".json", LABEL_JSON), *sample(1, 0)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), tar_format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_a_corrupt_shard_is_refused_or_its_samples_lie_within_it(
    tmp_path: Path, data: st.DataObject, tar_format: int
) -> None:
    path = write_shard(tmp_path / "x.tar", INTACT, tar_format)
    content = bytearray(path.read_bytes())
    headers = [place for place in range(0, len(content) - 511, 512) if any(content[place + 257 : place + 262])]
    del content[data.draw(st.integers(0, len(content)) | st.just(len(content)), label="length") :]
    edits = data.draw(st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=12)), max_size=4))
    for within, replacement in edits:
        # Checksums are made to fit again, so that the corruption gets behind them.
        start = data.draw(st.sampled_from(headers) | st.integers(0, len(content) // 512).map(lambda block: block * 512))
        content[start + within : start + within + len(replacement)] = replacement
        if data.draw(st.booleans(), label="fix checksum") and start + 512 <= len(content):
            content[start : start + 512] = with_checksum(bytes(content[start : start + 512]))
    path.write_bytes(content)
    try:
        samples = index_shards([path])
    except SternaError:
        return
    assert (samples.offsets >= 512).all()
    assert (samples.offsets + samples.sizes <= len(content)).all()
    dataset = dataset_of(path)
    for index in range(len(samples)):
        with contextlib.suppress(UnreadableImageError):
            dataset[index]
