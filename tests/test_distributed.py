"""Two processes do what one does."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from detection_data import detection_recipe, write_shapes
from digits_runs import STEPS_PER_EPOCH, digits_recipe, epoch_lines, step_lines

from sterna.config import Recipe
from sterna.container import read
from sterna.train.recipe import dump_recipe
from sterna.train.run import CompressResult, compress

TESTS = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def start_both(recipe: Recipe, folder: Path, option: str) -> list[subprocess.CompletedProcess[str]]:
    """Two processes without a launcher that looks after them, as on two machines."""
    (folder / "given.yaml").write_text(dump_recipe(recipe))
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "distributed_worker.py"), str(folder / "given.yaml"), str(folder / "run")]
    processes = [
        subprocess.Popen(
            [*command, option],
            env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [
        subprocess.CompletedProcess(command, process.returncode, "", error)
        for process, error in zip(processes, errors, strict=True)
    ]


def launch(recipe: Recipe, folder: Path, processes: int = 2, option: str = "") -> subprocess.CompletedProcess[str]:
    """Train under ``accelerate launch``, on the CPU, in ``folder/run``."""
    (folder / "given.yaml").write_text(dump_recipe(recipe))
    # "--multi_gpu" means several processes on this machine; without a GPU they form a gloo group.
    options = f"--multi_gpu --num_processes {processes} --num_machines 1 --mixed_precision no --dynamo_backend no"
    options += f" --main_process_port {free_port()}"
    command = [sys.executable, "-m", "accelerate.commands.launch", *options.split()]
    return subprocess.run(
        [*command, str(TESTS / "distributed_worker.py"), str(folder / "given.yaml"), str(folder / "run"), option],
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


@pytest.fixture(scope="module")
def one(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> CompressResult:
    """The same run in one process."""
    return compress(recipe, tmp_path_factory.mktemp("one"), progress=False, log_interval=1)


def ranks(run_dir: Path, processes: int = 2) -> list[dict[str, Any]]:
    return [json.loads((run_dir / f"rank-{rank}.json").read_text()) for rank in range(processes)]


def check_the_curve(run_dir: Path, one_dir: Path) -> None:
    expected = [line["loss"] for line in step_lines(one_dir)]
    losses = [line["loss"] for line in step_lines(run_dir)]
    assert len(losses) == len(expected) == 60
    differences = [abs(a - b) for a, b in zip(losses, expected, strict=True)]
    assert statistics.median(differences) < 1e-6
    # A weight next to a threshold may be on its other side for a step: one trit moves the loss by 2e-4.
    assert max(differences) < 1e-3
    assert max(differences[: STEPS_PER_EPOCH // 2]) < 1e-6  # dense: no trits yet
    assert max(expected) - min(expected) > 0.1  # it is a curve


def check_the_samples(processes: list[dict[str, Any]]) -> None:
    for epoch in ("0", "1", "2"):
        seen = [index for process in processes for index in process["seen"][epoch]]
        assert len(seen) == len(set(seen)) == 1297 // 64 * 64


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(one: CompressResult, two: Path) -> None:
    check_the_curve(two, one.path.parent)
    assert {line["phase"] for line in step_lines(two)} == {"dense", "pruned", "ternary"}
    for a, b in zip(epoch_lines(two), epoch_lines(one.path.parent), strict=True):
        assert a["train_top1"] == pytest.approx(b["train_top1"], abs=0.5)
        assert a["sparsity"] == pytest.approx(b["sparsity"], abs=1e-3)
    assert ranks(two)[0]["metric"] == pytest.approx(one.metrics["top1"], abs=2.0)


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
    assert first["metric"] == second["metric"] == read(two / "digits.sterna").metadata["metrics"]["top1"]
    assert len(epoch_lines(two)) == 3


@pytest.mark.slow
def test_processes_leave_their_group_before_they_end(two: Path) -> None:
    # Threads of a group that outlive the interpreter abort the process, now and then.
    assert [json.loads((two / f"rank-{rank}-ended.json").read_text()) for rank in (0, 1)] == [{"in_group": False}] * 2


@pytest.mark.slow
def test_two_processes_see_every_sample_once_an_epoch(two: Path) -> None:
    check_the_samples(ranks(two))


@pytest.mark.slow
def test_four_processes_do_the_same(recipe: Recipe, one: CompressResult, tmp_path: Path) -> None:
    result = launch(recipe, tmp_path, processes=4)
    assert result.returncode == 0, result.stderr
    run_dir = tmp_path / "run"
    check_the_curve(run_dir, one.path.parent)
    processes = ranks(run_dir, 4)
    check_the_samples(processes)
    assert all(process["steps"] == processes[0]["steps"] for process in processes)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_which_resumes_to_the_same_end(
    recipe: Recipe, two: Path, tmp_path: Path
) -> None:
    died = launch(recipe, tmp_path, option="die=1:33")
    assert died.returncode != 0
    assert "Signal 9 (SIGKILL) received" in died.stderr
    resumed = launch(recipe, tmp_path, option="resume")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "run" / "digits.sterna").read_bytes() == (two / "digits.sterna").read_bytes()


@pytest.mark.slow
def test_a_process_whose_partner_has_died_says_so_and_ends(recipe: Recipe, tmp_path: Path) -> None:
    survivor, dead = start_both(recipe, tmp_path, "die=1:33")
    assert dead.returncode == -9
    assert survivor.returncode == 1
    last_line = survivor.stderr.strip().splitlines()[-1]
    assert "SternaError: another process of the run is gone (" in last_line
    assert last_line.endswith("; start all of them again with --resume")


@pytest.mark.slow
def test_detectors_train_and_are_measured_on_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval", reason="the metric of COCO needs faster-coco-eval")
    recipe = detection_recipe(write_shapes(tmp_path / "data"))
    result = launch(recipe, tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = ranks(tmp_path / "run")
    assert first["steps"] == second["steps"]
    assert first["metric"] == second["metric"]
    assert [line["validation"]["images"] for line in epoch_lines(tmp_path / "run") if line["validation"]] == [3]


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
