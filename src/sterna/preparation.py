"""Attach ternary parametrizations to the layers of a model, and steer them through training.

``prepare`` changes no class of the user's and no forward pass: it registers a
:class:`~sterna.quantizers.ptq.PTQ` parametrization on ``weight`` (``torch.nn.utils.parametrize``), so that any module
tree, ``state_dict``, ``deepcopy``, ``torch.compile`` and distributed training work as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sterna import sparsity as masks_of
from sterna import ternary
from sterna.config import TernaryConfig
from sterna.errors import ConfigError, NotTernaryError
from sterna.folding import batch_norm_pairs
from sterna.quantizers.ptq import PTQ, Phase


@dataclass(frozen=True)
class LayerStatistics:
    """What training watches in one ternary layer.

    Args:
        name: of the layer.
        weights: their number.
        sparsity: fraction of zeros.
        cosine: mean over groups of the cosine between surviving latent weights and their trits.
        sign_flips: fraction of weights that went from +1 to -1 or back since the signs that were given.
        trit_changes: fraction of weights whose trit changed at all since then.
        entropy_bits_per_weight: zero-order entropy of the trits, in bits.
    """

    name: str
    weights: int
    sparsity: float
    cosine: float
    sign_flips: float
    trit_changes: float
    entropy_bits_per_weight: float


_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution in which each filter sees one channel."""
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels


def select_layers(model: nn.Module, config: TernaryConfig) -> list[str]:
    """Names of the layers that ``config`` makes ternary: convolutions and Linear, by pattern, in the model's order.

    A pattern is a shell pattern on the name of the layer (``layer1.*``, ``*.conv2``). The first convolution stays in
    floating point unless ``first_convolution`` is ``"ternary"``, depthwise convolutions unless ``depthwise`` is.

    Raises:
        ConfigError: a pattern that matches no layer, or no layer selected.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, _LAYERS)]
    for key, patterns in (("include", config.include), ("exclude", config.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in layers):
                raise ConfigError(
                    f"ternary.{key}: pattern {pattern!r} matches no convolution or Linear layer of the model, "
                    f"which has {_shortened(layers)}"
                )
    first = next((n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    chosen = [
        name
        for name in layers
        if any(fnmatchcase(name, pattern) for pattern in config.include)
        and not any(fnmatchcase(name, pattern) for pattern in config.exclude)
        and not (name == first and config.first_convolution == "float")
        and (config.depthwise == "ternary" or not is_depthwise(model.get_submodule(name)))
    ]
    if not chosen:
        raise ConfigError(f"ternary: no layer is selected out of {_shortened(layers)}")
    for pattern in config.importance:
        if not any(fnmatchcase(name, pattern) for name in chosen):
            raise ConfigError(
                f"ternary.importance: pattern {pattern!r} matches no ternary layer of the model, "
                f"which has {_shortened(chosen)}"
            )
    return chosen


def _importance(name: str, config: TernaryConfig) -> float:
    return next((i for pattern, i in reversed(config.importance.items()) if fnmatchcase(name, pattern)), 1.0)


def prepare(model: nn.Module, config: TernaryConfig | None = None) -> nn.Module:
    """Make the selected layers trainable towards sparse ternary weights, in place.

    The phase is ``dense`` afterwards: the model computes what it computed before (with ``scale="unit"``, up to the
    length of the filters) until :func:`set_phase` says otherwise.

    Args:
        model: any module tree.
        config: which layers and how; nothing means the defaults of :class:`~sterna.config.TernaryConfig`.

    Returns:
        the same model.

    Raises:
        ConfigError: the model is prepared already, a pattern matches nothing, or no layer is selected.
    """
    config = config if config is not None else TernaryConfig()
    if ternary_layers(model):
        raise ConfigError("the model is prepared already: its layers have ternary parametrizations")
    followed = batch_norm_pairs(model) if config.scale == "unit" else {}
    for name in select_layers(model, config):
        layer = model.get_submodule(name)
        weight = layer.weight
        if not isinstance(weight, Tensor):
            raise ConfigError(f"layer {name!r} has no weight tensor")
        # Nothing after a layer without batch norm would restore the length of its filters.
        scale: ternary.ScaleMode = "norm" if config.scale == "unit" and name not in followed else config.scale
        parametrize.register_parametrization(
            layer, "weight", PTQ(weight.detach(), config, scale, _importance(name, config))
        )
    return model


def ternary_layers(model: nn.Module) -> dict[str, PTQ]:
    """The parametrizations of a prepared model by layer name, in the model's order."""
    layers = {}
    for name, module in model.named_modules():
        parametrizations = getattr(module, "parametrizations", None)
        if isinstance(parametrizations, nn.ModuleDict) and "weight" in parametrizations:
            for parametrization in parametrizations["weight"].children():
                if isinstance(parametrization, PTQ):
                    layers[name] = parametrization
    return layers


