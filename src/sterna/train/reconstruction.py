"""Ternary layers from a trained network without training: one layer after another, in closed form.

Plain rounding lets each layer add its error to those before it. Here the network is walked through in the order of its
forward pass. Each ternary layer is rounded so that its outputs come near to those of the uncompressed network
(:mod:`sterna.train.compensated_rounding`), given the inputs that it gets from the layers that are ternary already; the
last layer of a residual branch also makes up for the error that comes by the shortcut, as far as its inputs tell. Then
the batch norm behind it gets the statistics of its new inputs, or its own bias is fitted. What comes out are latent
weights and thresholds, so that training can go on from there.

After OBQ and GPTQ (arXiv 2208.11580, 2210.17323), with the outputs of the uncompressed network as the aim (arXiv
2504.02692), for scaled trits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from sterna import ternary
from sterna.config import ReconstructionConfig
from sterna.data.randomness import random_words
from sterna.errors import SternaError
from sterna.folding import batch_norm_pairs
from sterna.preparation import choose_masks, latent_weights, ternary_layers
from sterna.quantizers.ptq import PTQ
from sterna.train.activations import watch
from sterna.train.batch_norm import batch_norms
from sterna.train.compensated_rounding import Moments, round_layer

# Outputs of a convolution that count, of each image: neighbours tell nearly the same.
_POSITIONS = 64
_POSITION_STREAM = 0x7265636F
# Magnitudes next to a threshold are moved away from it by this much, so that no rounding decides a trit.
_GAP = 0.02
_LARGEST_MARGIN = 4.0
_ROUNDS = 60
_TINY = 1e-12
# Square of a batch norm's slope, as a part of the mean, below which a channel counts as closed.
_CLOSED = 0.01
# Variance of a channel, as a part of what it was, below which it counts as constant.
_DEAD = 1e-6


def is_reconstructible(layer: nn.Module) -> bool:
    """Whether a layer is a matrix product over patches, and so can be solved: Linear, or Conv2d in one group.

    Others (grouped, depthwise, transposed, or padded with anything but zeros) are rounded by magnitude.
    """
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


@torch.no_grad()
def reconstruct(
    network: nn.Module,
    batches: Sequence[Tensor],
    sparsity: float,
    config: ReconstructionConfig,
    *,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
    report: Callable[[int, int], None] | None = None,
) -> None:
    """Make a prepared network ternary so that each layer gives nearly what it gave before.

    In place: latent weights, thresholds, phases, batch norms and biases. ``update_masks`` with the same sparsity leaves
    the trits as they are.

    Args:
        network: prepared, dense, with trained weights; ends in evaluation mode and in the phase ``ternary``.
        batches: images, ``(n, channels, height, width)`` each; the same ones on every process.
        sparsity: fraction of zeros over all ternary layers; how many each gets follows from ``ternary.allocation`` and
            the weights as they are now.
        config: damping and sweeps.
        seed: of the positions that are looked at in a picture.
        precision: of the forward passes; everything is solved in float64 and float32.
        report: is called with the layers done so far and all of them.

    Raises:
        SternaError: inputs of a layer are not finite.
    """
    network.eval()
    twin = deepcopy(network)
    layers, weights = ternary_layers(network), latent_weights(network)
    borders = _borders(network, sparsity)
    counts = {name: int(mask.sum()) for name, mask in choose_masks(network, sparsity).items()}
    pairs = batch_norm_pairs(network)
    norms = {name: module for name, module in network.named_modules() if module in set(batch_norms(network))}
    order = _execution_order(network, [*layers, *norms], batches[0][:1])
    unseen = [name for name in layers if name not in order]
    now, before = (watch(each, order, batches, precision) for each in (network, twin))
    started, fitted = False, set[str]()
    places = [*unseen, *order]
    for number, name in enumerate(places):
        if report is not None:
            report(number, len(places))
        if name in layers:
            started = True
            layer, parametrization = network.get_submodule(name), layers[name]
            norm = norms.get(pairs.get(name, ""))
            solvable = is_reconstructible(layer) and name in order
            moments = None
            if solvable:
                inputs, inputs_before = list(now.inputs_of(name)), list(before.inputs_of(name))
                behind = pairs.get(name, name)
                missing = _Missing.of(
                    now.added_to(behind), before.added_to(behind), norm, _output_shape(layer, inputs[0])
                )
                moments = _gather(layer, weights[name].flatten(1), inputs, inputs_before, missing, seed)
            if moments is None:
                _round_plainly(parametrization, weights[name], counts[name], borders[name])
            else:
                _solve(layer, parametrization, weights[name], norm, moments, counts[name], borders[name], config)
            parametrization.set_phase("ternary", weights[name])
            if moments is not None and norm is not None:
                _fit_norm_of(norm, layer, moments)
                fitted.add(pairs[name])
            elif moments is not None:
                _fit_bias(layer, moments)
        elif started and name not in fitted:
            _fit_norm(norms[name], now.inputs_of(name), before.inputs_of(name))
    for name, parametrization in layers.items():
        parametrization.set_phase("ternary", weights[name])


# ---- One layer -------------------------------------------------------------------------------------------------------


@dataclass
class _Sums:
    """Sums over the inputs ``x``, the outputs before ``y`` and the wanted outputs ``z`` of a layer."""

    count: int = 0
    inputs: Tensor = field(default_factory=lambda: torch.zeros(()))
    outputs: Tensor = field(default_factory=lambda: torch.zeros(()))
    input_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    wanted_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    output_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    output_squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, x: Tensor, y: Tensor, z: Tensor) -> None:
        """Count samples: ``x`` ``(n, k)``, ``y`` and ``z`` ``(n, rows)``, float32."""
        self.count += len(x)
        self.inputs = self.inputs + (x.T @ x).double()
        self.outputs = self.outputs + (z.T @ x).double()
        self.input_sum = self.input_sum + x.double().sum(0)
        self.wanted_sum = self.wanted_sum + z.double().sum(0)
        self.output_sum = self.output_sum + y.double().sum(0)
        self.output_squares = self.output_squares + y.double().square().sum(0)

    def moments(self, centred: bool) -> Moments:
        """Means of products, about the means if the layer has a free bias."""
        inputs, outputs = self.inputs / self.count, self.outputs / self.count
        if centred:
            x, z = self.input_sum / self.count, self.wanted_sum / self.count
            inputs, outputs = inputs - torch.outer(x, x), outputs - torch.outer(z, x)
        return Moments(inputs, outputs)


def _solve(
    layer: nn.Module,
    parametrization: PTQ,
    latent: nn.Parameter,
    norm: _BatchNorm | None,
    sums: _Sums,
    keep: int,
    border: float,
    config: ReconstructionConfig,
) -> None:
    centred = norm is not None or getattr(layer, "bias", None) is not None
    gain = None
    if norm is not None and norm.affine:
        # What an error in a channel does behind the batch norm.
        gain = (norm.weight.square() / (_statistic(norm.running_var) + norm.eps)).clamp(min=_TINY)
    rounded = round_layer(
        latent.flatten(1),
        sums.moments(centred),
        keep,
        damping=config.damping,
        sweeps=config.sweeps,
        row_weights=gain,
        group=parametrization.group,
    )
    scales = None if norm is not None else rounded.scales
    _write(parametrization, latent, rounded.trits, rounded.margins, border, scales)


def _round_plainly(parametrization: PTQ, latent: nn.Parameter, keep: int, border: float) -> None:
    """Trits by magnitude, in the form that :func:`_write` gives to all layers."""
    magnitude = latent.abs()
    mask = ternary.top_k_mask(magnitude, keep)
    smallest = magnitude[mask].min().clamp(min=_TINY)
    margins = magnitude / smallest
    scales = ternary.project(latent, mask, parametrization.group, "least-squares")[1].expand(len(latent))
    trits = ternary.trits(latent, mask)
    _write(parametrization, latent, trits.flatten(1), margins.flatten(1), border, scales)


def _write(
    parametrization: PTQ, latent: nn.Parameter, trits: Tensor, margins: Tensor, border: float, scales: Tensor | None
) -> None:
    """Set latent weights and the threshold so that the ternary image is these trits, and stays it.

    ``|w| = T margin``, with margins of nonzero trits above and of others below 1. The threshold ``T`` is ``border``
    root mean squares of the latent weights, as in all layers, so that choosing masks anew changes nothing.

    Args:
        parametrization: of the layer.
        latent: changed.
        trits: ``(rows, k)``.
        margins: the same shape.
        border: threshold in root mean squares.
        scales: ``(rows,)`` that the ternary image should have; nothing where a batch norm makes up for it, and then the
            root mean square of the layer stays what it was.
    """
    nonzero = trits != 0
    margins = torch.where(
        nonzero, margins.clamp(1.0 + _GAP, _LARGEST_MARGIN), margins.clamp(max=1.0 - _GAP) if border > 0 else margins
    )
    signs = torch.where(nonzero, trits, _signs(latent.flatten(1)))
    if scales is None:
        relative = _with_root_mean_square(margins, nonzero, 1.0 / border) if border > 0 else margins
        rms = latent.square().mean().sqrt()
        magnitude = relative * (rms / relative.square().mean().sqrt())
        threshold = rms * border
    else:
        magnitude, threshold = _with_scales(margins, nonzero, scales, border)
    latent.copy_((signs * magnitude).reshape(latent.shape))
    parametrization.threshold.copy_(threshold)


def _with_root_mean_square(margins: Tensor, nonzero: Tensor, target: float) -> Tensor:
    """Stretch what exceeds 1, or shrink what is below it, until the root mean square is ``target``."""
    floor = torch.where(nonzero, 1.0 + _GAP, 0.0)

    def stretched(amount: float) -> Tensor:
        # From -1, nothing below and all above at the border, over 0, as it is, to any size above.
        if amount <= 0.0:
            return torch.where(nonzero, floor + (margins - floor) * (1.0 + amount), margins * (1.0 + amount))
        return torch.where(nonzero, floor + (margins - floor) * (1.0 + amount), margins)

    low, high = -1.0, 100.0
    for _ in range(_ROUNDS):
        middle = 0.5 * (low + high)
        too_small = float(stretched(middle).square().mean().sqrt()) < target
        low, high = (middle, high) if too_small else (low, middle)
    return stretched(high)


def _with_scales(margins: Tensor, nonzero: Tensor, scales: Tensor, border: float) -> tuple[Tensor, Tensor]:
    """Magnitudes whose mean over the nonzero ones of a row is its scale, and the threshold that fits to them.

    A row whose scale is below the threshold gets one just above it.
    """
    counts = nonzero.sum(1, keepdim=True).clamp(min=1)
    threshold = margins.new_zeros(())
    magnitude = margins
    for _ in range(_ROUNDS):
        least = threshold * (1.0 + _GAP)
        kept = torch.where(nonzero, margins, 0.0)
        kept = kept * (scales[:, None] * counts / kept.sum(1, keepdim=True).clamp(min=_TINY))
        spread = (kept - scales[:, None]) * nonzero
        # The spread of a row shrinks until its smallest one is above the threshold: the mean stays.
        room = (scales[:, None] - least).clamp(min=0.0)
        spread = spread * (room / (-spread.amin(1, keepdim=True)).clamp(min=_TINY)).clamp(max=1.0)
        kept = (scales[:, None] + spread).clamp(min=float(least))
        magnitude = torch.where(nonzero, kept, margins.clamp(max=1.0 - _GAP) * threshold)
        updated = border * magnitude.square().mean().sqrt()
        if bool((updated - threshold).abs() <= 1e-6 * updated):
            break
        threshold = updated
    return magnitude, threshold


def _signs(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0)


def _borders(network: nn.Module, sparsity: float) -> dict[str, float]:
    """The thresholds of plain rounding, in root mean squares of the layer; one number for all if it is a global one."""
    borders: dict[str, float] = {}
    masks, weights = choose_masks(network, sparsity), latent_weights(network)
    for name, mask in masks.items():
        magnitude = weights[name].abs()
        outside = magnitude.masked_select(~mask)
        rms = magnitude.square().mean().sqrt().clamp(min=_TINY)
        borders[name] = float(outside.max() / rms) if outside.numel() else 0.0
    if next(iter(ternary_layers(network).values())).config.allocation == "global":
        return dict.fromkeys(borders, max(borders.values()))
    return borders


# ---- What comes behind a layer ---------------------------------------------------------------------------------------


def _fit_bias(layer: nn.Module, sums: _Sums) -> None:
    """``b = mean(y) - Q mean(x)``: outputs are right on the average."""
    bias = getattr(layer, "bias", None)
    if isinstance(bias, Tensor):
        weight = cast(Tensor, layer.weight).flatten(1).double()
        bias.copy_((sums.wanted_sum - weight @ sums.input_sum) / sums.count + bias)


def _fit_norm_of(norm: _BatchNorm, layer: nn.Module, sums: _Sums) -> None:
    """:func:`_fit_norm` for the batch norm behind a layer, from what is known of the layer's inputs."""
    weight = cast(Tensor, layer.weight).flatten(1).double()
    moments = sums.moments(centred=True)
    mean = weight @ (sums.input_sum / sums.count)
    variance = ((weight @ moments.inputs) * weight).sum(1).clamp(min=0.0)
    wanted_mean = sums.wanted_sum / sums.count
    # That of the outputs before: what else is wanted can be told from the inputs in part only, and the rest must not be
    # made up for by a larger gain.
    wanted_variance = (sums.output_squares / sums.count - (sums.output_sum / sums.count).square()).clamp(min=0.0)
    bias = getattr(layer, "bias", None)
    if isinstance(bias, Tensor):
        mean, wanted_mean = mean + bias, wanted_mean + bias
    _renormalize(norm, mean, variance, wanted_mean, wanted_variance)


