"""Graphs: what makes no sense is refused, bytes come back as what they were, the specification lists the operators."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from golden.make_golden import golden_graphs
from hypothesis import given
from hypothesis import strategies as st

from sterna.errors import FormatError, SternaError
from sterna.graph import MAX_NODES, OPERATORS, Graph, GraphInput, Node, decode_graphs, encode_graphs
from sterna.reference import graph_decoder

REPOSITORY = Path(__file__).resolve().parent.parent
TENSORS = ["folded.weight", "special", "filter.weight"]
INPUT = GraphInput("x", (3, 8, 8))
POOL = dict.fromkeys(OPERATORS["max_pool2d"].attributes, 1)


def graph_of(*nodes: Node, **changed: Any) -> Graph:
    return Graph(**{"name": "", "inputs": (INPUT,), "nodes": nodes, "outputs": (("y", len(nodes)),), **changed})


def shown_operators() -> list[tuple[int, str, str, tuple[str, ...], tuple[str, ...]]]:
    """The rows of the table of the specification."""
    text = (REPOSITORY / "docs" / "format.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| ([\d a-z]+) \|([^|]*)\|([^|]*)\|$", text, re.MULTILINE)
    return [(int(number), name, inputs, in_code(p), in_code(a)) for number, name, inputs, p, a in rows]


def in_code(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`(\w+)`", text))


def test_the_specification_lists_every_operator_as_it_is() -> None:
    counts = {(1, 1): "1", (2, 2): "2", (1, 2): "1 or 2", (1, 256): "1 to 256"}
    assert shown_operators() == [
        (operator.number, name, counts[operator.inputs], operator.parameters, tuple(operator.attributes))
        for name, operator in OPERATORS.items()
    ]
    assert (
        tuple((name, len(operator.parameters), tuple(operator.attributes)) for name, operator in OPERATORS.items())
        == graph_decoder.OPERATORS
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graph_of(inputs=()), "must have up to 256 inputs"),
        (lambda: graph_of(outputs=()), "must have up to 256 inputs and 1024 outputs, and one of each, got 1 and 0"),
        (lambda: graph_of(inputs=(GraphInput("x", (-1,)),)), r"'x' must have 1 or 3 sizes from 0 .*, got \(-1,\)"),
        (lambda: graph_of(inputs=(INPUT, INPUT)), "names that differ"),
        (lambda: graph_of(outputs=(("y", 0), ("y", 0))), "names that differ"),
        (lambda: graph_of(outputs=(("y", 1),)), "output 'y' must be a value below 1, got 1"),
        (lambda: graph_of(Node("gelu", (0,))), r"node 0 \(gelu\): no such operator; there are conv2d, "),
        (lambda: graph_of(Node("add", (0,))), r"node 0 \(add\) takes 2 to 2 inputs, got 1"),
        (lambda: graph_of(Node("relu", (1,))), r"must use values below 1, got \(1,\)"),
        (lambda: graph_of(Node("affine", (0,), ("a", None))), r"must have parameters \('scale', 'shift'\)"),
        (lambda: graph_of(Node("pad", (0,))), "must have attributes"),
        (lambda: graph_of(Node("max_pool2d", (0,), (), POOL | {"stride_width": 0})), "stride_width must be an integer"),
        (lambda: graph_of(Node("max_pool2d", (0,), (), POOL | {"ceil_mode": 2})), "from 0 to 1, got 2"),
        (lambda: graph_of(Node("max_pool2d", (0,), (), POOL | {"pad_top": 1 << 25})), "pad_top must be an integer"),
        (lambda: graph_of(Node("resize_nearest", (0,), (), {"height": 0, "width": 0})), "from 1 to"),
        (lambda: graph_of(Node("resize_nearest", (0, 0), (), {"height": 2, "width": 2})), "from 0 to 0, got 2"),
        (lambda: graph_of(ranges=((0.0, 1.0),) * 2), "there must be 1 ranges or none, got 2"),
        (lambda: graph_of(ranges=((1.0, 0.0),)), "from a low to a high number"),
        (lambda: graph_of(ranges=((0.0, float("inf")),)), "ranges must be finite"),
    ],
)  # fmt: skip
def test_a_graph_that_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SternaError, match=message):
        make()


@pytest.mark.parametrize(
    ("graphs", "message"),
    [
        ([graph_of(), graph_of()], "names that differ"),
        ([graph_of(name=str(number)) for number in range(65)], "at most 64 graphs, got 65"),
        ([graph_of(*[Node("relu", (0,))] * (MAX_NODES + 1))], "at most 65536 nodes, got 65537"),
        ([graph_of(name="n" * 1025)], "at most 1024 bytes, got 1025"),
        ([graph_of(ranges=((0.0, 1e39),))], r"float32 numbers, got 0.0 to 1e\+39"),
        ([graph_of(Node("linear", (0,), ("w", None)))], "needs tensor 'w', which the model does not have"),
    ],
)  # fmt: skip
def test_graphs_that_no_file_can_hold_are_refused(graphs: list[Graph], message: str) -> None:
    with pytest.raises(SternaError, match=message):
        encode_graphs(graphs, TENSORS)


def test_graphs_come_back_equal_and_from_the_reference_too() -> None:
    graphs = golden_graphs()[:1]
    data = encode_graphs(graphs, TENSORS)
    assert decode_graphs(data, TENSORS) == graphs
    assert graph_decoder.decode_graphs(data, TENSORS) == graphs


@given(st.data())
def test_damaged_bytes_are_refused_or_are_the_bytes_of_other_graphs(data: st.DataObject) -> None:
    damaged = bytearray(encode_graphs(golden_graphs(), TENSORS))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for candidate in (bytes(damaged), cut):
        try:
            graphs = decode_graphs(candidate, TENSORS)
        except FormatError:
            continue
        assert encode_graphs(graphs, TENSORS) == candidate


def test_an_operator_of_a_later_version_is_named() -> None:
    data = bytearray(encode_graphs([graph_of(Node("relu", (0,)))], []))
    data[data.index(b"\1\3\1\0") + 1] = 200
    with pytest.raises(FormatError, match="needs a Sterna that knows operator 200") as caught:
        decode_graphs(bytes(data), [])
    assert caught.value.cause == "version"
