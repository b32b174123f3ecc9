"""What a run will need, found out by a few of its steps: a check of data, memory and time before hours are spent."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import send_to_device

from sterna.config import Recipe
from sterna.container import encode
from sterna.machine import peak_bytes
from sterna.train.loop import TrainingLoop
from sterna.train.precision import with_precision
from sterna.train.recorder import Recorder
from sterna.train.run import make_accelerator, prepare_network, reconstruct_network, set_up

STEPS = 10
_WARM_UP = 3
# Images that are evaluated; detectors take a second for each on a processor.
_EVALUATED = {"classification": 64}
_DETECTED = 4


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps of a run tell of all of it, on this machine.

    Args:
        train_images: in an epoch.
        validation_images: in the split for validation.
        test_images: in the split for testing.
        total_steps: of the run.
        steps_per_second: of training, with the loading of data; the median of the steps after the first three.
        seconds: that the whole run will take, with its validations.
        file_bytes: of the file, with the trits that the weights at hand would have at the zeros of the recipe.
        sparsity: fraction of zeros over the ternary layers; what a target size needs.
        peak_bytes: of memory, of this process.
        device: that was trained on.
        processes: that train together.
    """

    train_images: int
    validation_images: int
    test_images: int
    total_steps: int
    steps_per_second: float
    seconds: float
    file_bytes: int | None
    sparsity: float
    peak_bytes: int
    device: str
    processes: int


def rehearse(recipe: Recipe, steps: int = STEPS, *, progress: bool = False) -> Rehearsal:
    """Build everything that a run needs, do a few of its last steps, and throw them away.

    Args:
        recipe: of the run.
        steps: of training to do; more than three.
        progress: tell on standard error what is done before the steps.

    Raises:
        SternaError: what :func:`sterna.train.run.compress` would raise.
    """
    recipe = with_precision(recipe)
    accelerator = make_accelerator(recipe)
    parts = set_up(recipe, accelerator)
    prepare_network(parts.network, recipe)
    reconstruct_network(parts, recipe, accelerator, progress and accelerator.is_main_process)
    data = parts.data
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(recipe, Path(folder), data, parts.source_sha256, accelerator)
        try:
            loop = TrainingLoop(parts.network, data, parts.task, accelerator, recorder, baseline={})
            seconds_of_steps = loop.rehearse(steps)
            file_bytes = None
            if recipe.ternary is not None:
                model = recorder.convert(parts.network, {}, "test")
                file_bytes = len(encode(model, coder=recipe.storage.coder))
        finally:
            recorder.close()
    evaluated = min(len(data.test), _EVALUATED.get(parts.task.name, _DETECTED))
    started = time.perf_counter()
    batch = send_to_device(data.test.__getitems__(range(evaluated)), accelerator.device)
    with torch.inference_mode():
        parts.network.eval()(parts.task.inputs(batch))
    seconds_per_image = (time.perf_counter() - started) / evaluated / accelerator.num_processes
    step = statistics.median(seconds_of_steps[_WARM_UP:] or seconds_of_steps)
    validations = recipe.train.epochs // recipe.train.validation_interval
    images = validations * len(data.validation) + 2 * len(data.test)
    return Rehearsal(
        train_images=len(data.train),
        validation_images=len(data.validation),
        test_images=len(data.test),
        total_steps=loop.schedule.total_steps,
        steps_per_second=1.0 / step,
        seconds=step * loop.schedule.total_steps + images * seconds_per_image,
        file_bytes=file_bytes,
        sparsity=loop.schedule.final_sparsity,
        peak_bytes=peak_bytes(),
        device=str(accelerator.device),
        processes=accelerator.num_processes,
    )