def _fit_norm(norm: _BatchNorm, inputs: Iterable[Tensor], inputs_before: Iterable[Tensor]) -> None:
    """Give a batch norm the statistics of its new inputs, and outputs as those before."""
    _renormalize(norm, *_channel_moments(inputs), *_channel_moments(inputs_before))


def _renormalize(
    norm: _BatchNorm, mean: Tensor, variance: Tensor, wanted_mean: Tensor, wanted_variance: Tensor
) -> None:
    """Let a batch norm give for new inputs ``x`` what it gave for the old ones ``y``, in mean and variance.

    It was ``y -> A y + c`` and becomes ``x -> A (sd(y) (x - mean(x)) / sd(x) + mean(y)) + c``, with the mean and the
    variance of ``x`` as its statistics.

    Args:
        norm: changed.
        mean: of ``x``, ``(channels,)``.
        variance: of ``x``.
        wanted_mean: of ``y``.
        wanted_variance: of ``y``.
    """
    running_mean, running_var = _statistic(norm.running_mean), _statistic(norm.running_var)
    slope = torch.rsqrt(running_var.double() + norm.eps)
    shift = (wanted_mean - running_mean.double()) * slope
    # A channel without a nonzero trit is constant: it keeps the gain it had, for when training brings it back.
    variance = torch.where(variance > _DEAD * wanted_variance, variance, wanted_variance.clamp(min=norm.eps))
    stretch = torch.sqrt(wanted_variance * (variance + norm.eps) / variance.clamp(min=_TINY)) * slope
    running_mean.copy_(mean)
    running_var.copy_(variance)
    if norm.affine:
        norm.bias.copy_(norm.bias + norm.weight * shift)
        norm.weight.copy_(norm.weight * stretch)


