"""Batch-norm statistics: frozen while training, averaged over processes, measured anew afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sterna.folding import batch_norm_affine

# A variance of 1 - eps, as loading a file sets it, counts as 1.
_FOLDED_TOLERANCE = 1.5e-3


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """All batch norms that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def freeze_batch_norms(model: nn.Module) -> None:
    """Let batch norms use, and not change, their running statistics while the rest of the model trains."""
    for norm in batch_norms(model):
        norm.eval()


@torch.no_grad()
def reestimate_batch_norms(model: nn.Module, inputs: Iterable[Any], count: int) -> None:
    """Replace running statistics by the plain mean over ``count`` batches.

    Running averages of training follow weights that have moved on; ternary weights move in steps, so the difference
    is large. Everything else (dropout) is in evaluation mode, as when the model is used.

    Args:
        model: changed in its batch norms only; ends in evaluation mode.
        inputs: of the network, a batch each.
        count: of batches to use; 0 leaves everything as it is.
    """
    model.eval()
    norms = batch_norms(model)
    if not norms or count == 0:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for batch in islice(inputs, count):
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def are_folded(model: nn.Module) -> bool:
    """Whether the batch norms of a model have no statistics of their own: means of 0 and variances of 1.

    Files of compressed models often hold them so. Evaluated, such a network is what it was; trained, it is not.
    """
    norms = batch_norms(model)
    return bool(norms) and all(
        norm.running_mean is not None
        and norm.running_var is not None
        and not norm.running_mean.any()
        and bool(((norm.running_var - 1.0).abs() <= _FOLDED_TOLERANCE).all())
        for norm in norms
    )


@torch.no_grad()
def restore_batch_norms(model: nn.Module, inputs: Iterable[Any]) -> None:
    """Give folded batch norms statistics again, without changing what the network computes in evaluation.

    With ``y = a x + c`` before and the mean ``m`` and the variance ``v`` of ``x`` over the inputs, the running
    statistics become ``m`` and ``v``, the weight ``a sqrt(v + eps)`` and the bias ``c + a m``.

    Args:
        model: changed in its batch norms; ends in evaluation mode.
        inputs: of the network, a batch each.
    """
    model.eval()
    sums: dict[_BatchNorm, Tensor] = {}

    def watch(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0].double()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = torch.full_like(x.mean(axes), x.numel() / x.shape[1])
        assert isinstance(norm, _BatchNorm)
        sums[norm] = sums.get(norm, torch.zeros((), dtype=x.dtype, device=x.device)) + torch.stack(
            (x.sum(axes), x.square().sum(axes), count)
        )

    hooks = [norm.register_forward_pre_hook(watch) for norm in batch_norms(model)]
    try:
        for batch in inputs:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, (total, squares, count) in sums.items():
        affine = batch_norm_affine(norm)
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0.0)
        for statistic, value in ((norm.running_mean, mean), (norm.running_var, variance)):
            if statistic is not None:
                statistic.copy_(value)
        norm.weight.copy_(affine.weight * torch.sqrt(variance + norm.eps))
        norm.bias.copy_(affine.bias + affine.weight * mean)


@torch.no_grad()
def average_batch_norms(model: nn.Module, accelerator: Accelerator) -> None:
    """Give all processes the mean of their running statistics, which each has measured on its part of the batches."""
    if accelerator.num_processes == 1:
        return
    for norm in batch_norms(model):
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.copy_(accelerator.reduce(statistic, reduction="mean"))
