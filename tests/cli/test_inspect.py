"""``sterna inspect``, and what it and ``sterna evaluate`` say about damaged files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from golden.make_golden import graph_model

from cli.command import is_one_line_error, sterna_process
from cli.conftest import Run
from sterna import TernaryModel, TernaryTensor, save
from sterna.cli import main

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "truncated header": lambda data: data[:20],
    "truncated by half": lambda data: data[: len(data) // 2],
    "truncated by one byte": lambda data: data[:-1],
    "oversized by one byte": lambda data: data + b"\0",
    "oversized by a copy": lambda data: data + data,
    "wrong magic": lambda data: b"PK\3\4" + data[4:],
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"This is not a model.\n" * 50,
}


def refusal(capsys: pytest.CaptureFixture[str], name: str, path: Path) -> str:
    assert main([name, str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert is_one_line_error(captured.err)
    return captured.err


@pytest.mark.parametrize("name", ["inspect", "evaluate"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_line(
    name: str, damage: str, finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.sterna"
    path.write_bytes(DAMAGE[damage](finished_run.file.read_bytes()))
    assert "bad.sterna" in refusal(capsys, name, path)


@pytest.mark.parametrize("name", ["inspect", "evaluate"])
def test_a_flipped_bit_anywhere_is_found(
    name: str, finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = finished_run.file.read_bytes()
    chance = random.Random(5)
    path = tmp_path / "bad.sterna"
    for position in [*range(16), *chance.sample(range(len(data)), 60), len(data) - 1]:
        flipped = bytearray(data)
        flipped[position] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        refusal(capsys, name, path)


@pytest.mark.parametrize("name", ["inspect", "evaluate"])
def test_a_missing_file_and_a_folder_are_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "none.sterna" in refusal(capsys, name, tmp_path / "none.sterna")
    refusal(capsys, name, tmp_path)


@pytest.mark.parametrize("name", ["inspect", "evaluate"])
def test_a_damaged_file_ends_the_process_with_2(name: str, finished_run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.sterna"
    path.write_bytes(finished_run.file.read_bytes()[:-3])
    result = sterna_process(name, path, folder=tmp_path)
    assert result.returncode == 2
    assert is_one_line_error(result.stderr)


def small_file(folder: Path, name: str = "weight") -> Path:
    trits = (np.arange(240, dtype=np.int8).reshape(10, 24) % 4 == 0).astype(np.int8)
    tensors = {name: TernaryTensor(trits, np.ones(10, np.float16)), "bias": np.zeros(10, np.float32)}
    path = folder / "small.sterna"
    save(TernaryModel(tensors, {"model": {"name": "tiny"}, "metrics": {"top1": 12.5, "images": 8}}), path)
    return path


def test_json_holds_every_tensor_and_every_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_file(tmp_path)
    assert main(["inspect", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["rows"]] == ["weight", "bias"]
    assert document["rows"][0]["sparsity"] == document["sparsity"] == 0.75
    assert document["file_bytes"] == path.stat().st_size
    parts = ("header_bytes", "trit_bytes", "array_bytes")
    assert sum(document[part] for part in parts) == document["file_bytes"]
    assert document["metadata"]["model"] == {"name": "tiny"}


def test_the_table_has_a_line_for_each_tensor_and_the_totals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_file(tmp_path)
    assert main(["inspect", str(path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["weight", "10x24", "ternary", "filter", "75.0", "%"] in [line[:6] for line in lines]
    assert ["bias", "10", "float32"] in [line[:3] for line in lines]
    assert ["size", f"{path.stat().st_size}", "B"] in lines
    assert ["accuracy", "12.50", "%"] in [line[:3] for line in lines]


def test_a_name_in_a_file_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_file(tmp_path, "[bold]a\x1b[2J")
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "[bold]a\\x1b[2J" in text


def test_the_totals_say_what_graphs_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(small_file(tmp_path))]) == 0
    assert "none: only PyTorch can run this model" in capsys.readouterr().out
    path = tmp_path / "graph.sterna"
    save(graph_model(), path)
    assert main(["inspect", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "26 nodes, 2 outputs, not calibrated; roi_heads.box: 2 nodes, 1 output, calibrated" in shown
