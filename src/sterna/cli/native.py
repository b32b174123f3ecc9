"""The native engine where commands need a network of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sterna.cli.options import Activations
from sterna.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def load_classifier(file: Path, task: str, activations: Activations, threads: int | None) -> nn.Module:
    """The native engine as a module.

    Raises:
        ConfigError: the file is no classifier.
        SternaError: the engine cannot run it.
    """
    from sterna.session import InferenceSession
    from sterna.tasks.native import NativeNetwork

    if task != "classification":
        raise ConfigError(f"{file}: the native engine evaluates classifiers only, this is for {task}: use torch")
    return NativeNetwork(InferenceSession(file, threads=threads or 1, activations=activations.value))


def native_batch_size(preprocessing: Mapping[str, Any]) -> int:
    """Images at a time: what fits into caches is as fast as more, and prepared sooner."""
    values: int = math.prod(preprocessing["input_shape"])
    return min(32, max(1, 100_000 // values))
