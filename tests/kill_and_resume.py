"""Run by test_resume.py: train once undisturbed, then again with a kill -9 at each of several moments.

Usage: ``python kill_and_resume.py OUTPUT_DIR VARIANT``; prints one JSON object. A process of its own, because each
attempt is a fork, which must not copy the threads of the test process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from digits_runs import digits_recipe, epoch_lines, sha256
from safetensors.torch import save_file
from torch import nn

from sterna.config import Recipe
from sterna.models import build_model
from sterna.train import checkpoint, run
from sterna.train.loop import TrainingLoop
from sterna.train.recorder import Recorder

Moment = tuple[str, int]

# Each attempt continues from what the one before left, and so counts its moment from there.
MOMENTS: tuple[Moment, ...] = (
    ("writing a checkpoint", 1),
    ("training", 5),
    ("writing a checkpoint", 2),
    ("renaming a checkpoint", 2),
    ("renamed a checkpoint", 3),
    ("training", 1),
    ("training", 24),
    ("logged an epoch", 1),
    ("kept the best", 1),
    ("kept the best", 2),
    ("kept the best", 2),
    ("measured a file", 1),
    ("wrote a file", 2),
)


def die_at(owner: Any, name: str, count: int, *, before: bool, part: Callable[..., None] | None = None) -> None:
    """Let this process die in the ``count``-th call of a function, before or after it did its work."""
    original, calls = getattr(owner, name), 0

    def dying(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and before:
            if part is not None:
                part(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **keywords)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


def write_half(_: Any, file: Any) -> None:
    file.write(b"PK\x03\x04 the beginning of a checkpoint")
    file.flush()


def arm(moment: Moment) -> None:
    place, count = moment
    if place == "training":
        die_at(TrainingLoop, "_train_step", count, before=False)
    elif place == "writing a checkpoint":
        die_at(checkpoint.torch, "save", count, before=True, part=write_half)
    elif place == "renaming a checkpoint":
        die_at(checkpoint.Path, "replace", count, before=True)
    elif place == "renamed a checkpoint":
        die_at(checkpoint.Path, "replace", count, before=False)
    elif place == "logged an epoch":
        die_at(TrainingLoop, "keep_if_best", count, before=True)
    elif place == "kept the best":
        die_at(TrainingLoop, "keep_if_best", count, before=False)
    elif place == "measured a file":
        die_at(run, "_measure", count, before=False)
    elif place == "wrote a file":
        die_at(Recorder, "save", count, before=False)
    else:
        raise ValueError(place)


def plain(_: Path) -> Recipe:
    return digits_recipe()


def everything(output: Path) -> Recipe:
    """All state that a run can have: a teacher, a moving average, learned scales, dropout, AdamW, bfloat16."""
    run.build_model = with_dropout  # type: ignore[assignment]
    torch.manual_seed(7)
    save_file(with_dropout("digits_cnn").state_dict(), output / "weights.safetensors")
    return digits_recipe(
        model={"weights": str(output / "weights.safetensors")},
        data={"validation_size": 200},
        ternary={"scale": "learned", "sparsity": 0.8},
        optimizer={"name": "adamw", "learning_rate": 0.005, "gradient_clip": 1.0},
        distillation={"weight": 0.3},
        train={"precision": "bfloat16", "ema_decay": 0.9, "label_smoothing": 0.1},
    )


def with_dropout(model: Any) -> nn.Module:
    network = build_model(model)
    network.linear = nn.Sequential(nn.Dropout(0.2), network.linear)  # type: ignore[assignment]
    return network


def attempt(recipe: Recipe, run_dir: Path, *, resume: bool, moment: Moment | None) -> str:
    """How a forked run ends: ``"done"``, ``"killed"`` or something unexpected."""
    child = os.fork()
    if child == 0:
        try:
            if moment is not None:
                arm(moment)
            run.compress(recipe, run_dir, resume=resume, progress=False, log_interval=10)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) == signal.SIGKILL else f"signal {os.WTERMSIG(status)}"
    return "done" if os.WEXITSTATUS(status) == 0 else f"exit {os.WEXITSTATUS(status)}"


def without_times(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def main() -> None:
    output, variant = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    recipe = {"plain": plain, "everything": everything}[variant](output)
    whole, cut = output / "whole", output / "cut"
    undisturbed = attempt(recipe, whole, resume=False, moment=None)
    ends = []
    for moment in MOMENTS:
        resume = (cut / "checkpoint" / "last.pt").exists()
        ends.append([*moment, attempt(recipe, cut, resume=resume, moment=moment)])
    finished = attempt(recipe, cut, resume=True, moment=None)
    again = attempt(recipe, cut, resume=True, moment=None)
    names = ("digits.sterna", "digits.best.sterna")
    print(
        json.dumps(
            {
                "undisturbed": undisturbed,
                "ends": ends,
                "finished": finished,
                "again": again,
                "equal_files": [sha256(whole / name) == sha256(cut / name) for name in names],
                "equal_metrics": without_times(whole) == without_times(cut),
                "epochs": len(epoch_lines(cut)),
                "partial_files": [path.name for path in cut.rglob("*.partial")],
            }
        )
    )


if __name__ == "__main__":
    main()
