"""From a data set to batches in a repeatable order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Sampler

from sterna.data.dataset import SHARD_ORDER_STREAM, SHUFFLE_STREAM, WINDOW_SHUFFLE_STREAM, BatchDataset
from sterna.data.randomness import random_order, random_words
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


class WindowShuffleSampler(EpochShuffleSampler):
    """All indices, shuffled within a few shards at a time, for disks on which random access is slow.

    In each epoch the shards are put in random order, each ``window`` of them that follow one another are pooled, and
    the samples of a pool are shuffled. The order depends on the seed and the epoch of the data set alone.

    Args:
        dataset: to be shuffled.
        seed: of the run.
        shards: int ``(n,)``, the shard of each index of the data set (:attr:`BatchDataset.shards`).
        window: shards in a pool.

    Raises:
        ConfigError: ``window`` is not positive.
    """

    def __init__(self, dataset: BatchDataset[Any], seed: int, shards: npt.NDArray[Any], window: int = 8) -> None:
        if window < 1:
            raise ConfigError(f"window (={window}) must be at least 1 shard")
        if shards.shape != (len(dataset),):
            raise ValueError(f"shards must have shape ({len(dataset)},), one for each image, got {shards.shape}")
        super().__init__(dataset, seed)
        numbers, self._shards = np.unique(shards, return_inverse=True)
        self._shard_count = len(numbers)
        self._window = window

    def __iter__(self) -> Iterator[int]:
        """Indices in the order of the current epoch."""
        seed, epoch = self._seed, self._dataset.epoch
        pools = np.empty(self._shard_count, np.int64)
        pools[random_order(self._shard_count, seed, epoch, SHARD_ORDER_STREAM)] = (
            np.arange(self._shard_count) // self._window
        )
        words = random_words(seed, epoch, WINDOW_SHUFFLE_STREAM, np.arange(len(self._shards)))
        return iter(np.lexsort((words, pools[self._shards])).tolist())


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
        shuffle: a new order each epoch, instead of the order of the data set; images that lie in shards are shuffled
            within a few shards at a time.
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
    sampler: Sampler[int] | range
    if not shuffle:
        sampler = range(first, len(dataset), step)
    elif dataset.shards is not None:
        sampler = WindowShuffleSampler(dataset, seed, dataset.shards)
    else:
        sampler = EpochShuffleSampler(dataset, seed)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=workers,
        collate_fn=_identity,
        # A generator of its own: without it each pass would draw from, and so change, torch's global one.
        generator=torch.Generator().manual_seed(seed),
    )
