"""``sterna calibrate``: ranges go into the file, everything else stays, and what was done is written down."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.command import is_one_line_error, sterna_process
from cli.conftest import Run
from sterna.cli import main
from sterna.container import SternaFile, encode, read, save
from sterna.container.layout import Section


def calibrate_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main(["calibrate", *map(str, arguments), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    document: dict[str, Any] = json.loads(captured.out)
    return document


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["calibrate", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert is_one_line_error(captured.err)
    return captured.err


def payloads(path: Path) -> list[tuple[int, bytes]]:
    """Kind and bytes of each section that calibration leaves alone."""
    file = SternaFile.open(path, whole_checksum=True)
    changed = (Section.METADATA, Section.GRAPH, Section.END)
    return [(kind, file.data[at : at + size].tobytes()) for kind, at, size, *_ in file.sections if kind not in changed]


def test_ranges_and_what_was_done_are_all_that_changes(captured_file: Path, calibrated_file: Path) -> None:
    before, after = read(captured_file), read(calibrated_file)
    assert payloads(captured_file) == payloads(calibrated_file)
    assert [replace(graph, ranges=()) for graph in after.graphs] == list(before.graphs)
    assert after.graphs[0].ranges
    assert after.metadata == {
        **before.metadata, "calibration": {"method": "mse", "images": 256, "data": "digits"},
    }  # fmt: skip


def test_by_default_the_file_itself_is_replaced(
    captured_file: Path, calibrated_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(captured_file, tmp_path / "own.sterna"))
    before = path.stat().st_size
    document = calibrate_json(capsys, path)
    assert path.read_bytes() == calibrated_file.read_bytes()
    assert (document["before_bytes"], document["file_bytes"]) == (before, path.stat().st_size)
    assert [found.name for found in tmp_path.iterdir()] == ["own.sterna"]


@pytest.mark.parametrize("coder", ["fast", "smallest"])
def test_the_coder_of_the_trits_stays(
    coder: Any, captured_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "coded.sterna"
    save(read(captured_file), path, coder=coder)
    before = payloads(path)
    calibrate_json(capsys, path, "--images", "10")
    assert payloads(path) == before
    assert encode(read(path), coder=coder) == path.read_bytes()


def test_a_calibrated_file_is_calibrated_anew(
    calibrated_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "again.sterna"
    document = calibrate_json(capsys, calibrated_file, "--out", path, "--method", "percentile", "--percentile", "99")
    done = {"method": "percentile", "images": 256, "data": "digits", "percentile": 99.0}
    assert document["calibration"] == read(path).metadata["calibration"] == done
    assert read(path).graphs != read(calibrated_file).graphs
    assert calibrate_json(capsys, path)["calibration"]["method"] == "mse"
    assert path.read_bytes() == calibrated_file.read_bytes()


def test_no_more_images_are_used_than_there_are(
    captured_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = calibrate_json(capsys, captured_file, "--out", tmp_path / "a.sterna", "--images", "99999")
    assert 1000 < document["calibration"]["images"] < 1797


def test_accuracies_on_the_validation_split_are_shown_if_asked_for(
    captured_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.sterna"
    accuracies = calibrate_json(capsys, captured_file, "--out", path, "--evaluate")["validation"]
    assert list(accuracies) == ["float32", "int8"]
    assert accuracies["float32"]["images"] == accuracies["int8"]["images"] == 100
    assert abs(accuracies["float32"]["top1"] - accuracies["int8"]["top1"]) <= 3
    assert main(["calibrate", str(captured_file), "--out", str(path), "--evaluate", "--force"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "calibrated mse, on 256 training images of digits" in shown
    assert f"float32 top-1 {accuracies['float32']['top1']:.2f} % of 100 validation images" in shown


def test_inspect_says_how_a_file_is_calibrated(
    captured_file: Path, calibrated_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(captured_file)]) == 0
    assert "not calibrated" in capsys.readouterr().out
    assert main(["inspect", str(calibrated_file)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 output, calibrated" in shown
    assert "calibration mse, 256 images of digits" in shown


def test_an_existing_file_is_replaced_only_if_told(
    captured_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.sterna"
    path.write_text("mine")
    assert "exists: replace it with --force" in refusal(capsys, captured_file, "--out", path)
    assert path.read_text() == "mine"
    calibrate_json(capsys, captured_file, "--out", path, "--force", "--images", "5")
    assert read(path).graphs[0].ranges


def test_a_file_without_a_graph_stays_as_it_is(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bare.sterna"
    save(replace(read(finished_run.file), graphs=()), path)
    before = path.read_bytes()
    assert "has no graph to calibrate" in refusal(capsys, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [(("--data", "cifar10:nowhere"), "nowhere"), (("--percentile", "0", "--method", "percentile"), "above 0 and up")],
)
def test_impossible_options_are_refused(
    options: tuple[str, ...], expected: str, captured_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, captured_file, "--out", tmp_path / "a.sterna", *options)
    assert not list(tmp_path.iterdir())


def test_a_detector_whose_graphs_are_no_detectors_is_refused(
    captured_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval", reason="the metric of COCO needs faster-coco-eval")
    model = read(captured_file)
    path = tmp_path / "detector.sterna"
    save(replace(model, metadata={**model.metadata, "task": "detection"}), path)
    assert "the graphs are of a detector of torchvision" in refusal(capsys, path)


def test_a_damaged_file_ends_with_2(captured_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.sterna"
    path.write_bytes(captured_file.read_bytes()[:-3])
    result = sterna_process("calibrate", path, folder=tmp_path)
    assert result.returncode == 2
    assert is_one_line_error(result.stderr)
