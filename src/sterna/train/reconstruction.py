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
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sterna import ternary
from sterna.config import ReconstructionConfig
from sterna.folding import batch_norm_pairs
from sterna.preparation import choose_masks, latent_weights, ternary_layers
from sterna.quantizers.ptq import PTQ
from sterna.train.activations import Activations, at_precision, watch
from sterna.train.batch_norm import batch_norms
from sterna.train.compensated_rounding import round_layer
from sterna.train.layer_samples import Missing, Sums, gather, output_shape, statistic

# Weights of a filter whose products are summed in pairs: 0.5 GB in float64, several times.
_MOST_INPUTS = 8192
# Magnitudes next to a threshold are moved away from it by this much, so that no rounding decides a trit.
_GAP = 0.02
_LARGEST_MARGIN = 4.0
_ROUNDS = 60
_TINY = 1e-12
# Variance of a channel, as a part of what it was, below which it counts as constant.
_DEAD = 1e-6


def is_reconstructible(layer: nn.Module) -> bool:
    """Whether a layer is a matrix product over patches, and so can be solved: Linear, or Conv2d in one group.

    Others (grouped, depthwise, transposed, padded with anything but zeros, or with more than 8,192 weights a filter)
    are rounded by magnitude.
    """
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return False
    elif not isinstance(layer, nn.Linear):
        return False
    return layer.weight[0].numel() <= _MOST_INPUTS


class Part(NamedTuple):
    """A part of a network, which is walked through by itself.

    Args:
        name: of the module; empty for the whole network.
        inputs: what the module is given, batch by batch, of the same images by the network as it is and by the
            uncompressed one: called with each of them when all parts before are done.
    """

    name: str
    inputs: Callable[[nn.Module], Sequence[Tensor]]


