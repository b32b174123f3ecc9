"""One run: from a recipe to a ``.sterna`` file in a run folder."""

from __future__ import annotations

import atexit
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, send_to_device
from torch import nn

from sterna.config import Recipe
from sterna.container import write_whole
from sterna.conversion import int8_weights
from sterna.data import DataSplits, load_data, make_loader
from sterna.errors import CheckpointError, ConfigError, SternaError
from sterna.loading import fill
from sterna.machine import return_freed_memory
from sterna.models import build_model, load_weights
from sterna.preparation import prepare
from sterna.tasks.select import make_task
from sterna.tasks.task import Task
from sterna.ternary_model import TernaryModel
from sterna.train.batch_norm import are_folded, restore_batch_norms
from sterna.train.checkpoint import Checkpoint, check_resumable, checkpoint_path, load_checkpoint
from sterna.train.loop import LOG_INTERVAL, TrainingLoop
from sterna.train.precision import with_precision
from sterna.train.progress import make_display, show_stage
from sterna.train.recipe import dump_recipe
from sterna.train.reconstruction import Part, reconstruct
from sterna.train.recorder import Recorder, file_metrics, write_json
from sterna.train.schedule import Schedule

# Unreadable pictures that are named one by one.
_LISTED = 20
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class CompressResult:
    """What came out of a run.

    Args:
        path: of the final model: a ``.sterna`` file, or ``.safetensors`` of a run in floating point.
        file_bytes: its size.
        metrics: of the file on the test images.
        baseline_metrics: of the uncompressed model on the test images; without pretrained weights, of the model at
            the end of the dense phase.
        sparsity: fraction of zeros over all ternary weights.
        seconds: time spent, over all processes that worked on the run one after another.
        steps: of training.
        best_path: of the model that validated best, which may be the final one.
        best_metrics: of that file on the test images.
        metric: key of the metric that counts.
        unreadable: pictures that were left out because they cannot be decoded.
        graph_problem: why the file holds no graph, so that PyTorch alone can run it; nothing if it holds one.
    """

    path: Path
    file_bytes: int
    metrics: dict[str, float]
    baseline_metrics: dict[str, float]
    sparsity: float
    seconds: float
    steps: int
    best_path: Path
    best_metrics: dict[str, float]
    metric: str
    unreadable: int
    graph_problem: str | None


def compress(
    recipe: Recipe,
    run_dir: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    log_interval: int = LOG_INTERVAL,
) -> CompressResult:
    """Train a model to sparse ternary weights and store it.

    The folder gets ``recipe.yaml``, ``metrics.jsonl``, ``checkpoint/``, ``<name>.sterna`` (the final model),
    ``<name>.best.sterna`` (the one that validated best) and ``result.json``. Metrics in a file are measured on a fresh
    network filled with exactly what the file holds. A run that was stopped in any way continues with ``resume`` to the
    same bytes (on the CPU, with equal thread count).

    Args:
        recipe: all that decides the result, together with the data.
        run_dir: folder of the run; it is made.
        resume: continue the run in ``run_dir`` from its checkpoint, with the same recipe.
        progress: show a bar on standard error, or a line an epoch where that is no terminal.
        log_interval: steps between two lines of ``metrics.jsonl`` within an epoch.

    Raises:
        ConfigError: the recipe does not fit the model or the data.
        DataError: data or weights are missing or damaged.
        CheckpointError: there is nothing to resume, another recipe began the run, or the folder holds a run already.
        SternaError: training diverged, or a file cannot be written.
    """
    run_dir = Path(run_dir)
    started = time.monotonic()
    checkpoint = _open_run(run_dir, resume)
    recipe = with_precision(recipe, checkpoint.recipe if checkpoint is not None else None)
    accelerator = make_accelerator(recipe)
    shown = progress and accelerator.is_main_process
    parts = set_up(recipe, accelerator)
    network, data, task = parts.network, parts.data, parts.task
    if checkpoint is not None:
        check_resumable(checkpoint, recipe, parts.source_sha256, accelerator.num_processes)
    baseline = checkpoint.baseline if checkpoint is not None else None
    if baseline is None and parts.source_sha256 is not None and not recipe.model.fresh:
        with show_stage(shown, "measuring the uncompressed model on the test images"):
            baseline = task.evaluate(network, data.test, workers=recipe.data.workers, accelerator=accelerator)
    prepare_network(network, recipe)
    if checkpoint is None:
        reconstruct_network(parts, recipe, accelerator, shown)
        return_freed_memory()  # of the closed form, often several times what training needs

    if accelerator.is_main_process:
        write_whole(run_dir / "recipe.yaml", dump_recipe(recipe).encode())
    log_bytes = checkpoint.log_bytes if checkpoint is not None else 0
    recorder = Recorder(recipe, run_dir, data, parts.source_sha256, accelerator, log_bytes)
    if data.unreadable and checkpoint is None:
        recorder.log({"unreadable": len(data.unreadable), "first": data.unreadable[:_LISTED]})
    try:
        loop = TrainingLoop(
            network, data, task, accelerator, recorder, baseline=baseline, log_interval=log_interval, started=started
        )
        if checkpoint is not None:
            loop.restore(checkpoint)
        loop.run(make_display(shown, recipe.train.epochs, loop.schedule.total_steps, loop.step))
        result = _finish(loop, recorder, data, task, accelerator)
        atexit.register(_leave_group)
        return result
    except RuntimeError as error:
        if accelerator.num_processes > 1 and _tells_of_a_lost_process(error):
            raise SternaError(
                f"another process of the run is gone ({str(error).strip().splitlines()[0][:_SHOWN_CHARACTERS]}); "
                "start all of them again with --resume"
            ) from error
        raise
    finally:
        recorder.close()


