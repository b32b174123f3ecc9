"""One compression run: from a recipe to a ``.sterna`` file whose accuracy was measured on what it holds."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import nn

from sterna.config import Recipe
from sterna.data import DataSplits, load_data
from sterna.loading import fill
from sterna.models import build_model, load_weights
from sterna.prepare import prepare
from sterna.tasks.classification import evaluate
from sterna.train.checkpoint import Checkpoint, check_resumable, load_checkpoint
from sterna.train.distillation import make_teacher
from sterna.train.loop import TrainingLoop
from sterna.train.progress import make_display
from sterna.train.recipe import dump_recipe
from sterna.train.recorder import Recorder, file_metrics, save_model, write_json, write_text


@dataclass(frozen=True)
class CompressResult:
    """What a run has come to.

    Args:
        path: of the last model's file.
        file_bytes: its size, every byte counted.
        metrics: of that file on the test images: ``top1`` and ``top5`` in percent, ``loss``, ``images``.
        baseline_metrics: of the uncompressed model on the same images.
        sparsity: fraction of zeros over the ternary weights.
        seconds: time spent training and evaluating, over all processes that worked on the run in turn.
        steps: of the optimiser.
    """

    path: Path
    file_bytes: int
    metrics: dict[str, float]
    baseline_metrics: dict[str, float]
    sparsity: float
    seconds: float
    steps: int


def compress(
    recipe: Recipe, run_dir: str | Path, *, resume: bool = False, progress: bool = True
) -> CompressResult:
    """Train the model of a recipe into a sparse ternary one and store it.

    The accuracy in the file is measured on a fresh module filled from the converted, rounded model, so that reading
    the file gives the same number. Under ``accelerate launch`` every process calls this; the first one writes.

    Args:
        recipe: what to compress, on which data, and how.
        run_dir: gets ``NAME.sterna``, ``NAME.best.sterna`` (the best on held-out images, where the recipe holds some
            out), ``recipe.yaml``, ``metrics.jsonl``, ``result.json`` and the checkpoint.
        resume: continue from the checkpoint in ``run_dir``.
        progress: show a bar on standard error.

    Returns:
        The same numbers that ``result.json`` holds.

    Raises:
        ConfigError: the recipe does not fit the model or the data.
        DataError: data or weights are missing or damaged.
        CheckpointError: there is nothing to resume, or it began with another recipe.
        SternaError: training diverged, or a file cannot be written.
    """
    run_dir = Path(run_dir)
    accelerator = _make_accelerator(recipe)
    checkpoint = load_checkpoint(run_dir) if resume else None
    _seed(recipe.seed)
    data = load_data(recipe.data, recipe.seed)
    network = build_model(recipe.model)
    source_sha256 = load_weights(network, recipe.model.weights) if recipe.model.weights is not None else None
    if checkpoint is not None:
        check_resumable(checkpoint, recipe, source_sha256, accelerator.num_processes)
    if recipe.train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = network.to(accelerator.device)

    loop = _make_loop(recipe, run_dir, network, data, source_sha256, accelerator, checkpoint)
    display = make_display(
        progress and accelerator.is_main_process, recipe.train.epochs, loop.schedule.total_steps, loop.step
    )
    loop.run(display)
    loop.finish()
    return _store(loop, recipe, data, accelerator)


def _make_accelerator(recipe: Recipe) -> Accelerator:
    return Accelerator(
        mixed_precision="bf16" if recipe.train.precision == "bfloat16" else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=False),
    )


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _make_loop(
    recipe: Recipe,
    run_dir: Path,
    network: nn.Module,
    data: DataSplits,
    source_sha256: str | None,
    accelerator: Accelerator,
    checkpoint: Checkpoint | None,
) -> TrainingLoop:
    """Prepare the network and everything around it, at the beginning of the run or where the checkpoint left it."""
    teacher = make_teacher(recipe, network, accelerator.device)
    baseline = checkpoint.baseline if checkpoint is not None else None
    if checkpoint is None and recipe.schedule.dense_epochs == 0.0:
        baseline = evaluate(network, data.test, accelerator=accelerator, workers=recipe.data.workers)
    prepare(network, recipe.ternary)
    if accelerator.is_main_process and checkpoint is None:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(run_dir / "recipe.yaml", dump_recipe(recipe))
    log_bytes = checkpoint.log_bytes if checkpoint is not None else 0
    recorder = Recorder(recipe, run_dir, data, source_sha256, accelerator, log_bytes)
    loop = TrainingLoop(network, data, teacher, accelerator, recorder, baseline=baseline)
    if checkpoint is not None:
        loop.restore(checkpoint)
    return loop


def _store(loop: TrainingLoop, recipe: Recipe, data: DataSplits, accelerator: Accelerator) -> CompressResult:
    """Convert, measure what was converted, and write it with that measurement."""
    recorder = loop.recorder
    unmeasured = recorder.convert(loop.result, {}, "test")
    measured = fill(build_model(recipe.model), unmeasured).to(accelerator.device)
    metrics = evaluate(measured, data.test, accelerator=accelerator, workers=recipe.data.workers)
    stored = recorder.convert(loop.result, metrics, "test")
    result = CompressResult(
        path=recorder.last_path,
        file_bytes=0,
        metrics=metrics,
        baseline_metrics=loop.baseline or {},
        sparsity=stored.sparsity,
        seconds=round(loop.seconds, 3),
        steps=loop.step,
    )
    return result
