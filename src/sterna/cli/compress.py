"""``sterna compress``: from a recipe to a ``.sterna`` file."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sterna.cli import options, output
from sterna.cli.text import in_bytes, printable
from sterna.errors import ConfigError

if TYPE_CHECKING:
    from sterna.config import Recipe
    from sterna.train.run import CompressResult

_RUN_FILES = ("result.json", "metrics.jsonl", "recipe.yaml", "checkpoint", "*.sterna", "*.safetensors")


def compress(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to compress, on which data, and how.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be given several times."),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            "--target-size",
            metavar="SIZE",
            help="Size of the file, as 939KB or 3.3MB, which decides the zeros: --set ternary.target_size=SIZE.",
        ),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Run folder; by default runs/NAME of the recipe.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check data, memory and a few steps, say how large and how long it will be, and stop."
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in the folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete an earlier run in the folder and start anew.")] = False,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    r"""Train a network into a sparse ternary one and store it in a .sterna file.

    The run folder gets NAME.sterna (and NAME.best.sterna, the best on the
    validation split), recipe.yaml with every default, metrics.jsonl with
    each layer's zeros, cosine, sign flips and bits, result.json, and
    checkpoints. A run that was stopped, by Ctrl-C or by force, continues
    with --resume and ends in the same file, bit for bit.

    Examples:
      sterna compress recipes/digits_demo.yaml
      sterna compress recipes/digits_demo.yaml --resume
      sterna compress recipes/digits_demo.yaml --set ternary.sparsity=0.9 \
          --set train.epochs=60 --run-dir runs/digits_z90
      sterna compress recipes/digits_demo.yaml --set optimizer.name=sgd --force
      sterna compress recipes/imagenet_resnet18.yaml --target-size 939KB
      sterna compress recipes/imagenet_resnet18.yaml --dry-run
    """
    if dry_run and (resume or force):
        raise ConfigError("--dry-run keeps nothing: leave out --resume and --force")
    if resume and force:
        raise ConfigError("--resume continues a run and --force deletes it: give one of them")
    from sterna.train.recipe import load_recipe

    chosen = [*(overrides or ()), *([f"ternary.target_size={target_size}"] if target_size is not None else ())]
    resolved = load_recipe(recipe, chosen)
    if dry_run:
        options.use_threads(threads)
        _rehearse(resolved, progress=not quiet, as_json=as_json)
        return
    folder = run_dir if run_dir is not None else Path("runs") / resolved.name
    # Under `accelerate launch` this code runs in every process; one of them looks after the folder and the output.
    is_first = int(os.environ.get("RANK", "0")) == 0
    if is_first and not resume:
        _make_room(folder, force=force)
    from sterna.train import run

    options.use_threads(threads)
    try:
        result = run.compress(resolved, folder, resume=resume, progress=not quiet)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"(continue with --resume; the run folder is {folder})") from None
    if is_first:
        _show(result, as_json=as_json)


def _rehearse(recipe: Recipe, *, progress: bool, as_json: bool) -> None:
    from sterna.train.rehearsal import rehearse

    result = rehearse(recipe, progress=progress)
    if int(os.environ.get("RANK", "0")) != 0:
        return
    if as_json:
        output.print_json(asdict(result))
        return
    images = (
        f"{result.train_images:,} to train, {result.validation_images:,} to validate, {result.test_images:,} to test"
    )
    rows = [
        ("recipe", recipe.name),
        ("images", images),
        ("steps", f"{result.total_steps:,} at {result.steps_per_second:.2f} a second"),
        ("time", f"{_duration(result.seconds)} on {result.processes} x {result.device}"),
        ("memory", f"{in_bytes(result.peak_bytes)} at most, of this process"),
    ]
    if result.file_bytes is not None:
        zeros = f"{100 * result.sparsity:.2f} % zeros in the ternary weights"
        rows.append(("file", f"about {in_bytes(result.file_bytes)}, with {zeros}"))
    output.stdout().print(output.pairs(rows))


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _make_room(folder: Path, *, force: bool) -> None:
    """Refuse a folder that holds a run, or delete that run; other files in the folder are never touched."""
    found = sorted(path for pattern in _RUN_FILES for path in folder.glob(pattern))
    if found and not force:
        raise ConfigError(
            f"{folder} already holds a run ({found[0].name}): continue it with --resume, "
            f"delete it with --force, or choose another folder with --run-dir"
        )
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _show(result: CompressResult, *, as_json: bool) -> None:
    if as_json:
        output.print_json(asdict(result))
        return
    images, before = int(result.metrics["images"]), result.baseline_metrics.get(result.metric)
    rows = [
        ("file", str(result.path)),
        ("size", in_bytes(result.file_bytes)),
        ("zeros", f"{100 * result.sparsity:.2f} % of the ternary weights"),
        ("accuracy", f"{result.metrics[result.metric]:.2f} % {result.metric} on {images:,} test images"),
        ("uncompressed", f"{before:.2f} %" if before is not None else "not measured"),
        ("training", f"{result.steps:,} steps in {result.seconds:.0f} s"),
    ]
    if result.unreadable:
        rows.append(("left out", f"{result.unreadable:,} unreadable pictures, named in metrics.jsonl"))
    if result.graph_problem is not None:
        rows.append(("graph", f"none: {printable(result.graph_problem)}"))
    output.stdout().print(output.pairs(rows))