@torch.no_grad()
def reconstruct(
    network: nn.Module,
    parts: Sequence[Part],
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
        parts: of the network, in the order of its forward pass; with the same inputs on every process. Layers in none
            of them are rounded by magnitude.
        sparsity: fraction of zeros over all ternary layers; how many each gets follows from ``ternary.allocation`` and
            the weights as they are now.
        config: damping and sweeps.
        seed: of the positions that are looked at in a picture.
        precision: of the forward passes; everything is solved in float64 and float32.
        report: is called with the layers and batch norms done so far and all of them.

    Raises:
        SternaError: inputs of a layer are not finite.
    """
    network.eval()
    walk = _Walk(network, sparsity, config, seed, precision, report)
    for part in parts:
        walk.go_through(part)
    walk.finish()


class _Walk:
    """Goes through a network, part by part; arguments as for :func:`reconstruct`."""

    def __init__(
        self,
        network: nn.Module,
        sparsity: float,
        config: ReconstructionConfig,
        seed: int,
        precision: torch.dtype,
        report: Callable[[int, int], None] | None,
    ) -> None:
        self._network, self._twin = network, deepcopy(network)
        self._config, self._seed, self._precision, self._report = config, seed, precision, report
        self._layers, self._weights = ternary_layers(network), latent_weights(network)
        self._borders = _borders(network, sparsity)
        self._counts = {name: int(mask.sum()) for name, mask in choose_masks(network, sparsity).items()}
        self._pairs = batch_norm_pairs(network)
        self._norms = {name: module for name, module in network.named_modules() if module in set(batch_norms(network))}
        self._done: set[str] = set()
        self._fitted: set[str] = set()

    def go_through(self, part: Part) -> None:
        """Round the layers of a part and fit its batch norms."""
        prefix = f"{part.name}." if part.name else ""
        module = self._network.get_submodule(part.name)
        names = [name.removeprefix(prefix) for name in (*self._layers, *self._norms) if name.startswith(prefix)]
        batches = part.inputs(self._network)
        if not batches:
            return
        with at_precision(batches[0].device.type, self._precision):
            order = _execution_order(module, names, batches[0][:1])
        for name in names:
            if name not in order and prefix + name in self._layers:
                self._round_plainly(prefix + name)
        now = watch(module, order, batches, self._precision)
        before = watch(self._twin.get_submodule(part.name), order, part.inputs(self._twin), self._precision)
        for name in order:
            if prefix + name in self._layers:
                self._round(prefix, name, now, before)
            else:
                self._follow(prefix, name, now, before)

    def finish(self) -> None:
        """Round what lies in no part, and let all layers be ternary from now on."""
        for name, parametrization in self._layers.items():
            if name not in self._done:
                self._round_plainly(name)
            parametrization.set_phase("ternary", self._weights[name])

    def _begin(self, name: str) -> None:
        if self._report is not None:
            self._report(len(self._done), len(self._layers) + len(self._norms))
        self._done.add(name)

    def _round_plainly(self, name: str) -> None:
        self._begin(name)
        _round_plainly(self._layers[name], self._weights[name], self._counts[name], self._borders[name])
        self._layers[name].set_phase("ternary", self._weights[name])

    def _round(self, prefix: str, name: str, now: Activations, before: Activations) -> None:
        full = prefix + name
        layer, latent = self._network.get_submodule(full), self._weights[full]
        if not is_reconstructible(layer):
            self._round_plainly(full)
            return
        self._begin(full)
        norm_name = self._pairs.get(full)
        norm = self._norms.get(norm_name) if norm_name is not None else None
        inputs, inputs_before = list(now.inputs_of(name)), list(before.inputs_of(name))
        behind = (norm_name or full).removeprefix(prefix)
        missing = Missing.of(now.added_to(behind), before.added_to(behind), norm, output_shape(layer, inputs[0]))
        sums = gather(layer, latent.flatten(1), inputs, inputs_before, missing, self._seed, self._config.places)
        count, border = self._counts[full], self._borders[full]
        _solve(layer, self._layers[full], latent, norm, sums, count, border, self._config)
        self._layers[full].set_phase("ternary", latent)
        if norm is not None and norm_name is not None:
            _fit_norm_of(norm, layer, sums)
            self._fitted.add(norm_name)
        else:
            _fit_bias(layer, sums)

    def _follow(self, prefix: str, name: str, now: Activations, before: Activations) -> None:
        """Fit a batch norm that no ternary layer has fitted, if any was rounded before it."""
        full = prefix + name
        started = not self._done.isdisjoint(self._layers)
        self._begin(full)
        if started and full not in self._fitted:
            _fit_norm(self._norms[full], now.inputs_of(name), before.inputs_of(name))


# ---- One layer -------------------------------------------------------------------------------------------------------


def _solve(
    layer: nn.Module,
    parametrization: PTQ,
    latent: nn.Parameter,
    norm: _BatchNorm | None,
    sums: Sums,
    keep: int,
    border: float,
    config: ReconstructionConfig,
) -> None:
    centred = norm is not None or getattr(layer, "bias", None) is not None
    gain = None
    if norm is not None and norm.affine:
        # What an error in a channel does behind the batch norm.
        gain = (norm.weight.square() / (statistic(norm.running_var) + norm.eps)).clamp(min=_TINY)
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
    """The thresholds of plain rounding, in root mean squares of the layer.

    Where one threshold serves all layers, they differ by the importance of a layer alone.
    """
    borders: dict[str, float] = {}
    masks, weights = choose_masks(network, sparsity), latent_weights(network)
    for name, mask in masks.items():
        magnitude = weights[name].abs()
        outside = magnitude.masked_select(~mask)
        rms = magnitude.square().mean().sqrt().clamp(min=_TINY)
        borders[name] = float(outside.max() / rms) if outside.numel() else 0.0
    layers = ternary_layers(network)
    if next(iter(layers.values())).config.allocation == "global":
        common = max(border * layers[name].importance for name, border in borders.items())
        return {name: common / layers[name].importance for name in borders}
    return borders


# ---- What comes behind a layer ---------------------------------------------------------------------------------------


def _fit_bias(layer: nn.Module, sums: Sums) -> None:
    """``b = mean(y) - Q mean(x)``: outputs are right on the average."""
    bias = getattr(layer, "bias", None)
    if isinstance(bias, Tensor):
        weight = cast(Tensor, layer.weight).flatten(1).double()
        bias.copy_((sums.wanted_sum - weight @ sums.input_sum) / sums.count + bias)


def _fit_norm_of(norm: _BatchNorm, layer: nn.Module, sums: Sums) -> None:
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
    running_mean, running_var = statistic(norm.running_mean), statistic(norm.running_var)
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


# ---- Watching the network --------------------------------------------------------------------------------------------


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
