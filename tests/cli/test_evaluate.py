"""``sterna evaluate``: the same number as training reported, on the same or other data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.command import is_one_line_error, sterna_process
from cli.conftest import Run
from sterna.cli import main
from sterna.container import read, save


def evaluate_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["evaluate", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert is_one_line_error(captured.err)
    return captured.err


def test_the_measured_accuracy_is_exactly_the_reported_one(finished_run: Run, tmp_path: Path) -> None:
    result = sterna_process("evaluate", finished_run.file, "--json", "--threads", "1", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert (document["engine"], document["activations"]) == ("torch", "float32")
    assert document["images_per_second"] > 0
    reported = json.loads(finished_run.stdout)["metrics"]
    assert document["equal"] is True
    assert document["measured"]["top1"] == document["stored"]["top1"] == reported["top1"]
    assert document["measured"]["images"] == reported["images"]


def test_the_table_says_that_they_are_equal(finished_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(finished_run.file)]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()] == [
        "file", "data", "engine", "measured", "speed", "stored", "equal",
    ]  # fmt: skip
    assert text.rstrip().endswith("yes, exactly")


def test_another_split_is_measured_but_not_compared(finished_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    document = evaluate_json(capsys, finished_run.file, "--split", "validation")
    assert (document["split"], document["measured"]["images"], document["equal"]) == ("validation", 100, False)
    main(["evaluate", str(finished_run.file), "--split", "validation"])
    assert "not comparable: another split" in capsys.readouterr().out


def test_training_images_are_read_without_augmentation(finished_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first, again = (evaluate_json(capsys, finished_run.file, "--split", "train")["measured"] for _ in range(2))
    assert first == again
    assert first["images"] > 1000


def test_another_accuracy_is_told_and_still_ends_with_0(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = read(finished_run.file)
    metrics = {**model.metadata["metrics"], "top1": 12.5}
    path = tmp_path / "boast.sterna"
    save(replace(model, metadata={**model.metadata, "metrics": metrics}), path)
    assert evaluate_json(capsys, path)["equal"] is False
    main(["evaluate", str(path)])
    assert capsys.readouterr().out.splitlines()[-1].split() == ["equal", "no"]


def test_data_can_be_given_by_name(finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = read(finished_run.file)
    path = tmp_path / "bare.sterna"
    bare = {key: model.metadata[key] for key in ("model", "preprocessing")}
    save(replace(model, metadata=bare), path)
    assert "does not say which data it was made for: give --data NAME:PATH" in refusal(capsys, path)
    document = evaluate_json(capsys, path, "--data", "digits")
    assert document["stored"] is None
    assert document["measured"] == evaluate_json(capsys, finished_run.file)["measured"]


def test_class_names_that_differ_are_noted(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = read(finished_run.file)
    path = tmp_path / "labels.sterna"
    save(replace(model, metadata={**model.metadata, "labels": list("abcdefghij")}), path)
    assert evaluate_json(capsys, path)["same_labels"] is False
    main(["evaluate", str(path)])
    assert "the class names of this data set are not those in the file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "expected"),
    [("imagenet:x", "--data: data name \"imagenet\" is not allowed: Input should be 'cifar10'"),
     ("cifar10:nowhere", "nowhere"), ("cifar10", "data.mean must have 3 values"), ("", "--data: data name")],
)  # fmt: skip
def test_impossible_data_are_refused(
    data: str, expected: str, finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, finished_run.file, "--data", data)


def test_a_file_for_an_unknown_model_is_refused(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = read(finished_run.file)
    path = tmp_path / "unknown.sterna"
    save(replace(model, metadata={**model.metadata, "model": {"name": "nonesuch", "arguments": {}}}), path)
    assert "nonesuch" in refusal(capsys, path)


@pytest.mark.parametrize(
    "recipe", [None, 3, [], {}, {"data": 3}, {"data": {}}, {"data": {"name": 3}}, {"data": {"name": "digits", "x": 1}}]
)
def test_a_strange_recipe_in_a_file_is_refused(
    recipe: Any, finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = read(finished_run.file)
    path = tmp_path / "strange.sterna"
    save(replace(model, metadata={**model.metadata, "recipe": recipe}), path)
    refusal(capsys, path)


class TestNativeEngine:
    def test_float32_gives_the_answers_of_pytorch(
        self, captured_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        torch_document = evaluate_json(capsys, captured_file)
        document = evaluate_json(capsys, captured_file, "--engine", "native", "--against", "torch", "--threads", "2")
        assert document["different_top1"] == 0
        assert document["equal"] is True
        for key in ("top1", "top5", "images"):
            assert document["measured"][key] == torch_document["measured"][key]
        assert document["measured"]["loss"] == pytest.approx(torch_document["measured"]["loss"], rel=1e-5)
        assert (document["engine"], document["activations"]) == ("native", "float32")
        assert document["images_per_second"] > 0

    def test_int8_loses_little(self, calibrated_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = (calibrated_file, "--engine", "native", "--activations", "int8", "--against", "torch")
        document = evaluate_json(capsys, *arguments)
        assert abs(document["measured"]["top1"] - document["stored"]["top1"]) < 2
        assert document["different_top1"] <= 15
        assert main(["evaluate", *map(str, arguments)]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "engine native, int8 activations" in shown
        assert f"another top-1 answer for {document['different_top1']} images" in shown

    def test_any_size_of_batches_gives_the_same(
        self, calibrated_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = (calibrated_file, "--engine", "native", "--activations", "int8")
        first, second = (evaluate_json(capsys, *arguments, "--batch-size", size)["measured"] for size in ("7", "64"))
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)
        assert first["top1"] == second["top1"]

    @pytest.mark.parametrize("option", [("--activations", "int8"), ("--against", "torch")])
    def test_its_options_are_refused_with_pytorch(
        self, option: tuple[str, str], captured_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "are for --engine native" in refusal(capsys, captured_file, *option)

    def test_a_file_without_a_graph_and_one_that_is_not_calibrated_are_refused(
        self, finished_run: Run, captured_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "bare.sterna"
        save(replace(read(finished_run.file), graphs=()), path)
        assert "holds no graph" in refusal(capsys, path, "--engine", "native")
        assert "not calibrated" in refusal(capsys, captured_file, "--engine", "native", "--activations", "int8")
