"""Small runs on the digits that the tests of training share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sterna.config import Recipe

_BASE: dict[str, Any] = {
    "name": "digits",
    "model": {"name": "digits_cnn"},
    "data": {"name": "digits"},
    "schedule": {
        "dense_epochs": 0.5,
        "prune_epochs": 0.5,
        "ramp_epochs": 1.0,
        "freeze_epochs": 0.5,
        "mask_interval": 3,
    },
    "optimizer": {"learning_rate": 0.05, "warmup_epochs": 0.25},
    "train": {
        "epochs": 3,
        "batch_size": 64,
        "precision": "float32",
        "checkpoint_steps": 7,
        "batch_norm_batches": 4,
    },
}
STEPS_PER_EPOCH = 1297 // 64


def digits_recipe(**sections: dict[str, Any]) -> Recipe:
    """A recipe of 60 steps; the keys of each section replace those of the base."""
    values = json.loads(json.dumps(_BASE))
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return Recipe.model_validate_json(json.dumps(values))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def step_lines(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(run_dir) if "epoch" not in line]


def epoch_lines(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(run_dir) if "epoch" in line]
