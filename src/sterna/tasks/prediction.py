"""From a picture to predictions, with nothing but a loaded network and what its file says of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sterna.errors import DataError
from sterna.pictures import Preprocessing, label_name, prepare_picture, top_classes

MASK_THRESHOLD = 0.5

_WHITE = 255

# What networks raise when they are given inputs that they are not made for.
_MISFIT_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


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


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """As :func:`sterna.pictures.prepare_picture`, in channels-last memory."""
    return torch.from_numpy(prepare_picture(image, preprocessing)).contiguous(memory_format=torch.channels_last)


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
    return top_classes(logits[0].double().numpy(), labels, count)


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
