"""``sterna export``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from graphs import small_network

from cli.command import is_one_line_error
from sterna import TernaryModel, save
from sterna.cli import main

onnx = pytest.importorskip("onnx", reason="needs sterna[export]")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "n.sterna"
    save(small_network(), path)
    return path


def test_the_file_is_written_and_its_size_told(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "n.onnx"
    assert main(["export", str(file), "--onnx", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "source": str(file), "path": str(out), "graph": "", "file_bytes": out.stat().st_size,
    }  # fmt: skip
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_an_existing_file_is_replaced_only_with_force(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "n.onnx"
    out.write_text("mine")
    assert main(["export", str(file), "--onnx", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["export", str(file), "--onnx", str(out), "--force"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["file", "size"]
    assert out.stat().st_size > 1000


@pytest.mark.parametrize("graph", ["", "backbone"])
def test_a_file_without_the_graph_is_one_line(graph: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "n.sterna"
    save(TernaryModel(small_network().tensors), path)
    assert main(["export", str(path), "--onnx", str(tmp_path / "n.onnx"), "--graph", graph]) == 2
    assert is_one_line_error(error := capsys.readouterr().err)
    assert "no graph" in error
    assert not (tmp_path / "n.onnx").exists()
