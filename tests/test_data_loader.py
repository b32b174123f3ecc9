from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader

from sterna.data.dataset import Batch, BatchDataset
from sterna.data.loader import make_loader
from sterna.errors import ConfigError

COUNT = 50


class Epochs(BatchDataset[Batch]):
    """Image i in epoch e is one pixel of value 1000 e + i, so that a batch tells where it comes from."""

    def __len__(self) -> int:
        return COUNT

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        labels = torch.tensor(indices)
        return (1000.0 * self.epoch + labels).view(-1, 1, 1, 1), labels


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    configuration = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)
    yield Accelerator(cpu=True, dataloader_config=configuration)
    AcceleratorState._reset_state(reset_partial_state=True)


def pixels(loader: DataLoader[Batch]) -> list[list[int]]:
    return [images.flatten().int().tolist() for images, _ in loader]


def epoch_of(dataset: BatchDataset[Batch], epoch: int, **options: int) -> list[list[int]]:
    """The batches that an unprepared loader gives in an epoch."""
    dataset.set_epoch(epoch)
    return pixels(make_loader(dataset, 8, shuffle=True, seed=options.get("seed", 0)))


def test_batches_come_whole_from_the_data_set() -> None:
    (images, labels), *_ = make_loader(Epochs(), 8, shuffle=False, seed=0)
    assert images.shape == (8, 1, 1, 1)
    assert labels.tolist() == list(range(8))


def test_every_image_comes_once_an_epoch() -> None:
    batches = epoch_of(Epochs(), 0)
    assert [len(batch) for batch in batches] == [8] * 6 + [2]
    assert sorted(chain.from_iterable(batches)) == list(range(COUNT))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(epoch: int, seed: int) -> list[int]:
        return [pixel % 1000 for pixel in chain.from_iterable(epoch_of(Epochs(), epoch, seed=seed))]

    torch.manual_seed(0)
    first = order(epoch=3, seed=1)
    torch.manual_seed(1)
    assert order(epoch=3, seed=1) == first
    assert order(epoch=4, seed=1) != first
    assert order(epoch=3, seed=2) != first


def test_a_pass_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(make_loader(Epochs(), 8, shuffle=True, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_incomplete_batch_can_be_dropped() -> None:
    loader = make_loader(Epochs(), 8, shuffle=True, seed=0, drop_last=True)
    assert len(loader) == 6
    assert [len(labels) for _, labels in loader] == [8] * 6


def test_dropping_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size \(=51\) must not be larger than the data set \(=50 images\)"):
        make_loader(Epochs(), 51, shuffle=True, seed=0, drop_last=True)
    assert len(make_loader(Epochs(), 51, shuffle=True, seed=0)) == 1


@pytest.mark.parametrize("parts", [1, 2, 3, 60])
def test_parts_are_a_partition(parts: int) -> None:
    loaders = [make_loader(Epochs(), 8, shuffle=False, seed=0, part=(part, parts)) for part in range(parts)]
    seen = [label for loader in loaders for _, labels in loader for label in labels.tolist()]
    assert sorted(seen) == list(range(COUNT))


def test_a_shuffled_part_is_refused() -> None:
    with pytest.raises(ValueError, match="shuffle must be False"):
        make_loader(Epochs(), 8, shuffle=True, seed=0, part=(0, 2))


def test_accelerate_changes_neither_order_nor_epoch(accelerator: Accelerator) -> None:
    prepared = accelerator.prepare(make_loader(Epochs(), 8, shuffle=True, seed=0))
    for epoch in (0, 1, 5):
        prepared.set_epoch(epoch)
        assert pixels(prepared) == epoch_of(Epochs(), epoch)


@pytest.mark.parametrize("skipped", [0, 1, 4, 7])
def test_skipping_batches_gives_the_rest_of_the_epoch(accelerator: Accelerator, skipped: int) -> None:
    prepared = accelerator.prepare(make_loader(Epochs(), 8, shuffle=True, seed=0))
    prepared.set_epoch(3)
    assert pixels(accelerator.skip_first_batches(prepared, skipped)) == epoch_of(Epochs(), 3)[skipped:]


def ranks(processes: int) -> list[DataLoader[Batch]]:
    """The loaders that Accelerate would give to each process; each has a data set of its own there."""
    return [
        prepare_data_loader(
            make_loader(Epochs(), 8, shuffle=True, seed=0, drop_last=True),
            num_processes=processes,
            process_index=rank,
            split_batches=True,
            use_seedable_sampler=True,
        )
        for rank in range(processes)
    ]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("skipped", [0, 2])
def test_ranks_partition_each_global_batch(accelerator: Accelerator, processes: int, skipped: int) -> None:
    loaders = ranks(processes)
    for epoch in (0, 4):
        for loader in loaders:
            loader.set_epoch(epoch)
        shares = [pixels(skip_first_batches(loader, skipped) if skipped else loader) for loader in loaders]
        together = [list(chain.from_iterable(batches)) for batches in zip(*shares, strict=True)]
        assert together == [batch for batch in epoch_of(Epochs(), epoch) if len(batch) == 8][skipped:]


def test_batches_of_an_epoch_do_not_overlap() -> None:
    batches = epoch_of(Epochs(), 2)
    assert all(not set(first) & set(second) for first, second in pairwise(batches))