def _open_run(run_dir: Path, resume: bool) -> Checkpoint | None:
    """Make the folder of a new run, or read the checkpoint of an old one."""
    if resume:
        return load_checkpoint(run_dir)
    if checkpoint_path(run_dir).exists():
        raise CheckpointError(
            f"{run_dir} holds a run already: continue it with --resume, or choose another folder, or delete this one"
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SternaError(f"cannot make the run folder {run_dir}: {error.strerror or error}") from error
    return None


@dataclass(frozen=True)
class Parts:
    """What a run works with.

    Args:
        network: with its weights, on the device of the run; not prepared.
        data: its splits.
        task: with its teacher.
        source_sha256: of the file of weights, or nothing.
    """

    network: nn.Module
    data: DataSplits
    task: Task[Any]
    source_sha256: str | None


def set_up(recipe: Recipe, accelerator: Accelerator) -> Parts:
    """Build the network, open the data, and check that they fit; errors as :func:`compress`."""
    _seed(recipe.seed)
    network = build_model(recipe.model)
    model, source_sha256 = recipe.model, None
    if model.weights is not None:
        source_sha256 = load_weights(network, model.weights, prefix=model.weights_prefix, fresh=model.fresh)
    data = load_data(recipe.data, recipe.seed)
    if recipe.train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    network.to(accelerator.device)
    make_task(recipe).check_fit(network, data)
    if source_sha256 is not None and not recipe.train.freeze_batch_norm and are_folded(network):
        batches = max(1, recipe.train.batch_norm_batches)
        restore_batch_norms(network, _inputs(recipe, data, accelerator.device, batches))
    return Parts(network, data, make_task(recipe, network, accelerator.device), source_sha256)


def prepare_network(network: nn.Module, recipe: Recipe) -> None:
    """Attach what makes a network ternary, if it is to become so."""
    if recipe.ternary is not None:
        prepare(network, recipe.ternary)
        int8_weights(network, recipe.storage.int8)  # a pattern that matches nothing is refused now, not after training


def reconstruct_network(parts: Parts, recipe: Recipe, accelerator: Accelerator, shown: bool = False) -> None:
    """Give a prepared network its first trits in closed form, if the recipe says so; the same ones on every process."""
    config = recipe.reconstruction
    if config is None:
        return
    batches = math.ceil(config.images / recipe.train.batch_size)
    images = list(_inputs(recipe, parts.data, accelerator.device, batches))
    precision = torch.bfloat16 if recipe.train.precision == "bfloat16" else torch.float32
    sparsity = Schedule(recipe, 1).sparsity(0)
    with show_stage(shown, "choosing trits in closed form, layer by layer") as report:
        if recipe.task == "classification":
            pieces = [Part("", lambda _: images)]
        else:
            from sterna.train.detector_parts import detector_parts

            pieces = detector_parts(parts.network, images, precision)
        reconstruct(parts.network, pieces, sparsity, config, seed=recipe.seed, precision=precision, report=report)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """The processes and the precision of a run.

    Raises:
        ConfigError: the batch cannot be split evenly over the processes.
    """
    # Accelerate keeps the precision of the first run in the process and would refuse another one in the second.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        # Accelerate forms a group of processes on the CPU only if it is told so.
        cpu=not torch.accelerator.is_available(),
        mixed_precision="bf16" if recipe.train.precision == "bfloat16" else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        # Learned scales get no gradient before the ternary phase.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=_may_leave_out(recipe))],
    )
    if recipe.train.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"train.batch_size (={recipe.train.batch_size}) must be a multiple of the number of processes "
            f"(={accelerator.num_processes})"
        )
    return accelerator


