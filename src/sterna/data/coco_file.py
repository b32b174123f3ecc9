"""Annotation files in the JSON format of COCO: read once, checked in every part, and kept as arrays.

References:
    Lin et al.: Microsoft COCO: common objects in context, arXiv 1405.0312; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import math
import reprlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sterna.data.randomness import Indices
from sterna.errors import DataError, MissingDependencyError

Floats = npt.NDArray[np.float64]

# What a stranger's file may make us allocate.
MAX_IMAGE_PIXELS = 1 << 26
MAX_MASK_BYTES_PER_IMAGE = 1 << 32
MAX_COORDINATE = 1 << 20
MAX_OUTLINE_PIXELS = 1 << 22
# The metric of COCO leaves out what is larger.
MAX_AREA = 1e10

_MAX_ID = (1 << 63) - 1
_MAX_COUNT_BITS = 30


def mask_api() -> Any:
    """The mask module of faster-coco-eval: run-length codes, encoded and decoded.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        from faster_coco_eval.core import mask  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "COCO data need faster-coco-eval: install it with  pip install 'sterna[detection]'"
        ) from error
    return mask


@dataclass(frozen=True)
class Segmentations:
    """The outlines of ``n`` objects in one piece of memory, not yet decoded.

    Args:
        payload: of all objects; an object's part is the text of its compressed run-length code, or float64 numbers:
            the count of its polygons, the length of each, and then their coordinates.
        first: int64 ``(n + 1,)``, where each object's part begins, in bytes.
        has_polygons: bool ``(n,)``, of each object.
    """

    payload: bytes
    first: Indices
    has_polygons: npt.NDArray[np.bool_]

    def __getitem__(self, row: int) -> str | list[list[float]]:
        """Compressed run-length code, or polygons as ``[x0, y0, x1, y1, ...]`` in pixels."""
        part = self.payload[self.first[row] : self.first[row + 1]]
        if not self.has_polygons[row]:
            return part.decode("ascii")
        numbers = np.frombuffer(part, np.float64)
        polygons = 1 + int(numbers[0])
        ends = polygons + np.cumsum(numbers[1:polygons].astype(np.int64))
        return [polygon.tolist() for polygon in np.split(numbers[polygons:], ends[:-1] - polygons)]

    def masks(self, rows: Sequence[int], height: int, width: int) -> npt.NDArray[np.uint8]:
        """Decode objects of one image, ``(len(rows), height, width)`` of 0 and 1."""
        if not rows:
            return np.zeros((0, height, width), np.uint8)
        api = mask_api()
        codes = []
        for row in rows:
            outline = self[row]
            if isinstance(outline, str):
                codes.append({"size": [height, width], "counts": outline})
            else:
                codes.append(api.merge(api.frPyObjects(outline, height, width)))
        return np.ascontiguousarray(api.decode(codes).transpose(2, 0, 1))


@dataclass(frozen=True)
class CocoAnnotations:
    """One annotation file of ``m`` images and ``n`` annotations, which are sorted by image.

    Args:
        path: of the file.
        image_folder: that holds the pictures.
        image_ids: int64 ``(m,)``, of the file.
        file_names: of each image, relative to ``image_folder``.
        sizes: int64 ``(m, 2)``, height and width of each image in pixels.
        category_ids: int64, of the file, ascending; label ``i`` of a batch means ``category_ids[i - 1]``.
        names: of each category.
        first: int64 ``(m + 1,)``; image ``i`` has the annotations ``first[i] .. first[i + 1] - 1``.
        ids: int64 ``(n,)``, of the file.
        labels: int64 ``(n,)``, from 1 on.
        boxes: ``(n, 4)``, left, top, width and height in pixels, as the file has them.
        areas: ``(n,)``, in square pixels; of the box where the file does not say.
        crowds: bool ``(n,)``, whether an annotation covers a group of objects.
        segmentations: of every annotation, or nothing where the file has none.
    """

    path: Path
    image_folder: Path
    image_ids: Indices
    file_names: tuple[str, ...]
    sizes: Indices
    category_ids: Indices
    names: tuple[str, ...]
    first: Indices
    ids: Indices
    labels: Indices
    boxes: Floats
    areas: Floats
    crowds: npt.NDArray[np.bool_]
    segmentations: Segmentations | None

    def clipped_corners(self) -> Floats:
        """Boxes as left, top, right, bottom, ``(n, 4)``, cut at the borders of their images."""
        limits = np.repeat(self.sizes[:, ::-1], np.diff(self.first), axis=0)
        corners = np.hstack([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]])
        return np.clip(corners, 0.0, np.hstack([limits, limits]))


