"""Object detection and instance segmentation with torchvision's detectors, or any that is called like them.

In training such a model maps ``(images, targets)`` to a dictionary of losses; in evaluation it maps ``images`` to a
list of dictionaries of ``boxes``, ``labels``, ``scores`` and, for instance segmentation, ``masks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from sterna.data.coco import CocoDataset
from sterna.data.dataset import BatchDataset, DataSplits, DetectionBatch
from sterna.data.loader import make_loader
from sterna.errors import ConfigError, DataError
from sterna.tasks.coco_metrics import CocoMetrics
from sterna.tasks.distillation import feature_distance
from sterna.tasks.task import StepResult, Task, evaluation_mode, full_precision_forward

if TYPE_CHECKING:
    from accelerate import Accelerator

_EVALUATION_BATCH = 2


class FeatureTeacher:
    """The backbone of the uncompressed detector, whose features the student's should be like.

    Args:
        detector: uncompressed, with its weights; its backbone is frozen.
        weight: of the distance in the loss.
    """

    def __init__(self, detector: nn.Module, weight: float) -> None:
        self.weight = weight
        self._backbone = backbone_of(detector).eval().requires_grad_(False)

    def loss(self, images: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """``weight`` times :func:`~sterna.tasks.distillation.feature_distance` over the levels of the backbone.

        Args:
            images: what the student's backbone was given, ``(n, 3, height, width)``.
            features: ``F``, what it made of them, each ``(n, channels, h, w)``.

        Returns:
            A scalar.
        """
        with torch.no_grad():
            targets = levels_of(self._backbone(images))
        return self.weight * feature_distance(features, targets)


def backbone_of(detector: nn.Module) -> nn.Module:
    """The part of a detector that makes features of images.

    Raises:
        ConfigError: it has none.
    """
    backbone = getattr(detector, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ConfigError(f"detection.feature_weight: {type(detector).__name__} has no module 'backbone'")
    return backbone


def levels_of(features: Any) -> dict[str, Tensor]:
    """Feature maps by level; a backbone without levels gives one tensor."""
    return {"0": features} if isinstance(features, Tensor) else dict(features)


class Detection(Task[DetectionBatch]):
    """Boxes, or boxes and masks.

    Args:
        with_masks: whether masks are what counts.
        max_dets: detections of a class on an image that count in AP.
        teacher: of distillation, or nothing.
    """

    def __init__(self, with_masks: bool, max_dets: int = 100, teacher: FeatureTeacher | None = None) -> None:
        self.name = "instance-segmentation" if with_masks else "detection"
        self.metric = "mask_ap" if with_masks else "box_ap"
        self.metric_label = "mask AP" if with_masks else "box AP"
        self._with_masks = with_masks
        self._max_dets = max_dets
        self._teacher = teacher

    @torch.no_grad()
    def check_fit(self, network: nn.Module, data: DataSplits) -> None:
        """Refuse a network that is no detector, or that has too few outputs (see :class:`Task`)."""
        device = next(network.parameters()).device
        images, targets = data.test.__getitems__([0])
        if self._with_masks and "masks" not in targets[0]:
            raise ConfigError("task instance-segmentation needs data with masks, these have boxes alone")
        _, height, width = images[0].shape
        # One object, of the last class, that fills a quarter of the picture.
        target = {
            "boxes": torch.tensor([[0.0, 0.0, max(1.0, width / 2), max(1.0, height / 2)]]),
            "labels": torch.tensor([len(data.labels) - 1]),
            "masks": torch.ones(1, height, width, dtype=torch.uint8),
        }
        modes = [(module, module.training) for module in network.modules()]
        try:
            network.eval()
            network.training = True
            for name in ("rpn", "roi_heads", "transform", "head"):
                part = getattr(network, name, None)
                if isinstance(part, nn.Module):
                    part.training = True
            losses = network([images[0].to(device)], [{key: value.to(device) for key, value in target.items()}])
        # A network fails in its own way on what it was not made for.
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError) as error:
            reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
            raise ConfigError(
                f"the model is no detector of {len(data.labels)} classes (the background counts): {reason}"
            ) from error
        finally:
            for module, training in modes:
                module.training = training
        if not isinstance(losses, dict) or not losses:
            raise ConfigError(f"the model must give a dictionary of losses, got {type(losses).__name__}")
        if self._with_masks and "loss_mask" not in losses:
            raise ConfigError(f"task instance-segmentation needs a model with masks, this one has {', '.join(losses)}")

    def inputs(self, batch: DetectionBatch) -> list[Tensor]:
        """The images."""
        return batch[0]

    def step(self, model: nn.Module, batch: DetectionBatch) -> StepResult:
        """The sum of the model's losses, and the distance of its features to the teacher's where there is one."""
        images, targets = batch
        if self._teacher is None:
            losses = model(images, targets)
            return StepResult(_total(losses), None, len(images))
        # Through a hook, because distributed training must see one call of the whole model.
        seen: list[tuple[Tensor, dict[str, Tensor]]] = []
        network = getattr(model, "module", model)
        handle = backbone_of(network).register_forward_hook(
            lambda _, arguments, features: seen.append((arguments[0], levels_of(features)))
        )
        try:
            loss = _total(model(images, targets))
        finally:
            handle.remove()
        return StepResult(loss + self._teacher.loss(*seen[0]), None, len(images))

    def evaluate(
        self,
        model: nn.Module,
        dataset: BatchDataset[DetectionBatch],
        *,
        batch_size: int | None = None,
        workers: int = 0,
        accelerator: Accelerator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """Average precision (:class:`~sterna.tasks.coco_metrics.CocoMetrics`); see :class:`Task`.

        Raises:
            DataError: the data set is empty.
        """
        if not isinstance(dataset, CocoDataset):
            raise TypeError(f"detectors are evaluated on a CocoDataset, got {type(dataset).__name__}")
        if len(dataset) == 0:
            raise DataError("the data set to evaluate on is empty")
        rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
        network = accelerator.unwrap_model(model) if accelerator is not None else model
        # On the native engine there may be no parameters.
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        ground_truth = dataset.ground_truth()
        categories = len(ground_truth["categories"])
        metrics = CocoMetrics(ground_truth, max_dets=self._max_dets)
        total, done = len(range(rank, len(dataset), processes)), 0
        with evaluation_mode(network), full_precision_forward(network), torch.inference_mode():
            for images, targets in make_loader(
                dataset, batch_size or _EVALUATION_BATCH, shuffle=False, seed=0, workers=workers, part=(rank, processes)
            ):
                outputs = network([image.to(device) for image in images])
                found = [self._countable(output, categories) for output in outputs]
                metrics.add(found, [int(target["image_id"]) for target in targets])
                done += len(images)
                if progress is not None:
                    progress(done, total)
        if processes > 1:
            everything = gather_object(metrics.predictions())
            metrics = CocoMetrics(ground_truth, max_dets=self._max_dets)
            metrics.extend(everything)
        return metrics.compute()

    def _countable(self, output: Mapping[str, Tensor], categories: int) -> dict[str, Tensor]:
        """What counts of a detector's answer: classes that the data have, as with COCO; masks only if they matter."""
        known = output["labels"] <= categories
        keys = ("boxes", "labels", "scores", *(("masks",) if self._with_masks else ()))
        return {key: output[key][known].cpu() for key in keys}


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()]).sum()
