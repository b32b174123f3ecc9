"""From a trained, prepared module to the plain-data :class:`~sterna.ternary_model.TernaryModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sterna.errors import ConfigError, NotTernaryError
from sterna.folding import Affine, batch_norm_affine, batch_norm_pairs, is_batch_norm
from sterna.preparation import is_depthwise, latent_weights, ternary_layers
from sterna.ternary_model import Int8Tensor, TernaryModel, TernaryTensor
from sterna.ternary_model import Tensor as StoredTensor

FloatDtype = Literal["float16", "float32"]

# A float16 that was not rounded in its subnormal range differs by at most 2^-11 of its value.
_FLOAT16_TOLERANCE = 2.0**-10
_INT8_LARGEST = 127


@torch.no_grad()
def convert(
    model: nn.Module,
    *,
    float_dtype: FloatDtype = "float16",
    int8: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> TernaryModel:
    """Take the trits and scales out of a trained model; fold batch norms.

    Every batch norm is stored as two vectors, ``y = weight * x + bias``; where it follows a ternary layer alone, the
    layer's scales are folded into it too: ``weight' = alpha gamma / sqrt(var + eps)``. What is not ternary is rounded
    to ``float_dtype``, but for a tensor that float16 cannot hold with a relative error (to its largest entry) of
    2^-10: that one is kept in float32. Saving and loading change nothing after this.

    Args:
        model: a prepared model in the ternary phase. It is not changed.
        float_dtype: of everything that is not ternary and not an integer.
        int8: patterns of layers that are not ternary and whose weights are kept in int8, with one scale for each
            filter, ``max |w| / 127``.
        metadata: what goes into the file beside the tensors, JSON values.

    Returns:
        all tensors of the ``state_dict`` by their names without parametrizations.

    Raises:
        NotTernaryError: the model is not prepared, or a layer is not in the ternary phase.
        ConfigError: a pattern of ``int8`` matches no layer in floating point.
    """
    layers = ternary_layers(model)
    if not layers:
        raise NotTernaryError("the model has no ternary layers: call sterna.prepare and train it first")
    unfinished = [name for name, layer in layers.items() if layer.current_phase != "ternary"]
    if unfinished:
        raise NotTernaryError(
            f"the model is not ternary yet: layer {unfinished[0]!r} is in phase "
            f"{layers[unfinished[0]].current_phase!r} ({len(unfinished)} of {len(layers)} layers), allowed: 'ternary'; "
            "train it to the end, or call sterna.preparation.set_phase(model, 'ternary')"
        )
    return convert_as_is(model, float_dtype=float_dtype, int8=int8, metadata=metadata)


@torch.no_grad()
def convert_as_is(
    model: nn.Module,
    *,
    float_dtype: FloatDtype = "float16",
    int8: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> TernaryModel:
    """What :func:`convert` would make of a prepared model in any phase, to know its size while it trains."""
    layers = ternary_layers(model)
    latents = latent_weights(model)
    pairs = {name: norm for name, norm in batch_norm_pairs(model).items() if name in layers}
    affine = {name: batch_norm_affine(m) for name, m in model.named_modules() if is_batch_norm(m)}

    tensors: dict[str, StoredTensor] = {}
    for name, layer in layers.items():
        signs, alpha = layer.ternary_parts(latents[name])
        trits = signs.cpu().numpy()
        if name in pairs:
            bias = getattr(model.get_submodule(name), "bias", None)
            affine[pairs[name]] = _fold(affine[pairs[name]], alpha, bias)
            tensors[f"{name}.weight"] = TernaryTensor(trits)
            if bias is not None:
                tensors[f"{name}.bias"] = _stored(torch.zeros_like(bias), float_dtype)
        else:
            scale = alpha if alpha.numel() == trits.shape[0] and layer.group == "filter" else alpha.reshape(())
            tensors[f"{name}.weight"] = TernaryTensor(trits, _stored(scale, float_dtype))
    for norm, (weight, bias) in affine.items():
        tensors[f"{norm}.weight"] = _stored(weight.float(), float_dtype)
        tensors[f"{norm}.bias"] = _stored(bias.float(), float_dtype)

    ordered: dict[str, StoredTensor] = {}
    state = plain_state(model)
    quantized = int8_weights(model, int8)
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        if name in tensors:
            ordered[name] = tensors[name]
        elif name in quantized:
            ordered[name] = _quantized(value, float_dtype)
        elif owner not in affine and leaf != "num_batches_tracked":
            ordered[name] = _stored(value, float_dtype)
    return TernaryModel(ordered, dict(metadata or {}))


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` as it would be without parametrizations: names and values of the tensors used in forward."""
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        owner, separator, rest = key.partition("parametrizations.")
        if not separator:
            state[key] = value
            continue
        leaf = rest.split(".", 1)[0]
        # Masks, phases and learned scales belong to the parametrization, not to the model.
        if f"{owner}{leaf}" not in state:
            state[f"{owner}{leaf}"] = getattr(model.get_submodule(owner.rstrip(".")), leaf).detach()
    return state


