"""From a picture to predictions, with nothing but a loaded network and the metadata of its file.

Metadata are a stranger's JSON values: whatever does not fit is a :class:`~sterna.errors.DataError` of one line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from sterna.data.dataset import Normalization
from sterna.data.pixels import Pixels
from sterna.errors import DataError

CLASSIFICATION = "classification"
DETECTION = "detection"
INSTANCE_SEGMENTATION = "instance-segmentation"
TASKS = (CLASSIFICATION, DETECTION, INSTANCE_SEGMENTATION)

MASK_THRESHOLD = 0.5

_WHITE = 255
# Limits on what a file may ask for: 4096 x 4096 inputs, and 512 MiB of Pillow's memory for a scaled picture.
_LARGEST_SIDE = 4096
_MOST_SCALED_PIXELS = 1 << 27
_LARGEST_STATISTIC = 1e6
_SHOWN_CHARACTERS = 60

# What networks raise when they are given inputs that they are not made for.
_MISFIT_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


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
            raise _malformed("preprocessing", "an object", values)
        shape = values.get("input_shape")
        if not (isinstance(shape, list) and len(shape) == 3 and shape[0] in (1, 3) and all(map(_is_side, shape))):
            allowed = f"[channels, height, width] with 1 or 3 channels and sides of 1 to {_LARGEST_SIDE}"
            raise _malformed("preprocessing.input_shape", allowed, shape)
        channels, height, width = shape
        resize = values.get("resize")
        if resize is not None and not _is_side(resize):
            raise _malformed("preprocessing.resize", f"null or a whole number of 1 to {_LARGEST_SIDE}", resize)
        pixel_maximum = values.get("pixel_maximum")
        if not (_is_number(pixel_maximum) and 1 < pixel_maximum <= _WHITE and pixel_maximum == int(pixel_maximum)):
            raise _malformed("preprocessing.pixel_maximum", f"a whole number of 2 to {_WHITE}", pixel_maximum)
        mean, std = values.get("mean"), values.get("std")
        if not _are_statistics(mean, channels):
            raise _malformed("preprocessing.mean", f"a list of {channels} numbers, one a channel", mean)
        if not (_are_statistics(std, channels) and min(std) > 0):
            raise _malformed("preprocessing.std", f"a list of {channels} numbers above 0, one a channel", std)
        return cls(channels, height, width, resize, int(pixel_maximum), tuple(map(float, mean)), tuple(map(float, std)))


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one picture, best first.

    Args:
        boxes: float32 ``(n, 4)``, (left, top, right, bottom) in pixels of the picture.
        classes: int64 ``(n,)``, the detector's number of each class.
        labels: name of each class.
        scores: float32 ``(n,)``, in 0..1.
        masks: bool ``(n, height, width)``, where each object is; nothing where the network gives none.
    """

    boxes: Tensor
    classes: Tensor
    labels: tuple[str, ...]
    scores: Tensor
    masks: Tensor | None

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.labels)


def read_task(metadata: Mapping[str, Any]) -> str:
    """The task that a network was trained for, one of :data:`TASKS`.

    Raises:
        DataError: it is missing or another one.
    """
    task = metadata.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise _malformed("task", " or ".join(TASKS), task)
    return task