def _leave_group() -> None:
    """End the group of processes, so that its threads do not outlive the interpreter and abort the process.

    At the end of the process: later runs in it use the same group. Only after a run that ended well: while others
    still communicate, leaving could wait for them (https://github.com/pytorch/pytorch/issues/190489).
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (for models of other libraries)
    torch.manual_seed(seed)


def _may_leave_out(recipe: Recipe) -> bool:
    """Whether parameters may get no gradient.

    Learned scales do before the ternary phase, heads without objects, and what lies before modules that learn alone.
    """
    learns_alone = recipe.distillation is not None and recipe.distillation.local_epochs > 0.0
    has_scales = recipe.ternary is not None and recipe.ternary.scale == "learned"
    return recipe.task != "classification" or learns_alone or has_scales


def _tells_of_a_lost_process(error: RuntimeError) -> bool:
    """Whether an error comes from the connections between processes; those are plain RuntimeErrors with gloo."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _inputs(recipe: Recipe, data: DataSplits, device: torch.device, batches: int) -> Iterator[Any]:
    """Training images for a network before it is trained; the same on every process and in every run.

    Once all have come they come again, augmented in another way; no training step sees any of them like this.
    """
    task = make_task(recipe)
    for epoch in count(recipe.train.epochs + 1):
        data.train.set_epoch(epoch)
        for batch in islice(make_loader(data.train, recipe.train.batch_size, shuffle=True, seed=recipe.seed), batches):
            yield task.inputs(send_to_device(batch, device))
            batches -= 1
        if batches == 0:
            return


def _finish(
    loop: TrainingLoop, recorder: Recorder, data: DataSplits, task: Task[Any], accelerator: Accelerator
) -> CompressResult:
    """Convert, measure what was converted, and write it; the first process does it for all."""
    validation = loop.finish()
    best_is_last = loop.best is validation
    results: list[Any] = [None]
    if accelerator.is_main_process:
        recipe = recorder.recipe
        sparsity = 0.0
        if recipe.ternary is None:
            file_bytes = recorder.save_floats(loop.result, recorder.last_path)
            metrics = _measure_floats(recorder.last_path, recipe, data, task, accelerator.device)
            best_metrics = metrics
            if not best_is_last:
                best_metrics = _measure_floats(recorder.best_path, recipe, data, task, accelerator.device)
        else:
            last = recorder.convert(loop.result, validation, "validation")
            last, metrics = _measure(last, recipe, data, task, accelerator.device)
            file_bytes = recorder.save(last, recorder.last_path)
            best, best_metrics = last, metrics
            if not best_is_last:
                best, best_metrics = _measure(recorder.read_best(), recipe, data, task, accelerator.device)
            recorder.save(best, recorder.best_path)
            sparsity = float(last.sparsity)
        baseline = loop.baseline if recipe.ternary is not None else metrics
        if baseline is None:
            raise RuntimeError("a run always passes the end of its dense phase")
        result = CompressResult(
            path=recorder.last_path,
            file_bytes=file_bytes,
            metrics=metrics,
            baseline_metrics=baseline,
            sparsity=sparsity,
            seconds=round(loop.seconds, 3),
            steps=loop.step,
            best_path=recorder.best_path,
            best_metrics=best_metrics,
            metric=task.metric,
            unreadable=len(data.unreadable),
            graph_problem=recorder.graph_problem,
        )
        names = {"path": result.path.name, "best_path": result.best_path.name}
        write_json(recorder.run_dir / "result.json", {**asdict(result), **names})
        results = [result]
    broadcast_object_list(results)
    returned: CompressResult = results[0]
    return returned


def _measure(
    model: TernaryModel, recipe: Recipe, data: DataSplits, task: Task[Any], device: torch.device
) -> tuple[TernaryModel, dict[str, float]]:
    """Test a fresh network filled with a stored model, and write the result into its metadata."""
    network = fill(build_model(recipe.model), model).to(device)
    metrics = task.evaluate(network, data.test, workers=recipe.data.workers)
    metadata = {**model.metadata, "metrics": file_metrics(metrics, "test")}
    return replace(model, metadata=metadata), metrics


def _measure_floats(
    path: Path, recipe: Recipe, data: DataSplits, task: Task[Any], device: torch.device
) -> dict[str, float]:
    """Test a fresh network filled from a file of a run in floating point."""
    network = build_model(recipe.model)
    load_weights(network, path.resolve())
    return task.evaluate(network.to(device), data.test, workers=recipe.data.workers)