def int8_weights(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Names of the weights that :func:`convert` keeps in int8.

    Args:
        model: a prepared model.
        patterns: of layers that are not ternary; depthwise convolutions are among them without, where the model was
            prepared with ``depthwise="int8"``.

    Raises:
        ConfigError: a pattern matches no layer in floating point.
    """
    ternary = ternary_layers(model)
    owners = {
        name.rpartition(".")[0]: name
        for name, value in model.state_dict().items()
        if name.endswith(".weight") and value.is_floating_point() and value.ndim >= 2
    }
    owners = {owner: name for owner, name in owners.items() if owner not in ternary}
    for pattern in patterns:
        if not any(fnmatchcase(owner, pattern) for owner in owners):
            known = ", ".join(repr(owner) for owner in owners) or "none"
            raise ConfigError(
                f"storage.int8: pattern {pattern!r} matches no layer in floating point; there are {known}"
            )
    chosen = {name for owner, name in owners.items() if any(fnmatchcase(owner, pattern) for pattern in patterns)}
    if any(layer.config.depthwise == "int8" for layer in ternary.values()):
        chosen |= {name for owner, name in owners.items() if is_depthwise(model.get_submodule(owner))}
    return chosen


def _quantized(weight: Tensor, float_dtype: FloatDtype) -> Int8Tensor:
    """The nearest multiples of a scale for each filter, which is rounded first so that nothing is rounded twice."""
    array = weight.detach().float().cpu().numpy()
    scale = _stored(weight.detach().float().abs().flatten(1).amax(1) / _INT8_LARGEST, float_dtype)
    wide = scale.astype(np.float32).reshape((-1,) + (1,) * (array.ndim - 1))
    steps = np.divide(array, wide, out=np.zeros_like(array), where=wide > 0)
    return Int8Tensor(np.clip(np.rint(steps), -_INT8_LARGEST, _INT8_LARGEST).astype(np.int8), scale)


def _fold(norm: Affine, alpha: Tensor, bias: Tensor | None) -> Affine:
    """``norm(alpha * z + bias) = weight' z + bias'`` for the raw output ``z`` of a layer with trits as weights."""
    shift = norm.bias if bias is None else norm.bias + norm.weight * bias.double()
    return Affine(norm.weight * alpha.double(), shift)


def _stored(value: Tensor, float_dtype: FloatDtype) -> npt.NDArray[Any]:
    """A tensor as the array that the file holds."""
    if not value.is_floating_point():
        return np.array(value.detach().cpu().numpy(), order="C")
    array = np.array(value.detach().float().cpu().numpy(), order="C")
    if float_dtype == "float32" or not array.size:
        return array.astype(np.dtype(float_dtype))
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    largest = np.abs(array).max()
    error = np.abs(half.astype(np.float32) - array).max() if np.isfinite(half).all() else np.inf
    return half if error <= _FLOAT16_TOLERANCE * largest else array
