"""``sterna run``: what a network says about pictures."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sterna.cli import options, output
from sterna.cli.text import printable
from sterna.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from sterna.pictures import Preprocessing

DRAWN_SUFFIX = ".detections.png"
# Those that torchvision's ImageFolder reads.
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})


class Engine(StrEnum):
    """What computes the network."""

    auto = "auto"
    native = "native"
    torch = "torch"


_Prediction = dict[str, Any]
_Predictor = Callable[[Path, "Image"], list[_Prediction]]


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="What `sterna compress` wrote.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Pictures; a folder means all pictures right in it.")
    ],
    top: Annotated[
        int, typer.Option("--top", min=1, metavar="N", help="Classifiers: how many classes to show of each picture.")
    ] = 5,
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0.0, max=1.0, metavar="P", help="Detectors: lowest score of an object."),
    ] = 0.5,
    folder: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Detectors: where to draw to; it is made if needed.")
    ] = Path(),
    engine: Annotated[
        Engine,
        typer.Option(
            help="native: Sterna's own engine, for files with graphs; classifiers then need no PyTorch, detectors "
            "still do, for what lies between backbone and heads. torch: any file. auto: native where the file "
            "allows it."
        ),
    ] = Engine.auto,
    activations: options.ActivationType = options.Activations.float32,
    threads: options.Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace drawn pictures that exist.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show what a .sterna file says about pictures.

    A classifier gives the most probable classes of each picture. A detector
    gives the objects, and draws them: NAME.detections.png in the folder of
    --output. The file itself says how pictures are prepared, and what the
    classes are called.

    A picture that cannot be read is reported and the others are still done;
    the exit code is then 2.

    Examples:
      sterna run runs/resnet18/resnet18.sterna cat.jpg dog.jpg --top 3
      sterna run runs/resnet18/resnet18.sterna photos/ --json
      sterna run detector.sterna street.jpg --threshold 0.7 --output drawn
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold must be 0 to 1, got {threshold}")
    from sterna import pictures
    from sterna.container import SternaFile

    stored = SternaFile.open(file, whole_checksum=True)
    metadata = stored.metadata
    paths = _list_pictures(images)
    try:
        task = pictures.read_task(metadata)
        labels = pictures.read_labels(metadata)
        is_classifier = task == pictures.CLASSIFICATION
        preprocessing = pictures.Preprocessing.from_metadata(metadata) if is_classifier else None
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    if engine is Engine.auto:
        has_graph = any(graph.name == "" for graph in stored.graphs) if is_classifier else bool(stored.graphs)
        engine = Engine.native if has_graph else Engine.torch
    if engine is Engine.torch and activations is not options.Activations.float32:
        raise ConfigError(f"--activations {activations.value} is for the native engine, which does not run {file}")
    drawings = {} if is_classifier else _plan_drawings(paths, folder, force=force)
    predict: _Predictor
    if engine is Engine.native and is_classifier:
        assert preprocessing is not None
        predict = _native_classifier(file, preprocessing, labels, top, activations, threads)
    else:
        from sterna.loading import load
        from sterna.tasks import prediction

        options.use_threads(threads)
        with output.progress("load") as progress:
            # A few pictures are done sooner than kernels have been compared.
            model = load(
                file,
                engine="native" if engine is Engine.native else "torch",
                activations=activations.value,
                threads=threads,
                tune=False,
                progress=progress,
            )

        def classify(path: Path, image: Image) -> list[_Prediction]:
            del path
            assert preprocessing is not None
            return _named(prediction.classify(model, image, preprocessing, labels, count=top))

        def detect(path: Path, image: Image) -> list[_Prediction]:
            return _detect_and_draw(model, image, labels, threshold, drawings[path])

        predict = classify if is_classifier else detect
    if not is_classifier:
        folder.mkdir(parents=True, exist_ok=True)
    done, failures = _predict_all(paths, predict)
    if failures and len(paths) == 1:
        raise DataError(failures[0])
    for failure in failures:
        print(f"sterna: {printable(failure)}", file=sys.stderr)
    if as_json:
        entries = [
            {"path": path, "predictions": found} | ({} if is_classifier else {"drawn": drawings[path]})
            for path, found in done
        ]
        output.print_json({"file": file, "task": task, "engine": engine.value, "images": entries})
    elif done:
        _show(done, is_classifier=is_classifier)
        if not is_classifier:
            output.stdout().print(output.pairs([("drawn", f"{len(done)} pictures in {folder}")], title=""))
    if failures:
        raise DataError(f"{len(failures)} of {len(paths)} pictures could not be done")


def _list_pictures(arguments: Sequence[Path]) -> list[Path]:
    """The pictures that were asked for, in this order; folders are replaced by what is in them, sorted by name."""
    paths: list[Path] = []
    for argument in arguments:
        if not argument.is_dir():
            paths.append(argument)
            continue
        # What this command has drawn is no input of its next run.
        found = sorted(
            path
            for path in argument.iterdir()
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.endswith(DRAWN_SUFFIX) and path.is_file()
        )
        if not found:
            raise DataError(f"'{argument}' has no pictures, which end in {', '.join(sorted(PICTURE_SUFFIXES))}")
        paths += found
    return paths


def _plan_drawings(paths: Sequence[Path], folder: Path, *, force: bool) -> dict[Path, Path]:
    """Where each picture is drawn to.

    Raises:
        ConfigError: two would be drawn to one file, or a file would be lost.
    """
    drawings: dict[Path, Path] = {}
    owners: dict[str, Path] = {}
    inputs = {path.resolve() for path in paths}
    for path in paths:
        target = folder / (path.stem + DRAWN_SUFFIX)
        # Some file systems do not tell capitals apart.
        other = owners.setdefault(target.name.casefold(), path)
        if path in drawings or other != path:
            raise ConfigError(f"'{other}' and '{path}' would both be drawn to '{target}': run them one by one")
        if target.resolve() in inputs:
            raise ConfigError(f"'{path}' would be drawn over '{target}', which is a picture to look at: use --output")
        if target.exists() and not force:
            raise ConfigError(f"'{target}' exists: replace it with --force, or choose another folder with --output")
        drawings[path] = target
    return drawings


def _predict_all(paths: Sequence[Path], predict: _Predictor) -> tuple[list[tuple[Path, list[_Prediction]]], list[str]]:
    """Predictions of the pictures that could be done, and what was wrong with the others."""
    from sterna.pictures import read_image

    done: list[tuple[Path, list[_Prediction]]] = []
    failures: list[str] = []
    with output.progress("pictures") as progress:
        for count, path in enumerate(paths, 1):
            try:
                image = read_image(path)
            except DataError as error:
                failures.append(str(error))
            else:
                try:
                    done.append((path, predict(path, image)))
                except DataError as error:
                    failures.append(f"'{path}': {error}")
            progress(count, len(paths))
    return done, failures


def _native_classifier(
    file: Path,
    preprocessing: Preprocessing,
    labels: Sequence[str],
    top: int,
    activations: options.Activations,
    threads: int | None,
) -> _Predictor:
    from sterna.pictures import prepare_picture, top_classes
    from sterna.session import InferenceSession

    # A few pictures are done sooner than kernels have been compared.
    session = InferenceSession(file, threads=threads or 1, activations=activations.value, tune=False)

    def classify(path: Path, image: Image) -> list[_Prediction]:
        del path
        logits = session.run(prepare_picture(image, preprocessing))
        if isinstance(logits, dict) or logits.ndim != 2:
            raise DataError("the network does not answer as a classifier, with logits of shape (1, classes)")
        return _named(top_classes(logits[0], labels, top))

    return classify


def _named(classes: Sequence[tuple[str, float]]) -> list[_Prediction]:
    return [{"label": label, "probability": probability} for label, probability in classes]


def _detect_and_draw(
    model: nn.Module, image: Image, labels: Sequence[str], threshold: float, target: Path
) -> list[_Prediction]:
    from sterna.container.files import write_whole
    from sterna.tasks.drawing import draw_detections
    from sterna.tasks.prediction import detect

    found = detect(model, image, labels, threshold=threshold)
    encoded = io.BytesIO()
    draw_detections(image, found).save(encoded, "PNG")
    write_whole(target, encoded.getvalue())
    rows = zip(found.labels, found.scores.tolist(), found.boxes.tolist(), strict=True)
    predictions: list[_Prediction] = [{"label": label, "score": score, "box": box} for label, score, box in rows]
    if found.masks is not None:
        for entry, area in zip(predictions, found.masks.sum((1, 2)).tolist(), strict=True):
            entry["mask_pixels"] = area
    return predictions


def _show(done: Sequence[tuple[Path, list[_Prediction]]], *, is_classifier: bool) -> None:
    if is_classifier:
        table = output.table(("picture", "rank", "label", "probability"), numbers=("rank", "probability"))
    else:
        table = output.table(("picture", "label", "score", "box"), numbers=("score",))
    for path, predictions in done:
        name = printable(str(path))
        if not predictions:
            table.add_row(name, "(nothing found)")
        for rank, entry in enumerate(predictions, 1):
            picture, label = name if rank == 1 else "", printable(entry["label"])
            if is_classifier:
                table.add_row(picture, str(rank), label, f"{100 * entry['probability']:.2f} %")
            else:
                box = " ".join(f"{edge:.0f}" for edge in entry["box"])
                table.add_row(picture, label, f"{100 * entry['score']:.1f} %", box)
    output.stdout().print(table)