def read_coco(path: Path, image_folder: Path) -> CocoAnnotations:
    """Read and check an annotation file; neither pictures nor masks are decoded.

    Raises:
        DataError: the file is not COCO's format, contradicts itself or goes beyond a limit of this module; the text
            names the entry.
        MissingDependencyError: the file has segmentations and faster-coco-eval is not installed.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise DataError(f"'{path}' is not a readable JSON file: {reason}") from error
    if not isinstance(document, dict):
        raise DataError(f"'{path}' is not a COCO file: it must hold an object, got {_shown(document)}")
    try:
        return _parse(document, path, image_folder)
    except _MalformedEntryError as error:
        raise DataError(f"'{path}': {error}") from error


class _MalformedEntryError(Exception):
    """What is wrong with an entry of a file that the caller knows."""


def _shown(value: object) -> str:
    return reprlib.repr(value)


def _parse(document: Mapping[str, Any], path: Path, image_folder: Path) -> CocoAnnotations:
    categories = dict(sorted(_entries(document, "categories").items()))
    labels = {identity: label for label, identity in enumerate(categories, 1)}
    images = _entries(document, "images")
    if not images:
        raise _MalformedEntryError("it lists no images")
    rows = {identity: row for row, identity in enumerate(images)}
    sizes = [_image_size(image, f"image {identity}") for identity, image in images.items()]

    annotations = _entries(document, "annotations")
    outlined = [identity for identity, annotation in annotations.items() if annotation.get("segmentation")]
    if outlined:
        # Now rather than in the middle of an epoch.
        mask_api()
    if outlined and len(outlined) < len(annotations):
        lacking = next(identity for identity in annotations if not annotations[identity].get("segmentation"))
        raise _MalformedEntryError(f"annotation {lacking} has no segmentation, but annotation {outlined[0]} has one")
    parsed = [_parse_annotation(identity, entry, rows, labels, sizes) for identity, entry in annotations.items()]
    parsed.sort(key=lambda annotation: annotation.image_row)

    counts = np.bincount(np.asarray([annotation.image_row for annotation in parsed], np.int64), minlength=len(images))
    needed = int((counts * np.asarray(sizes).prod(1)).max())
    if outlined and needed > MAX_MASK_BYTES_PER_IMAGE:
        raise _MalformedEntryError(
            f"the masks of one image would need {needed} bytes, at most {MAX_MASK_BYTES_PER_IMAGE} are allowed"
        )
    segmentations = Segmentations(
        b"".join(annotation.outline for annotation in parsed),
        starts_of([len(annotation.outline) for annotation in parsed]),
        np.asarray([annotation.has_polygons for annotation in parsed], np.bool_),
    )
    return CocoAnnotations(
        path=path,
        image_folder=image_folder,
        image_ids=np.asarray(list(images), np.int64),
        file_names=tuple(_file_name(image, f"image {identity}") for identity, image in images.items()),
        sizes=np.asarray(sizes, np.int64),
        category_ids=np.asarray(list(categories), np.int64),
        names=tuple(_text(category, "name", f"category {identity}") for identity, category in categories.items()),
        first=starts_of(counts),
        ids=np.asarray([annotation.identity for annotation in parsed], np.int64),
        labels=np.asarray([annotation.label for annotation in parsed], np.int64),
        boxes=np.asarray([annotation.box for annotation in parsed], np.float64).reshape(-1, 4),
        areas=np.asarray([annotation.area for annotation in parsed], np.float64),
        crowds=np.asarray([annotation.crowd for annotation in parsed], np.bool_),
        segmentations=segmentations if outlined or not annotations else None,
    )


class _Annotation(NamedTuple):
    identity: int
    image_row: int
    label: int
    box: array[float]
    area: float
    crowd: bool
    outline: bytes
    has_polygons: bool


def _parse_annotation(
    identity: int,
    entry: Mapping[str, Any],
    rows: Mapping[int, int],
    labels: Mapping[int, int],
    sizes: Sequence[tuple[int, int]],
) -> _Annotation:
    where = f"annotation {identity}"
    image_row = rows.get(_integer(entry, "image_id", where))
    if image_row is None:
        raise _MalformedEntryError(f"{where} is on image {entry['image_id']}, which the file does not list")
    label = labels.get(_integer(entry, "category_id", where))
    if label is None:
        raise _MalformedEntryError(f"{where} has category {entry['category_id']}, which the file does not list")
    box = _numbers(entry.get("bbox"))
    if box is None or len(box) != 4 or min(box[2:]) < 0 or max(map(abs, box)) > MAX_COORDINATE:
        raise _MalformedEntryError(
            f"{where}: 'bbox' must be left, top, width and height, finite, at most {MAX_COORDINATE} and the last two "
            f"not negative, got {_shown(entry.get('bbox'))}"
        )
    area = _numbers([entry.get("area", box[2] * box[3])])
    if area is None or not 0 <= area[0] <= MAX_AREA:
        raise _MalformedEntryError(
            f"{where}: the area must be a number from 0 to {MAX_AREA:g}, got {_shown(entry.get('area'))}"
        )
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise _MalformedEntryError(f"{where}: 'iscrowd' must be 0 or 1, got {_shown(crowd)}")
    outline, has_polygons = b"", False
    if entry.get("segmentation"):
        try:
            outline, has_polygons = _pack_segmentation(entry["segmentation"], *sizes[image_row])
        except _MalformedEntryError as error:
            raise _MalformedEntryError(f"{where} has a malformed segmentation: {error}") from error
    return _Annotation(identity, image_row, label, array("d", box), area[0], bool(crowd), outline, has_polygons)


def starts_of(lengths: Sequence[int] | Indices) -> Indices:
    """Where each of consecutive parts begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _entries(document: Mapping[str, Any], key: str) -> dict[int, Mapping[str, Any]]:
    """The entries of one list of the file by their ids, in the order of the file."""
    entries = document.get(key)
    if not isinstance(entries, list):
        raise _MalformedEntryError(f"not a COCO file: '{key}' must be a list, got {_shown(entries)}")
    found: dict[int, Mapping[str, Any]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _MalformedEntryError(f"{key}[{place}] must be an object, got {_shown(entry)}")
        identity = _integer(entry, "id", f"{key}[{place}]")
        if identity in found:
            raise _MalformedEntryError(f"two entries of '{key}' have the id {identity}")
        found[identity] = entry
    return found


def _integer(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int or not 0 <= value <= _MAX_ID:
        raise _MalformedEntryError(f"{where}: '{key}' must be an integer from 0 on, got {_shown(value)}")
    return value


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise _MalformedEntryError(f"{where}: '{key}' must be a text, got {_shown(value)}")
    return value


def _file_name(image: Mapping[str, Any], where: str) -> str:
    name = _text(image, "file_name", where)
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise _MalformedEntryError(f"{where}: 'file_name' must stay inside the image folder, got {_shown(name)}")
    return name


def _image_size(image: Mapping[str, Any], where: str) -> tuple[int, int]:
    height, width = (_integer(image, key, where) for key in ("height", "width"))
    if not 1 <= height * width <= MAX_IMAGE_PIXELS:
        raise _MalformedEntryError(f"{where} is {width}x{height}; an image must have 1 to {MAX_IMAGE_PIXELS} pixels")
    return height, width


def _numbers(values: object) -> list[float] | None:
    """The values as floats, or nothing if they are not a list of finite numbers."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        return None
    try:
        numbers = [float(value) for value in values]
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _pack_segmentation(value: object, height: int, width: int) -> tuple[bytes, bool]:
    """The part of a :class:`Segmentations`, and whether it has polygons."""
    if isinstance(value, list):
        return _pack_polygons(value), True
    if not isinstance(value, dict) or value.get("size") != [height, width]:
        got = value.get("size") if isinstance(value, dict) else value
        raise _MalformedEntryError(
            f"it must be polygons or a run-length code of size [{height}, {width}] (height, width), got {_shown(got)}"
        )
    text = value.get("counts")
    counts = _unpack_counts(text) if isinstance(text, str) else text
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise _MalformedEntryError(f"'counts' must be a list of lengths or their text, got {_shown(text)}")
    if sum(counts) != height * width:
        raise _MalformedEntryError(f"'counts' must sum up to {height * width} pixels, got {sum(counts)}")
    if isinstance(text, str):
        return text.encode("ascii"), False
    packed: bytes = mask_api().frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return packed, False


def _unpack_counts(text: str) -> list[int]:
    """The run lengths of a compressed code: checked here, because native decoders trust it more or less.

    A number has 5 bits in each character ``c - 48``, lowest first; bit 5 says that more follow, and bit 4 of the last
    is the sign. From the fourth number on it is the difference to the last but one.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > _MAX_COUNT_BITS:
            raise _MalformedEntryError(f"{_shown(text)} is not a compressed run-length code")
        number |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            number -= (digit >> 4) << shift
            counts.append(number + counts[-2] if len(counts) > 2 else number)
            number = shift = 0
    if shift:
        raise _MalformedEntryError(f"{_shown(text)} ends inside a number")
    return counts


def _pack_polygons(polygons: list[Any]) -> bytes:
    lengths, coordinates, outline = array("d"), array("d"), 0.0
    for polygon in polygons:
        numbers = _numbers(polygon)
        if numbers is None or len(numbers) < 6 or len(numbers) % 2:
            raise _MalformedEntryError(
                f"a polygon must be a list of three points or more, two finite numbers each, got {_shown(polygon)}"
            )
        lowest, highest = min(numbers), max(numbers)
        if max(highest, -lowest) > MAX_COORDINATE:
            raise _MalformedEntryError(f"a polygon must stay within {MAX_COORDINATE} pixels of the origin")
        # No longer than this: each edge spans at most the range of the coordinates.
        longest = (highest - lowest) * len(numbers) / 2
        if longest > MAX_OUTLINE_PIXELS:
            points = np.asarray(numbers).reshape(-1, 2)
            longest = float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())
        outline += longest
        lengths.append(len(numbers))
        coordinates.extend(numbers)
    if outline > MAX_OUTLINE_PIXELS:
        raise _MalformedEntryError(f"its polygons are {outline:.0f} pixels long, at most {MAX_OUTLINE_PIXELS} may be")
    return array("d", [len(lengths)]).tobytes() + lengths.tobytes() + coordinates.tobytes()
