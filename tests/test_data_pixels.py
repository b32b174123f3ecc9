from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sterna.data.dataset import Normalization
from sterna.data.pixels import PixelDataset, ShiftAndFlip
from sterna.data.randomness import random_integers, random_words

COUNT = 60
PIXELS = np.random.default_rng(0).integers(1, 256, (COUNT, 3, 6, 5), dtype=np.uint8)
LABELS = np.arange(COUNT)
PLAIN = Normalization((0.0,) * 3, (1.0,) * 3, channels=3, pixel_maximum=1.0)


def dataset(seed: int = 0, augmentation: ShiftAndFlip | None = None, splits: tuple[int, ...] = ()) -> PixelDataset:
    return PixelDataset(np.split(PIXELS, splits), LABELS, np.arange(COUNT), PLAIN, augmentation, seed)


def augment_plainly(
    image: npt.NDArray[np.uint8], padding: int, flip: bool, seed: int, epoch: int, index: int
) -> npt.NDArray[np.uint8]:
    """One image at a time, from the documented meaning of the random words."""
    _, height, width = image.shape
    offset = int(random_integers(random_words(seed, epoch, 16, np.array([index])), (2 * padding + 1) ** 2)[0])
    top, left = divmod(offset, 2 * padding + 1)
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    crop = padded[:, top : top + height, left : left + width]
    mirrored = int(random_integers(random_words(seed, epoch, 17, np.array([index])), 2)[0])
    return crop[:, :, ::-1] if flip and mirrored else crop


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 300),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    indices=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=20),
)
def test_batch_augmentation_equals_one_image_at_a_time(
    seed: int, epoch: int, padding: int, flip: bool, indices: list[int]
) -> None:
    batch = ShiftAndFlip(padding, flip)(PIXELS[indices], seed, epoch, np.array(indices))
    for image, index in zip(batch, indices, strict=True):
        assert np.array_equal(image, augment_plainly(PIXELS[index], padding, flip, seed, epoch, index))


def test_every_shift_and_both_directions_occur() -> None:
    image = np.zeros((1, 1, 3, 3), np.uint8)
    image[0, 0, 1, 1] = 1
    image[0, 0, 1, 2] = 2
    results = ShiftAndFlip(1, flip=True)(np.repeat(image, 500, axis=0), 0, 0, np.arange(500))
    assert len(np.unique(results.reshape(500, -1), axis=0)) == 18


def test_augmentation_does_not_change_its_input() -> None:
    before = PIXELS.copy()
    ShiftAndFlip(2, flip=True)(PIXELS, 0, 0, LABELS)
    assert np.array_equal(PIXELS, before)


def test_a_sample_is_augmented_equally_in_whatever_batch() -> None:
    data = dataset(augmentation=ShiftAndFlip(2, flip=True))
    data.set_epoch(4)
    together, labels = data.__getitems__(range(COUNT))
    assert labels.tolist() == list(range(COUNT))
    for index in (0, 17, 59):
        assert torch.equal(data[index][0], together[index])
    assert torch.equal(data.__getitems__([40, 3])[0], together[[40, 3]])


@pytest.mark.parametrize("change", ["epoch", "seed"])
def test_another_epoch_or_seed_augments_otherwise(change: str) -> None:
    first = dataset(augmentation=ShiftAndFlip(2, flip=True))
    second = dataset(seed=int(change == "seed"), augmentation=ShiftAndFlip(2, flip=True))
    second.set_epoch(int(change == "epoch"))
    assert not torch.equal(first.__getitems__(range(COUNT))[0], second.__getitems__(range(COUNT))[0])


def test_without_augmentation_the_pixels_come_back() -> None:
    images, labels = dataset().__getitems__([5, 2, 5])
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert np.array_equal(images.numpy(), PIXELS[[5, 2, 5]])


@given(splits=st.lists(st.integers(0, COUNT), max_size=4).map(sorted), indices=st.lists(st.integers(0, COUNT - 1)))
def test_parts_are_one_source(splits: list[int], indices: list[int]) -> None:
    images, _ = dataset(splits=tuple(splits)).__getitems__(indices)
    assert np.array_equal(images.numpy(), PIXELS[indices])


def test_indices_choose_the_images_and_their_random_numbers() -> None:
    augmentation = ShiftAndFlip(2, flip=True)
    rows = np.array([50, 7])
    some = PixelDataset([PIXELS], LABELS, rows, PLAIN, augmentation)
    assert len(some) == 2
    assert torch.equal(some.__getitems__([0, 1])[0], dataset(augmentation=augmentation).__getitems__([50, 7])[0])
    assert some.__getitems__([1])[1].tolist() == [7]
