"""Small images that fit in memory or in mapped files: gathered, augmented and normalised a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sterna.data.dataset import FIRST_AUGMENTATION_STREAM, Batch, BatchDataset, Normalization
from sterna.data.randomness import Indices, random_integers, random_words

Pixels = npt.NDArray[np.uint8]

_CROP_STREAM = FIRST_AUGMENTATION_STREAM
_FLIP_STREAM = FIRST_AUGMENTATION_STREAM + 1


@dataclass(frozen=True)
class ShiftAndFlip:
    """A random crop of the image padded with black, then a horizontal flip with probability one half.

    Args:
        padding: pixels on each side; the crop has the size of the image.
        flip: mirror half of the images.
    """

    padding: int
    flip: bool

    def __call__(self, pixels: Pixels, seed: int, epoch: int, indices: Indices) -> Pixels:
        """Augment a batch.

        Args:
            pixels: uint8 ``(n, channels, height, width)``.
            seed: of the run.
            epoch: of training.
            indices: ``(n,)``; image ``i`` is shifted and flipped by ``(seed, epoch, indices[i])`` alone.

        Returns:
            A new array like ``pixels``.
        """
        count, channels, height, width = pixels.shape
        border = self.padding
        padded = np.zeros((count, channels, height + 2 * border, width + 2 * border), np.uint8)
        padded[:, :, border : border + height, border : border + width] = pixels
        positions = 2 * border + 1
        offsets = random_integers(random_words(seed, epoch, _CROP_STREAM, indices), positions * positions)
        # A view of all crops of all images, (n, channels, positions, positions, height, width); the one gather
        # below copies the crop that was drawn for each image.
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        crops: Pixels = windows.transpose(0, 2, 3, 1, 4, 5)[np.arange(count), offsets // positions, offsets % positions]
        if self.flip:
            mirrored = random_integers(random_words(seed, epoch, _FLIP_STREAM, indices), 2) == 1
            crops[mirrored] = crops[mirrored, :, :, ::-1]
        return crops


class PixelDataset(BatchDataset[Batch]):
    """Images of one size, held as uint8 in one or several arrays, which may be mapped files.

    Args:
        parts: each uint8 ``(n, channels, height, width)``; together they are the source.
        labels: int64, of all images of the source.
        indices: the images of the source that belong to this data set, in its order.
        normalization: turns pixels into inputs.
        augmentation: applied to each batch, or nothing.
        seed: of the augmentation.
    """

    def __init__(
        self,
        parts: Sequence[Pixels],
        labels: Indices,
        indices: Indices,
        normalization: Normalization,
        augmentation: ShiftAndFlip | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self._labels = labels
        self._indices = indices
        self._normalization = normalization
        self._augmentation = augmentation

    def __len__(self) -> int:
        """Number of images."""
        return len(self._indices)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of these images, float32 in channels-last memory, and their labels."""
        rows = self._indices[np.asarray(indices, dtype=np.int64)]
        pixels = self._gather(rows)
        if self._augmentation is not None:
            pixels = self._augmentation(pixels, self._seed, self._epoch, rows)
        return self._normalization(pixels), torch.from_numpy(self._labels[rows])

    def _gather(self, rows: Indices) -> Pixels:
        """Read the images at these places of the source, part by part."""
        if len(self._parts) == 1:
            return self._parts[0][rows]
        pixels = np.empty((len(rows), *self._parts[0].shape[1:]), np.uint8)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner, part in enumerate(self._parts):
            mine = owners == owner
            pixels[mine] = part[rows[mine] - self._starts[owner]]
        return pixels