def latent_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The latent weights (full precision, what the optimiser updates) of a prepared model by layer name."""
    return {name: _latent(model, name) for name in ternary_layers(model)}


def latent_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The latent weights as a list: the parameters that weight decay belongs on."""
    return list(latent_weights(model).values())


def set_phase(model: nn.Module, phase: Phase) -> None:
    """Put all ternary layers into a phase: ``dense``, ``pruned`` or ``ternary``."""
    for name, parametrization in ternary_layers(model).items():
        parametrization.set_phase(phase, _latent(model, name))


@torch.no_grad()
def update_masks(model: nn.Module, sparsity: float) -> None:
    """Choose anew which weights are zero, by the magnitude of the latent weights and the model's configuration.

    The choice is exact (to weights of equal magnitude at its border, which all become zero) and is kept as a threshold
    a layer; until the next update, weights cross it in both directions as training moves them.

    Args:
        model: a prepared model.
        sparsity: fraction of zeros over the ternary layers; ignored by ``threshold="optimal"``.

    Raises:
        NotTernaryError: the model is not prepared.
        ConfigError: a sparsity outside ``[0, 1)``.
    """
    layers = ternary_layers(model)
    for name, mask in choose_masks(model, sparsity).items():
        layers[name].set_mask(_latent(model, name), mask)


@torch.no_grad()
def scale_thresholds(model: nn.Module, factor: float) -> None:
    """Multiply the thresholds of all ternary layers: a few more zeros everywhere, or a few less."""
    for layer in ternary_layers(model).values():
        layer.threshold.mul_(factor)


@contextmanager
def scaled_thresholds(model: nn.Module, factor: float) -> Iterator[None]:
    """Thresholds of :func:`scale_thresholds`, and afterwards those before, to the last bit."""
    before = {layer: layer.threshold.clone() for layer in ternary_layers(model).values()}
    scale_thresholds(model, factor)
    try:
        yield
    finally:
        for layer, threshold in before.items():
            layer.threshold.copy_(threshold)


@torch.no_grad()
def choose_masks(model: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """The masks that :func:`update_masks` would set, by layer name: bool, true survives. Arguments are the same."""
    weights = latent_weights(model)
    if not weights:
        raise NotTernaryError("the model has no ternary layers: call sterna.prepare first")
    layers = ternary_layers(model)
    config = next(iter(layers.values())).config
    if config.threshold == "optimal":
        return masks_of.optimal_masks(weights)
    if config.allocation == "layer":
        return masks_of.layer_masks(weights, sparsity)
    return masks_of.global_masks(weights, sparsity, {name: layer.importance for name, layer in layers.items()})


@torch.no_grad()
def layer_signs(model: nn.Module) -> dict[str, Tensor]:
    """The trits (int8) of every ternary layer as they would be converted now."""
    return {name: ptq.ternary_parts(_latent(model, name))[0] for name, ptq in ternary_layers(model).items()}


@torch.no_grad()
def layer_statistics(
    model: nn.Module, previous_signs: Mapping[str, Tensor] | None = None
) -> tuple[LayerStatistics, ...]:
    """Statistics of every ternary layer (:class:`LayerStatistics`).

    Args:
        model: a prepared model.
        previous_signs: of :func:`layer_signs` at an earlier time; without it no flips are counted.
    """
    rows = []
    for name, parametrization in ternary_layers(model).items():
        weight, group = _latent(model, name), parametrization.group
        signs = parametrization.ternary_parts(weight)[0]
        before = previous_signs[name] if previous_signs is not None else signs
        cosines = ternary.cosine(weight * signs.abs(), signs.to(weight.dtype), group)
        alive = ternary.grouped(signs, group).any(1)
        rows.append(
            LayerStatistics(
                name=name,
                weights=signs.numel(),
                sparsity=float((signs == 0).float().mean()),
                cosine=float(cosines[alive].mean()) if alive.any() else 0.0,
                sign_flips=float((signs * before == -1).float().mean()),
                trit_changes=float((signs != before).float().mean()),
                entropy_bits_per_weight=ternary.trit_entropy(signs),
            )
        )
    return tuple(rows)


def _latent(model: nn.Module, name: str) -> nn.Parameter:
    return model.get_submodule(name).get_parameter("parametrizations.weight.original")


def _shortened(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:6])
    return f"{len(names)} layers: {shown}{', ...' if len(names) > 6 else ''}" if names else "none"
