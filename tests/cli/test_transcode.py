"""``sterna transcode``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.command import is_one_line_error
from sterna import SternaFile, TernaryModel, TernaryTensor, save
from sterna.cli import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    trits = np.random.default_rng(0).integers(-1, 2, (40, 30)).astype(np.int8)
    path = tmp_path / "a.sterna"
    save(TernaryModel({"w": TernaryTensor(trits), "b": np.array([0.1], np.float32)}), path)
    return path


def test_json_says_what_came_of_it(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "b.sterna"
    options = ["--coder", "fast", "--float-dtype", "float16", "--json"]
    assert main(["transcode", str(source), str(target), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["file_bytes"] == target.stat().st_size
    assert document["source_bytes"] == source.stat().st_size
    assert document["kept_float32"] == ["b"]
    assert SternaFile.open(target).entries["w"].coder == "fast"


def test_the_table_has_both_sizes(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcode", str(source), str(tmp_path / "b.sterna"), "--float-dtype", "float16"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["file", "size", "before", "change", "still"]


def test_an_existing_file_is_replaced_only_with_force(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = source.read_bytes()
    assert main(["transcode", str(source), str(source)]) == 2
    error = capsys.readouterr().err
    assert is_one_line_error(error)
    assert "--force" in error
    assert source.read_bytes() == before
    assert main(["transcode", str(source), str(source), "--coder", "fast", "--force"]) == 0
    assert source.read_bytes() != before


def test_an_unknown_coder_is_named(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcode", str(source), str(tmp_path / "b.sterna"), "--coder", "zip"]) == 2
    assert "'zip'" in capsys.readouterr().err
