"""Folders of pictures, one folder a class, in the layout that torchvision's ``ImageFolder`` reads.

``train`` is needed, and at least one of ``validation`` (or ``val``) and ``test``:

- both there: they are the two splits, and ``validation_size`` must be 0;
- one there: it is the test split, and ``validation_size`` images are held out from ``train``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F

from sterna.config import DataConfig
from sterna.data.dataset import (
    FIRST_AUGMENTATION_STREAM,
    Batch,
    BatchDataset,
    DataSplits,
    Normalization,
    hold_out,
)
from sterna.data.paths import resolve_data_path
from sterna.data.pixels import Pixels
from sterna.data.randomness import Indices, random_fractions, random_words
from sterna.errors import ConfigError, DataError

DEFAULT_IMAGE_SIZE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
VALIDATION_FOLDERS = ("validation", "val")

_CHANNELS = 3
_RESIZE_RATIO = 256 / 224
_AREA_RANGE = (0.08, 1.0)
_ASPECT_RANGE = (3 / 4, 4 / 3)
_CROP_ATTEMPTS = 10
_FRACTIONS_PER_ATTEMPT = 4


class UnreadableImageError(DataError):
    """A picture cannot be decoded.

    A worker process hands its error over as one text, the traceback, and raises this class again from that text;
    its last line is the message that was meant.
    """

    def __init__(self, message: str) -> None:
        last_line = message.strip().rsplit("\n", 1)[-1]
        super().__init__(last_line.removeprefix(f"{type(self).__module__}.{type(self).__qualname__}: "))


def read_image(path: Path) -> Image.Image:
    """Decode one picture as RGB.

    Raises:
        UnreadableImageError: the file cannot be read or decoded; the text names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # Pillow's decoders raise whatever their format's parser stumbles on, and each of it means a bad file.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(f"'{path}' is not a readable image: {reason}") from error


def resize_and_crop(image: Image.Image, size: int, resize: int) -> Image.Image:
    """Scale the short side to ``resize`` pixels, then cut the ``size`` x ``size`` centre (evaluation)."""
    scaled = F.resize(image, [resize], antialias=True)
    centre: Image.Image = F.center_crop(scaled, [size, size])
    return centre


def random_crop_box(width: int, height: int, fractions: Sequence[float]) -> tuple[int, int, int, int]:
    """A random part of a picture: area 8 to 100 %, aspect 3/4 to 4/3 (uniform in its logarithm).

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        fractions: in ``[0, 1)``; four for each attempt: area, aspect, left, top.

    Returns:
        ``(left, top, right, bottom)`` in pixels; the largest centred part of an allowed aspect if no attempt fits.

    References:
        Szegedy et al.: Going deeper with convolutions, arXiv 1409.4842.
    """
    lowest, highest = np.log(_ASPECT_RANGE[0]), np.log(_ASPECT_RANGE[1])
    for attempt in range(0, len(fractions), _FRACTIONS_PER_ATTEMPT):
        area, aspect, left, top = fractions[attempt : attempt + _FRACTIONS_PER_ATTEMPT]
        target = width * height * (_AREA_RANGE[0] + area * (_AREA_RANGE[1] - _AREA_RANGE[0]))
        ratio = float(np.exp(lowest + aspect * (highest - lowest)))
        box_width = round((target * ratio) ** 0.5)
        box_height = round((target / ratio) ** 0.5)
        if 0 < box_width <= width and 0 < box_height <= height:
            x = int(left * (width - box_width + 1))
            y = int(top * (height - box_height + 1))
            return x, y, x + box_width, y + box_height
    box_width = min(width, max(1, round(height * _ASPECT_RANGE[1])))
    box_height = min(height, max(1, round(width / _ASPECT_RANGE[0])))
    x, y = (width - box_width) // 2, (height - box_height) // 2
    return x, y, x + box_width, y + box_height


@dataclass(frozen=True)
class Samples:
    """The pictures of one split: paths and labels, and the class names that the labels count."""

    paths: tuple[str, ...]
    labels: Indices
    classes: tuple[str, ...]

    def take(self, rows: Indices) -> Samples:
        """The samples at these places."""
        return Samples(tuple(self.paths[row] for row in rows), self.labels[rows], self.classes)


def list_samples(folder: Path) -> Samples:
    """List the pictures of one split, sorted by class and name; classes may be empty.

    Raises:
        DataError: the folder has no class folders, or no pictures in them.
    """
    try:
        listing = ImageFolder(str(folder), allow_empty=True)
    except OSError as error:
        raise DataError(f"'{folder}' has no class folders") from error
    if not listing.samples:
        raise DataError(f"'{folder}' has {len(listing.classes)} class folders but no pictures in them")
    paths, labels = zip(*listing.samples, strict=True)
    return Samples(tuple(paths), np.asarray(labels, np.int64), tuple(listing.classes))


