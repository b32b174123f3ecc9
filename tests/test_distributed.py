"""Two processes do what one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from digits_runs import digits_recipe, epoch_lines, step_lines

from sterna.config import Recipe
from sterna.container import read
from sterna.train.recipe import dump_recipe
from sterna.train.run import compress

TESTS = Path(__file__).parent


def launch(recipe: Recipe, folder: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Train under ``accelerate launch``, on the CPU, in ``folder/run``."""
    (folder / "given.yaml").write_text(dump_recipe(recipe))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # "--multi_gpu" means several processes on this machine; without a GPU they form a gloo group.
    options = f"--multi_gpu --num_processes {processes} --num_machines 1 --mixed_precision no --dynamo_backend no"
    command = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), "--main_process_port", str(port)]
    return subprocess.run(
        [*command, str(TESTS / "distributed_worker.py"), str(folder / "given.yaml"), str(folder / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=570,
    )


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    # Each process normalises its own part of a batch, so that only frozen batch norms can agree with one process.
    return digits_recipe(train={"freeze_batch_norm": True}, optimizer={"gradient_clip": 5.0})


@pytest.fixture(scope="module")
def two(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of two processes."""
    folder = tmp_path_factory.mktemp("two")
    result = launch(recipe, folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def ranks(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads((run_dir / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(recipe: Recipe, two: Path, tmp_path: Path) -> None:
    one = compress(recipe, tmp_path, progress=False, log_interval=1)
    expected = [line["loss"] for line in step_lines(tmp_path)]
    losses = [line["loss"] for line in step_lines(two)]
    assert len(losses) == len(expected) == 60
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-4
    assert max(expected) - min(expected) > 0.1  # it is a curve
    assert {line["phase"] for line in step_lines(two)} == {"dense", "pruned", "ternary"}
    for a, b in zip(epoch_lines(two), epoch_lines(tmp_path), strict=True):
        assert a["train_top1"] == pytest.approx(b["train_top1"], abs=0.5)
        assert a["sparsity"] == pytest.approx(b["sparsity"], abs=1e-3)
    assert ranks(two)[0]["top1"] == pytest.approx(one.metrics["top1"], abs=2.0)


@pytest.mark.slow
def test_masks_and_latent_weights_are_equal_on_all_processes_after_each_step(two: Path) -> None:
    first, second = ranks(two)
    assert len(first["steps"]) == 60
    assert first["steps"] == second["steps"]
    assert len({step["latents"] for step in first["steps"]}) == 60
    assert len({step["masks"] for step in first["steps"]}) > 5


@pytest.mark.slow
def test_the_first_process_writes_and_all_return_the_result(two: Path) -> None:
    first, second = ranks(two)
    assert first["path"] == second["path"] == str(two / "digits.sterna")
    assert first["top1"] == second["top1"] == read(two / "digits.sterna").metadata["metrics"]["top1"]
    assert len(epoch_lines(two)) == 3


@pytest.mark.slow
def test_batch_norms_and_averages_agree_where_they_are_not_frozen(tmp_path: Path) -> None:
    recipe = digits_recipe(
        train={"epochs": 2, "ema_decay": 0.9}, ternary={"scale": "learned"}, data={"validation_size": 101}
    )
    result = launch(recipe, tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = ranks(tmp_path / "run")
    assert first["steps"] == second["steps"]
    # Every image is validated once, though 101 are no multiple of two.
    assert [line["validation"]["images"] for line in epoch_lines(tmp_path / "run")] == [101, 101]


@pytest.mark.slow
def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    result = launch(digits_recipe(train={"batch_size": 65}), tmp_path)
    assert result.returncode != 0
    assert "train.batch_size (=65) must be a multiple of the number of processes (=2)" in result.stderr
