"""metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sterna.errors import CheckpointError, SternaError
from sterna.train.metrics_log import MetricsLog


def test_lines_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1, "loss": 2.5})
    log.append({"step": 2, "loss": 1.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}]
    assert log.synchronize() == (tmp_path / "metrics.jsonl").stat().st_size
    log.close()


def test_lines_after_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.append({"step": 1})
    length = log.synchronize()
    log.append({"step": 2})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"ste')  # a kill in the middle of a line
    log = MetricsLog(path, length)
    log.append({"step": 2, "again": True})
    log.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2, "again": true}\n'


def test_a_new_run_starts_with_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("old\n")
    MetricsLog(tmp_path / "metrics.jsonl").close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_file_that_lost_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has 0 bytes, but the checkpoint was made when it had 10"):
        MetricsLog(tmp_path / "metrics.jsonl", 10)


def test_numbers_that_are_not_finite_never_reach_the_file(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        log.append({"loss": float("nan")})
    log.close()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SternaError, match=r"cannot write .*metrics.jsonl: No such file or directory"):
        MetricsLog(tmp_path / "absent" / "metrics.jsonl")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with Path("/dev/full").open("ab") as full:
        log._file, original = full, log._file
        with pytest.raises(SternaError, match=r"cannot write .*metrics.jsonl: No space left on device"):
            log.append({"step": 1})
        log.close()  # the rest of the buffer has nowhere to go, and that is no second error
        original.close()
