"""Image classification: loss and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from sterna.data.dataset import Batch, BatchDataset
from sterna.data.loader import make_loader
from sterna.errors import DataError

if TYPE_CHECKING:
    from accelerate import Accelerator

_TOP = 5


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
    batch_size: int = 500,
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

    with _evaluation_mode(network), _full_precision_forward(network), torch.inference_mode():
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


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own mode again (a frozen batch norm stays frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _full_precision_forward(model: nn.Module) -> Iterator[None]:
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
