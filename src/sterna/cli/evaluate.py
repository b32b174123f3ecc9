"""``sterna evaluate``: the accuracy of a ``.sterna`` file."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sterna.cli import options, output
from sterna.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sterna.config import DataConfig


class Split(StrEnum):
    """The part of a data set to look at."""

    test = "test"
    validation = "validation"
    train = "train"


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="What `sterna compress` wrote.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME:PATH", help="Data set and its folder; by default those of the file's recipe."),
    ] = None,
    split: Annotated[Split, typer.Option(help="The part of the data set; train is read without augmentation.")] = (
        Split.test
    ),
    batch_size: Annotated[int | None, typer.Option(min=1, metavar="N", help="Images in one forward pass.")] = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Measure the accuracy of a .sterna file and compare it with the accuracy stored in it.

    The two are exactly equal where data and split are those of the run. The
    exit code is 0 whenever the measurement was made.

    Examples:
      sterna evaluate runs/digits_demo/digits_demo.sterna
      sterna evaluate model.sterna --split validation --json
      sterna evaluate model.sterna --data cifar10:/data/cifar-10-batches-bin
    """
    from sterna.container import SternaFile

    metadata = SternaFile.open(file, whole_checksum=True).metadata
    from sterna.data import load_data
    from sterna.loading import load
    from sterna.tasks.select import task_of_file

    options.use_threads(threads)
    task = task_of_file(metadata)
    config = _data_config(metadata, data, str(file))
    splits = load_data(config)
    labels = list(splits.labels)
    same_labels = labels == metadata.get("labels", labels)
    chosen = getattr(splits, split.value)
    with output.progress("load") as progress:
        model = load(file, progress=progress)
    with output.progress("evaluate") as progress:
        measured = task.evaluate(model, chosen, batch_size=batch_size, workers=config.workers, progress=progress)
    stored = metadata.get("metrics")
    stored = stored if isinstance(stored, dict) and isinstance(stored.get(task.metric), int | float) else None
    comparable = stored is not None and stored.get("split", "test") == split.value
    keys = (task.metric, "images")
    equal = comparable and all(stored.get(key) == measured[key] for key in keys) if stored else False
    if as_json:
        document = {"file": str(file), "data": config.name, "split": split.value, "measured": measured}
        output.print_json({**document, "stored": stored, "equal": equal, "same_labels": same_labels})
        return
    rows = [
        ("file", str(file)),
        ("data", f"{config.name}, {split.value} split, {int(measured['images']):,} images"),
        ("measured", ", ".join(_shown(key, value) for key, value in measured.items() if key != "images")),
    ]
    if stored:
        text = _shown(task.metric, stored[task.metric])
        rows.append(("stored", f"{text} ({stored.get('split', 'test')} split)"))
        verdict = "yes, exactly" if equal else "no" if comparable else "not comparable: another split"
        rows.append(("equal", verdict))
    if not same_labels:
        rows.append(("note", "the class names of this data set are not those in the file"))
    output.stdout().print(output.pairs(rows))


def _shown(key: str, value: float) -> str:
    name = key.replace("top", "top-").replace("_ap", " AP")
    return f"{name} {value:.4f}" if key == "loss" else f"{name} {value:.4f} %"


def _data_config(metadata: Mapping[str, Any], data: str | None, file: str) -> DataConfig:
    """The data set of the file's recipe, or another one with the preprocessing of the file."""
    from pydantic import ValidationError

    from sterna.config import DataConfig

    recipe = metadata.get("recipe")
    values = dict(recipe["data"]) if isinstance(recipe, dict) and isinstance(recipe.get("data"), dict) else {}
    if data is not None:
        name, _, path = data.partition(":")
        if name != values.get("name"):
            values = _preprocessing(metadata, name)
        values |= {"name": name, "path": path or None}
    if not values:
        raise DataError(f"{file} does not say which data it was made for: give --data NAME:PATH")
    try:
        return DataConfig.model_validate_json(json.dumps({**values, "augment": False}))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key, got, place = ".".join(map(str, problem["loc"])), problem["input"], "--data" if data is not None else file
        raise ConfigError(f"{place}: data {key} {json.dumps(got)} is not allowed: {problem['msg']}") from None


def _preprocessing(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    stored = metadata.get("preprocessing")
    stored = stored if isinstance(stored, dict) else {}
    values = {key: stored[key] for key in ("mean", "std") if key in stored}
    if name in ("image-folder", "shards") and isinstance(stored.get("input_shape"), list):
        values["image_size"] = stored["input_shape"][-1]
    return values
