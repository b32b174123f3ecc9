"""Pictures in WebDataset shards: local, uncompressed tar files that hold one sample after another.

The members of a sample follow one another and share their path up to the first dot of its last part: a picture
(``000001.jpg``; also jpeg, png, webp, bmp) and its label (``000001.cls``, decimal text, or ``000001.json`` with the
number under "label" or "class"). Other members are ignored, links are never followed.

Shards are indexed once and read at random, so that sampling, resumption and the split over processes are those of
every other data set. Splits lie in folders (``train/*.tar``) or side by side (``train-000000.tar``, or
``imagenet-train-000000.tar``); which of them becomes which split is said in :mod:`sterna.data.image_folder`. A file
``classes.txt`` may name the classes, one a line.

References:
    Aizman, Maltby, Breuel: High performance I/O for large scale deep learning, arXiv 2001.01858 (WebDataset).
"""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from sterna.config import DataConfig
from sterna.data.dataset import DataSplits, Normalization
from sterna.data.image_folder import (
    VALIDATION_FOLDERS,
    PictureDataset,
    check_evaluation_names,
    make_splits,
)
from sterna.data.paths import resolve_data_path
from sterna.data.randomness import Indices
from sterna.data.tar import Member, read_members
from sterna.errors import ConfigError, DataError
from sterna.pictures import unreadable_image

PICTURE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})
LARGEST_PICTURE_BYTES = 64 << 20
LARGEST_LABEL_BYTES = 1 << 20
LARGEST_LABEL = (1 << 20) - 1
LARGEST_OPEN_SHARDS = 32
CLASSES_FILE = "classes.txt"

# What a picture holds is decided by its bytes; Pillow's rarer decoders (one starts Ghostscript) stay out of reach.
_PICTURE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class ShardSamples:
    """Where the samples of a split lie, 28 bytes a sample.

    Args:
        paths: of the shards.
        shards: int32 ``(n,)``, the place in ``paths`` of each sample's shard.
        offsets: int64 ``(n,)``, of each picture in its shard, in bytes.
        sizes: int64 ``(n,)``, of each picture, in bytes.
        labels: int64 ``(n,)``.
    """

    paths: tuple[Path, ...]
    shards: npt.NDArray[np.int32]
    offsets: Indices
    sizes: Indices
    labels: Indices

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    def take(self, rows: Indices) -> ShardSamples:
        """The samples at these places."""
        return ShardSamples(self.paths, self.shards[rows], self.offsets[rows], self.sizes[rows], self.labels[rows])

    def describe(self, index: int) -> str:
        """Shard and member of a picture, for messages; the member's name is looked up in the shard."""
        path, offset = self.paths[self.shards[index]], self.offsets[index]
        try:
            with path.open("rb") as file:
                name = next(member.name for member in read_members(file, path) if member.offset == offset)
        except (OSError, DataError, StopIteration):
            return f"'{path}' at offset {offset}"
        return f"'{path}', member {name!r},"


def index_shards(paths: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> ShardSamples:
    """Find all samples, in the order of the shards and of their members; ImageNet takes about a minute.

    Args:
        paths: of the shards.
        progress: called after each shard with the number of shards done and of all shards.

    Raises:
        DataError: a shard is not a readable tar file, or a sample lacks its picture or label, has two of them, has a
            label that is not a number, or is too large; or there are no samples.
    """
    tables: list[Indices] = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"'{path}' is not a file")
        try:
            with path.open("rb") as file:
                tables.append(np.fromiter(_read_samples(file, path), np.dtype((np.int64, 3))))
        except OSError as error:
            raise DataError(f"'{path}' cannot be read: {error}") from error
        if progress is not None:
            progress(len(tables), len(paths))
    if not any(map(len, tables)):
        raise DataError(f"no samples in {len(paths)} shards" + (f", the first is '{paths[0]}'" if paths else ""))
    # One copy for each column, so that columns are contiguous and the table can go.
    offsets, sizes, labels = (np.concatenate([table[:, column] for table in tables]) for column in range(3))
    shards = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    return ShardSamples(tuple(paths), shards, offsets, sizes, labels)


