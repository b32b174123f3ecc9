"""Checkpoints: everything that a run needs to continue as if it had not been stopped.

There is one file, replaced in one atomic rename, so that a kill at any moment leaves either the previous
checkpoint or the new one, whole. It holds tensors and plain values only and is read without running code.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sterna.config import Recipe
from sterna.container import synchronize_folder
from sterna.errors import CheckpointError
from sterna.train.interruption import interrupts_held

FOLDER = "checkpoint"
FILE = "last.pt"
FORMAT = 2

_ABSENT = object()
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two steps.

    Args:
        recipe: of the run, as JSON values.
        source_sha256: of the file of weights that the run began with, or nothing.
        step: steps done.
        model: ``state_dict`` of the prepared model; masks and phases are among its buffers.
        optimizer: ``state_dict`` of the optimiser.
        average: ``state_dict`` of the moving average of the weights, or nothing.
        random_states: of each process, from :func:`random_state`.
        totals: ``(loss sum, right answers, images)`` over all processes, of the running epoch and the running interval.
        signs: trits at the beginning of the running epoch, by layer.
        baseline: metrics of the uncompressed model, once they are known.
        best: validation metrics of the best model so far, once there is one.
        final_sparsity: fraction of zeros that the run aims at.
        log_bytes: length of ``metrics.jsonl``.
        seconds: time spent so far.
    """

    recipe: dict[str, Any]
    source_sha256: str | None
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any] | None
    random_states: list[dict[str, Any]]
    totals: Tensor
    signs: dict[str, Tensor]
    baseline: dict[str, float] | None
    best: dict[str, float] | None
    final_sparsity: float
    log_bytes: int
    seconds: float
    format: int = field(default=FORMAT)


def checkpoint_path(run_dir: Path) -> Path:
    """Where the checkpoint of a run folder is."""
    return run_dir / FOLDER / FILE


@interrupts_held()
def save_checkpoint(checkpoint: Checkpoint, run_dir: Path) -> None:
    """Replace the checkpoint of a run folder.

    Raises:
        CheckpointError: it cannot be written (a full disk); the previous one is left as it was.
    """
    path = checkpoint_path(run_dir)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                torch.save({item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        synchronize_folder(path.parent)
    # torch reports a failed write of its own as a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write checkpoint {path}: {_reason(error)}") from error


@interrupts_held()
def load_checkpoint(run_dir: Path) -> Checkpoint:
    """Read the checkpoint of a run folder.

    Raises:
        CheckpointError: there is none, or it is damaged or of another version.
    """
    path = checkpoint_path(run_dir)
    if not path.is_file():
        raise CheckpointError(f"{run_dir} holds no checkpoint to resume from ({path} does not exist)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # The unpickler raises nearly anything for a bad file.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise CheckpointError(f"{path} must be a checkpoint of version {FORMAT}, got {found}")
    expected = {item.name for item in fields(Checkpoint)}
    if content.keys() != expected:
        raise CheckpointError(f"{path} must have the entries {sorted(expected)}, got {sorted(content)}")
    return Checkpoint(**content)


def check_resumable(checkpoint: Checkpoint, recipe: Recipe, source_sha256: str | None, processes: int) -> None:
    """Refuse to continue a run under other conditions than it began with.

    Raises:
        CheckpointError: another recipe (the key and both values are named), other weights, or another number of
            processes.
    """
    different = _differences(checkpoint.recipe, recipe.model_dump(mode="json"))
    if different:
        key, old, new = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise CheckpointError(f"cannot resume with another recipe: {key} is {new}, the checkpoint has {old}{more}")
    if checkpoint.source_sha256 != source_sha256:
        raise CheckpointError(
            f"cannot resume with other weights: model.weights has SHA-256 {source_sha256}, "
            f"the checkpoint began with {checkpoint.source_sha256}"
        )
    if len(checkpoint.random_states) != processes:
        raise CheckpointError(
            f"cannot resume with {processes} processes: the checkpoint was made by {len(checkpoint.random_states)}"
        )


def random_state() -> dict[str, Any]:
    """The state of all random number generators of this process, as tensors and plain values."""
    # Ours draw from none of NumPy's; the global one is kept for the sake of models from other libraries.
    kind, key, *rest = np.random.get_state()  # noqa: NPY002
    version, internal, gaussian = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(key).astype(np.int64)), *map(float, rest)],
        "python": [version, list(internal), gaussian],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the random number generators of this process into a state of :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, key, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), int(position), int(has_gauss), gauss))  # noqa: NPY002
    version, internal, gaussian = state["python"]
    random.setstate((version, tuple(internal), gaussian))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """Dotted keys with other values, and both values as text."""
    found = []
    for key in {**new, **old}:
        before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append((prefix + key, _shown(before), _shown(after)))
    return found


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "no such key"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # torch wraps the operating system's error while it closes its archive.
    if isinstance(error.__context__, OSError):
        return _reason(error.__context__)
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
