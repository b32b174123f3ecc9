"""``sterna compress``: results, refusals, Ctrl-C, and a disk that fills up."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from cli.command import ENVIRONMENT, RECIPE, command, is_one_line_error, sterna_process
from cli.conftest import Run
from sterna.cli import main
from sterna.container import read
from sterna.train.recipe import load_recipe

HALF_WRITTEN = ("*.partial", "*.tmp", "*.temporary")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which the command refuses its arguments."""
    assert main(["compress", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert is_one_line_error(captured.err)
    return captured.err.removeprefix("sterna: error: ").strip()


class TestResults:
    def test_json_is_one_document_and_progress_goes_to_stderr(self, finished_run: Run) -> None:
        document = json.loads(finished_run.stdout)
        assert document["path"] == str(Path("runs") / "tiny" / "tiny.sterna")
        assert document["file_bytes"] == finished_run.file.stat().st_size
        # The thresholds freeze in the last epoch, the weights do not: a few still cross them.
        assert document["sparsity"] == pytest.approx(0.6, abs=0.02)
        assert document["metrics"]["top1"] > 60
        assert finished_run.stderr.count("epoch ") == 4

    def test_the_run_folder_holds_the_resolved_recipe_and_the_result(self, finished_run: Run) -> None:
        assert load_recipe(finished_run.folder / "recipe.yaml") == load_recipe(finished_run.recipe)
        result = json.loads((finished_run.folder / "result.json").read_text())
        assert result["metrics"]["top1"] == json.loads(finished_run.stdout)["metrics"]["top1"]
        assert (finished_run.folder / "tiny.best.sterna").exists()

    def test_the_file_holds_recipe_and_accuracy(self, finished_run: Run) -> None:
        metadata = read(finished_run.file).metadata
        assert metadata["recipe"] == load_recipe(finished_run.recipe).model_dump(mode="json")
        assert metadata["metrics"]["top1"] == json.loads(finished_run.stdout)["metrics"]["top1"]

    def test_quiet_and_without_json_prints_a_table(self, recipe: Path, tmp_path: Path) -> None:
        result = sterna_process(
            "compress", recipe, "--quiet", "--set", "train.epochs=3", "--run-dir", "here", folder=tmp_path
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert [line.split()[0] for line in result.stdout.splitlines()] == [
            "file", "size", "zeros", "accuracy", "uncompressed", "training",
        ]  # fmt: skip
        assert (tmp_path / "here" / "tiny.sterna").exists()
        assert not (tmp_path / "runs").exists()


class TestRefusals:
    def test_a_typo_in_the_recipe_names_file_line_key_and_what_is_allowed(
        self, recipe: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe.write_text(RECIPE.replace("schedule:", "shedule:"))
        message = refusal(capsys, recipe)
        assert message.startswith(f"{recipe}:6: shedule: unknown key, did you mean schedule? allowed: name, seed")

    def test_a_typo_in_an_override(self, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert refusal(capsys, recipe, "--set", "train.epoch=3").startswith("--set: train.epoch: unknown key")

    def test_missing_data_names_both_places(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("STERNA_DATA", str(tmp_path / "data"))
        overrides = ("--set", "data.name=cifar10", "--set", "data.path=nowhere", "--set", "model.name=cifar_resnet20")
        message = refusal(capsys, recipe, *overrides)
        assert str(tmp_path / "nowhere") in message
        assert str(tmp_path / "data" / "nowhere") in message

    def test_missing_weights(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert "nowhere.safetensors" in refusal(capsys, recipe, "--set", "model.weights=nowhere.safetensors")

    def test_resume_and_force_exclude_each_other(self, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "give one of them" in refusal(capsys, recipe, "--resume", "--force")

    def test_resume_without_a_checkpoint(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "checkpoint" in refusal(capsys, recipe, "--resume", "--run-dir", tmp_path / "none")
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "checkpoint", "other.sterna"])
    def test_an_earlier_run_is_not_overwritten(
        self, name: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "old" / name).mkdir(parents=True)
        message = refusal(capsys, recipe, "--run-dir", tmp_path / "old")
        assert message == (
            f"{tmp_path / 'old'} already holds a run ({name}): continue it with --resume, "
            f"delete it with --force, or choose another folder with --run-dir"
        )
        assert (tmp_path / "old" / name).exists()

    def test_force_deletes_the_run_and_nothing_else(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "old"
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "checkpoint" / "last.pt").touch()
        (folder / "old.sterna").touch()
        (folder / "notes.txt").touch()
        # The weights are missing, so that the run ends after the folder was looked after.
        refusal(capsys, recipe, "--force", "--run-dir", folder, "--set", "model.weights=nowhere.safetensors")
        assert {path.name for path in folder.iterdir()} == {"notes.txt"}


def wait_for_an_epoch(run_dir: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    log = run_dir / "metrics.jsonl"
    while not log.exists() or not log.stat().st_size:
        assert process.poll() is None, "the run ended before its first epoch did"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_keeps_the_checkpoint_and_resume_ends_in_the_same_file(
    finished_run: Run, recipe: Path, tmp_path: Path
) -> None:
    arguments = ("compress", recipe, "--threads", "1", "--quiet")
    with subprocess.Popen(
        command(*arguments),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has told its children to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        run_dir = tmp_path / "runs" / "tiny"
        wait_for_an_epoch(run_dir, process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (stdout, stderr) == ("", "sterna: interrupted (continue with --resume; the run folder is runs/tiny)\n")
    assert torch.load(run_dir / "checkpoint" / "last.pt", weights_only=True)["step"] > 0
    assert not [path for pattern in HALF_WRITTEN for path in run_dir.rglob(pattern)]
    assert not (run_dir / "tiny.sterna").exists()

    resumed = sterna_process(*arguments, "--resume", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert (run_dir / "tiny.sterna").read_bytes() == finished_run.file.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="needs limits of resources")
class TestFullDisk:
    """A limit on the size of files stands for a full disk: writing fails in the same way, with another number."""

    @staticmethod
    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    @pytest.mark.parametrize("size", [0, 500, 50_000], ids="{} bytes".format)
    def test_compress_ends_with_one_line_and_leaves_nothing_half_written(
        self, size: int, recipe: Path, tmp_path: Path
    ) -> None:
        result = sterna_process("compress", recipe, "--quiet", folder=tmp_path, before=lambda: self.limit(size))
        assert result.returncode == 2, result.stderr
        assert is_one_line_error(result.stderr)
        assert result.stdout == ""
        left = [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()]
        assert set(left) <= {"recipe.yaml", "metrics.jsonl"}

    @pytest.mark.slow
    def test_an_earlier_checkpoint_is_left_intact(self, finished_run: Run, recipe: Path, tmp_path: Path) -> None:
        run_dir = tmp_path / "runs" / "tiny"
        shutil.copytree(finished_run.folder, run_dir)
        (run_dir / "tiny.sterna").unlink()
        checkpoint = (run_dir / "checkpoint" / "last.pt").read_bytes()
        resume = ("compress", recipe, "--quiet", "--resume", "--threads", "1")
        failed = sterna_process(*resume, folder=tmp_path, before=lambda: self.limit(1000))
        assert failed.returncode == 2, failed.stderr
        assert is_one_line_error(failed.stderr)
        assert (run_dir / "checkpoint" / "last.pt").read_bytes() == checkpoint
        assert not (run_dir / "tiny.sterna").exists()
        resumed = sterna_process(*resume, folder=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert (run_dir / "tiny.sterna").read_bytes() == finished_run.file.read_bytes()


def test_a_dry_run_tells_size_time_and_memory_and_leaves_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compress", str(recipe), "--dry-run", "--target-size", "8KB"]) == 0
    text = capsys.readouterr().out
    for part in ("steps", "a second", "memory", "at most, of this process", "zeros in the ternary weights"):
        assert part in text
    assert list(tmp_path.iterdir()) == [recipe]
    assert main(["compress", str(recipe), "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["total_steps"] > 0
    assert document["seconds"] > 0


def test_a_dry_run_does_not_go_with_what_keeps_or_deletes(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--dry-run keeps nothing" in refusal(capsys, recipe, "--dry-run", "--force")


def test_a_target_size_is_checked_like_any_key(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, recipe, "--target-size", "small")
    assert "ternary.target_size" in message
    assert "such as 939KB, 3.3MB or 900KiB" in message
