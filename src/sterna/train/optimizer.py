"""The optimiser of a recipe, with weight decay on latent weights alone."""

from __future__ import annotations

import torch
from torch import nn

from sterna.config import OptimizerConfig
from sterna.preparation import latent_parameters


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over two groups: latent weights, which decay, and everything else, which does not.

    Args:
        model: prepared; parameters that need no gradient are left out.
        config: name, rates and decay.
    """
    latent = [parameter for parameter in latent_parameters(model) if parameter.requires_grad]
    known = {id(parameter) for parameter in latent}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": latent, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give all groups the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
