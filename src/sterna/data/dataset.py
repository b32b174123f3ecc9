"""Data sets that give a whole batch at once, and the splits that a task works on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sterna.data.randomness import Indices, random_order
from sterna.errors import ConfigError

Batch = tuple[Tensor, Tensor]
"""Images, float32 ``(n, channels, height, width)``, and their labels, int64 ``(n,)``."""

DetectionBatch = tuple[list[Tensor], list[dict[str, Tensor]]]
"""Images, each float32 ``(3, height, width)`` of its own size in 0..1, and what is on them, as torchvision's detectors
take it: ``boxes``, float32 ``(n, 4)`` as (left, top, right, bottom) in pixels; ``labels``, int64 ``(n,)``, from 1 on;
``masks``, uint8 ``(n, height, width)``, where the task has them; ``image_id``, int64 ``()``; ``area``, float32
``(n,)``, in pixels; ``iscrowd``, int64 ``(n,)``."""

_B = TypeVar("_B")

SHUFFLE_STREAM = 0
HOLD_OUT_STREAM = 1
SHARD_ORDER_STREAM = 2
WINDOW_SHUFFLE_STREAM = 3
FIRST_AUGMENTATION_STREAM = 16

# Fixed, so that runs with different seeds are validated on the same images.
HOLD_OUT_SEED = 0x57E2A


class BatchDataset(Dataset[_B], ABC, Generic[_B]):
    """A data set read batch by batch; a batch depends on the seed, the epoch and the indices, on nothing else.

    ``torch.utils.data.DataLoader`` calls ``__getitems__`` with the indices of a batch;
    :func:`sterna.data.make_loader` makes the loader that fits.

    Args:
        seed: of the augmentation.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """The epoch that augmentation and order are drawn for."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that augmentation and order are drawn for; call it between two passes."""
        self._epoch = epoch

    @property
    def shards(self) -> npt.NDArray[np.int32] | None:
        """``(n,)``, which of several large files each image lies in; nothing where that does not matter."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> _B:
        """The batch of these images, in this order."""

    def __getitem__(self, index: int) -> Any:
        """One image ``(channels, height, width)`` and what is known of it (a label, a tensor without dimensions)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        images, targets = cast(tuple[Any, Any], self.__getitems__([index % len(self)]))
        return images[0], targets[0]


@dataclass(frozen=True)
class DataSplits:
    """What a task trains on, chooses on and reports on.

    Args:
        train: augmented if the configuration says so.
        validation: never augmented; the very object ``test`` where nothing is held out.
        test: never augmented.
        labels: name of each class; label ``i`` of a batch means ``labels[i]``.
        preprocessing: JSON values that say how a picture becomes an input: ``input_shape`` (channels, height,
            width), ``resize`` (short side in pixels before the centre crop, or nothing), ``pixel_maximum`` (that
            pixels are divided by), then ``mean`` and ``std`` per channel.
        unreadable: a message for each picture that was left out because it cannot be decoded.
    """

    train: BatchDataset[Any]
    validation: BatchDataset[Any]
    test: BatchDataset[Any]
    labels: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    unreadable: tuple[str, ...] = ()


class Normalization:
    """``(pixel / pixel_maximum - mean) / std``, in float32 and in this order.

    For a maximum of 255 these are the bits of torchvision's ``ToTensor`` and ``Normalize``.

    Args:
        mean: per channel, of pixels in 0..1.
        std: per channel, of pixels in 0..1.
        channels: of the images.
        pixel_maximum: the value of a white pixel.

    Raises:
        ConfigError: ``mean`` and ``std`` do not have one value for each of ``channels``.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], channels: int, pixel_maximum: float = 255.0
    ) -> None:
        for key, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                raise ConfigError(f"data.{key} must have {channels} values, one a channel, got {len(values)}")
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.pixel_maximum = pixel_maximum
        self._mean = torch.tensor(self.mean, dtype=torch.float32).view(1, -1, 1, 1)
        self._std = torch.tensor(self.std, dtype=torch.float32).view(1, -1, 1, 1)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Normalise ``(n, channels, height, width)``; the result lies in memory as channels last."""
        # Channels first until the end: arithmetic with a value a channel is ten times slower in channels-last memory.
        images = torch.from_numpy(pixels).to(dtype=torch.float32, memory_format=torch.contiguous_format)
        images.div_(self.pixel_maximum).sub_(self._mean).div_(self._std)
        return images.contiguous(memory_format=torch.channels_last)

    def describe(self, input_shape: tuple[int, int, int], resize: int | None = None) -> dict[str, Any]:
        """The ``preprocessing`` of :class:`DataSplits`."""
        return {
            "input_shape": list(input_shape),
            "resize": resize,
            "pixel_maximum": self.pixel_maximum,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def hold_out(count: int, validation_size: int) -> tuple[Indices, Indices]:
    """Split ``0 .. count-1`` into indices to train on and to validate on, both ascending.

    The images held out are the first ``validation_size`` of one fixed permutation: they depend on the two
    numbers alone, and a smaller hold-out is part of a larger one.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    if validation_size >= count:
        raise ConfigError(
            f"data.validation_size (={validation_size}) must be smaller than the number of training images (={count})"
        )
    order = random_order(count, HOLD_OUT_SEED, 0, HOLD_OUT_STREAM)
    return np.sort(order[validation_size:]), np.sort(order[:validation_size])
