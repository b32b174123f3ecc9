"""``sterna evaluate``: the accuracy of a ``.sterna`` file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sterna.cli import options, output
from sterna.cli.data_sets import Split, data_config
from sterna.cli.native import native_batch_size
from sterna.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


class Engine(StrEnum):
    """What computes the network."""

    torch = "torch"
    native = "native"


class Reference(StrEnum):
    """What the native engine is compared with."""

    torch = "torch"


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="What `sterna compress` wrote.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME:PATH", help="Data set and its folder; by default those of the file's recipe."),
    ] = None,
    split: Annotated[Split, typer.Option(help="The part of the data set; train is read without augmentation.")] = (
        Split.test
    ),
    engine: Annotated[
        Engine,
        typer.Option(
            help="torch: the network as a PyTorch module. native: Sterna's own engine; of detectors it computes the "
            "backbone and the heads, and PyTorch what lies between them."
        ),
    ] = Engine.torch,
    activations: options.ActivationType = options.Activations.float32,
    against: Annotated[
        Reference | None,
        typer.Option(help="native, classifiers: also count the images that PyTorch classifies differently."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, metavar="N", help="Images in one forward pass.")] = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Measure the accuracy of a .sterna file and compare it with the accuracy stored in it.

    With PyTorch the two are exactly equal where data and split are those of the
    run; the native engine sums in another order, or rounds activations. Images
    a second are those of the network alone, without the reading of images. The
    exit code is 0 whenever the measurement was made.

    Examples:
      sterna evaluate runs/digits_demo/digits_demo.sterna
      sterna evaluate model.sterna --split validation --json
      sterna evaluate model.sterna --data cifar10:/data/cifar-10-batches-bin
      sterna evaluate model.sterna --engine native --activations int8 --against torch
    """
    if engine is Engine.torch and (activations is not options.Activations.float32 or against is not None):
        raise ConfigError("--activations int8 and --against are for --engine native")
    from sterna.container import SternaFile

    metadata = SternaFile.open(file, whole_checksum=True).metadata
    from sterna.data import load_data
    from sterna.loading import load
    from sterna.pictures import CLASSIFICATION
    from sterna.tasks.native import Compared, Stopwatch
    from sterna.tasks.select import task_of_file

    options.use_threads(threads)
    task = task_of_file(metadata)
    config = data_config(metadata, data, str(file))
    splits = load_data(config)
    labels = list(splits.labels)
    same_labels = labels == metadata.get("labels", labels)
    chosen = getattr(splits, split.value)
    if against is not None and task.name != CLASSIFICATION:
        raise ConfigError(f"--against compares classes, this is for {task.name}: evaluate it with both engines in turn")
    with output.progress("load") as progress:
        model: nn.Module = load(
            file, engine=engine.value, activations=activations.value, threads=threads, progress=progress
        )
    if engine is Engine.native:
        batch_size = batch_size or native_batch_size(splits.preprocessing)
    stopwatch = Stopwatch(model)
    compared = None
    if against is not None:
        with output.progress("load") as progress:
            model = compared = Compared(model, load(file, progress=progress))
    with output.progress("evaluate") as progress:
        measured = task.evaluate(model, chosen, batch_size=batch_size, workers=config.workers, progress=progress)
    stored = metadata.get("metrics")
    stored = stored if isinstance(stored, dict) and isinstance(stored.get(task.metric), int | float) else None
    comparable = stored is not None and stored.get("split", "test") == split.value
    keys = (task.metric, "images")
    equal = comparable and all(stored.get(key) == measured[key] for key in keys) if stored else False
    if as_json:
        document: dict[str, Any] = {"file": str(file), "data": config.name, "split": split.value}
        document |= {
            "measured": measured,
            "stored": stored,
            "equal": equal,
            "same_labels": same_labels,
            "engine": engine.value,
        }
        document |= {"activations": activations.value, "images_per_second": stopwatch.images_per_second}
        output.print_json(document | ({} if compared is None else {"different_top1": compared.different}))
        return
    rows = [
        ("file", str(file)),
        ("data", f"{config.name}, {split.value} split, {int(measured['images']):,} images"),
        ("engine", engine.value if engine is Engine.torch else f"native, {activations.value} activations"),
        ("measured", ", ".join(_shown(key, value) for key, value in measured.items() if key != "images")),
    ]
    if stopwatch.images_per_second is not None:
        rows.append(("speed", f"{stopwatch.images_per_second:,.1f} images/s"))
    if compared is not None:
        rows.append(("against torch", f"another top-1 answer for {compared.different:,} images"))
    if stored:
        text = _shown(task.metric, stored[task.metric])
        rows.append(("stored", f"{text} ({stored.get('split', 'test')} split)"))
        verdict = "yes, exactly" if equal else "no" if comparable else "not comparable: another split"
        if comparable and not equal and engine is Engine.native:
            verdict = f"no, {measured[task.metric] - stored[task.metric]:+.4f} points"
        rows.append(("equal", verdict))
    if not same_labels:
        rows.append(("note", "the class names of this data set are not those in the file"))
    output.stdout().print(output.pairs(rows))


def _shown(key: str, value: float) -> str:
    name = key.replace("top", "top-").replace("_ap", " AP")
    return f"{name} {value:.4f}" if key == "loss" else f"{name} {value:.4f} %"
