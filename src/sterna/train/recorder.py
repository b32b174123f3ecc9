"""The files that a run leaves in its folder while it trains; written by the first process alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import save as dump_safetensors
from torch import nn

from sterna.capturing import capture, capture_detector
from sterna.config import Recipe
from sterna.container import read, save, write_whole
from sterna.conversion import convert, convert_as_is
from sterna.data import DataSplits
from sterna.detector_metadata import describe_detector
from sterna.errors import SternaError
from sterna.graph import Graph
from sterna.ternary_model import TernaryModel
from sterna.train.checkpoint import Checkpoint, save_checkpoint
from sterna.train.metrics_log import MetricsLog


class Recorder:
    """Writes metrics, checkpoints and models of one run; every other process than the first writes nothing.

    Args:
        recipe: of the run.
        run_dir: exists.
        data: its labels and preprocessing are stored with models.
        source_sha256: of the file of weights that the run began with, or nothing.
        accelerator: tells the processes apart.
        log_bytes: of ``metrics.jsonl`` to keep.

    Attributes:
        last_path: of the final model.
        best_path: of the model that validated best.
        graph_problem: why converted models have no graph; nothing if they have one, or none was converted.

    Raises:
        CheckpointError: ``metrics.jsonl`` is shorter than ``log_bytes``.
        SternaError: it cannot be written.
    """

    def __init__(
        self,
        recipe: Recipe,
        run_dir: Path,
        data: DataSplits,
        source_sha256: str | None,
        accelerator: Accelerator,
        log_bytes: int = 0,
    ) -> None:
        self.recipe = recipe
        self.run_dir = run_dir
        self.source_sha256 = source_sha256
        suffix = "sterna" if recipe.ternary is not None else "safetensors"
        self.last_path = run_dir / f"{recipe.name}.{suffix}"
        self.best_path = run_dir / f"{recipe.name}.best.{suffix}"
        self.graph_problem: str | None = None
        self._graphs: tuple[Graph, ...] | None = None
        self._data = data
        self._log = MetricsLog(run_dir / "metrics.jsonl", log_bytes) if accelerator.is_main_process else None

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        if self._log is not None:
            self._log.append(line)

    def synchronize_log(self) -> int:
        """Bring ``metrics.jsonl`` to the disk and return its length in bytes."""
        return self._log.synchronize() if self._log is not None else 0

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        if self._log is not None:
            save_checkpoint(checkpoint, self.run_dir)

    def convert(
        self, model: nn.Module, metrics: Mapping[str, float], split: str, *, finished: bool = True
    ) -> TernaryModel:
        """Convert a trained model, with all that its file says about it; or one that is not ``finished`` training."""
        recipe = self.recipe
        metadata = {
            "model": {"name": recipe.model.name, "arguments": dict(recipe.model.arguments)},
            "task": recipe.task,
            "labels": list(self._data.labels),
            "preprocessing": dict(self._data.preprocessing),
            "recipe": recipe.model_dump(mode="json"),
            "metrics": file_metrics(metrics, split),
            "source_sha256": self.source_sha256,
        }
        if recipe.task != "classification" and (detector := describe_detector(model)) is not None:
            metadata["detector"] = detector
        if recipe.model.license is not None:
            metadata["license"] = recipe.model.license
        storage = recipe.storage
        conversion = convert if finished else convert_as_is
        converted = conversion(model, float_dtype=storage.float_dtype, int8=storage.int8, metadata=metadata)
        return replace(converted, graphs=self._capture(model))

    def _capture(self, model: nn.Module) -> tuple[Graph, ...]:
        """What the model computes; training changes nothing about it, so that once is enough."""
        if self._graphs is None:
            try:
                if self.recipe.task == "classification":
                    self._graphs = (capture(model, self._data.preprocessing["input_shape"]),)
                else:
                    self._graphs = capture_detector(model)
            except SternaError as error:
                self._graphs, self.graph_problem = (), str(error)
        return self._graphs

    def save_best(self, model: nn.Module, metrics: Mapping[str, float]) -> None:
        """Keep a model as the best so far; until the end of the run its file says how well it validates."""
        if self._log is None:
            return
        if self.recipe.ternary is None:
            self.save_floats(model, self.best_path)
        else:
            self.save(self.convert(model, metrics, "validation"), self.best_path)

    def save_floats(self, model: nn.Module, path: Path) -> int:
        """Write a model that is not ternary as safetensors, and return the size of its file in bytes."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        return write_whole(path, dump_safetensors(tensors))

    def save(self, model: TernaryModel, path: Path) -> int:
        """Write a model with the coder of the recipe, and return the size of its file in bytes."""
        return save(model, path, coder=self.recipe.storage.coder)

    def read_best(self) -> TernaryModel:
        """The model that :meth:`save_best` has kept."""
        return read(self.best_path)

    def close(self) -> None:
        """Close ``metrics.jsonl``."""
        if self._log is not None:
            self._log.close()


def file_metrics(metrics: Mapping[str, float], split: str) -> dict[str, float | str]:
    """What a file says about its accuracy."""
    return {**{key: value for key, value in metrics.items() if key != "loss"}, "split": split}


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and machines, whole or not at all.

    Raises:
        SternaError: it cannot be written.
    """
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
