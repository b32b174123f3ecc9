"""From a ``.sterna`` file back to a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from sterna.container import SternaFile, read
from sterna.errors import DataError, MissingDependencyError, SternaError
from sterna.folding import is_batch_norm
from sterna.models import build_model
from sterna.ternary_model import Int8Tensor, TernaryModel, TernaryTensor

if TYPE_CHECKING:
    from sterna.native_modules import Runner
    from sterna.session import Activations

Engine = Literal["torch", "native"]


def load(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    engine: Engine = "torch",
    threads: int | None = None,
    activations: Activations = "float32",
    isa: str | None = None,
    tune: bool = True,
    progress: Callable[[int, int], None] | bool = False,
) -> nn.Module:
    """Load a ``.sterna`` file into a module in evaluation mode.

    Args:
        path: the file.
        model: a module of the same architecture to fill; nothing means to build it by the name in the file.
        engine: ``"torch"`` fills the module with weights of ``scale * trits`` in float32. ``"native"`` computes what
            the file has graphs for with :class:`~sterna.session.InferenceSession`: a whole network, or the backbone and
            the heads of a detector (see :mod:`sterna.native_modules`), for evaluation on the CPU alone.
        threads: PyTorch: to decode on; nothing means all processors. Native: that compute one run; nothing means one.
        activations: native: as in :class:`~sterna.session.InferenceSession`.
        isa: native: as there.
        tune: native: as there.
        progress: true shows a bar on standard error (with the package ``rich``); a function is called with the elements
            (native: graphs) decoded so far and all of them.

    Returns:
        the module; the given one if there was one, but for a whole network on the native engine, which needs none.

    Raises:
        FormatError: the file is damaged or not a ``.sterna`` file.
        DataError: the file does not fit the model, names no model that Sterna can build or, for the native engine, has
            no graphs, or none that are calibrated for 8-bit activations.
        SternaError: an argument is not allowed.
    """
    if engine not in get_args(Engine):
        raise SternaError(f"engine must be one of {', '.join(map(repr, get_args(Engine)))}, got {engine!r}")
    with _shown(progress) as report:
        if engine == "native":
            return _load_native(path, model, threads or 1, activations, isa, tune, report)
        if activations != "float32" or isa is not None:
            raise SternaError("activations and isa are for engine='native'")
        stored = read(path, threads=threads, progress=report, with_graphs=False)
    model = model if model is not None else _named_model(path, stored.metadata)
    try:
        return fill(model, stored)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _named_model(path: str | Path, metadata: Mapping[str, Any]) -> nn.Module:
    description = metadata.get("model")
    if not isinstance(description, dict) or not isinstance(description.get("name"), str):
        raise DataError(f"{path} does not name a model that Sterna can build: give one with load(path, model=...)")
    arguments = description.get("arguments", {})
    if not isinstance(arguments, dict):
        raise DataError(f"{path}: the arguments of the model must be a mapping, got {type(arguments).__name__}")
    return build_model(description["name"], arguments)


def _load_native(
    path: str | Path,
    model: nn.Module | None,
    threads: int,
    activations: Activations,
    isa: str | None,
    tune: bool,
    report: Callable[[int, int], None] | None,
) -> nn.Module:
    from sterna.native_modules import NativeNetwork
    from sterna.session import InferenceSession

    file = SternaFile.open(path, whole_checksum=True)
    names = [graph.name for graph in file.graphs]
    if not names:
        raise DataError(
            f"{path} holds no graph to run natively: write it anew with one (sterna.capture or sterna.capture_detector "
            "of the loaded model, sterna.save), or load it with engine='torch'"
        )
    for graph in file.graphs:
        if activations == "int8" and not graph.ranges:
            named = f" of graph {graph.name!r}" if graph.name else ""
            raise DataError(f"{path} is not calibrated for 8-bit activations{named}: run  sterna calibrate {path}")
    needed = [""] if "" in names else names
    sessions = {}
    for name in needed:
        sessions[name] = InferenceSession(
            path, threads=threads, isa=isa, activations=activations, graph=name, tune=tune
        )
        if report is not None:
            report(len(sessions), len(needed))
    return NativeNetwork(sessions[""]) if "" in sessions else assemble(path, file, sessions, model)


def assemble(
    path: str | Path, file: SternaFile, runners: Mapping[str, Runner], model: nn.Module | None = None
) -> nn.Module:
    """A detector whose parts are computed by graphs of its file.

    Args:
        path: of the file, for messages.
        file: of it, what no graph covers is decoded.
        runners: by the names of graphs.
        model: a module of the same architecture; nothing means to build it by the name in the file.

    Raises:
        DataError: the file does not fit the model, or names no model that Sterna can build.
    """
    from sterna.native_modules import install

    model = (model if model is not None else _named_model(path, file.metadata)).eval()
    try:
        whole = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        _refuse_misfits(whole, {name: entry.shape for name, entry in file.entries.items()}, is_whole=False)
        install(model, runners)
        # Batch norms that the file holds without statistics are completed by `fill`.
        rest = {name: file.tensor(name) for name in file.entries if name in model.state_dict()}
        return fill(model, TernaryModel(rest, file.metadata))
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
    _refuse_misfits(
        {name: tuple(value.shape) for name, value in target.items()},
        {name: tuple(value.shape) for name, value in state.items()},
    )
    model.load_state_dict({name: value.to(target[name].dtype) for name, value in state.items()})
    return model.eval()


def _refuse_misfits(
    target: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]], *, is_whole: bool = True
) -> None:
    """Compare the shapes of a model's tensors with those of a file, which has all of them if it ``is_whole``."""
    missing, unexpected = sorted(target.keys() - stored.keys()), sorted(stored.keys() - target.keys())
    if missing and is_whole:
        raise DataError(f"the model does not fit the file, which misses {_shortened(missing)}")
    if unexpected:
        raise DataError(f"the model does not fit the file: it has no place for {_shortened(unexpected)}")
    for name, shape in stored.items():
        if shape != target[name]:
            raise DataError(
                f"the model does not fit the file: {name!r} has shape {target[name]} in the model, {shape} in the file"
            )


def _as_tensor(value: Any) -> Tensor:
    array = value.dequantize() if isinstance(value, TernaryTensor | Int8Tensor) else value
    return torch.from_numpy(np.array(array))


def _unit_variance(module: Any) -> float:
    """The float32 variance for which ``variance + eps`` is one, so that the batch norm does not scale."""
    return float(np.float32(1.0 - module.eps))


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
