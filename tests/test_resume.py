"""A run that was killed at any moment continues to the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from digits_runs import digits_recipe, epoch_lines, sha256

from sterna.errors import CheckpointError, SternaError
from sterna.train.loop import TrainingLoop
from sterna.train.run import compress

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "everything"])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, variant: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", TESTS / "kill_and_resume.py", tmp_path, variant],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["undisturbed"] == "done", result.stderr
    assert [end for *_, end in report["ends"]] == ["killed"] * len(report["ends"]), (report, result.stderr)
    assert report["finished"] == report["again"] == "done", result.stderr
    assert report["equal_files"] == [True, True]
    assert report["equal_metrics"]
    assert report["epochs"] == 3
    assert report["partial_files"] == []


def interrupt(monkeypatch: pytest.MonkeyPatch, at_call: int, error: BaseException) -> None:
    original, calls = TrainingLoop._train_step, 0

    def step(self: TrainingLoop, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at_call:
            raise error
        original(self, *arguments)

    monkeypatch.setattr(TrainingLoop, "_train_step", step)


def test_ctrl_c_passes_through_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    recipe = digits_recipe(train={"epochs": 2, "checkpoint_steps": 6})
    whole = compress(recipe, tmp_path / "whole", progress=False)
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupt(monkeypatch, 29, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            compress(recipe, tmp_path / "cut", progress=False)
    assert list((tmp_path / "cut").rglob("*.partial")) == []
    resumed = compress(recipe, tmp_path / "cut", resume=True, progress=False)
    assert sha256(resumed.path) == sha256(whole.path)
    assert resumed.baseline_metrics == whole.baseline_metrics
    assert [line["epoch"] for line in epoch_lines(tmp_path / "cut")] == [1, 2]


def test_a_disk_that_fills_up_leaves_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    recipe = digits_recipe(train={"epochs": 2})
    whole = compress(recipe, tmp_path / "whole", progress=False)
    partial = tmp_path / "cut" / "checkpoint" / "last.pt.partial"
    original = TrainingLoop._train_step

    def fill_the_disk(self: TrainingLoop, *arguments: Any) -> None:
        if self.step == 24:
            partial.symlink_to("/dev/full")
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(TrainingLoop, "_train_step", fill_the_disk)
        with pytest.raises(SternaError, match=r"^cannot write checkpoint .*: No space left on device$"):
            compress(recipe, tmp_path / "cut", progress=False)
    resumed = compress(recipe, tmp_path / "cut", resume=True, progress=False)
    assert sha256(resumed.path) == sha256(whole.path)


def test_resuming_another_recipe_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 9, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress(digits_recipe(), tmp_path, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"optimizer.learning_rate is 0.1, the checkpoint has 0.05"):
        compress(digits_recipe(optimizer={"learning_rate": 0.1}), tmp_path, resume=True, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_nothing_to_resume_is_refused_and_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
        compress(digits_recipe(), tmp_path / "absent", resume=True, progress=False)
    assert not (tmp_path / "absent").exists()


def test_a_run_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress(digits_recipe(), tmp_path, progress=False)
    with pytest.raises(CheckpointError, match="holds a run already"):
        compress(digits_recipe(), tmp_path, progress=False)
