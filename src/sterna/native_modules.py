"""The native engine inside PyTorch: graphs of a file as modules, and detectors that are made of them.

What a file has graphs for is computed natively; what lies between them in a detector (scaling of images, anchors,
suppression, RoIAlign) stays torchvision's. Such modules are for evaluation on the CPU: they have no parameters and no
gradients.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sterna.errors import DataError, SternaError

BACKBONE = "backbone"
# Regions at a time. Plans are made for a number of them: powers of two up to this one serve any. Linear layers gain
# from many; convolutions are as fast with few, and need memory for each.
REGION_HEADS: Mapping[str, int] = {"roi_heads.box": 32, "roi_heads.mask": 8, "roi_heads.keypoint": 8}

# How the heads of a backbone's graph find what was computed with the levels that they are given.
_COMPUTED = "_sterna_head_outputs"


class Runner(Protocol):
    """What computes a graph, as :class:`~sterna.session.InferenceSession` does."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""

    def run(self, *inputs: npt.ArrayLike) -> npt.NDArray[np.float32] | dict[str, npt.NDArray[np.float32]]:
        """The array of the only output, or arrays by the names of the outputs."""

    def output_shapes(self, *shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs by name, for inputs of these shapes."""


class NativeModule(nn.Module):
    """A graph of a file as a module.

    Args:
        runner: of a graph with one input.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__()
        self._runner = runner
        self.eval()

    def train(self, mode: bool = True) -> NativeModule:
        """As in every module, but for evaluation alone.

        Raises:
            SternaError: training mode is asked for.
        """
        if mode:
            raise SternaError("a network on the native engine cannot be trained: load the file without engine='native'")
        super().train(False)
        return self

    def compute(self, inputs: Tensor) -> dict[str, Tensor]:
        """The outputs of the graph by name.

        Args:
            inputs: on the CPU; they are taken as float32.

        Raises:
            SternaError: gradients are asked for, or the inputs lie on another device.
            DataError: the graph does not take these inputs.
        """
        if self.training or (torch.is_grad_enabled() and inputs.requires_grad):
            raise SternaError(
                "the native engine computes no gradients: load the file without engine='native', or use "
                "torch.inference_mode()"
            )
        if inputs.device.type != "cpu":
            raise SternaError(f"the native engine computes on the CPU, got a tensor on {inputs.device}")
        found = self._runner.run(inputs.detach().to(torch.float32).numpy())
        arrays = found if isinstance(found, dict) else {self._runner.outputs[0]: found}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class NativeNetwork(NativeModule):
    """A whole network with one output, such as a classifier."""

    def forward(self, images: Tensor) -> Tensor:
        """The output for a batch, float32; errors as :meth:`compute`, and DataError if there are several outputs."""
        outputs = self.compute(images)
        if len(outputs) != 1:
            raise DataError(f"the network must have one output, it has {', '.join(outputs)}")
        return next(iter(outputs.values()))


class NativeBackbone(NativeModule):
    """The pyramid of a detector, with the heads that see all of it.

    Args:
        runner: of the graph ``backbone``, as :func:`~sterna.capturing.capture_detector` makes it.
        out_channels: of the levels.
    """

    def __init__(self, runner: Runner, out_channels: int) -> None:
        super().__init__(runner)
        self.out_channels = out_channels
        prefix = f"{BACKBONE}."
        self._levels = [name.removeprefix(prefix) for name in runner.outputs if name.startswith(prefix)]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The levels by name; errors as :meth:`compute`."""
        outputs = self.compute(images)
        levels = OrderedDict((name, outputs.pop(f"{BACKBONE}.{name}")) for name in self._levels)
        # With the tensor, so that threads which share the detector do not see each other's.
        for level in levels.values():
            setattr(level, _COMPUTED, outputs)
        return levels


def _computed(levels: list[Tensor], path: str) -> list[Tensor]:
    """What the backbone's graph made of levels of its own: the output of a head for each of them."""
    outputs: dict[str, Tensor] = getattr(levels[0], _COMPUTED, {})
    found = [tensor for name, tensor in outputs.items() if name.startswith(f"{path}.")]
    if len(found) != len(levels):
        raise SternaError(f"{path} is computed with the native backbone, and takes its levels only")
    return found


class NativeProposalHead(nn.Module):
    """The head of a region proposal network, whose outputs are those of :class:`NativeBackbone`'s graph."""

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box deltas of each level.

        Raises:
            SternaError: the levels are not the native backbone's.
        """
        return _computed(levels, "rpn.head.cls_logits"), _computed(levels, "rpn.head.bbox_pred")


class NativeRetinaHead(nn.Module):
    """The heads of a RetinaNet, whose outputs are those of :class:`NativeBackbone`'s graph.

    Args:
        num_classes: of the logits of an anchor.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._num_classes = num_classes

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Logits ``(n, anchors, classes)`` and box deltas ``(n, anchors, 4)``, of all levels one after the other.

        Raises:
            SternaError: the levels are not the native backbone's.
        """
        logits = _computed(levels, "head.classification_head.cls_logits")
        boxes = _computed(levels, "head.regression_head.bbox_reg")
        return {
            "cls_logits": torch.cat([_by_anchor(level, self._num_classes) for level in logits], 1),
            "bbox_regression": torch.cat([_by_anchor(level, 4) for level in boxes], 1),
        }


def _by_anchor(image: Tensor, numbers: int) -> Tensor:
    """``(n, anchors a pixel x numbers, height, width)`` to ``(n, height x width x anchors a pixel, numbers)``."""
    n, _, height, width = image.shape
    return image.view(n, -1, numbers, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, numbers)


class NativeRegionHead(NativeModule):
    """The head and the predictor of pooled regions, for any number of them.

    Args:
        runner: of a graph of :data:`REGION_HEADS`.
        region_shape: of one region, ``(channels, height, width)``.
        at_once: regions that are computed together at most, a power of two.
    """

    def __init__(self, runner: Runner, region_shape: tuple[int, ...], at_once: int) -> None:
        super().__init__(runner)
        self._region_shape = region_shape
        self._at_once = at_once

    def forward(self, regions: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the predictor makes of ``(n, channels, size, size)``; errors as :meth:`compute`."""
        pieces = [list(self.compute(piece).values()) for piece in _pieces(regions, self._at_once)]
        outputs = [torch.cat(parts) for parts in zip(*pieces, strict=True)] if pieces else self._of_no_regions()
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _of_no_regions(self) -> list[Tensor]:
        shapes = self._runner.output_shapes((1, *self._region_shape)).values()
        return [torch.empty(0, *shape[1:]) for shape in shapes]


def _pieces(regions: Tensor, largest: int) -> Iterator[Tensor]:
    """In order, as many as possible of the largest size, then of ever smaller halves of it."""
    begin, size = 0, largest
    while begin < len(regions):
        while size > len(regions) - begin:
            size //= 2
        yield regions[begin : begin + size]
        begin += size


def install(detector: nn.Module, runners: Mapping[str, Runner]) -> None:
    """Put native modules in the place of parts of a detector; the modules that were there are dropped.

    Args:
        detector: ``FasterRCNN``, ``MaskRCNN``, ``KeypointRCNN`` or ``RetinaNet`` of torchvision, in evaluation mode.
        runners: by the names of graphs of :func:`~sterna.capturing.capture_detector`.

    Raises:
        DataError: another kind of module, or a graph that stands for no part of it.
    """
    from torchvision.models.detection import FasterRCNN, RetinaNet

    if not isinstance(detector, FasterRCNN | RetinaNet):
        allowed = "FasterRCNN, MaskRCNN, KeypointRCNN and RetinaNet"
        raise DataError(f"the graphs are of a detector of torchvision ({allowed}), got {type(detector).__name__}")
    parts: Any = detector
    for name, runner in runners.items():
        part = name.removeprefix("roi_heads.")
        if name == BACKBONE:
            parts.backbone = NativeBackbone(runner, parts.backbone.out_channels)
            if isinstance(detector, RetinaNet):
                parts.head = NativeRetinaHead(parts.head.classification_head.num_classes).eval()
            else:
                parts.rpn.head = NativeProposalHead().eval()
        elif name in REGION_HEADS and getattr(getattr(parts, "roi_heads", None), f"{part}_head", None) is not None:
            heads = parts.roi_heads
            sides = getattr(heads, f"{part}_roi_pool").output_size
            shape = (int(parts.backbone.out_channels), *(int(side) for side in sides))
            setattr(heads, f"{part}_head", nn.Identity())
            setattr(heads, f"{part}_predictor", NativeRegionHead(runner, shape, REGION_HEADS[name]))
        else:
            raise DataError(f"the graph {name!r} stands for no part of this {type(detector).__name__}")
