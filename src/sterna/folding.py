"""Find which batch norm follows which layer, and fold scales into it.

A batch norm in evaluation is affine: ``y = gamma (x - mean) / sqrt(var + eps) + beta = weight' x + bias'``. So two
vectors hold it, and the scale of a ternary layer in front of it fits into ``weight'`` at no cost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn


class Affine(NamedTuple):
    """``y = weight * x + bias`` a channel; both of shape ``(channels,)``."""

    weight: Tensor
    bias: Tensor


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm with fixed statistics and affine parameters, frozen ones included."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.affine and module.track_running_stats
    # torchvision and others each have a FrozenBatchNorm2d of their own: told by its name and its four buffers.
    return type(module).__name__ == "FrozenBatchNorm2d" and all(
        isinstance(getattr(module, name, None), Tensor) for name in ("weight", "bias", "running_mean", "running_var")
    )


def batch_norm_affine(module: nn.Module) -> Affine:
    """The affine form of a batch norm in evaluation, computed in float64: ``weight' = gamma / sqrt(var + eps)``."""
    parameters: Any = module
    gamma, beta = parameters.weight.detach().double(), parameters.bias.detach().double()
    mean, var = parameters.running_mean.double(), parameters.running_var.double()
    weight = gamma / torch.sqrt(var + parameters.eps)
    return Affine(weight, beta - mean * weight)


class _LeafTracer(fx.Tracer):
    """Stops at convolutions, linear layers and batch norms, however they are subclassed or parametrized."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (nn.Conv2d, nn.Linear)) or is_batch_norm(m):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def batch_norm_pairs(model: nn.Module) -> dict[str, str]:
    """Names of layers (Conv2d, Linear) whose output goes into one batch norm and nowhere else.

    The model is traced symbolically; where a part of it cannot be traced (data-dependent control flow), its
    children are traced one by one, and pairs that cross the border are not found.

    Args:
        model: prepared or not.

    Returns:
        name of the layer -> name of its batch norm.
    """
    pairs: dict[str, str] = {}
    _collect_pairs(model, "", pairs)
    return pairs


def _collect_pairs(module: nn.Module, prefix: str, pairs: dict[str, str]) -> None:
    try:
        graph = _LeafTracer().trace(module)
    except Exception:  # tracing runs the model's own forward: it may fail in any way
        for name, child in module.named_children():
            _collect_pairs(child, f"{prefix}{name}.", pairs)
        return
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    for node in graph.nodes:
        if node.op != "call_module" or len(node.users) != 1:
            continue
        layer, (user,) = module.get_submodule(str(node.target)), tuple(node.users)
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or user.op != "call_module":
            continue
        follows = is_batch_norm(module.get_submodule(str(user.target)))
        # A module called twice has two different neighbours: its scale cannot move into one of them.
        if follows and calls[str(node.target)] == 1 and calls[str(user.target)] == 1:
            pairs[prefix + str(node.target)] = prefix + str(user.target)
