"""Soft targets from a teacher: the uncompressed model, or a better one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sterna.config import DistillationConfig, Recipe
from sterna.errors import ConfigError
from sterna.models import build_model, load_weights

_SMALLEST_ENERGY = 1e-12


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
    """A network that is asked for logits, and for features on the way to them, and never trained.

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

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Collect what the modules ``distillation.features`` of a student give while it is called."""
        with _collected(student, self.config.features) as found:
            yield found

    def loss(
        self, hard_loss: Tensor, logits: Tensor, images: Tensor, features: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """``(1 - weight) hard_loss + weight T^2 KL(teacher || student) + feature_weight mean_l d(F_l, T_l)``.

        ``d(F, T) = ||F - T||^2 / ||T||^2`` compares features of student and teacher (:func:`feature_distance`).

        Args:
            hard_loss: scalar, of the labels.
            logits: of the student, ``(n, classes)``.
            images: that the student saw, float32 ``(n, channels, height, width)``.
            features: of the student, from :meth:`watching`.

        Raises:
            ConfigError: student and teacher have different numbers of classes, or features that do not fit.
        """
        with torch.no_grad(), _collected(self._network, tuple(features or ())) as wanted:
            targets = self._network(images.to(self._dtype))
        if targets.shape != logits.shape:
            raise ConfigError(
                f"distillation.teacher has {targets.shape[-1]} outputs, the model has {logits.shape[-1]}: must be equal"
            )
        weight = self.config.weight
        loss = (1.0 - weight) * hard_loss + weight * distillation_loss(logits, targets, self.config.temperature)
        if features:
            loss = loss + self.config.feature_weight * feature_distance(features, wanted)
        return loss


def feature_distance(features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """``mean_l ||F_l - T_l||^2 / ||T_l||^2`` over the features ``l``, in float32.

    Args:
        features: ``F``, of the student.
        targets: ``T``, of the teacher, by the same names.

    Returns:
        A scalar.

    Raises:
        ConfigError: features of one name have different shapes.

    References:
        Romero et al.: FitNets: hints for thin deep nets, arXiv 1412.6550 (without its regressor: shapes are equal).
    """
    distances = []
    for name, target in targets.items():
        if features[name].shape != target.shape:
            raise ConfigError(
                f"distillation: the features of {name!r} have shape {tuple(features[name].shape)} in the model and "
                f"{tuple(target.shape)} in the teacher: must be equal"
            )
        difference = (features[name].float() - target.float()).square().sum()
        distances.append(difference / target.float().square().sum().clamp(min=_SMALLEST_ENERGY))
    return torch.stack(distances).mean()


@contextmanager
def _collected(network: nn.Module, patterns: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What the modules of a network with these names give, by name, while the context lasts."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _arguments: object, output: Tensor) -> None:
            found[name] = output

        return hook

    named = dict(network.named_modules())
    handles = []
    for pattern in patterns:
        matching = [name for name in named if fnmatchcase(name, pattern)]
        if not matching:
            raise ConfigError(f"distillation.features: pattern {pattern!r} matches no module of the model")
        handles += [named[name].register_forward_hook(keep(name)) for name in matching]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


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
    if config is None or (config.weight == 0.0 and not config.features):
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
