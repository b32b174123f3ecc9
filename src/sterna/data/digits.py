"""The 8x8 handwritten digits that ship inside scikit-learn: real data that needs no download.

References:
    Alpaydin, Kaynak: Optical recognition of handwritten digits, UCI machine learning repository, 1998.
"""

from __future__ import annotations

import numpy as np

from sterna.config import DataConfig
from sterna.data.dataset import HOLD_OUT_SEED, DataSplits, Normalization, hold_out
from sterna.data.pixels import PixelDataset, Pixels, ShiftAndFlip
from sterna.data.randomness import Indices, random_order
from sterna.errors import ConfigError, MissingDependencyError

LABELS = tuple(str(digit) for digit in range(10))
MEAN = (0.305,)
STD = (0.376,)
TEST_IMAGES_PER_CLASS = 50

_IMAGE_SHAPE = (1, 8, 8)
_PIXEL_MAXIMUM = 16.0
_PADDING = 1
_TEST_STREAM = 2


def read_digits() -> tuple[Pixels, Indices]:
    """All 1,797 digits.

    Returns:
        Pixels 0 to 16, uint8 ``(1797, 1, 8, 8)``, and labels, int64 ``(1797,)``.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_bundled_digits
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the digits data set needs scikit-learn: install it with  pip install 'sterna[demo]'"
        ) from error
    bundled = load_bundled_digits()
    return bundled.images.astype(np.uint8)[:, np.newaxis], bundled.target.astype(np.int64)


def load_digits(config: DataConfig, seed: int = 0) -> DataSplits:
    """The digits: 1,297 images to train and hold out from, 500 to test (50 a class, always the same ones).

    Training images are shifted by up to one pixel in each direction.

    Args:
        config: has no ``path``.
        seed: of the augmentation.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
        ConfigError: a value does not fit the data set.
    """
    if config.path is not None:
        raise ConfigError(f"data.path must be left out for digits, which are part of scikit-learn, got '{config.path}'")
    pixels, labels = read_digits()
    order = random_order(len(labels), HOLD_OUT_SEED, 0, _TEST_STREAM)
    test_rows = np.sort(
        np.concatenate([order[labels[order] == label][:TEST_IMAGES_PER_CLASS] for label in range(len(LABELS))])
    )
    other_rows = np.setdiff1d(np.arange(len(labels)), test_rows)

    normalization = Normalization(
        config.mean or MEAN, config.std or STD, channels=_IMAGE_SHAPE[0], pixel_maximum=_PIXEL_MAXIMUM
    )
    train_places, validation_places = hold_out(len(other_rows), config.validation_size)
    augmentation = ShiftAndFlip(_PADDING, flip=False) if config.augment else None
    test = PixelDataset([pixels], labels, test_rows, normalization)
    return DataSplits(
        train=PixelDataset([pixels], labels, other_rows[train_places], normalization, augmentation, seed),
        validation=PixelDataset([pixels], labels, other_rows[validation_places], normalization)
        if config.validation_size
        else test,
        test=test,
        labels=LABELS,
        preprocessing=normalization.describe(_IMAGE_SHAPE),
    )
