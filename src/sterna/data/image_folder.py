"""Folders of pictures, one folder a class, in the layout that torchvision's ``ImageFolder`` reads.

``train`` is needed, and at least one of ``validation`` (or ``val``) and ``test``:

- both there: they are the two splits, and ``validation_size`` must be 0;
- one there: it is the test split, and ``validation_size`` images are held out from ``train``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

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
from sterna.pictures import UnreadableImageError, cut_centre, read_image, scale_short_side

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


def resize_and_crop(image: Image.Image, size: int, resize: int) -> Image.Image:
    """Scale the short side to ``resize`` pixels, then cut the ``size`` x ``size`` centre (evaluation)."""
    return cut_centre(scale_short_side(image, resize), size, size)


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


class _Takeable(Protocol):
    """Samples of pictures, of which a part can be taken."""

    @property
    def labels(self) -> Indices: ...

    def take(self, rows: Indices) -> Self: ...


_S = TypeVar("_S", bound=_Takeable)


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


class PictureDataset(BatchDataset[Batch]):
    """Pictures that are decoded when they are asked for.

    Args:
        labels: int64 ``(n,)``.
        size: side of the inputs, in pixels.
        normalization: turns pixels into inputs.
        augment: a random part of the picture, flipped with probability one half, instead of its centre.
        seed: of the augmentation.
    """

    def __init__(
        self, labels: Indices, size: int, normalization: Normalization, augment: bool = False, seed: int = 0
    ) -> None:
        super().__init__(seed)
        self._labels = labels
        self._size = size
        self._resize = resize_before_crop(size)
        self._normalization = normalization
        self._augment = augment

    def __len__(self) -> int:
        """Number of images."""
        return len(self._labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of these images, float32 in channels-last memory, and their labels.

        Raises:
            UnreadableImageError: a picture cannot be read or decoded; the text names it.
        """
        pixels = np.empty((len(indices), self._size, self._size, _CHANNELS), np.uint8)
        for place, index in enumerate(indices):
            image = self._read_image(index)
            pixels[place] = self._augmented(image, index) if self._augment else self._centred(image)
        images = self._normalization(pixels.transpose(0, 3, 1, 2))
        return images, torch.from_numpy(self._labels[np.asarray(indices, np.int64)])

    def check(self, index: int) -> None:
        """Decode one picture.

        Raises:
            UnreadableImageError: it cannot be read or decoded; the text names it.
        """
        self._read_image(index)

    @abstractmethod
    def _read_image(self, index: int) -> Image.Image:
        """Decode one picture as RGB."""

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


class ImageFolderDataset(PictureDataset):
    """Pictures that are files.

    Args:
        samples: of this split.
        size: side of the inputs, in pixels.
        normalization: turns pixels into inputs.
        augment: a random part of the picture, flipped with probability one half, instead of its centre.
        seed: of the augmentation.
    """

    def __init__(
        self, samples: Samples, size: int, normalization: Normalization, augment: bool = False, seed: int = 0
    ) -> None:
        super().__init__(samples.labels, size, normalization, augment, seed)
        self._paths = samples.paths

    def _read_image(self, index: int) -> Image.Image:
        return read_image(Path(self._paths[index]))


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
    folders = [name for name in (*VALIDATION_FOLDERS, "test") if (root / name).is_dir()]
    if not folders:
        raise DataError(f"'{root}' has none of the folders 'validation', 'val' and 'test'")
    evaluation_names = check_evaluation_names(root, folders, config.validation_size)

    everything = list_samples(root / "train")
    evaluations = [list_samples(root / name) for name in evaluation_names]
    for name, samples in zip(evaluation_names, evaluations, strict=True):
        _check_same_classes(root, everything, name, samples)

    return make_splits(ImageFolderDataset, everything, evaluations, everything.classes, config, seed)


def check_evaluation_names(root: Path, names: Collection[str], validation_size: int) -> list[str]:
    """The splits that are not for training: for validation, where there is one, then for test.

    Raises:
        DataError: there are two for validation.
        ConfigError: images are to be held out although nothing lacks.
    """
    if all(name in names for name in VALIDATION_FOLDERS):
        raise DataError(f"'{root}' has both 'validation' and 'val'; only one may be there")
    ordered = [name for name in (*VALIDATION_FOLDERS, "test") if name in names]
    if len(ordered) == 2 and validation_size:
        raise ConfigError(
            f"data.validation_size must be 0 where '{root}' has '{ordered[0]}' and 'test', got {validation_size}"
        )
    return ordered


def make_splits(
    make_dataset: Callable[[_S, int, Normalization, bool, int], PictureDataset],
    train: _S,
    evaluations: Sequence[_S],
    classes: tuple[str, ...],
    config: DataConfig,
    seed: int,
) -> DataSplits:
    """Splits of pictures; validation is held out from training where there is only one evaluation split.

    Args:
        make_dataset: called with samples, size, normalisation, whether to augment, and seed.
        train: everything that may be trained on.
        evaluations: for test, or for validation and test.
        classes: names of the labels.
        config: sizes, normalisation and augmentation.
        seed: of the augmentation.

    Raises:
        ConfigError: a value does not fit the data set.
    """
    size = config.image_size if config.image_size is not None else DEFAULT_IMAGE_SIZE
    normalization = Normalization(config.mean or MEAN, config.std or STD, channels=_CHANNELS)
    unreadable: list[str] = []
    if config.skip_unreadable:
        readable = []
        for samples in (train, *evaluations):
            dataset = make_dataset(samples, size, normalization, False, seed)
            rows, problems = find_readable(dataset.check, len(dataset))
            unreadable += problems
            readable.append(samples.take(rows))
        train, *evaluations = readable
    train_rows, validation_rows = hold_out(len(train.labels), config.validation_size)
    test = make_dataset(evaluations[-1], size, normalization, False, seed)
    if len(evaluations) == 2:
        validation = make_dataset(evaluations[0], size, normalization, False, seed)
    elif config.validation_size:
        validation = make_dataset(train.take(validation_rows), size, normalization, False, seed)
    else:
        validation = test
    return DataSplits(
        train=make_dataset(train.take(train_rows), size, normalization, config.augment, seed),
        validation=validation,
        test=test,
        labels=classes,
        preprocessing=normalization.describe((_CHANNELS, size, size), resize=resize_before_crop(size)),
        unreadable=tuple(unreadable),
    )


def find_readable(check: Callable[[int], object], count: int) -> tuple[Indices, list[str]]:
    """Decode pictures on all processors, and tell those that can be from those that cannot.

    Args:
        check: decodes one picture; raises :class:`UnreadableImageError` if it cannot.
        count: of pictures.

    Returns:
        The numbers of those that can be decoded, ascending, and a message for each of the others.

    Raises:
        DataError: none can be decoded.
    """

    def problem_of(index: int) -> str | None:
        try:
            check(index)
        except UnreadableImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem_of, range(count)))
    rows = [index for index, problem in enumerate(problems) if problem is None]
    if count and not rows:
        raise DataError(f"none of {count} pictures can be decoded; the first: {problems[0]}")
    return np.asarray(rows, np.int64), [problem for problem in problems if problem is not None]


def _check_same_classes(root: Path, train: Samples, name: str, other: Samples) -> None:
    if other.classes == train.classes:
        return
    lone = sorted(set(train.classes) ^ set(other.classes))
    raise DataError(
        f"'{root}': 'train' and '{name}' must have the same class folders; only one of them has "
        + ", ".join(f"'{label}'" for label in lone[:3])
        + (f" and {len(lone) - 3} more" if len(lone) > 3 else "")
    )
