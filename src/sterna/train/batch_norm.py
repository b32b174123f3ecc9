"""Batch-norm statistics: frozen while training, averaged over processes, measured anew afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """All batch norms that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def freeze_batch_norms(model: nn.Module) -> None:
    """Let batch norms use, and not change, their running statistics while the rest of the model trains."""
    for norm in batch_norms(model):
        norm.eval()


@torch.no_grad()
def reestimate_batch_norms(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], count: int) -> None:
    """Replace running statistics by the plain mean over ``count`` batches.

    Running averages of training follow weights that have moved on; ternary weights move in steps, so the difference
    is large. Everything else (dropout) is in evaluation mode, as when the model is used.

    Args:
        model: changed in its batch norms only; ends in evaluation mode.
        batches: images and labels.
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
    for images, _ in islice(batches, count):
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def average_batch_norms(model: nn.Module, accelerator: Accelerator) -> None:
    """Give all processes the mean of their running statistics, which each has measured on its part of the batches."""
    if accelerator.num_processes == 1:
        return
    for norm in batch_norms(model):
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.copy_(accelerator.reduce(statistic, reduction="mean"))
