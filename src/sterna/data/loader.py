"""From a data set to batches in a repeatable order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Sampler

from sterna.data.dataset import SHUFFLE_STREAM, BatchDataset
from sterna.data.randomness import random_order
from sterna.errors import ConfigError

_T = TypeVar("_T")


class EpochShuffleSampler(Sampler[int]):
    """All indices in an order that depends on the seed and the epoch of the data set alone.

    The epoch has one home, the data set. ``set_epoch`` forwards to it, because a loader prepared by Accelerate
    calls either of the two, depending on the number of processes and on batches being skipped.

    Args:
        dataset: to be shuffled.
        seed: of the run.
    """

    def __init__(self, dataset: BatchDataset[Any], seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the data set."""
        self._dataset.set_epoch(epoch)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._dataset)

    def __iter__(self) -> Iterator[int]:
        """Indices in the order of the current epoch."""
        return iter(random_order(len(self._dataset), self._seed, self._dataset.epoch, SHUFFLE_STREAM).tolist())


def _identity(batch: _T) -> _T:
    """The data set has made the batch already; a named function, so that worker processes can import it."""
    return batch


def make_loader(
    dataset: BatchDataset[_T],
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    drop_last: bool = False,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> DataLoader[_T]:
    """A loader whose batches depend on ``seed`` and the epoch alone.

    Give it to ``Accelerator.prepare`` as it is (``split_batches=True``: ``batch_size`` counts all processes) and call
    ``set_epoch`` of the prepared loader, before ``skip_first_batches``, at the start of each epoch: Accelerate counts
    passes itself and would otherwise begin with epoch 0.

    Args:
        dataset: to be read; its epoch decides order and augmentation.
        batch_size: images in a batch.
        shuffle: a new order each epoch, instead of the order of the data set.
        seed: of the order.
        drop_last: leave out an incomplete last batch.
        workers: processes that prepare batches; 0 prepares them in this one.
        part: ``(i, n)`` reads every ``n``-th image from the ``i``-th on; only without ``shuffle``.

    Raises:
        ConfigError: ``drop_last`` would leave out everything.
    """
    if drop_last and batch_size > len(dataset):
        raise ConfigError(f"batch_size (={batch_size}) must not be larger than the data set (={len(dataset)} images)")
    if shuffle and part != (0, 1):
        raise ValueError("a part of a data set is read in order; shuffle must be False")
    first, step = part
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochShuffleSampler(dataset, seed) if shuffle else range(first, len(dataset), step),
        drop_last=drop_last,
        num_workers=workers,
        collate_fn=_identity,
        # A generator of its own: without it each pass would draw from, and so change, torch's global one.
        generator=torch.Generator().manual_seed(seed),
    )
