"""From a ``.sterna`` file back to a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sterna.container import read
from sterna.errors import DataError, MissingDependencyError
from sterna.folding import is_batch_norm
from sterna.models import build_model
from sterna.ternary_model import Int8Tensor, TernaryModel, TernaryTensor


def load(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | bool = False,
) -> nn.Module:
    """Load a ``.sterna`` file into a module in evaluation mode, with weights of ``scale * trits`` in float32.

    Args:
        path: the file.
        model: a module of the same architecture to fill; nothing means to build it by the name in the file.
        threads: to decode on; nothing means all processors.
        progress: true shows a bar on standard error (with the package ``rich``); a function is called with the elements
            decoded so far and all elements.

    Returns:
        the module; the given one if there was one.

    Raises:
        FormatError: the file is damaged or not a ``.sterna`` file.
        DataError: the file does not fit the model, or names no model that Sterna can build.
    """
    with _shown(progress) as report:
        stored = read(path, threads=threads, progress=report, with_graphs=False)
    if model is None:
        description = stored.metadata.get("model")
        if not isinstance(description, dict) or not isinstance(description.get("name"), str):
            raise DataError(f"{path} does not name a model that Sterna can build: give one with load(path, model=...)")
        arguments = description.get("arguments", {})
        if not isinstance(arguments, dict):
            raise DataError(f"{path}: the arguments of the model must be a mapping, got {type(arguments).__name__}")
        model = build_model(description["name"], arguments)
    try:
        return fill(model, stored)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


@contextmanager
def _shown(progress: Callable[[int, int], None] | bool) -> Iterator[Callable[[int, int], None] | None]:
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ModuleNotFoundError as error:
        raise MissingDependencyError("a progress bar needs rich: install it with  pip install rich") from error
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("load")
        yield lambda done, total: bar.update(task, completed=done, total=total)


@torch.no_grad()
def fill(model: nn.Module, stored: TernaryModel) -> nn.Module:
    """Put the tensors of a stored model into a plain (not prepared) module of the same architecture.

    A batch norm that the file holds as ``y = weight * x + bias`` gets the mean 0 and the variance ``1 - eps``.

    Args:
        model: the module; it is changed in place and put into evaluation mode.
        stored: what :func:`sterna.convert` made.

    Returns:
        the same module.

    Raises:
        DataError: missing or unexpected tensors, or another shape.
    """
    target = model.state_dict()
    state = {name: _as_tensor(value) for name, value in stored.tensors.items()}
    for name, module in model.named_modules():
        if not is_batch_norm(module):
            continue
        prefix = f"{name}." if name else ""
        if f"{prefix}weight" in state and f"{prefix}running_mean" not in state:
            weight = state[f"{prefix}weight"]
            state[f"{prefix}running_mean"] = torch.zeros_like(weight, dtype=torch.float32)
            state[f"{prefix}running_var"] = torch.full_like(weight, _unit_variance(module), dtype=torch.float32)
        counter = f"{prefix}num_batches_tracked"
        if counter in target:
            state.setdefault(counter, target[counter])
    missing, unexpected = sorted(target.keys() - state.keys()), sorted(state.keys() - target.keys())
    if missing:
        raise DataError(f"the model does not fit the file, which misses {_shortened(missing)}")
    if unexpected:
        raise DataError(f"the model does not fit the file: it has no place for {_shortened(unexpected)}")
    for name, value in state.items():
        if value.shape != target[name].shape:
            raise DataError(
                f"the model does not fit the file: {name!r} has shape {tuple(target[name].shape)} in the model, "
                f"{tuple(value.shape)} in the file"
            )
    model.load_state_dict({name: value.to(target[name].dtype) for name, value in state.items()})
    return model.eval()


def _as_tensor(value: Any) -> Tensor:
    array = value.dequantize() if isinstance(value, TernaryTensor | Int8Tensor) else value
    return torch.from_numpy(np.array(array))


def _unit_variance(module: Any) -> float:
    """The float32 variance for which ``variance + eps`` is one, so that the batch norm does not scale."""
    return float(np.float32(1.0 - module.eps))


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
