"""Detectors on lighter backbones, and with anchors of one's own, which torchvision has no names for.

``fasterrcnn``, ``maskrcnn`` and ``retinanet`` with a feature pyramid on ResNet-18, ResNet-50 or MobileNetV2, made of
torchvision's own parts, so that names of tensors, losses and outputs are those of its detectors.

References:
    Lin et al.: Feature pyramid networks for object detection, arXiv 1612.03144.
    Ren et al.: Faster R-CNN, arXiv 1506.01497. He et al.: Mask R-CNN, arXiv 1703.06870.
    Lin et al.: Focal loss for dense object detection, arXiv 1708.02002.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

BACKBONES = ("resnet18", "resnet50", "mobilenet_v2")
HEADS = ("fasterrcnn", "maskrcnn", "retinanet")

_NUM_COCO_CLASSES = 91
_ALL_LAYERS = {"resnet18": 5, "resnet50": 5, "mobilenet_v2": 6}
# One size a level: the pyramid of MobileNetV2 has levels 4 and 5 and a pooled one, that of a ResNet two more below.
_ANCHOR_SIZES = {
    "resnet18": (32, 64, 128, 256, 512),
    "resnet50": (32, 64, 128, 256, 512),
    "mobilenet_v2": (64, 160, 400),
}
_ASPECT_RATIOS = (0.5, 1.0, 2.0)
_RETINA_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))


def detector_names() -> tuple[str, ...]:
    """Names that :func:`find_detector` knows."""
    return tuple(f"{head}_{backbone}_fpn" for head in HEADS for backbone in BACKBONES)


def find_detector(name: str) -> Callable[..., nn.Module]:
    """The function that builds a detector: :func:`build_detector` with its head and its backbone."""
    head, backbone = name.removesuffix("_fpn").split("_", 1)
    return partial(build_detector, head, backbone)


def build_detector(
    head: str,
    backbone: str,
    *,
    num_classes: int = _NUM_COCO_CLASSES,
    anchor_sizes: list[int] | None = None,
    **arguments: Any,
) -> nn.Module:
    """A detector with freshly initialised weights.

    Args:
        head: of :data:`HEADS`.
        backbone: of :data:`BACKBONES`.
        num_classes: with the background.
        anchor_sizes: sides of the anchors in pixels, one for each level of the pyramid (five on a ResNet, three on
            MobileNetV2), where a region proposal network has anchors.
        arguments: of torchvision's class, such as ``min_size``, ``max_size`` and ``box_detections_per_img``.

    Raises:
        ValueError: another number of anchor sizes.
        TypeError: arguments that the class does not take.
    """
    from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    make: Callable[..., nn.Module] = {"fasterrcnn": FasterRCNN, "maskrcnn": MaskRCNN, "retinanet": RetinaNet}[head]
    _check_arguments(make, arguments)
    body = _pyramid(backbone)
    if head == "retinanet":
        if anchor_sizes is not None:
            raise ValueError("anchor_sizes is for fasterrcnn and maskrcnn")
        sizes = _ANCHOR_SIZES[backbone]
        anchors = AnchorGenerator(
            tuple(tuple(round(size * scale) for scale in _RETINA_SCALES) for size in sizes),
            (_ASPECT_RATIOS,) * len(sizes),
        )
        return make(body, num_classes, anchor_generator=anchors, **arguments)
    sizes = tuple(anchor_sizes) if anchor_sizes is not None else _ANCHOR_SIZES[backbone]
    if len(sizes) != len(_ANCHOR_SIZES[backbone]):
        raise ValueError(f"anchor_sizes must have {len(_ANCHOR_SIZES[backbone])} values, got {len(sizes)}")
    anchors = AnchorGenerator(tuple((size,) for size in sizes), (_ASPECT_RATIOS,) * len(sizes))
    levels = [str(level) for level in range(len(sizes) - 1)]  # the pooled level is for proposals alone
    pooling = {"box_roi_pool": _roi_align(levels, 7)}
    if head == "maskrcnn":
        pooling["mask_roi_pool"] = _roi_align(levels, 14)
    return make(body, num_classes, rpn_anchor_generator=anchors, **pooling, **arguments)


def _check_arguments(make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> None:
    """Refuse what torchvision would drop in silence."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    known = {*inspect.signature(make).parameters, *inspect.signature(GeneralizedRCNNTransform).parameters}
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise TypeError(f"got an unexpected keyword argument '{unknown[0]}'")


def _pyramid(backbone: str) -> nn.Module:
    from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone

    layers = _ALL_LAYERS[backbone]
    body: nn.Module
    if backbone == "mobilenet_v2":
        body = mobilenet_backbone(
            backbone_name=backbone, weights=None, fpn=True, norm_layer=nn.BatchNorm2d, trainable_layers=layers
        )
    else:
        body = resnet_fpn_backbone(
            backbone_name=backbone, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=layers
        )
    return body


def _roi_align(levels: list[str], side: int) -> nn.Module:
    from torchvision.ops import MultiScaleRoIAlign

    pool: nn.Module = MultiScaleRoIAlign(featmap_names=levels, output_size=side, sampling_ratio=2)
    return pool
