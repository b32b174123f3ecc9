"""CIFAR-10 in its binary version: memory-mapped, so that opening it costs next to nothing.

A file is 10,000 records of 3,073 bytes: the label, then 32x32 red, green and blue pixels, each row by row.

References:
    Krizhevsky: Learning multiple layers of features from tiny images, 2009.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sterna.config import DataConfig
from sterna.data.dataset import DataSplits, Normalization, hold_out
from sterna.data.paths import resolve_data_path
from sterna.data.pixels import PixelDataset, Pixels, ShiftAndFlip
from sterna.data.randomness import Indices
from sterna.errors import DataError

DEFAULT_PATH = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_IMAGE_SHAPE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32
_RECORDS = 10_000
_PADDING = 4


def read_batch_file(path: Path) -> tuple[Pixels, Indices]:
    """Map one file and check its size and its labels.

    Returns:
        Pixels, a read-only uint8 view of the file of shape ``(10000, 3, 32, 32)``, and labels, int64 ``(10000,)``.

    Raises:
        DataError: the file is missing, has another size, or holds a label above 9.
    """
    try:
        size = path.stat().st_size
        if size != _RECORDS * _RECORD_BYTES:
            raise DataError(
                f"'{path}' must have {_RECORDS * _RECORD_BYTES} bytes "
                f"({_RECORDS} records of {_RECORD_BYTES}), got {size}"
            )
        # A plain array over the mapping: np.memmap itself makes every gather slower.
        records = np.asarray(np.memmap(path, np.uint8, mode="r", shape=(_RECORDS, _RECORD_BYTES)))
    except FileNotFoundError:
        raise DataError(
            f"'{path}' is missing; CIFAR-10 in its binary version has {', '.join(TRAIN_FILES)} and {TEST_FILE}"
        ) from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}") from error
    labels = records[:, 0].astype(np.int64)
    worst = int(labels.argmax())
    if labels[worst] >= len(LABELS):
        raise DataError(f"'{path}' record {worst}: label must be 0 to {len(LABELS) - 1}, got {labels[worst]}")
    return records[:, 1:].reshape(_RECORDS, *_IMAGE_SHAPE), labels


def load_cifar10(config: DataConfig, seed: int = 0) -> DataSplits:
    """CIFAR-10: 50,000 images to train and hold out from, 10,000 to test.

    Training images are padded by four black pixels, cropped to 32x32 at random and flipped. The images held out
    for validation are the first ``validation_size`` of a fixed permutation (:func:`~sterna.data.dataset.hold_out`).

    Args:
        config: ``path`` is the folder of the six files, by default ``cifar-10-batches-bin``.
        seed: of the augmentation.

    Raises:
        DataError: a file is missing or damaged.
        ConfigError: a value does not fit the data set.
    """
    folder = resolve_data_path(config.path if config.path is not None else DEFAULT_PATH)
    files = [read_batch_file(folder / name) for name in TRAIN_FILES]
    parts = [pixels for pixels, _ in files]
    labels = np.concatenate([part_labels for _, part_labels in files])
    test_pixels, test_labels = read_batch_file(folder / TEST_FILE)

    normalization = Normalization(config.mean or MEAN, config.std or STD, channels=_IMAGE_SHAPE[0])
    train_rows, validation_rows = hold_out(len(labels), config.validation_size)
    augmentation = ShiftAndFlip(_PADDING, flip=True) if config.augment else None
    test = PixelDataset([test_pixels], test_labels, np.arange(len(test_labels)), normalization)
    return DataSplits(
        train=PixelDataset(parts, labels, train_rows, normalization, augmentation, seed),
        validation=PixelDataset(parts, labels, validation_rows, normalization) if config.validation_size else test,
        test=test,
        labels=LABELS,
        preprocessing=normalization.describe(_IMAGE_SHAPE),
    )
