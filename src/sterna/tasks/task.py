"""What a task is to the training loop: a loss for a batch, and metrics of a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor, nn

from sterna.data.dataset import BatchDataset, DataSplits

if TYPE_CHECKING:
    from accelerate import Accelerator

_B = TypeVar("_B")


@dataclass(frozen=True)
class StepResult:
    """What one batch gave.

    Args:
        loss: scalar, with its gradient.
        right: images that were answered right, without gradient; nothing where a task has no such notion.
        images: in the batch.
    """

    loss: Tensor
    right: Tensor | None
    images: int


class Task(ABC, Generic[_B]):
    """A kind of learning problem.

    Attributes:
        name: in recipes and files.
        metric: key of the metric, in percent and better when larger, that chooses between models.
        metric_label: the same, for people.
    """

    name: str
    metric: str
    metric_label: str

    @abstractmethod
    def check_fit(self, network: nn.Module, data: DataSplits) -> None:
        """Refuse a network that cannot learn from these data, before any time is spent.

        Raises:
            ConfigError: it takes other inputs, or has too few outputs.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Called before the steps of an epoch, which is counted from 0."""

    @abstractmethod
    def step(self, model: nn.Module, batch: _B) -> StepResult:
        """The loss of a batch.

        Args:
            model: the network, or what distributed training has wrapped around it.
            batch: on its device.
        """

    @abstractmethod
    def inputs(self, batch: _B) -> Any:
        """What a network is given of a batch when it is asked for predictions."""

    @abstractmethod
    def evaluate(
        self,
        model: nn.Module,
        dataset: BatchDataset[_B],
        *,
        batch_size: int | None = None,
        workers: int = 0,
        accelerator: Accelerator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """Metrics on every image of a data set, each counted once, equal on every process.

        Args:
            model: its modes are restored afterwards.
            dataset: to be evaluated on.
            batch_size: images in one forward pass of one process; nothing means what suits the task.
            workers: processes that prepare batches.
            accelerator: of the run, or nothing for a single process.
            progress: called after each batch with the images done and the images to do, of this process.

        Returns:
            :attr:`metric` and others, and ``images``, their number.
        """


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own mode again (a frozen batch norm stays frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def full_precision_forward(model: nn.Module) -> Iterator[None]:
    """Take off the autocast that ``Accelerator.prepare`` puts around ``forward``, and put it back afterwards."""
    original = model.__dict__.get("_original_forward")
    if original is None:
        yield
        return
    wrapped = model.__dict__["forward"]
    model.forward = original
    try:
        yield
    finally:
        model.forward = wrapped
