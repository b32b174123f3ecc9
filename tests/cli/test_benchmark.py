"""``sterna benchmark``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from graphs import small_network

from cli.command import is_one_line_error
from sterna import TernaryModel, save
from sterna.benchmarking import peers
from sterna.cli import main

TESTS = Path(__file__).parent.parent


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, and a session of no consequence in the place of Sterna's."""
    path = tmp_path / "n.sterna"
    save(small_network(), path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(peers, "SESSION", "fake_session:FakeSession")
    return path


def test_json_holds_every_round_and_what_repeats_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--no-peers", "--rounds", "3", "--threads", "2", "--batch", "4", "--size", "8x24", "--json"]
    assert main(["benchmark", str(file), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["shape"] == [4, 3, 8, 24]
    assert (document["threads"], document["rounds"], document["activations"]) == (2, 3, "float32")
    assert document["processor"]
    assert document["versions"]["sterna"]
    (row,) = document["rows"]
    assert len(row["rounds_ms"]) == 3
    assert row["name"] == "sterna"
    assert row["ratio"] == 1.0


def test_the_table_has_a_line_for_each_engine_and_says_who_is_left_out(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _name: None)
    assert main(["benchmark", str(file), "--rounds", "1", "--activations", "int8"]) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    row = next(line for line in lines if line[:1] == ["sterna-int8"])
    assert row[5] == "1.00"
    assert ["openvino", "not", "installed:", "openvino,", "onnx"] in lines
    assert "Left out" in text


def test_peers_run_beside_sterna(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "SESSION", "sterna.session:InferenceSession")
    pytest.importorskip("onnx", reason="needs sterna[export]")
    pytest.importorskip("onnxruntime", reason="is the peer")
    assert main(["benchmark", str(file), "--only", "sterna,onnxruntime", "--rounds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["rows"]] == ["sterna", "onnxruntime"]
    assert document["rows"][1]["ratio"] > 0
    assert document["left_out"] == []


def test_layers_have_a_line_each_and_a_sum(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", str(file), "--layers", "--rounds", "2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {"second", "depthwise", "classifier"} <= {line[0] for line in lines}
    assert lines[-1][0] == "all"
    assert main(["benchmark", str(file), "--layers", "--rounds", "2", "--activations", "int8", "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert sum(layer["operations"] for layer in layers) > 0
    assert {"name", "operator", "kernel", "milliseconds", "share", "giga_operations_per_second"} <= set(layers[0])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--size", "224"], "--size must be HEIGHTxWIDTH"),
        (["--only", "sterna,tvm"], "unknown engine 'tvm'"),
        (["--isa", "sse9"], "unknown instruction set 'sse9'"),
        (["--only", "sterna", "--no-peers"], "exclude each other"),
        (["--layers", "--isa", "native,avx2"], "one instruction set"),
    ],
)
def test_mistakes_are_one_line(options: list[str], text: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", str(file), *options]) == 2
    error = capsys.readouterr().err
    assert is_one_line_error(error)
    assert text in error


@pytest.mark.parametrize("options", [[], ["--layers"]])
def test_a_file_without_a_graph_is_one_line(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "n.sterna"
    save(TernaryModel(small_network().tensors), path)
    assert main(["benchmark", str(path), *options]) == 2
    assert is_one_line_error(error := capsys.readouterr().err)
    assert "holds no graph" in error
