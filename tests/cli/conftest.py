"""A small model, trained once by the command itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cli.command import RECIPE, sterna_process
from sterna.container import read, save


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


@pytest.fixture(scope="session")
def captured_file(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the finished run, with a graph that is not calibrated."""
    from sterna.capturing import capture
    from sterna.loading import load

    path = tmp_path_factory.mktemp("captured") / "tiny.sterna"
    save(replace(read(finished_run.file), graphs=(capture(load(finished_run.file), (1, 8, 8)),)), path)
    return path


@pytest.fixture(scope="session")
def calibrated_file(captured_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, calibrated by the command itself."""
    path = tmp_path_factory.mktemp("calibrated") / "tiny.sterna"
    result = sterna_process("calibrate", captured_file, "--out", path, folder=path.parent)
    assert (result.returncode, result.stderr) == (0, "")
    return path
