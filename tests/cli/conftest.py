"""A small model, trained once by the command itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.command import RECIPE, sterna_process


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its file, and what the command printed."""

    folder: Path
    file: Path
    recipe: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    folder = tmp_path_factory.mktemp("finished")
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE)
    result = sterna_process("compress", recipe, "--json", "--threads", "1", folder=folder)
    assert result.returncode == 0, result.stderr
    run_dir = folder / "runs" / "tiny"
    return Run(run_dir, run_dir / "tiny.sterna", recipe, result.stdout, result.stderr)
