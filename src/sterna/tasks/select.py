"""The task of a recipe, and of a file."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from sterna.config import DetectionConfig, Recipe
from sterna.errors import ConfigError
from sterna.pictures import CLASSIFICATION, INSTANCE_SEGMENTATION, read_task
from sterna.tasks.classification import Classification
from sterna.tasks.distillation import make_teacher
from sterna.tasks.task import Task


def make_task(recipe: Recipe, network: nn.Module | None = None, device: torch.device | None = None) -> Task[Any]:
    """The task of a recipe; with a network, also its teacher.

    Args:
        recipe: its ``task``, ``train``, ``distillation`` and ``detection``.
        network: uncompressed, with its weights: the teacher of itself.
        device: that the teacher runs on.

    Raises:
        ConfigError: the teacher would have no trained weights.
        DataError: the weights of the teacher are missing or do not fit.
    """
    if recipe.task != "classification":
        from sterna.tasks.detection import Detection, FeatureTeacher  # brings in the reader of COCO's files

        options = recipe.detection or DetectionConfig()
        guide = None
        if network is not None and options.feature_weight > 0.0:
            if recipe.model.weights is None:
                raise ConfigError("model.weights is missing: detection.feature_weight needs a trained model")
            guide = FeatureTeacher(deepcopy(network), options.feature_weight)
        return Detection(recipe.task == "instance-segmentation", options.max_dets, guide)
    teacher = make_teacher(recipe, network, device or torch.device("cpu")) if network is not None else None
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    return Classification(recipe.train.label_smoothing, memory_format, teacher)


def task_of_file(metadata: Mapping[str, Any]) -> Task[Any]:
    """The task that a file's metadata name; classification where they name none.

    Raises:
        DataError: they name one that Sterna does not know.
    """
    name = read_task(metadata) if "task" in metadata else CLASSIFICATION
    if name == CLASSIFICATION:
        return Classification()
    from sterna.tasks.detection import Detection

    recipe = metadata.get("recipe")
    options = recipe.get("detection") if isinstance(recipe, dict) else None
    max_dets = options.get("max_dets") if isinstance(options, dict) else None
    fallback = DetectionConfig().max_dets
    return Detection(name == INSTANCE_SEGMENTATION, max_dets if type(max_dets) is int and max_dets > 0 else fallback)
