"""Transcoding: another file for the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden.make_golden import good_model, graph_model
from test_container import assert_equal

from sterna import transcoding
from sterna.container import Coder, SternaFile, read, save
from sterna.container.layout import Section
from sterna.errors import FormatError, SternaError
from sterna.ternary_model import TernaryModel, TernaryTensor
from sterna.transcoding import transcode


@pytest.mark.parametrize("coder", ["small", "fast", "smallest", "auto"])
def test_the_model_is_the_same_in_every_coder(coder: Coder, tmp_path: Path) -> None:
    save(good_model(), tmp_path / "a.sterna", coder="fast")
    result = transcode(tmp_path / "a.sterna", tmp_path / "b.sterna", coder=coder)
    assert_equal(read(tmp_path / "b.sterna"), good_model())
    assert result.source_bytes == (tmp_path / "a.sterna").stat().st_size
    assert result.file_bytes == (tmp_path / "b.sterna").stat().st_size


def test_graphs_stay_byte_for_byte(tmp_path: Path) -> None:
    def graph_bytes(path: Path) -> bytes:
        file = SternaFile.open(path)
        ((offset, size),) = [(offset, size) for kind, offset, size, *_ in file.sections if kind == Section.GRAPH]
        return file.data[offset : offset + size].tobytes()

    a, b = tmp_path / "a.sterna", tmp_path / "b.sterna"
    save(graph_model(), a)
    transcode(a, b, coder="fast", float_dtype="float32")
    assert graph_bytes(a) == graph_bytes(b)


def test_a_file_may_be_replaced_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.sterna"
    save(good_model(), path)
    transcode(path, path, coder="fast")
    assert {entry.coder for entry in SternaFile.open(path).entries.values()} == {"fast", ""}
    assert_equal(read(path), good_model())


def test_float32_and_back_gives_the_same_file(tmp_path: Path) -> None:
    a, b, c = (tmp_path / f"{name}.sterna" for name in "abc")
    half = TernaryModel({"w": TernaryTensor(np.eye(3, dtype=np.int8), np.array([0.1, -0.0, np.nan], np.float16))})
    save(half, a)
    assert transcode(a, b, float_dtype="float32").kept_float32 == ()
    stored = read(b).tensors["w"]
    assert isinstance(stored, TernaryTensor)
    assert stored.scale is not None
    assert stored.scale.dtype == np.float32
    transcode(b, c, float_dtype="float16")
    assert c.read_bytes() == a.read_bytes()


def test_numbers_that_float16_would_round_stay_float32(tmp_path: Path) -> None:
    model = TernaryModel({"exact": np.array([0.5], np.float32), "rounded": np.array([0.1, 1e9], np.float32)})
    save(model, tmp_path / "a.sterna")
    result = transcode(tmp_path / "a.sterna", tmp_path / "b.sterna", float_dtype="float16")
    assert result.kept_float32 == ("rounded",)
    tensors = read(tmp_path / "b.sterna").tensors
    assert [np.asarray(tensor).dtype for tensor in tensors.values()] == [np.float16, np.float32]
    np.testing.assert_array_equal(np.asarray(tensors["rounded"]), np.asarray(model.tensors["rounded"]))


def test_a_damaged_source_leaves_the_target(tmp_path: Path) -> None:
    save(good_model(), tmp_path / "a.sterna")
    (tmp_path / "bad.sterna").write_bytes((tmp_path / "a.sterna").read_bytes()[:-1])
    before = (tmp_path / "a.sterna").read_bytes()
    with pytest.raises(FormatError):
        transcode(tmp_path / "bad.sterna", tmp_path / "a.sterna")
    assert (tmp_path / "a.sterna").read_bytes() == before


def test_a_file_that_reads_back_as_another_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(good_model(), tmp_path / "a.sterna")
    monkeypatch.setattr(transcoding, "read", lambda path: TernaryModel({}))
    before = (tmp_path / "a.sterna").read_bytes()
    with pytest.raises(SternaError, match="would not read back"):
        transcode(tmp_path / "a.sterna", tmp_path / "a.sterna", coder="fast")
    assert (tmp_path / "a.sterna").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.sterna"]
