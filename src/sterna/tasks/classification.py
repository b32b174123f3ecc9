"""Image classification: loss and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from sterna.data.dataset import Batch, BatchDataset, DataSplits
from sterna.data.loader import make_loader
from sterna.errors import ConfigError, DataError
from sterna.tasks.distillation import Teacher
from sterna.tasks.task import StepResult, Task, evaluation_mode, full_precision_forward

if TYPE_CHECKING:
    from accelerate import Accelerator

_TOP = 5
_EVALUATION_BATCH = 500
# Of a batch of larger images, so that memory stays bounded: 66 images of 224 x 224.
_EVALUATION_VALUES = 10_000_000


class Classification(Task[Batch]):
    """One label for each picture.

    Args:
        label_smoothing: in ``[0, 1)``.
        memory_format: that images are brought into.
        teacher: of distillation, or nothing.
    """

    name = "classification"
    metric = "top1"
    metric_label = "top-1"

    def __init__(
        self,
        label_smoothing: float = 0.0,
        memory_format: torch.memory_format = torch.contiguous_format,
        teacher: Teacher | None = None,
    ) -> None:
        self._label_smoothing = label_smoothing
        self._memory_format = memory_format
        self._teacher = teacher

    @torch.no_grad()
    def check_fit(self, network: nn.Module, data: DataSplits) -> None:
        """Refuse a network that cannot take the images or has too few outputs (see :class:`Task`)."""
        images, _ = data.test.__getitems__([0])
        device = next(network.parameters()).device
        try:
            with evaluation_mode(network):
                logits = network(images.to(device))
        # A network fails in its own way on images that it was not made for.
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise ConfigError(f"the model does not take images of shape {tuple(images.shape[1:])}: {reason}") from error
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] < len(data.labels):
            raise ConfigError(
                f"the model must have at least {len(data.labels)} outputs, one for each label of the data, got {shape}"
            )

    def begin_epoch(self, epoch: int) -> None:
        """Tell the teacher."""
        if self._teacher is not None:
            self._teacher.begin_epoch(epoch)

    def inputs(self, batch: Batch) -> Tensor:
        """The images, in the memory format of the task."""
        return batch[0].contiguous(memory_format=self._memory_format)

    def step(self, model: nn.Module, batch: Batch) -> StepResult:
        """Cross-entropy (:func:`classification_loss`), with that of the teacher where there is one."""
        images, labels = self.inputs(batch), batch[1]
        if self._teacher is None:
            logits = model(images)
            loss = classification_loss(logits, labels, self._label_smoothing)
        else:
            lesson = self._teacher.teach(images)
            with self._teacher.watching(getattr(model, "module", model), lesson) as features:
                logits = model(images)
            loss = classification_loss(logits, labels, self._label_smoothing)
            loss = self._teacher.loss(loss, logits, lesson, features)
        return StepResult(loss, (logits.detach().argmax(1) == labels).sum(), len(labels))

    def evaluate(
        self,
        model: nn.Module,
        dataset: BatchDataset[Batch],
        *,
        batch_size: int | None = None,
        workers: int = 0,
        accelerator: Accelerator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """As :func:`evaluate`."""
        if batch_size is None and len(dataset):
            batch_size = min(_EVALUATION_BATCH, max(1, _EVALUATION_VALUES // dataset[0][0].numel()))
        return evaluate(
            model,
            dataset,
            batch_size=batch_size or _EVALUATION_BATCH,
            workers=workers,
            accelerator=accelerator,
            progress=progress,
        )


def classification_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy, computed in float32 whatever the type of the logits.

    ``loss = -mean_i sum_c q_ic log softmax(logits_i)_c``, where ``q`` is ``1 - s + s / classes`` at the target and
    ``s / classes`` elsewhere, for label smoothing ``s``.

    Args:
        logits: ``(n, classes)``.
        targets: int64 ``(n,)``.
        label_smoothing: in ``[0, 1)``.

    Returns:
        A scalar.

    References:
        Szegedy et al.: Rethinking the inception architecture, arXiv 1512.00567, section 7 (label smoothing).
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def evaluate(
    model: nn.Module,
    dataset: BatchDataset[Batch],
    *,
    batch_size: int = _EVALUATION_BATCH,
    workers: int = 0,
    accelerator: Accelerator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Accuracy and loss of a network on every image of a data set, each counted once.

    With an accelerator of several processes each reads its share, ``rank, rank + processes, ...``, and the counts are
    summed, so that every process returns the same numbers. The network runs in evaluation mode, in its own type and
    without the autocast and the gradient synchronisation that training wraps it in.

    Args:
        model: maps ``(n, channels, height, width)`` to logits ``(n, classes)``; its modes are restored afterwards.
        dataset: to be evaluated on.
        batch_size: images in one forward pass of one process.
        workers: processes that prepare batches.
        accelerator: of the run, or nothing for a single process.
        progress: called after each batch with the images done and the images to do, of this process.

    Returns:
        ``top1`` and ``top5`` in percent (``top5`` counts the best ``min(5, classes)``), ``loss``, the mean
        cross-entropy, and ``images``, their number.

    Raises:
        DataError: the data set is empty, or holds a label that the network has no output for.
    """
    if len(dataset) == 0:
        raise DataError("the data set to evaluate on is empty")
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    network = accelerator.unwrap_model(model) if accelerator is not None else model
    parameter = next(network.parameters(), torch.empty(0))
    total = len(range(rank, len(dataset), processes))
    top1_hits = top5_hits = images_done = 0
    loss_sum = 0.0
    metrics: tuple[MulticlassAccuracy, MulticlassAccuracy] | None = None

    with evaluation_mode(network), full_precision_forward(network), torch.inference_mode():
        for images, labels in make_loader(
            dataset, batch_size, shuffle=False, seed=0, workers=workers, part=(rank, processes)
        ):
            logits = network(images.to(parameter.device, parameter.dtype)).float()
            targets = labels.to(parameter.device)
            classes = logits.shape[1]
            if int(labels.max()) >= classes or int(labels.min()) < 0:
                raise DataError(
                    f"labels must be 0 to {classes - 1}, one for each output of the model, "
                    f"got {int(labels.min())} to {int(labels.max())}"
                )
            if metrics is None:
                metrics = (_accuracy(classes, 1, parameter.device), _accuracy(classes, _TOP, parameter.device))
            for metric in metrics:
                metric.update(logits, targets)
            loss_sum += float(F.cross_entropy(logits, targets, reduction="none").double().sum())
            images_done += len(labels)
            if progress is not None:
                progress(images_done, total)

    if metrics is not None:
        # The counts themselves: compute() would round their ratio to float32.
        top1_hits, top5_hits = (int(cast(Tensor, metric.tp).sum()) for metric in metrics)
    sums = torch.tensor([top1_hits, top5_hits, loss_sum, images_done], dtype=torch.float64)
    if accelerator is not None and processes > 1:
        sums = accelerator.reduce(sums.to(accelerator.device), reduction="sum").cpu()
    top1, top5, loss, images = sums.tolist()
    return {"top1": 100.0 * top1 / images, "top5": 100.0 * top5 / images, "loss": loss / images, "images": int(images)}


def _accuracy(classes: int, top: int, device: torch.device) -> MulticlassAccuracy:
    # evaluate() has checked the labels, and sums over processes itself.
    metric = MulticlassAccuracy(
        classes, top_k=min(top, classes), average="micro", validate_args=False, sync_on_compute=False
    )
    return metric.to(device)
