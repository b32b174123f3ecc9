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
from sterna.cli.native import load_classifier, native_batch_size
from sterna.cli.text import in_bytes
from sterna.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sterna.data import BatchDataset, DataSplits

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
    of its values a range is chosen. Ranges and what was done go into the file;
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
    from sterna.tasks.select import task_of_file

    options.use_threads(threads)
    task = task_of_file(source.metadata)
    if task.name != "classification":
        raise ConfigError(f"{file}: only classifiers can be calibrated with a data set, got {task.name}")
    config = data_config(source.metadata, data, str(file))
    splits = load_data(config)
    count = min(images, len(splits.train))
    with output.progress("calibrate") as progress:
        batches = _batches(splits.train, count, progress)
        model = calibrate_file(file, batches, method=method.value, percentile=percentile, threads=threads or 1)
    done: dict[str, Any] = {"method": method.value, "images": count, "data": config.name}
    if method is Method.percentile:
        done["percentile"] = percentile
    path = target or file
    size = write_whole(path, with_description(source, {**source.metadata, "calibration": done}, model.graphs))
    accuracies = _accuracies(path, splits, config.workers, threads) if evaluate else {}
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
        rows += [
            ("float32", f"top-1 {before['top1']:.2f} % of {before['images']:,} {split.value} images"),
            ("int8", f"top-1 {after['top1']:.2f} %, {after['top1'] - before['top1']:+.2f} points"),
        ]
    output.stdout().print(output.pairs(rows))


def _batches(
    dataset: BatchDataset[Any], count: int, progress: Callable[[int, int], None]
) -> Iterator[npt.NDArray[np.float32]]:
    """The first images of one fixed order, a few at a time."""
    from sterna.data.dataset import SHUFFLE_STREAM
    from sterna.data.randomness import random_order

    order = random_order(len(dataset), _SEED, 0, SHUFFLE_STREAM)[:count].tolist()
    size = min(32, max(1, _BATCH_VALUES // math.prod(dataset[0][0].shape)))
    for first in range(0, count, size):
        rows = order[first : first + size]
        yield dataset.__getitems__(rows)[0].numpy()
        progress(first + len(rows), count)


def _accuracies(path: Path, splits: DataSplits, workers: int, threads: int | None) -> Mapping[str, dict[str, float]]:
    from sterna.tasks.classification import Classification

    task = Classification()
    found = {}
    for activations in options.Activations:
        network = load_classifier(path, task.name, activations, threads)
        with output.progress(activations.value) as progress:
            found[activations.value] = task.evaluate(
                network,
                splits.validation,
                batch_size=native_batch_size(splits.preprocessing),
                workers=workers,
                progress=progress,
            )
    return found
