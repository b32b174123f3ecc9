"""Running the real command line, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import sterna

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(sterna.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]),
    "COLUMNS": "100",
    "OMP_NUM_THREADS": "1",
    "TERM": "dumb",
}

# Small enough to train in two or three seconds, with all phases and several checkpoints.
RECIPE = """\
name: tiny
seed: 3
model: {name: digits_cnn}
data: {name: digits, validation_size: 100}
ternary: {sparsity: 0.6}
schedule: {dense_epochs: 1, ramp_epochs: 1, freeze_epochs: 1}
optimizer: {name: adamw, learning_rate: 0.003}
train: {epochs: 4, batch_size: 64, precision: float32, batch_norm_batches: 5, checkpoint_steps: 5}
"""


def command(*arguments: str | Path) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "sterna", *map(str, arguments)]


def sterna_process(
    *arguments: str | Path, folder: Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``sterna`` in ``folder`` to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=before,
    )


def is_one_line_error(text: str) -> bool:
    """Whether standard error is what a user's mistake shows: one line and no traceback."""
    return text.startswith("sterna: error: ") and text.count("\n") == 1 and text.endswith("\n")