def _read_samples(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, int]]:
    """Offset and size of the picture, and the label, of each sample."""
    named = ((*_split_name(member.name), member) for member in read_members(file, path))
    for stem, group in groupby((part for part in named if part[0]), key=lambda part: part[0]):
        place = f"'{path}', sample {stem!r}"
        parts: dict[str, Member] = {}
        for _, extension, member in group:
            if extension in parts:
                raise DataError(f"{place} has two members {'.' + extension!r}")
            parts[extension] = member
        pictures = [member for extension, member in parts.items() if extension in PICTURE_EXTENSIONS]
        label_member = parts.get("cls") or parts.get("json")
        if len(pictures) != 1 or label_member is None:
            raise DataError(
                f"{place} must have one picture and a label (.cls or .json) next to each other, got {list(parts)[:8]}"
            )
        if pictures[0].size > LARGEST_PICTURE_BYTES:
            raise DataError(
                f"{place} has a picture of {pictures[0].size} bytes, at most {LARGEST_PICTURE_BYTES} are allowed"
            )
        yield pictures[0].offset, pictures[0].size, _read_label(file, path, label_member, "cls" not in parts)


def _split_name(name: str) -> tuple[str, str]:
    """What the members of a sample share, and the extension; two empty texts for a member that is no part of one."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if stem and extension else ("", "")


def _read_label(file: BinaryIO, path: Path, member: Member, is_json: bool) -> int:
    place = f"'{path}', member {member.name!r}"
    if member.size > LARGEST_LABEL_BYTES:
        raise DataError(f"{place} has {member.size} bytes, at most {LARGEST_LABEL_BYTES} are allowed for a label")
    text = _read_exactly(file.fileno(), member.offset, member.size)
    label: Any = None
    # RecursionError: of brackets nested too deeply.
    with suppress(ValueError, RecursionError):
        if not is_json:
            label = int(text) if text.strip().isdigit() else None
        elif isinstance(values := json.loads(text), dict):
            label = values.get("label", values.get("class"))
    if type(label) is not int or not 0 <= label <= LARGEST_LABEL:
        under = " under 'label' or 'class'" if is_json else ""
        got = repr(text[:40])[1:] + "..." * (len(text) > 40)
        raise DataError(f"{place} must hold a whole number from 0 to {LARGEST_LABEL}{under}, got {got}")
    return label


def _read_exactly(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) < size:
        raise OSError(f"{size} bytes wanted at offset {offset}, only {len(data)} are there")
    return data


class _OpenFile:
    """Closed when nobody uses it any more, so that a thread never reads through another file's descriptor."""

    descriptor = -1

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class ShardReader:
    """Reads parts of shards, of which the last ones used are kept open.

    Args:
        paths: of the shards.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._process = os.getpid()
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()

    def __reduce__(self) -> tuple[type[ShardReader], tuple[tuple[Path, ...]]]:
        return ShardReader, (self._paths,)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """These ``size`` bytes of a shard.

        Raises:
            OSError: the shard cannot be read or is shorter.
        """
        # The kernel keeps the state of its read-ahead with a file opened; worker processes would disturb each other's.
        if self._process != os.getpid():
            self._files, self._process = OrderedDict(), os.getpid()
        file = self._files.pop(shard, None) or _OpenFile(self._paths[shard])
        self._files[shard] = file
        if len(self._files) > LARGEST_OPEN_SHARDS:
            self._files.popitem(last=False)
        return _read_exactly(file.descriptor, offset, size)


class ShardDataset(PictureDataset):
    """Pictures of shards that are decoded when they are asked for; preprocessing is that of image folders.

    Args:
        samples: of this split.
        size: side of the inputs, in pixels.
        normalization: turns pixels into inputs.
        augment: a random part of the picture, flipped with probability one half, instead of its centre.
        seed: of the augmentation.
    """

    def __init__(
        self, samples: ShardSamples, size: int, normalization: Normalization, augment: bool = False, seed: int = 0
    ) -> None:
        super().__init__(samples.labels, size, normalization, augment, seed)
        self._samples = samples
        self._reader = ShardReader(samples.paths)

    @property
    def shards(self) -> npt.NDArray[np.int32]:
        """``(n,)``, the number of each image's shard."""
        return self._samples.shards

    def _read_image(self, index: int) -> Image.Image:
        samples = self._samples
        try:
            payload = self._reader.read(
                int(samples.shards[index]), int(samples.offsets[index]), int(samples.sizes[index])
            )
            with Image.open(io.BytesIO(payload), formats=_PICTURE_FORMATS) as image:
                return image.convert("RGB")
        except Exception as error:
            raise unreadable_image(samples.describe(index), error) from error