def _channel_moments(inputs: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of the inputs of a module, ``(channels,)`` each, in float64."""
    total = squares = torch.zeros((), dtype=torch.float64)
    count = 0
    for x in inputs:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        total = total + x.float().sum(axes).double()
        squares = squares + x.float().square().sum(axes).double()
        count += x.numel() // x.shape[1]
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0.0)


def _statistic(value: Tensor | None) -> Tensor:
    if value is None:
        raise SternaError("a batch norm has no running statistics")
    return value


# ---- Watching the network --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Missing:
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
    ) -> _Missing | None:
        """Nothing if there is no such branch, or if its values are not of the shape of the outputs."""
        if now is None or before is None or now[0].shape != shape:
            return None
        stretch = torch.ones(())
        if norm is not None:
            slope = torch.rsqrt(_statistic(norm.running_var) + norm.eps)
            slope = slope * norm.weight if norm.affine else slope
            # Through a channel that the batch norm all but closes, nothing can be made up for.
            stretch = slope / (slope.square() + _CLOSED * slope.square().mean()).clamp(min=_TINY)
        return cls(now, before, stretch)

    def at(self, batch: int, chosen: Tensor | None) -> Tensor:
        """At places of a batch, ``(places, rows)``."""
        difference = _outputs_at(self.before[batch], chosen).float() - _outputs_at(self.now[batch], chosen).float()
        return difference * self.stretch


def _gather(
    layer: nn.Module,
    weight: Tensor,
    inputs: Iterable[Tensor],
    inputs_before: Iterable[Tensor],
    missing: _Missing | None,
    seed: int,
) -> _Sums:
    """Sums over inputs of a layer, outputs (without bias) that it gave before with this weight, and those wanted."""
    sums = _Sums()
    for number, (x, x_before) in enumerate(zip(inputs, inputs_before, strict=True)):
        chosen = _places(layer, x, seed, number)
        outputs = _inputs_at(layer, x_before.float(), chosen) @ weight.T
        wanted = outputs if missing is None else outputs + missing.at(number, chosen)
        sums.add(_inputs_at(layer, x.float(), chosen), outputs, wanted)
    return sums


def _places(layer: nn.Module, x: Tensor, seed: int, batch: int) -> Tensor | None:
    """Outputs of a convolution that are looked at in a batch, by their numbers in a plane; nothing for other layers."""
    if not isinstance(layer, nn.Conv2d):
        return None
    height, width = _output_size(layer, x)
    words = random_words(seed, batch, _POSITION_STREAM, np.arange(height * width))
    return torch.from_numpy(words.argsort(kind="stable")[:_POSITIONS].copy()).to(x.device)


def _output_shape(layer: nn.Module, x: Tensor) -> tuple[int, ...]:
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


def _execution_order(network: nn.Module, names: Iterable[str], images: Tensor) -> list[str]:
    """Modules that one forward pass calls exactly once, in the order of the calls."""
    calls: list[str] = []
    handles = [
        network.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name in names
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in dict.fromkeys(calls) if calls.count(name) == 1]
