from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sterna.config import DataConfig
from sterna.data import cifar, load_data
from sterna.errors import ConfigError, DataError

RECORDS = 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 with 20 records a file: record r of file f has label (f + r) % 10 and random pixels."""
    monkeypatch.setattr(cifar, "_RECORDS", RECORDS)
    generator = np.random.default_rng(0)
    for number, name in enumerate((*cifar.TRAIN_FILES, cifar.TEST_FILE)):
        records = generator.integers(0, 256, (RECORDS, 3073), dtype=np.uint8)
        records[:, 0] = (number + np.arange(RECORDS)) % 10
        (tmp_path / name).write_bytes(records.tobytes())
    return tmp_path


def config(folder: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"name": "cifar10", "path": str(folder), **values})


def test_images_are_red_green_blue_planes_row_by_row(folder: Path) -> None:
    splits = load_data(config(folder, augment=False, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255)))
    images, labels = splits.train.__getitems__([RECORDS + 3])
    record = np.frombuffer((folder / "data_batch_2.bin").read_bytes(), np.uint8)[3 * 3073 : 4 * 3073]
    assert labels.tolist() == [record[0]]
    assert np.array_equal(images.round().numpy().reshape(-1), record[1:])


def test_the_five_files_are_the_training_images_in_order(folder: Path) -> None:
    splits = load_data(config(folder))
    assert (len(splits.train), len(splits.test)) == (5 * RECORDS, RECORDS)
    expected = [(number + record) % 10 for number in range(5) for record in range(RECORDS)]
    assert splits.train.__getitems__(range(5 * RECORDS))[1].tolist() == expected
    assert splits.labels[0] == "airplane"
    assert splits.labels[9] == "truck"


def test_validation_is_test_where_nothing_is_held_out(folder: Path) -> None:
    splits = load_data(config(folder))
    assert splits.validation is splits.test


def test_held_out_images_are_not_trained_on_and_not_augmented(folder: Path) -> None:
    splits = load_data(config(folder, validation_size=30), seed=1)
    plain = load_data(config(folder, augment=False)).train
    everything = {image.numpy().tobytes() for image in plain.__getitems__(range(len(plain)))[0]}
    validation = {image.numpy().tobytes() for image in splits.validation.__getitems__(range(30))[0]}
    train_plain = load_data(config(folder, validation_size=30, augment=False)).train
    train = {image.numpy().tobytes() for image in train_plain.__getitems__(range(70))[0]}
    assert (len(splits.train), len(splits.validation)) == (70, 30)
    assert validation | train == everything
    assert not validation & train


def test_the_split_does_not_depend_on_the_seed(folder: Path) -> None:
    first, second = (load_data(config(folder, validation_size=30), seed=seed).validation for seed in (0, 1))
    assert torch.equal(first.__getitems__(range(30))[0], second.__getitems__(range(30))[0])


def test_training_images_are_augmented_only_if_asked_for(folder: Path) -> None:
    plain, augmented = (load_data(config(folder, augment=augment)).train for augment in (False, True))
    assert not torch.equal(plain.__getitems__(range(9))[0], augmented.__getitems__(range(9))[0])
    again = load_data(config(folder, augment=False), seed=5).train
    assert torch.equal(plain.__getitems__(range(9))[0], again.__getitems__(range(9))[0])


def test_padding_is_black_before_normalisation(folder: Path) -> None:
    splits = load_data(config(folder))
    black = (torch.zeros(3) - torch.tensor(cifar.MEAN)) / torch.tensor(cifar.STD)
    images, _ = splits.train.__getitems__(range(50))
    # Random pixels are rarely zero, so a row or column that is black throughout is padding.
    black_rows = (images == black.view(1, 3, 1, 1)).all(dim=1).all(dim=2)
    assert black_rows.any()


def test_preprocessing_says_how_pictures_become_inputs(folder: Path) -> None:
    assert load_data(config(folder)).preprocessing == {
        "input_shape": [3, 32, 32],
        "resize": None,
        "pixel_maximum": 255.0,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere' does not exist"):
        load_data(config(tmp_path / "nowhere"))


def test_the_default_folder_is_below_the_data_root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder / "root"
    root.mkdir()
    (root / "cifar-10-batches-bin").symlink_to(folder)
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("STERNA_DATA", str(root))
    assert len(load_data(DataConfig(name="cifar10")).test) == RECORDS


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}' is missing"):
        load_data(config(folder))


@pytest.mark.parametrize("change", [-1, 1, -20 * 3073])
def test_a_file_of_another_size_is_refused(folder: Path, change: int) -> None:
    content = (folder / "data_batch_5.bin").read_bytes()
    (folder / "data_batch_5.bin").write_bytes(content[:change] if change < 0 else content + b"x")
    with pytest.raises(DataError, match=rf"data_batch_5.bin' must have 61460 bytes .*, got {61460 + change}"):
        load_data(config(folder))


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "test_batch.bin").unlink()
    (folder / "test_batch.bin").mkdir()
    with pytest.raises(DataError, match=r"test_batch\.bin' must have 61460 bytes"):
        load_data(config(folder))


def test_a_label_out_of_range_is_refused(folder: Path) -> None:
    content = bytearray((folder / "data_batch_1.bin").read_bytes())
    content[7 * 3073] = 10
    (folder / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_1.bin' record 7: label must be 0 to 9, got 10"):
        load_data(config(folder))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 32}, "image_size is only for image-folder"),
        ({"workers": 2}, "workers is only for image-folder"),
        ({"mean": (0.5,)}, "mean must have 3 values"),
        ({"validation_size": 100}, r"validation_size \(=100\) must be smaller"),
    ],
)
def test_values_that_do_not_fit_are_refused(folder: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_data(config(folder, **values))


def test_the_real_files_are_accepted(data_root: Path) -> None:
    splits = load_data(config(data_root / "cifar-10-batches-bin", validation_size=5000))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (45_000, 5_000, 10_000)
    names = (data_root / "cifar-10-batches-bin" / "batches.meta.txt").read_text().split()
    assert list(splits.labels) == names
    assert torch.bincount(splits.test.__getitems__(range(10_000))[1]).tolist() == [1000] * 10
