"""What the inputs of a layer tell about how to round it: sums over places in pictures.

Of each layer, in the network as it is and in the uncompressed one, at the same places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from sterna.data.randomness import random_words
from sterna.errors import SternaError
from sterna.train.compensated_rounding import Moments

_POSITION_STREAM = 0x7265636F
# Samples that are multiplied at a time, and columns of the product: only its upper triangle is computed.
_SAMPLES = 4096
_COLUMNS = 1024
# Square of a batch norm's slope, as a part of the mean, below which a channel counts as closed.
_CLOSED = 0.01
_TINY = 1e-12


@dataclass
class Sums:
    """Sums over the inputs ``x``, the outputs before ``y`` and the wanted outputs ``z`` of a layer."""

    count: int = 0
    upper: Tensor = field(default_factory=lambda: torch.zeros(()))
    outputs: Tensor = field(default_factory=lambda: torch.zeros(()))
    input_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    wanted_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    output_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    output_squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, x: Tensor, y: Tensor, z: Tensor) -> None:
        """Count samples: ``x`` ``(n, k)``, ``y`` and ``z`` ``(n, rows)``, float32."""
        self.count += len(x)
        width = x.shape[1]
        if self.upper.ndim == 0:
            self.upper = torch.zeros(width, width, dtype=torch.float64, device=x.device)
        for start in range(0, width, _COLUMNS):
            self.upper[start : start + _COLUMNS, start:].add_(x[:, start : start + _COLUMNS].T @ x[:, start:])
        self.outputs = self.outputs + (z.T @ x).double()
        self.input_sum = self.input_sum + x.double().sum(0)
        self.wanted_sum = self.wanted_sum + z.double().sum(0)
        self.output_sum = self.output_sum + y.double().sum(0)
        self.output_squares = self.output_squares + y.double().square().sum(0)

    def moments(self, centred: bool) -> Moments:
        """Means of products, about the means if the layer has a free bias."""
        inputs = self.upper.triu() / self.count
        inputs = inputs + inputs.triu(1).T
        outputs = self.outputs / self.count
        if centred:
            x, z = self.input_sum / self.count, self.wanted_sum / self.count
            inputs, outputs = inputs - torch.outer(x, x), outputs - torch.outer(z, x)
        return Moments(inputs, outputs)


@dataclass(frozen=True)
class Missing:
    """What a layer should give beyond what it gave before: the error of the branch that its outputs are added to.

    In a residual block the errors of all blocks before it come by the shortcut. The last layer of the other branch sees
    some of them in its own inputs, and can make up for as much.

    Args:
        now: values of the other branch, a tensor ``(n, rows, ...)`` a batch.
        before: the same of the uncompressed network.
        stretch: ``(rows,)``, from an error behind the layer's batch norm to one before it.
    """

    now: list[Tensor]
    before: list[Tensor]
    stretch: Tensor

    @classmethod
    def of(
        cls, now: list[Tensor] | None, before: list[Tensor] | None, norm: _BatchNorm | None, shape: tuple[int, ...]
    ) -> Missing | None:
        """Nothing if there is no such branch, or if its values are not of the shape of the outputs."""
        if now is None or before is None or now[0].shape != shape:
            return None
        stretch = torch.ones(())
        if norm is not None:
            slope = torch.rsqrt(statistic(norm.running_var) + norm.eps)
            slope = slope * norm.weight if norm.affine else slope
            # Through a channel that the batch norm all but closes, nothing can be made up for.
            stretch = slope / (slope.square() + _CLOSED * slope.square().mean()).clamp(min=_TINY)
        return cls(now, before, stretch)

    def at(self, batch: int, chosen: Tensor | None) -> Tensor:
        """At places of a batch, ``(places, rows)``."""
        difference = _outputs_at(self.before[batch], chosen).float() - _outputs_at(self.now[batch], chosen).float()
        return difference * self.stretch


def gather(
    layer: nn.Module,
    weight: Tensor,
    inputs: Iterable[Tensor],
    inputs_before: Iterable[Tensor],
    missing: Missing | None,
    seed: int,
    places: int,
) -> Sums:
    """Sums over inputs of a layer, outputs (without bias) that it gave before with this weight, and those wanted.

    Of a convolution, at so many places of each image: neighbours tell nearly the same.
    """
    sums = Sums()
    waiting: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, (x, x_before) in enumerate(zip(inputs, inputs_before, strict=True)):
        chosen = _places(layer, x, seed, number, places)
        outputs = _inputs_at(layer, x_before.float(), chosen) @ weight.T
        wanted = outputs if missing is None else outputs + missing.at(number, chosen)
        waiting.append((_inputs_at(layer, x.float(), chosen), outputs, wanted))
        if sum(len(samples) for samples, _, _ in waiting) >= _SAMPLES:
            sums.add(*(torch.cat(part) for part in zip(*waiting, strict=True)))
            waiting = []
    if waiting:
        sums.add(*(torch.cat(part) for part in zip(*waiting, strict=True)))
    return sums


def _places(layer: nn.Module, x: Tensor, seed: int, batch: int, count: int) -> Tensor | None:
    """Outputs of a convolution that are looked at in a batch, by their numbers in a plane; nothing for other layers."""
    if not isinstance(layer, nn.Conv2d):
        return None
    height, width = _output_size(layer, x)
    words = random_words(seed, batch, _POSITION_STREAM, np.arange(height * width))
    return torch.from_numpy(words.argsort(kind="stable")[:count].copy()).to(x.device)


def output_shape(layer: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Shape of what a layer gives for a batch."""
    if isinstance(layer, nn.Conv2d):
        return (len(x), layer.out_channels, *_output_size(layer, x))
    return (*x.shape[:-1], cast(nn.Linear, layer).out_features)


def _output_size(layer: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    sizes = zip(
        x.shape[2:], layer.kernel_size, layer.stride, cast(tuple[int, int], layer.padding), layer.dilation, strict=True
    )
    height, width = (
        (size + 2 * pad - step * (kernel - 1) - 1) // stride + 1 for size, kernel, stride, pad, step in sizes
    )
    return height, width


def _inputs_at(layer: nn.Module, values: Tensor, chosen: Tensor | None) -> Tensor:
    """The inputs, ``(n, k)``, of which a layer makes its outputs at these places."""
    if not isinstance(layer, nn.Conv2d) or chosen is None:
        return values.reshape(-1, values.shape[-1])
    (kernel_h, kernel_w), (stride_h, stride_w) = layer.kernel_size, layer.stride
    (pad_h, pad_w), (step_h, step_w) = cast(tuple[int, int], layer.padding), layer.dilation
    _, width = _output_size(layer, values)
    rows = (chosen // width * stride_h)[:, None] + torch.arange(kernel_h, device=values.device) * step_h
    columns = (chosen % width * stride_w)[:, None] + torch.arange(kernel_w, device=values.device) * step_w
    padded = F.pad(values, (pad_w, pad_w, pad_h, pad_h))
    patches = padded[:, :, rows[:, :, None], columns[:, None, :]]  # (images, channels, places, kernel_h, kernel_w)
    return patches.transpose(1, 2).flatten(2).flatten(0, 1)


def _outputs_at(values: Tensor, chosen: Tensor | None) -> Tensor:
    """Values behind a layer at these places, ``(n, rows)``."""
    if chosen is None:
        return values.reshape(-1, values.shape[-1])
    return values.flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1)


def statistic(value: Tensor | None) -> Tensor:
    """A running statistic of a batch norm.

    Raises:
        SternaError: it has none.
    """
    if value is None:
        raise SternaError("a batch norm has no running statistics")
    return value
