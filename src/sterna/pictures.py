"""From a picture file to the input of a classifier, and from its logits to names: with NumPy and Pillow alone.

Metadata are a stranger's JSON values: whatever does not fit is a :class:`~sterna.errors.DataError` of one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sterna.errors import DataError

CLASSIFICATION = "classification"
DETECTION = "detection"
INSTANCE_SEGMENTATION = "instance-segmentation"
TASKS = (CLASSIFICATION, DETECTION, INSTANCE_SEGMENTATION)

_WHITE = 255
# Limits on what a file may ask for: 4096 x 4096 inputs, and 512 MiB of Pillow's memory for a scaled picture.
_LARGEST_SIDE = 4096
_MOST_SCALED_PIXELS = 1 << 27
_LARGEST_STATISTIC = 1e6
_SHOWN_CHARACTERS = 60


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
    except Exception as error:
        raise unreadable_image(f"'{path}'", error) from error


def unreadable_image(place: str, error: Exception) -> UnreadableImageError:
    """What to raise for any error in reading a picture.

    Pillow's decoders raise whatever their format's parser stumbles on, and each of it means a bad file.
    """
    unknown = isinstance(error, UnidentifiedImageError)
    reason = "unknown format" if unknown else " ".join(str(error).split()) or type(error).__name__
    return UnreadableImageError(f"{place} is not a readable image: {reason}")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an input of a classifier: ``(pixel / pixel_maximum - mean) / std``.

    Args:
        channels: 1 for grey pictures, 3 for RGB.
        height: of the input, in pixels.
        width: of the input, in pixels.
        resize: short side in pixels before the centre is cut; nothing to scale to the input's size at once.
        pixel_maximum: the value of a white pixel, a whole number; pixels are whole numbers up to it.
        mean: per channel, of pixels in 0..1.
        std: per channel, of pixels in 0..1.
    """

    channels: int
    height: int
    width: int
    resize: int | None
    pixel_maximum: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Preprocessing:
        """Read ``metadata["preprocessing"]``.

        Raises:
            DataError: it is missing or malformed; the text names the key.
        """
        values = metadata.get("preprocessing")
        if not isinstance(values, dict):
            raise malformed("preprocessing", "an object", values)
        shape = values.get("input_shape")
        if not (isinstance(shape, list) and len(shape) == 3 and shape[0] in (1, 3) and all(map(_is_side, shape))):
            allowed = f"[channels, height, width] with 1 or 3 channels and sides of 1 to {_LARGEST_SIDE}"
            raise malformed("preprocessing.input_shape", allowed, shape)
        channels, height, width = shape
        resize = values.get("resize")
        if resize is not None and not _is_side(resize):
            raise malformed("preprocessing.resize", f"null or a whole number of 1 to {_LARGEST_SIDE}", resize)
        pixel_maximum = values.get("pixel_maximum")
        if not (_is_number(pixel_maximum) and 1 < pixel_maximum <= _WHITE and pixel_maximum == int(pixel_maximum)):
            raise malformed("preprocessing.pixel_maximum", f"a whole number of 2 to {_WHITE}", pixel_maximum)
        mean, std = values.get("mean"), values.get("std")
        if not _are_statistics(mean, channels):
            raise malformed("preprocessing.mean", f"a list of {channels} numbers, one a channel", mean)
        if not (_are_statistics(std, channels) and min(std) > 0):
            raise malformed("preprocessing.std", f"a list of {channels} numbers above 0, one a channel", std)
        return cls(channels, height, width, resize, int(pixel_maximum), tuple(map(float, mean)), tuple(map(float, std)))


def read_task(metadata: Mapping[str, Any]) -> str:
    """The task that a network was trained for, one of :data:`TASKS`.

    Raises:
        DataError: it is missing or another one.
    """
    task = metadata.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise malformed("task", " or ".join(TASKS), task)
    return task


