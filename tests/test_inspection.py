"""Inspection: every byte of a file is accounted for, and the rows say what is in it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from golden.make_golden import good_model, graph_model

from sterna.container import save
from sterna.errors import FormatError
from sterna.inspection import Inspection, inspect, trit_entropy
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor


@pytest.fixture
def inspection(tmp_path: Path) -> Inspection:
    save(good_model(), tmp_path / "good.sterna")
    return inspect(tmp_path / "good.sterna")


def values_of(tensor: Tensor) -> npt.NDArray[Any]:
    if isinstance(tensor, TernaryTensor):
        return tensor.trits
    return tensor.values if isinstance(tensor, Int8Tensor) else tensor


def test_the_parts_add_up_to_the_file(inspection: Inspection, tmp_path: Path) -> None:
    parts = inspection.header_bytes + inspection.trit_bytes + inspection.array_bytes
    assert parts == inspection.file_bytes == (tmp_path / "good.sterna").stat().st_size


def test_rows_share_out_all_bytes_but_lists_and_header(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    tensors: dict[str, Tensor] = {
        f"w{n}": TernaryTensor(random.integers(-1, 2, (64, 32, 3, 3)).astype(np.int8), np.ones(64, np.float16))
        for n in range(3)
    }
    tensors["b"] = random.random(5000).astype(np.float32)
    save(TernaryModel(tensors), tmp_path / "w.sterna")
    result = inspect(tmp_path / "w.sterna")
    shared = sum(row.coded_bytes for row in result.rows)
    assert 0 <= result.trit_bytes + result.array_bytes - shared < 32
    assert sum(row.share for row in result.rows) == pytest.approx(shared / result.file_bytes)
    assert {row.coder for row in result.rows} == {"small", ""}


def test_a_row_for_each_tensor_in_the_order_of_the_model(inspection: Inspection) -> None:
    model = good_model()
    assert [row.name for row in inspection.rows] == list(model.tensors)
    for row, tensor in zip(inspection.rows, model.tensors.values(), strict=True):
        values = values_of(tensor)
        assert row.shape == values.shape
        assert row.elements == values.size
        kind = "ternary" if isinstance(tensor, TernaryTensor) else str(values.dtype)
        assert row.kind == kind


def test_granularity_says_what_shares_a_scale(inspection: Inspection) -> None:
    granularity = {row.name: row.granularity for row in inspection.rows}
    assert granularity["folded.weight"] == "folded"
    assert granularity["filter.weight"] == "filter"
    assert granularity["layer.weight"] == "layer"
    assert granularity["float16"] == ""


def test_totals_count_every_parameter_and_compare_with_float32(inspection: Inspection) -> None:
    model = good_model()
    sizes = [values_of(tensor).size for tensor in model.tensors.values()]
    assert inspection.parameters == sum(sizes)
    assert inspection.ternary_parameters == sum(t.trits.size for t in model.ternary().values())
    assert inspection.float32_bytes == 4 * sum(sizes)
    assert inspection.compression_ratio == pytest.approx(4 * sum(sizes) / inspection.file_bytes)
    assert inspection.sparsity == pytest.approx(model.sparsity)


def test_other_weights_are_named_as_not_ternary(inspection: Inspection) -> None:
    assert inspection.not_ternary == ("stem.weight", "empty", "float16", "float64")


def test_bits_per_weight_count_trits_and_scales(tmp_path: Path) -> None:
    trits = np.random.default_rng(1).integers(-1, 2, (8, 4, 3, 3)).astype(np.int8)
    save(TernaryModel({"w": TernaryTensor(trits, np.ones(8, np.float16))}), tmp_path / "w.sterna")
    result = inspect(tmp_path / "w.sterna")
    (row,) = result.rows
    coded = result.trit_bytes + result.array_bytes
    # A section lists how many, the coder, the filters of a chunk and its size, a byte each.
    assert coded - 4 == row.coded_bytes == pytest.approx(row.bits_per_weight * trits.size / 8)
    assert row.share == pytest.approx(row.coded_bytes / result.file_bytes)


def test_entropy_of_equal_shares_is_log2_of_three_and_of_zeros_nothing() -> None:
    thirds = np.tile(np.array([-1, 0, 1], np.int8), 7)
    assert trit_entropy(TernaryTensor(thirds)) == pytest.approx(math.log2(3))
    assert trit_entropy(TernaryTensor(np.zeros(9, np.int8))) == 0
    assert trit_entropy(TernaryTensor(np.zeros((0, 2), np.int8))) == 0


def test_an_inspection_is_json(inspection: Inspection) -> None:
    text = json.dumps(dataclasses.asdict(inspection), allow_nan=False)
    assert json.loads(text)["metadata"] == good_model().metadata


def test_a_file_without_tensors_can_be_inspected(tmp_path: Path) -> None:
    save(TernaryModel({}), tmp_path / "empty.sterna")
    result = inspect(tmp_path / "empty.sterna")
    assert result.rows == ()
    assert result.compression_ratio == 0
    assert result.sparsity == 0


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.sterna"
    save(good_model(), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"damaged\.sterna"):
        inspect(path)


def test_a_graph_has_a_row_and_its_bytes_are_of_the_header(inspection: Inspection, tmp_path: Path) -> None:
    save(graph_model(), tmp_path / "graph.sterna")
    result = inspect(tmp_path / "graph.sterna")
    whole, head = result.graphs
    assert (whole.name, whole.inputs, whole.outputs) == ("", {"images": (3, 224, 0), "Möwe": (5,)}, ("logits", "again"))
    assert (head.name, head.nodes, head.calibrated, whole.calibrated) == ("roi_heads.box", 2, True, False)
    assert result.graph_bytes == result.header_bytes - inspection.header_bytes - 12
    assert (inspection.graphs, inspection.graph_bytes) == ((), 0)
