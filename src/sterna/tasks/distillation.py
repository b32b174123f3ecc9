"""Soft targets from a teacher: the uncompressed model, or a better one."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sterna.config import DistillationConfig, Recipe
from sterna.errors import ConfigError
from sterna.models import build_model, load_weights


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, mean over images, in float32.

    Args:
        student: logits ``(n, classes)``.
        teacher: logits ``(n, classes)``.
        temperature: ``T``; the factor ``T^2`` keeps the gradient's size independent of it.

    Returns:
        A scalar.

    References:
        Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, arXiv 1503.02531.
    """
    student_log = F.log_softmax(student.float() / temperature, dim=1)
    teacher_log = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)


class Teacher:
    """A network that is asked for logits and never trained.

    Args:
        network: copied nowhere: it is frozen, and moved to the precision and memory format of the recipe.
        config: weight and temperature.
        precision: ``"bfloat16"`` runs the teacher in that type throughout.
        device: to run on.
    """

    def __init__(self, network: nn.Module, config: DistillationConfig, precision: str, device: torch.device) -> None:
        self.config = config
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._network = network.eval().requires_grad_(False).to(device, self._dtype)

    def loss(self, hard_loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """``(1 - weight) hard_loss + weight T^2 KL(teacher || student)``.

        Args:
            hard_loss: scalar, of the labels.
            logits: of the student, ``(n, classes)``.
            images: that the student saw, float32 ``(n, channels, height, width)``.

        Raises:
            ConfigError: student and teacher have different numbers of classes.
        """
        with torch.no_grad():
            targets = self._network(images.to(self._dtype))
        if targets.shape != logits.shape:
            raise ConfigError(
                f"distillation.teacher has {targets.shape[-1]} outputs, the model has {logits.shape[-1]}: must be equal"
            )
        weight = self.config.weight
        return (1.0 - weight) * hard_loss + weight * distillation_loss(logits, targets, self.config.temperature)


def make_teacher(recipe: Recipe, uncompressed: nn.Module, device: torch.device) -> Teacher | None:
    """The teacher of a recipe, or nothing where it has none.

    Args:
        recipe: its ``distillation``, ``model`` and ``train``.
        uncompressed: the model with its weights, before it is prepared; it is copied.
        device: to run on.

    Raises:
        ConfigError: the teacher would have no trained weights.
        DataError: the weights of the teacher are missing or do not fit.
    """
    config = recipe.distillation
    if config is None or config.weight == 0.0:
        return None
    chosen = config.teacher if config.teacher is not None else recipe.model
    if chosen.weights is None:
        key = "model.weights" if config.teacher is None else "distillation.teacher.weights"
        raise ConfigError(f"{key} is missing: distillation needs a trained teacher")
    if config.teacher is None:
        network = deepcopy(uncompressed)
    else:
        network = build_model(config.teacher)
        load_weights(network, chosen.weights, prefix=chosen.weights_prefix, fresh=chosen.fresh)
    if recipe.train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return Teacher(network, config, recipe.train.precision, device)
