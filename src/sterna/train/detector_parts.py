"""The parts of torchvision's detectors that a closed form can go through, one after another.

Between the parts lies what differs from image to image: anchors, proposals, pooling of regions. The heads of regions
are shown those that the uncompressed detector proposes and finds, pooled from the features of either network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sterna.train.activations import at_precision
from sterna.train.reconstruction import Part

# Heads that are called with each level of the pyramid in turn.
_LEVEL_HEADS = ("rpn.head.conv", "head.classification_head.conv", "head.regression_head.conv")
_REGION_HEADS = ("box", "mask")
# Of a batch of images, regions that a head is shown, up to one more an image.
_MOST_REGIONS = 64


class _Regions(NamedTuple):
    """Arguments of a pooling of regions: boxes of each image, and sizes of the images."""

    boxes: list[Tensor]
    image_sizes: list[tuple[int, int]]


class _Samples:
    """What the parts of a detector are given for some images."""

    def __init__(self, detector: nn.Module, precision: torch.dtype) -> None:
        self.images: list[Tensor] = []
        self.regions: dict[str, list[_Regions]] = {head: [] for head in _REGION_HEADS}
        self._precision = precision
        self._features: dict[nn.Module, list[dict[str, Tensor]]] = {}
        self._detector = detector

    @torch.no_grad()
    def add(self, images: list[Tensor]) -> None:
        """Run the detector on a batch of images, and note what reaches its parts."""
        detector: Any = self._detector

        def note_images(_module: nn.Module, arguments: tuple[Tensor]) -> None:
            self.images.append(arguments[0])

        def note_regions(head: str, _module: nn.Module, arguments: tuple[Any, list[Tensor], Any]) -> None:
            _, boxes, image_sizes = arguments
            share = -(-sum(map(len, boxes)) // _MOST_REGIONS)
            if share:
                self.regions[head].append(_Regions([each[::share].float() for each in boxes], image_sizes))
            else:
                self.regions[head].append(_Regions([], []))

        hooks = [detector.backbone.register_forward_pre_hook(note_images)]
        for head in _REGION_HEADS:
            pool = getattr(getattr(detector, "roi_heads", None), f"{head}_roi_pool", None)
            if pool is not None:
                hooks.append(pool.register_forward_pre_hook(partial(note_regions, head)))
        try:
            with at_precision(images[0].device.type, self._precision):
                detector(images)
        finally:
            for hook in hooks:
                hook.remove()

    def levels(self, network: nn.Module) -> list[Tensor]:
        """Every level of every batch, as one list."""
        return [level for features in self._features_of(network) for level in features.values()]

    def pooled(self, head: str, network: nn.Module) -> list[Tensor]:
        """The regions of a head that the uncompressed detector found, batch by batch; no batch without any."""
        pool = cast(Callable[..., Tensor], network.get_submodule(f"roi_heads.{head}_roi_pool"))
        return [
            # A pooling knows only float32.
            pool({name: level.float() for name, level in features.items()}, regions.boxes, regions.image_sizes)
            for features, regions in zip(self._features_of(network), self.regions[head], strict=True)
            if regions.boxes
        ]

    def _features_of(self, network: nn.Module) -> list[dict[str, Tensor]]:
        # The backbone is done when features are asked for: they stay what they are.
        if network not in self._features:
            backbone = network.get_submodule("backbone")
            with torch.no_grad(), at_precision(self.images[0].device.type, self._precision):
                self._features[network] = [backbone(images) for images in self.images]
        return self._features[network]


def detector_parts(
    detector: nn.Module, batches: Sequence[list[Tensor]], precision: torch.dtype = torch.float32
) -> list[Part]:
    """Backbone with its pyramid, then the heads without what predicts boxes, classes and masks.

    Args:
        detector: of torchvision (Mask R-CNN, Faster R-CNN, RetinaNet), not ternary yet; ends in evaluation mode.
        batches: of images as the detector takes them, ``(3, height, width)`` in 0..1.
        precision: of the forward passes, by autocast.

    Returns:
        The parts, for :func:`sterna.train.reconstruction.reconstruct`; heads that see nothing in these images are
        rounded by magnitude.
    """
    detector.eval()
    samples = _Samples(detector, precision)
    for images in batches:
        samples.add(images)
    parts = [Part("backbone", lambda _: samples.images)]
    modules = dict(detector.named_modules())
    parts += [Part(name, samples.levels) for name in _LEVEL_HEADS if name in modules]
    for head in _REGION_HEADS:
        if samples.regions[head]:
            parts.append(Part(f"roi_heads.{head}_head", partial(samples.pooled, head)))
    return parts