def read_labels(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes; none where the file has none.

    Raises:
        DataError: they are not a list of texts.
    """
    labels = metadata.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise malformed("labels", "a list of texts", labels)
    return tuple(labels)


def label_name(labels: Sequence[str], number: int) -> str:
    """The name of a class, or its number where it has no name."""
    return labels[number] if 0 <= number < len(labels) else str(number)


def scale_short_side(image: Image.Image, side: int) -> Image.Image:
    """Scale a picture so that its short side has ``side`` pixels and the long one, rounded down, its part of that."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    other = int(side * long / short)
    size = (side, other) if width <= height else (other, side)
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


def cut_centre(image: Image.Image, width: int, height: int) -> Image.Image:
    """Cut the centre of a picture; where it is smaller, it lies in the centre of black."""
    left, top = (image.width - width) / 2, (image.height - height) / 2
    # What cannot be halved: a cut is rounded to even numbers, an edge of black is thinner on the left and above.
    x, y = (round(edge) if edge >= 0 else -int(-edge) for edge in (left, top))
    return image.crop((x, y, x + width, y + height))


def prepare_picture(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Turn a picture into the input of a classifier, as the data sets do for evaluation, bit for bit.

    Pixels of 0 to 255 are first scaled to 0 to ``pixel_maximum`` and rounded, where that is not 255.

    Args:
        image: of any size and mode.
        preprocessing: of the network.

    Returns:
        float32 ``(1, channels, height, width)``.

    Raises:
        DataError: the picture is so long and thin that it cannot be scaled.
    """
    coloured = image.convert("L" if preprocessing.channels == 1 else "RGB")
    size = (preprocessing.width, preprocessing.height)
    if preprocessing.resize is None:
        scaled = coloured if coloured.size == size else coloured.resize(size, Image.Resampling.BILINEAR)
    else:
        _check_scaled_size(image.size, preprocessing.resize)
        scaled = cut_centre(scale_short_side(coloured, preprocessing.resize), *size)
    pixels = np.array(scaled, np.uint8)
    if preprocessing.pixel_maximum != _WHITE:
        pixels = np.rint(pixels * (preprocessing.pixel_maximum / _WHITE)).astype(np.uint8)
    planes = pixels.reshape(preprocessing.height, preprocessing.width, preprocessing.channels).transpose(2, 0, 1)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    inputs = (planes.astype(np.float32) / np.float32(preprocessing.pixel_maximum) - mean) / std
    return np.ascontiguousarray(inputs[None])


def top_classes(
    logits: npt.NDArray[np.floating[Any]], labels: Sequence[str], count: int = 5
) -> list[tuple[str, float]]:
    """The most probable classes, by softmax in float64.

    Args:
        logits: ``(classes,)``.
        labels: names of the classes; a class without a name is called by its number.
        count: of classes wanted; all of them where there are fewer.

    Returns:
        Name and probability of each, most probable first; equally probable classes in the order of their numbers.

    Raises:
        DataError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise DataError("the network answers with numbers that are not finite")
    wide = np.asarray(logits, np.float64)
    powers = np.exp(wide - wide.max())
    probabilities = powers / powers.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(label_name(labels, int(number)), float(probabilities[number])) for number in order]


def _check_scaled_size(size: tuple[int, int], resize: int) -> None:
    pixels = resize * (resize * max(size) // min(size))
    if pixels > _MOST_SCALED_PIXELS:
        raise DataError(
            f"a picture of {size[0]}x{size[1]} pixels is too long and thin: with a short side of {resize} pixels "
            f"it has {pixels:,} pixels, {_MOST_SCALED_PIXELS:,} are allowed"
        )


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_side(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_SIDE


def _are_statistics(values: Any, channels: int) -> TypeGuard[list[float]]:
    return (
        isinstance(values, list)
        and len(values) == channels
        and all(_is_number(value) and abs(value) <= _LARGEST_STATISTIC for value in values)
    )


def malformed(key: str, allowed: str, got: Any) -> DataError:
    """What to raise for a key of the metadata that does not fit."""
    shown = "nothing" if got is None else json.dumps(got)
    shown = shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."
    return DataError(f"metadata: {key} must be {allowed}, got {shown}")
