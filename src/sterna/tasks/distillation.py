"""Soft targets from a teacher: the uncompressed model, or a better one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

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


@dataclass(frozen=True)
class Lesson:
    """What a teacher makes of a batch.

    Args:
        logits: ``(n, classes)``.
        inputs: of the modules ``distillation.features``, by name.
        outputs: of the same modules.
    """

    logits: Tensor
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Teacher:
    """A network that is asked for logits, and for features on the way to them, and never trained.

    In the first ``distillation.local_epochs`` each module of ``distillation.features`` learns alone: it is given what
    its twin in the teacher was given, so that it has to mend no error but its own, and no gradient leaves it. Few
    images teach it more than they teach a whole network.

    Args:
        network: copied nowhere: it is frozen, and moved to the precision and memory format of the recipe.
        config: weight and temperature.
        precision: ``"bfloat16"`` runs the teacher in that type throughout.
        device: to run on.

    Attributes:
        is_local: whether modules learn alone at present.

    References:
        Li et al.: BRECQ: pushing the limit of post-training quantization by block reconstruction, arXiv 2102.05426
        (blocks that learn from the inputs and outputs of the uncompressed network, one after the other; here all at
        the same time).
    """

    def __init__(self, network: nn.Module, config: DistillationConfig, precision: str, device: torch.device) -> None:
        self.config = config
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._network = network.eval().requires_grad_(False).to(device, self._dtype)
        self.is_local = False

    def begin_epoch(self, epoch: int) -> None:
        """Decide whether modules learn alone in an epoch, which is counted from 0."""
        self.is_local = epoch < self.config.local_epochs

    @torch.no_grad()
    def teach(self, images: Tensor) -> Lesson:
        """Ask the teacher about images, float32 ``(n, channels, height, width)``."""
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
                inputs[name], outputs[name] = arguments[0], output

            return hook

        with _hooked(
            self._network, self.config.features, lambda name, module: module.register_forward_hook(keep(name))
        ):
            logits = self._network(images.to(self._dtype))
        return Lesson(logits, inputs, outputs)

    @contextmanager
    def watching(self, student: nn.Module, lesson: Lesson) -> Iterator[dict[str, Tensor]]:
        """Collect what the modules ``distillation.features`` of a student give while it is called.

        Raises:
            ConfigError: a pattern matches no module.
        """
        found: dict[str, Tensor] = {}

        def watch(name: str, module: nn.Module) -> RemovableHandle:
            def hook(_module: nn.Module, _arguments: object, output: Tensor) -> None:
                found[name] = output

            return module.register_forward_hook(hook)

        def feed(name: str, module: nn.Module) -> RemovableHandle:
            def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                return (lesson.inputs[name].to(arguments[0].dtype), *arguments[1:])

            return module.register_forward_pre_hook(hook)

        with ExitStack() as stack:
            stack.enter_context(_hooked(student, self.config.features, watch))
            if self.is_local:
                stack.enter_context(_hooked(student, self.config.features, feed))
            yield found

    def loss(self, hard_loss: Tensor, logits: Tensor, lesson: Lesson, features: Mapping[str, Tensor]) -> Tensor:
        """``(1 - weight) hard_loss + weight T^2 KL(teacher || student) + feature_weight mean_l d(F_l, T_l)``.

        ``d(F, T) = ||F - T||^2 / ||T||^2`` compares features of student and teacher (:func:`feature_distance`).

        Args:
            hard_loss: scalar, of the labels.
            logits: of the student, ``(n, classes)``.
            lesson: on the same images.
            features: of the student, from :meth:`watching`.

        Raises:
            ConfigError: student and teacher have different numbers of classes, or features that do not fit.
        """
        targets = lesson.logits
        if targets.shape != logits.shape:
            raise ConfigError(
                f"distillation.teacher has {targets.shape[-1]} outputs, the model has {logits.shape[-1]}: must be equal"
            )
        weight = self.config.weight
        loss = (1.0 - weight) * hard_loss + weight * distillation_loss(logits, targets, self.config.temperature)
        if features:
            loss = loss + self.config.feature_weight * feature_distance(features, lesson.outputs)
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
def _hooked(
    network: nn.Module, patterns: Sequence[str], register: Callable[[str, nn.Module], RemovableHandle]
) -> Iterator[None]:
    """Hooks on the modules of a network with these names, while the context lasts."""
    named = dict(network.named_modules())
    with ExitStack() as stack:
        for pattern in patterns:
            matching = [name for name in named if fnmatchcase(name, pattern)]
            if not matching:
                raise ConfigError(f"distillation.features: pattern {pattern!r} matches no module of the model")
            for name in matching:
                stack.callback(register(name, named[name]).remove)
        yield


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