def load_shards(config: DataConfig, seed: int = 0) -> DataSplits:
    """Shards of pictures; the module's text says where they lie and how samples are stored in them.

    Args:
        config: ``path`` is the folder that holds the shards or their folders; ``image_size`` is 224 by default.
        seed: of the augmentation.

    Raises:
        DataError: shards are missing or damaged, or a label has no class.
        ConfigError: a value does not fit the data set.
    """
    if config.path is None:
        raise ConfigError("data.path must be given for shards: the folder that holds 'train' or 'train-*.tar'")
    root = resolve_data_path(config.path)
    if not root.is_dir():
        raise DataError(f"'{root}' is not a folder")
    found = {name: paths for name in ("train", *VALIDATION_FOLDERS, "test") if (paths := list_shards(root, name))}
    if "train" not in found:
        raise DataError(f"'{root}' has no shards of 'train', neither in a folder 'train' nor as 'train-*.tar'")
    if len(found) == 1:
        raise DataError(f"'{root}' has no shards of 'validation', 'val' or 'test'")
    evaluation_names = check_evaluation_names(root, found, config.validation_size)

    everything = index_shards(found["train"])
    evaluations = [index_shards(found[name]) for name in evaluation_names]
    classes = _read_classes(root, [everything, *evaluations])
    return make_splits(ShardDataset, everything, evaluations, classes, config, seed)


def list_shards(root: Path, name: str) -> list[Path]:
    """The shards of one split, sorted by name; none if there is neither a folder nor a file of this name.

    Raises:
        DataError: there are both, the folder has no shards, or a shard is compressed.
    """
    folder = root / name
    # The part of the name before the last '-', or what a data set's own name leaves of it.
    candidates = sorted(path for path in root.iterdir() if path.name.split("-")[-2:-1] == [name])
    if folder.is_dir():
        if candidates:
            raise DataError(f"'{root}' has both a folder '{name}' and '{candidates[0].name}'; only one may be there")
        candidates = sorted(folder.iterdir())
    for path in candidates:
        if path.name.endswith(_COMPRESSED_SUFFIXES):
            raise DataError(f"'{path}' is compressed; shards must be uncompressed .tar files")
    shards = [path for path in candidates if path.suffix == ".tar"]
    if folder.is_dir() and not shards:
        raise DataError(f"'{folder}' has no shards (*.tar)")
    return shards


def _read_classes(root: Path, splits: Sequence[ShardSamples]) -> tuple[str, ...]:
    path = root / CLASSES_FILE
    if not path.exists():
        return tuple(map(str, range(1 + max(int(samples.labels.max()) for samples in splits))))
    try:
        classes = tuple(path.read_text(encoding="utf-8").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read as text: {error}") from error
    for samples in splits:
        if (wrong := np.flatnonzero(samples.labels >= len(classes))).size:
            raise DataError(
                f"{samples.describe(int(wrong[0]))} has label {samples.labels[wrong[0]]}, "
                f"which is outside 0 .. {len(classes) - 1}: '{path}' names {len(classes)} classes"
            )
    return classes