class ImageFolderDataset(BatchDataset[Batch]):
    """Pictures that are decoded when they are asked for.

    Args:
        samples: of this split.
        size: side of the inputs, in pixels.
        normalization: turns pixels into inputs.
        augment: a random part of the picture, flipped with probability one half, instead of its centre.
        seed: of the augmentation.
    """

    def __init__(
        self,
        samples: Samples,
        size: int,
        normalization: Normalization,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self._samples = samples
        self._size = size
        self._resize = resize_before_crop(size)
        self._normalization = normalization
        self._augment = augment

    def __len__(self) -> int:
        """Number of images."""
        return len(self._samples.paths)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of these images, float32 in channels-last memory, and their labels."""
        pixels = np.empty((len(indices), self._size, self._size, _CHANNELS), np.uint8)
        for place, index in enumerate(indices):
            image = read_image(Path(self._samples.paths[index]))
            pixels[place] = self._augmented(image, index) if self._augment else self._centred(image)
        images = self._normalization(pixels.transpose(0, 3, 1, 2))
        return images, torch.from_numpy(self._samples.labels[np.asarray(indices, np.int64)])

    def _centred(self, image: Image.Image) -> Pixels:
        return np.asarray(resize_and_crop(image, self._size, self._resize))

    def _augmented(self, image: Image.Image, index: int) -> Pixels:
        mirrored, *crop_fractions = self._fractions(index, 1 + _FRACTIONS_PER_ATTEMPT * _CROP_ATTEMPTS)
        box = random_crop_box(*image.size, crop_fractions)
        pixels = np.asarray(image.resize((self._size, self._size), Image.Resampling.BILINEAR, box=box))
        return pixels[:, ::-1] if mirrored < 0.5 else pixels

    def _fractions(self, index: int, count: int) -> list[float]:
        """Random numbers of one sample in this epoch: its random word is the seed of all of them."""
        word = random_words(self._seed, self._epoch, FIRST_AUGMENTATION_STREAM, np.asarray([index]))
        fractions: list[float] = random_fractions(random_words(int(word[0]), 0, 0, np.arange(count))).tolist()
        return fractions


def resize_before_crop(size: int) -> int:
    """Short side in pixels that a picture is scaled to before its centre is cut: 256 for 224."""
    return round(size * _RESIZE_RATIO)


def load_image_folder(config: DataConfig, seed: int = 0) -> DataSplits:
    """Folders of pictures; the module's text says which folder becomes which split.

    Args:
        config: ``path`` is the folder that holds ``train``; ``image_size`` is 224 by default.
        seed: of the augmentation.

    Raises:
        DataError: a folder is missing or empty, or the splits do not have the same classes.
        ConfigError: a value does not fit the data set.
    """
    if config.path is None:
        raise ConfigError("data.path must be given for image-folder: the folder that holds 'train'")
    root = resolve_data_path(config.path)
    if not (root / "train").is_dir():
        raise DataError(f"'{root}' has no folder 'train'")
    validation_names = [name for name in VALIDATION_FOLDERS if (root / name).is_dir()]
    if len(validation_names) > 1:
        raise DataError(f"'{root}' has both 'validation' and 'val'; only one may be there")
    evaluation_names = validation_names + ["test"] * (root / "test").is_dir()
    if not evaluation_names:
        raise DataError(f"'{root}' has none of the folders 'validation', 'val' and 'test'")
    if len(evaluation_names) == 2 and config.validation_size:
        raise ConfigError(
            f"data.validation_size must be 0 where '{root}' has '{evaluation_names[0]}' and 'test', "
            f"got {config.validation_size}"
        )

    everything = list_samples(root / "train")
    evaluations = [list_samples(root / name) for name in evaluation_names]
    for name, samples in zip(evaluation_names, evaluations, strict=True):
        _check_same_classes(root, everything, name, samples)

    size = config.image_size if config.image_size is not None else DEFAULT_IMAGE_SIZE
    normalization = Normalization(config.mean or MEAN, config.std or STD, channels=_CHANNELS)
    train_rows, validation_rows = hold_out(len(everything.paths), config.validation_size)
    test = ImageFolderDataset(evaluations[-1], size, normalization)
    if len(evaluations) == 2:
        validation = ImageFolderDataset(evaluations[0], size, normalization)
    elif config.validation_size:
        validation = ImageFolderDataset(everything.take(validation_rows), size, normalization)
    else:
        validation = test
    return DataSplits(
        train=ImageFolderDataset(everything.take(train_rows), size, normalization, config.augment, seed),
        validation=validation,
        test=test,
        labels=everything.classes,
        preprocessing=normalization.describe((_CHANNELS, size, size), resize=resize_before_crop(size)),
    )


def _check_same_classes(root: Path, train: Samples, name: str, other: Samples) -> None:
    if other.classes == train.classes:
        return
    lone = sorted(set(train.classes) ^ set(other.classes))
    raise DataError(
        f"'{root}': 'train' and '{name}' must have the same class folders; only one of them has "
        + ", ".join(f"'{label}'" for label in lone[:3])
        + (f" and {len(lone) - 3} more" if len(lone) > 3 else "")
    )
