"""Make the golden files of the container: ``python tests/golden/make_golden.py``.

``good.sterna`` holds one tensor of every kind and granularity, ``fast.sterna`` and ``smallest.sterna`` the same in
the other coders, ``graph.sterna`` the same with two graphs that have every operator. ``bad/CAUSE.WHAT.sterna`` breaks
one rule, and its checksums are right unless a checksum is the rule, so that each file is refused for the cause in its
name. The files are committed: run this only when the format gets a new version, and keep the old ones under another
name.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sterna import _core
from sterna.container import encode
from sterna.container.layout import MAGIC, Section
from sterna.graph import OPERATORS, Graph, GraphInput, Node
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor
from sterna.varint import varint

FOLDER = Path(__file__).resolve().parent
F4, F8, BOOL, TRITS, INT8 = 7, 8, 0, 9, 10


def good_model() -> TernaryModel:
    """A small model with every kind of tensor; made without a random generator, so that no library can change it."""
    ramp = np.arange(4 * 3 * 3 * 3) * 7 % 11
    kernels = np.where(ramp < 2, -1, np.where(ramp > 8, 1, 0)).astype(np.int8).reshape(4, 3, 3, 3)
    tensors: dict[str, Tensor] = {
        "folded.weight": TernaryTensor(kernels),
        "filter.weight": TernaryTensor(kernels[..., 0, 0].copy(), np.array([0.5, 0.25, 1.0, 2.0], np.float16)),
        "layer.weight": TernaryTensor(kernels[:, 0].copy(), np.array(0.75, np.float32)),
        "scalar.weight": TernaryTensor(np.array(-1, np.int8), np.array(3.0, np.float16)),
        "vector.weight": TernaryTensor(kernels[0, 0, 0].copy(), np.array([1, 2, 3], np.float32)),
        "empty.weight": TernaryTensor(np.zeros((0, 3), np.int8)),
        "stem.weight": Int8Tensor((ramp[:24] - 5).astype(np.int8).reshape(2, 3, 2, 2), np.array([1, 2], np.float16)),
        "bool": np.array([True, False, True]),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0], np.float32),
        "count": np.array(7, np.int64),
        "empty": np.zeros((2, 0), np.float16),
    }
    for dtype in ("uint8", "int8", "int16", "int32", "float16", "float64"):
        tensors[dtype] = np.arange(6).astype(dtype).reshape(2, 3)
    return TernaryModel(tensors, {"model": {"name": "golden", "arguments": {"width": 0.5}}, "labels": ["Möwe", "海鸥"]})


def golden_graphs() -> tuple[Graph, ...]:
    """A graph with every operator, whose shapes need not fit, and a smaller one with ranges."""
    nodes = []
    for name, operator in OPERATORS.items():
        inputs = tuple(range(operator.inputs[0]))
        if name == "concat":
            inputs = (0, 2, 1, 0)
        parameters = tuple(("folded.weight", "special")[: len(operator.parameters)])
        attributes = {key: number % 2 for number, key in enumerate(operator.attributes)}
        for key in attributes:
            if key.startswith(("stride", "kernel", "dilation", "factor", "groups", "height", "width")):
                attributes[key] += 1
        nodes.append(Node(name, inputs, parameters, attributes))
    nodes.append(Node("conv2d", (0,), ("filter.weight", None), {**nodes[0].attributes, "pad_top": 300}))
    nodes.append(Node("resize_nearest", (0, 1), (), {"height": 0, "width": 0}))
    inputs = (GraphInput("images", (3, 224, 0)), GraphInput("Möwe", (5,)))
    whole = Graph("", inputs, tuple(nodes), (("logits", len(nodes) + 1), ("again", 0)))
    head = Graph(
        "roi_heads.box",
        (GraphInput("x", (4, 7, 7)),),
        (Node("relu", (0,)), Node("add", (1, 0))),
        (("y", 2),),
        ((-1.0, 0.5), (0.0, 0.5), (-1.0, 1e30)),
    )
    return whole, head


def graph_model() -> TernaryModel:
    """The good model with graphs."""
    model = good_model()
    return TernaryModel(model.tensors, model.metadata, golden_graphs())


def section(kind: int, payload: bytes, *, flags: int | None = None, version: int = 1, size: int | None = None) -> bytes:
    """A section with a right checksum."""
    flags = (kind in (Section.METADATA, Section.GRAPH)) if flags is None else flags
    framed = struct.pack("<BBHI", kind, flags, version, len(payload) if size is None else size) + payload
    return framed + struct.pack("<I", zlib.crc32(framed))


def text(content: bytes, *, size: int | None = None, code: bytes | None = None) -> bytes:
    """The payload of a text, perhaps with another size or code than its own."""
    return varint(len(content) if size is None else size) + (_core.encode_text(content) if code is None else code)


def row(name: bytes, kind: int, scale: int, shape: Sequence[int], *, axes: int | None = None) -> bytes:
    """A tensor in the table."""
    fields = bytes([kind, scale, len(shape) if axes is None else axes])
    return varint(len(name)) + name + fields + b"".join(map(varint, shape))


def table(*rows: bytes, count: int | None = None) -> bytes:
    """The section of the tensors."""
    return section(Section.TENSORS, text(varint(len(rows) if count is None else count) + b"".join(rows)))


def metadata(json: bytes) -> bytes:
    """The section of the metadata."""
    return section(Section.METADATA, text(json))


def graph(*graphs: bytes, count: int | None = None, after: bytes = b"") -> bytes:
    """The section of the graphs."""
    return section(Section.GRAPH, text(varint(len(graphs) if count is None else count) + b"".join(graphs) + after))


def bytes_of_graph(
    nodes: bytes = b"\1\3\1\0",
    *,
    name: bytes = b"\0",
    inputs: bytes = b"\1\1x\1\4",
    outputs: bytes = b"\1\1y\1",
    ranges: bytes = b"\0",
) -> bytes:
    """A graph of one input and one ``relu``, or with other parts."""
    return name + inputs + nodes + outputs + ranges


def assemble(*sections: bytes, prefix: bytes = MAGIC + b"\1\0\0\0") -> bytes:
    """A file of these sections with a right end."""
    body = prefix + b"".join(sections)
    return body + section(Section.END, struct.pack("<I", zlib.crc32(body)))


def trits(*listed: bytes, count: int | None = None, code: bytes = b"") -> bytes:
    """A section of trits."""
    return section(Section.TRITS, varint(len(listed) if count is None else count) + b"".join(listed) + code)


def arrays(count: int, *chunks: bytes) -> bytes:
    """A section of arrays."""
    return section(Section.ARRAYS, varint(count) + b"".join(varint(len(chunk)) + chunk for chunk in chunks))


def bad_files() -> dict[str, bytes]:
    """Bytes by name; the name up to the first dot is the cause."""
    good = assemble(table(), metadata(b"{}"))
    flipped = bytearray(good)
    flipped[20] ^= 1
    body = good[:-16]
    wrong_section = bytearray(body)
    wrong_section[20] ^= 1
    one = np.array([[1]], np.int8)
    small, fast = _core.encode_trits(one, 0), _core.encode_trits(one, 1)
    listed = varint(0) + varint(1) + varint(len(small))
    w = row(b"w", TRITS, 0, [1, 1])
    bad_fast = {
        "fast-table-sums-to-less": b"\1\0" + bytes(16),
        "fast-state-below-its-least": fast[: fast[0] // 2 + 2] + bytes(16),
        "fast-too-short": fast[:-1],
        "fast-too-long": fast + b"\0\0",
        "fast-empty": b"",
        "fast-ends-in-another-state": fast[: fast[0] // 2 + 2] + b"\1\0\1\0" * 4,
    }

    def with_row(*rows: bytes) -> bytes:
        return assemble(table(*rows))

    return {
        "truncated.empty": b"",
        "truncated.prefix-only": good[:12],
        "truncated.cut-off": good[:-1],
        "truncated.trailing-byte": good + b"\0",
        "magic.text-file": b"hello, this is a text file\n",
        "version.2": assemble(table(), prefix=MAGIC + b"\2\0\0\0"),
        "version.unknown-section": assemble(table(), section(77, b"", flags=0, version=5)),
        "version.unknown-coder": assemble(table(w), trits(varint(3) + varint(1) + varint(1), code=b"\0")),
        "checksum.file": bytes(flipped),
        "checksum.section": bytes(wrong_section) + section(0, struct.pack("<I", zlib.crc32(wrong_section))),
        "checksum.end": good[:-1] + bytes([good[-1] ^ 1]),
        "reserved.prefix": assemble(table(), prefix=MAGIC + b"\1\0\1\0"),
        "reserved.flags": assemble(table(), section(77, b"", flags=3)),
        "sections.none": assemble(),
        "sections.hole": assemble(table(), b"\0"),
        "sections.longer-than-file": assemble(table(), section(77, b"", flags=1, size=1 << 20)),
        "sections.4-gb": assemble(table(), section(77, b"", flags=1, size=0xFFFFFFFF)),
        "sections.metadata-first": assemble(metadata(b"{}"), table()),
        "sections.metadata-late": assemble(table(), trits(), metadata(b"{}")),
        "sections.two-tables": assemble(table(), table()),
        "sections.two-ends": assemble(table(), section(0, bytes(4))),
        "sections.optional-trits": assemble(table(), section(3, b"\0", flags=1)),
        "text.too-short": assemble(section(1, text(b"x" * 500, code=b"\x55"))),
        "text.too-long": assemble(section(1, text(b"\0", code=_core.encode_text(b"\0") + bytes(9)))),
        "text.size-of-64-bits": assemble(section(1, b"\xff" * 10 + b"\1")),
        "text.needless-byte": assemble(section(1, b"\x81\0" + _core.encode_text(b"\0"))),
        "ratio.text-claims-too-much": assemble(section(1, text(b"", size=1 << 20))),
        "limit.text": assemble(section(1, text(b"", size=_core.MAX_TEXT_BYTES + 1))),
        "limit.tensors": assemble(table(count=_core.MAX_TENSORS + 1)),
        "limit.name": with_row(row(b"n" * (_core.MAX_NAME_BYTES + 1), F4, 0, [0])),
        "limit.axes": with_row(row(b"w", F4, 0, [1] * 9)),
        "limit.elements": with_row(row(b"w", F4, 0, [_core.MAX_ELEMENTS, 2])),
        "limit.size-beside-a-zero": with_row(row(b"w", F4, 0, [0, _core.MAX_ELEMENTS + 1])),
        "limit.all-elements": with_row(*(row(b"%d" % i, TRITS, 0, [_core.MAX_ELEMENTS]) for i in range(5))),
        "table.fewer-than-declared": assemble(table(count=1)),
        "table.more-than-declared": assemble(table(row(b"w", F4, 0, [0]), count=0)),
        "table.cut-off-name": assemble(section(1, text(b"\1\x09w"))),
        "table.cut-off-shape": with_row(row(b"w", F4, 0, [], axes=2)),
        "table.unknown-kind": with_row(row(b"w", 11, 0, [1])),
        "table.unknown-scale": with_row(row(b"w", TRITS, 5, [1])),
        "table.scale-of-floats": with_row(row(b"w", F4, 1, [1])),
        "table.scale-per-filter-of-a-scalar": with_row(row(b"w", TRITS, 2, [])),
        "table.int8-without-a-scale": with_row(row(b"w", INT8, 0, [1])),
        "table.duplicate-name": assemble(table(*[row(b"w", F4, 0, [0])] * 2), arrays(2)),
        "table.name-not-utf-8": assemble(table(row(b"\xff", F4, 0, [0])), arrays(1)),
        **bad_graphs(),
        "trits.too-long": assemble(table(w), trits(varint(0) + varint(1) + varint(9), code=bytes(9))),
        "trits.too-short": assemble(
            table(row(b"w", TRITS, 0, [9999])), trits(varint(0) + varint(1) + varint(1), code=b"\x55")
        ),
        "trits.no-filters-a-chunk": assemble(table(w), trits(varint(0) + varint(0))),
        "trits.too-many-filters-a-chunk": assemble(table(w), trits(varint(0) + varint(2) + varint(1), code=b"\0")),
        "trits.empty-list": assemble(table(w), section(3, b"")),
        **{
            f"trits.{what}": assemble(table(w), trits(varint(1) + varint(1) + varint(len(code)), code=code))
            for what, code in bad_fast.items()
        },
        "ratio.trits-claim-too-much": assemble(
            table(row(b"w", TRITS, 0, [1 << 30])), trits(varint(0) + varint(1) + varint(1), code=b"\0")
        ),
        "ratio.many-small-claims": assemble(
            table(*(row(b"%d" % i, TRITS, 0, [1 << 21]) for i in range(200))),
            trits(*[varint(0) + varint(1) + varint(0)] * 200),
        ),
        "ratio.arrays-claim-too-much": assemble(table(row(b"w", F8, 0, [1 << 20])), arrays(1)),
        "coverage.missing-trits": assemble(table(w)),
        "coverage.missing-array": assemble(table(row(b"w", F4, 0, [1]))),
        "coverage.more-trits-than-tensors": assemble(table(), trits(listed, code=small)),
        "coverage.more-arrays-than-tensors": assemble(table(), arrays(1)),
        "coverage.code-beyond-its-section": assemble(table(w), trits(varint(0) + varint(1) + varint(99), code=small)),
        "coverage.bytes-after-the-code": assemble(table(w), trits(listed, code=small + b"\0")),
        "arrays.empty-list": assemble(table(row(b"w", F4, 0, [1])), section(4, b"")),
        "arrays.too-short": assemble(table(row(b"w", F4, 0, [1])), arrays(1, bytes(3))),
        "arrays.too-long": assemble(table(row(b"w", F4, 0, [1])), arrays(1, bytes(9) + b"\0")),
        "arrays.bytes-after-the-last": assemble(table(row(b"w", F4, 0, [0])), section(4, b"\1\0")),
        "arrays.bool-of-2": assemble(table(row(b"w", BOOL, 0, [1])), arrays(1, b"\0\2")),
        "metadata.empty": assemble(table(), metadata(b"")),
        "metadata.not-json": assemble(table(), metadata(b"{")),
        "metadata.not-utf-8": assemble(table(), metadata(b'"\xff"')),
        "metadata.nan": assemble(table(), metadata(b'{"x":NaN}')),
        "metadata.deep": assemble(table(), metadata(b"[" * 100_000)),
        "metadata.huge-number": assemble(table(), metadata(b"9" * 10_000)),
        "metadata.infinite-number": assemble(table(), metadata(b'{"x":1e999}')),
        "metadata.list": assemble(table(), metadata(b"[]")),
    }


def bad_graphs() -> dict[str, bytes]:
    """Bytes by name of files whose graph breaks a rule."""

    def with_graph(*graphs: bytes, **changed: Any) -> bytes:
        return assemble(table(row(b"w", F4, 0, [0])), graph(*graphs, **changed), arrays(1))

    good = bytes_of_graph()
    return {
        "sections.graph-first": assemble(graph(good), table()),
        "sections.graph-late": assemble(table(), trits(), graph(good)),
        "sections.graph-before-metadata": assemble(table(), graph(good), metadata(b"{}")),
        "sections.two-graphs": assemble(table(), graph(good), graph(good)),
        "sections.mandatory-graph": assemble(table(), section(Section.GRAPH, text(b"\0"), flags=0)),
        "text.graph-too-long": assemble(table(), section(Section.GRAPH, text(b"\0") + bytes(9))),
        "limit.graph": assemble(table(), section(Section.GRAPH, text(b"", size=_core.MAX_GRAPH_BYTES + 1))),
        "version.unknown-operator": with_graph(bytes_of_graph(b"\1\xff\1\0")),
        "graph.empty": assemble(table(), section(Section.GRAPH, text(b""))),
        "graph.fewer-than-declared": with_graph(good, count=2),
        "graph.bytes-after-the-last": with_graph(good, after=b"\0"),
        "graph.two-of-one-name": with_graph(good, good),
        "graph.too-many": with_graph(*(bytes_of_graph(name=b"\1" + bytes([33 + i])) for i in range(65))),
        "graph.huge-count": with_graph(count=(1 << 62)),
        "graph.needless-byte": with_graph(bytes_of_graph(b"\x81\0\3\1\0")),
        "graph.number-of-64-bits": with_graph(bytes_of_graph(b"\xff" * 10 + b"\1")),
        "graph.name-too-long": with_graph(bytes_of_graph(name=varint(1025) + b"n" * 1025)),
        "graph.name-not-utf-8": with_graph(bytes_of_graph(name=b"\1\xff")),
        "graph.cut-off-name": with_graph(b"\x40n"),
        "graph.no-inputs": with_graph(bytes_of_graph(b"\0", inputs=b"\0")),
        "graph.too-many-inputs": with_graph(bytes_of_graph(inputs=varint(1 << 40))),
        "graph.two-inputs-of-one-name": with_graph(bytes_of_graph(inputs=b"\2" + 2 * b"\1x\1\4")),
        "graph.input-of-two-axes": with_graph(bytes_of_graph(inputs=b"\1\1x\2\4\4")),
        "graph.input-of-huge-size": with_graph(bytes_of_graph(inputs=b"\1\1x\1" + varint((1 << 20) + 1))),
        "graph.too-many-nodes": with_graph(bytes_of_graph(varint(1 << 40))),
        "graph.node-of-later-value": with_graph(bytes_of_graph(b"\1\3\1\1")),
        "graph.node-without-input": with_graph(bytes_of_graph(b"\1\3\0")),
        "graph.node-with-too-many-inputs": with_graph(bytes_of_graph(b"\1\3\2\0\0")),
        "graph.unknown-tensor": with_graph(bytes_of_graph(b"\1\2\1\0\1\2")),
        "graph.missing-tensor": with_graph(bytes_of_graph(b"\1\2\1\0\1\0")),
        "graph.cut-off-attributes": with_graph(bytes_of_graph(b"\1\14\1\0\1", outputs=b"", ranges=b"")),
        "graph.stride-of-0": with_graph(bytes_of_graph(b"\1\14\1\0\1\1\0\1" + b"\0" * 4 + b"\1\1\0")),
        "graph.flag-of-2": with_graph(bytes_of_graph(b"\1\14\1\0\1\1\1\1" + b"\0" * 4 + b"\1\1\2")),
        "graph.huge-attribute": with_graph(bytes_of_graph(b"\1\16\1\0\1" + varint((1 << 24) + 1))),
        "graph.resize-to-nothing": with_graph(bytes_of_graph(b"\1\20\1\0\0\0")),
        "graph.resize-to-two-things": with_graph(bytes_of_graph(b"\1\20\2\0\0\1\1")),
        "graph.no-outputs": with_graph(bytes_of_graph(outputs=b"\0")),
        "graph.two-outputs-of-one-name": with_graph(bytes_of_graph(outputs=b"\2" + 2 * b"\1y\1")),
        "graph.output-of-later-value": with_graph(bytes_of_graph(outputs=b"\1\1y\2")),
        "graph.too-many-outputs": with_graph(bytes_of_graph(outputs=varint(1025))),
        "graph.too-few-ranges": with_graph(bytes_of_graph(ranges=b"\1" + bytes(8))),
        "graph.too-many-ranges": with_graph(bytes_of_graph(ranges=b"\3" + bytes(24))),
        "graph.cut-off-ranges": with_graph(bytes_of_graph(ranges=b"\2" + bytes(15))),
        "graph.range-of-nan": with_graph(bytes_of_graph(ranges=b"\2" + bytes(12) + struct.pack("<f", float("nan")))),
        "graph.range-backwards": with_graph(bytes_of_graph(ranges=b"\2" + bytes(8) + struct.pack("<ff", 1, 0))),
    }


def main() -> None:
    """Write all files."""
    bad = FOLDER / "bad"
    bad.mkdir(exist_ok=True)
    for old in bad.glob("*.sterna"):
        old.unlink()
    (FOLDER / "good.sterna").write_bytes(encode(good_model()))
    (FOLDER / "fast.sterna").write_bytes(encode(good_model(), coder="fast"))
    (FOLDER / "smallest.sterna").write_bytes(encode(good_model(), coder="smallest"))
    (FOLDER / "graph.sterna").write_bytes(encode(graph_model()))
    for name, data in bad_files().items():
        (bad / f"{name}.sterna").write_bytes(data)


if __name__ == "__main__":
    main()
