"""``sterna calibrate``: ranges for 8-bit activations, measured on training images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sterna.cli import options, output
from sterna.cli.data_sets import Split, data_config
from sterna.cli.native import native_batch_size
from sterna.cli.text import in_bytes
from sterna.errors import ConfigError

if TYPE_CHECKING:
    from sterna.data import BatchDataset, DataSplits
    from sterna.tasks.task import Task

# The first images of one fixed order.
_SEED = 0
# All values of a network are kept at once: 4 images of 224 x 224.
_BATCH_VALUES = 602_112


class Method(StrEnum):
    """How ranges are chosen."""

    mse = "mse"
    percentile = "percentile"
    max = "max"


def calibrate(
    file: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="A file with a graph.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME:PATH", help="Data set and its folder; by default those of the file's recipe."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, metavar="N", help="Training images, drawn in a fixed order.")] = 256,
    method: Annotated[
        Method,
        typer.Option(
            help="mse: the least squared error of rounding and clipping. percentile: clip what lies beyond. "
            "max: clip nothing that was seen."
        ),
    ] = Method.mse,
    percentile: Annotated[
        float, typer.Option(metavar="P", help="percentile: magnitudes that are not clipped, in percent.")
    ] = 99.999,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="NEW.sterna", help="Where to; by default into the file itself.")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Also measure float32 and int8 on the validation split.")
    ] = False,
    threads: options.Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace NEW.sterna if it exists.")] = False,
    as_json: options.Json = False,
) -> None:
    """Give a .sterna file the ranges that 8-bit activations need.

    The network computes training images, without augmentation, and for each
    of its values a range is chosen; the heads of a detector compute what it
    proposes and finds in them. Ranges and what was done go into the file;
    its weights stay as they are, byte for byte. The test split is not looked
    at, nor is the validation split without --evaluate; where a data set has
    no validation split, that is the test split.

    Examples:
      sterna calibrate runs/digits_demo/digits_demo.sterna --evaluate
      sterna calibrate model.sterna --data image-folder:/data/imagenet --images 512 --out model8.sterna
      sterna evaluate model8.sterna --engine native --activations int8
    """
    if target is not None and target.exists() and not force and not (file.exists() and target.samefile(file)):
        raise ConfigError(f"{target} exists: replace it with --force, or choose another name")
    from sterna.container import SternaFile, with_description, write_whole

    source = SternaFile.open(file, whole_checksum=True)
    from sterna.calibration import calibrate as calibrate_file
    from sterna.data import load_data
    from sterna.pictures import CLASSIFICATION
    from sterna.tasks.select import task_of_file

    options.use_threads(threads)
    task = task_of_file(source.metadata)
    config = data_config(source.metadata, data, str(file))
    splits = load_data(config)
    count = min(images, len(splits.train))
    with output.progress("calibrate") as progress:
        if task.name == CLASSIFICATION:
            batches = _batches(splits.train, count, _images_at_once(splits.train), progress)
            model = calibrate_file(
                file,
                (images.numpy() for images, _ in batches),
                method=method.value,
                percentile=percentile,
                threads=threads or 1,
            )
        else:
            from sterna.detector_calibration import calibrate_detector

            batches = _batches(splits.train, count, 1, progress)
            model = calibrate_detector(
                file,
                (images for images, _ in batches),
                method=method.value,
                percentile=percentile,
                threads=threads or 1,
            )
    done: dict[str, Any] = {"method": method.value, "images": count, "data": config.name}
    if method is Method.percentile:
        done["percentile"] = percentile
    path = target or file
    size = write_whole(path, with_description(source, {**source.metadata, "calibration": done}, model.graphs))
    accuracies = _accuracies(path, task, splits, config.workers, threads) if evaluate else {}
    if as_json:
        document = {"file": path, "file_bytes": size, "before_bytes": source.data.size, "calibration": done}
        output.print_json(document | ({"validation": accuracies} if evaluate else {}))
        return
    chosen = f"{method.value} {percentile} %" if method is Method.percentile else method.value
    rows = [
        ("file", str(path)),
        ("size", f"{in_bytes(size)}, before {source.data.size:,} B"),
        ("calibrated", f"{chosen}, on {count:,} training images of {config.name}"),
    ]
    if evaluate:
        split = Split.test if splits.validation is splits.test else Split.validation
        before, after = accuracies["float32"], accuracies["int8"]
        metric, label = task.metric, task.metric_label
        rows += [
            ("float32", f"{label} {before[metric]:.2f} % of {before['images']:,} {split.value} images"),
            ("int8", f"{label} {after[metric]:.2f} %, {after[metric] - before[metric]:+.2f} points"),
        ]
    output.stdout().print(output.pairs(rows))


def _images_at_once(dataset: BatchDataset[Any]) -> int:
    values: int = math.prod(dataset[0][0].shape)
    return min(32, max(1, _BATCH_VALUES // values))


def _batches(dataset: BatchDataset[Any], count: int, size: int, progress: Callable[[int, int], None]) -> Iterator[Any]:
    """The first images of one fixed order with what the data set says of them, ``size`` at a time."""
    from sterna.data.dataset import SHUFFLE_STREAM
    from sterna.data.randomness import random_order

    order = random_order(len(dataset), _SEED, 0, SHUFFLE_STREAM)[:count].tolist()
    for first in range(0, count, size):
        rows = order[first : first + size]
        yield dataset.__getitems__(rows)
        progress(first + len(rows), count)


def _accuracies(
    path: Path, task: Task[Any], splits: DataSplits, workers: int, threads: int | None
) -> Mapping[str, dict[str, float]]:
    from sterna.loading import load

    found = {}
    for activations in options.Activations:
        network = load(path, engine="native", activations=activations.value, threads=threads)
        with output.progress(activations.value) as progress:
            found[activations.value] = task.evaluate(
                network,
                splits.validation,
                batch_size=native_batch_size(splits.preprocessing),
                workers=workers,
                progress=progress,
            )
    return found