def read_labels(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes; none where the file has none.

    Raises:
        DataError: they are not a list of texts.
    """
    labels = metadata.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise _malformed("labels", "a list of texts", labels)
    return tuple(labels)


def label_name(labels: Sequence[str], number: int) -> str:
    """The name of a class, or its number where it has no name."""
    return labels[number] if 0 <= number < len(labels) else str(number)


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Turn a picture into the input of a classifier, as the data sets do for evaluation.

    Pixels of 0 to 255 are first scaled to 0 to ``pixel_maximum`` and rounded, where that is not 255.

    Args:
        image: of any size and mode.
        preprocessing: of the network.

    Returns:
        float32 ``(1, channels, height, width)`` in channels-last memory.

    Raises:
        DataError: the picture is so long and thin that it cannot be scaled.
    """
    coloured = image.convert("L" if preprocessing.channels == 1 else "RGB")
    size = [preprocessing.height, preprocessing.width]
    if preprocessing.resize is None:
        scaled = F.resize(coloured, size, antialias=True)
    else:
        _check_scaled_size(image.size, preprocessing.resize)
        scaled = F.center_crop(F.resize(coloured, [preprocessing.resize], antialias=True), size)
    pixels: Pixels = np.array(scaled, np.uint8)
    if preprocessing.pixel_maximum != _WHITE:
        pixels = np.rint(pixels * (preprocessing.pixel_maximum / _WHITE)).astype(np.uint8)
    normalize = Normalization(
        preprocessing.mean, preprocessing.std, preprocessing.channels, float(preprocessing.pixel_maximum)
    )
    return normalize(pixels.reshape(1, *size, preprocessing.channels).transpose(0, 3, 1, 2))


def top_classes(logits: Tensor, labels: Sequence[str], count: int = 5) -> list[tuple[str, float]]:
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
    if not logits.isfinite().all():
        raise DataError("the network answers with numbers that are not finite")
    probabilities, order = logits.double().softmax(0).sort(descending=True, stable=True)
    pairs = zip(order[:count].tolist(), probabilities[:count].tolist(), strict=True)
    return [(label_name(labels, number), probability) for number, probability in pairs]


@torch.inference_mode()
def classify(
    model: nn.Module,
    image: Image.Image,
    preprocessing: Preprocessing,
    labels: Sequence[str] = (),
    *,
    count: int = 5,
) -> list[tuple[str, float]]:
    """The most probable classes of a picture.

    Args:
        model: in evaluation mode; maps ``(1, channels, height, width)`` to logits ``(1, classes)``.
        image: of any size and mode.
        preprocessing: of the network.
        labels: names of the classes.
        count: of classes wanted.

    Returns:
        As :func:`top_classes`.

    Raises:
        DataError: the network does not take these inputs, does not answer with finite logits, or the picture cannot be
            scaled.
    """
    inputs = preprocess(image, preprocessing)
    logits = _answer(lambda: model(inputs), "x".join(map(str, inputs.shape[1:])))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1 or not logits.is_floating_point():
        raise DataError(f"{type(model).__name__} does not answer as a classifier, with logits of shape (1, classes)")
    return top_classes(logits[0], labels, count)


@torch.inference_mode()
def detect(
    model: nn.Module,
    image: Image.Image,
    labels: Sequence[str] = (),
    *,
    threshold: float = 0.5,
    limit: int = 100,
) -> Detections:
    """The objects in a picture.

    Args:
        model: a detector with the interface of torchvision's, in evaluation mode.
        image: of any size and mode; the detector itself scales it.
        labels: names of the detector's classes, of which 0 is the background in torchvision's.
        threshold: lowest score of an object, in 0..1.
        limit: of objects; the best ones are kept.

    Returns:
        The objects, best first; those of equal score in the order of the detector. A pixel belongs to a mask from
        :data:`MASK_THRESHOLD` on.

    Raises:
        DataError: the network does not take this picture, or does not answer as a detector with finite numbers.
    """
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    inputs = pixels.to(torch.float32).div_(_WHITE)
    answer = _answer(lambda: model([inputs]), f"a picture of {image.width}x{image.height} pixels")
    found = answer[0] if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict) else {}
    boxes, classes, scores, masks = (found.get(key) for key in ("boxes", "labels", "scores", "masks"))
    if not (
        _has_shape(scores, (-1,))
        and _has_shape(boxes, (len(scores), 4))
        and _has_shape(classes, (len(scores),))
        and not (classes.is_floating_point() or classes.is_complex())
        and (masks is None or _has_shape(masks, (len(scores), 1, image.height, image.width)))
    ):
        raise DataError(
            f"{type(model).__name__} does not answer as a detector, with boxes, labels and scores for each picture"
        )
    if not (boxes.isfinite().all() and scores.isfinite().all()):
        raise DataError("the network answers with numbers that are not finite")
    order = scores.argsort(descending=True, stable=True)
    kept = order[scores[order] >= threshold][:limit]
    kept_classes = classes[kept].to(torch.int64)
    return Detections(
        boxes=boxes[kept].float(),
        classes=kept_classes,
        labels=tuple(label_name(labels, number) for number in kept_classes.tolist()),
        scores=scores[kept].float(),
        masks=masks[kept, 0] >= MASK_THRESHOLD if masks is not None else None,
    )


def _answer(run: Callable[[], Any], inputs: str) -> Any:
    """Run a network; the file says what it is for, so that its failure is the file's."""
    try:
        return run()
    except _MISFIT_ERRORS as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise DataError(f"the network cannot take {inputs}: {reason}") from error


def _has_shape(value: Any, shape: tuple[int, ...]) -> TypeGuard[Tensor]:
    """Whether this is a tensor of a shape, where -1 is any length."""
    return (
        isinstance(value, Tensor)
        and value.ndim == len(shape)
        and all(wanted in (-1, size) for size, wanted in zip(value.shape, shape, strict=True))
    )


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


def _malformed(key: str, allowed: str, got: Any) -> DataError:
    shown = "nothing" if got is None else json.dumps(got)
    shown = shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."
    return DataError(f"metadata: {key} must be {allowed}, got {shown}")
