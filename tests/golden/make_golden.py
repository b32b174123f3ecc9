"""Make the golden files of the container: ``python tests/golden/make_golden.py``.

``good.sterna`` holds one tensor of every kind and granularity. ``bad/CAUSE.WHAT.sterna`` breaks one rule, and its
checksum is right unless the checksum is the rule, so that each file is refused for the cause in its name. The files are
committed: run this only when the format gets a new version, and keep the old ones under another name.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sterna.container import MAX_ELEMENTS, MAX_HEADER_BYTES, encode
from sterna.ternary_model import Tensor, TernaryModel, TernaryTensor

FOLDER = Path(__file__).resolve().parent
MAGIC = b"\x89STERNA\n"


def good_model() -> TernaryModel:
    """A small model with every kind of tensor; made without a random generator, so that no library can change it."""
    ramp = np.arange(4 * 3 * 3 * 3) * 7 % 11
    kernels = np.where(ramp < 2, -1, np.where(ramp > 8, 1, 0)).astype(np.int8).reshape(4, 3, 3, 3)
    tensors: dict[str, Tensor] = {
        "folded.weight": TernaryTensor(kernels),
        "filter.weight": TernaryTensor(kernels[..., 0, 0].copy(), np.array([0.5, 0.25, 1.0, 2.0], np.float16)),
        "layer.weight": TernaryTensor(kernels[:, 0].copy(), np.array(0.75, np.float32)),
        "scalar.weight": TernaryTensor(np.array(-1, np.int8), np.array(3.0, np.float16)),
        "empty.weight": TernaryTensor(np.zeros((0, 3), np.int8)),
        "bool": np.array([True, False, True]),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0], np.float32),
        "count": np.array(7, np.int64),
        "empty": np.zeros((2, 0), np.float16),
    }
    for dtype in ("uint8", "int8", "int16", "int32", "float16", "float64"):
        tensors[dtype] = np.arange(6).astype(dtype).reshape(2, 3)
    return TernaryModel(tensors, {"model": {"name": "golden", "arguments": {"width": 0.5}}, "labels": ["Möwe", "海鸥"]})


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(level=9, wbits=-15)
    return compressor.compress(data) + compressor.flush()


def assemble(header: Any, sections: bytes = b"", **prefix: Any) -> bytes:
    """A file of the given header (a JSON value, or bytes as they are) and sections; ``prefix`` replaces its fields."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    stored = prefix.get("stored", deflate(text))
    fields = (
        prefix.get("magic", MAGIC),
        prefix.get("version", 1),
        prefix.get("reserved", 0),
        prefix.get("stored_bytes", len(stored)),
        prefix.get("header_bytes", len(text)),
    )
    body = struct.pack("<8sHHII", *fields) + stored + sections
    return body + struct.pack("<I", zlib.crc32(body))


def bad_files() -> dict[str, bytes]:
    """Bytes by name; the name up to the first dot is the cause."""
    no_arrays = deflate(b"")
    size = len(no_arrays)
    empty = {"tensors": [], "arrays": size, "metadata": {}}

    def with_tensors(*tensors: Any) -> dict[str, Any]:
        return {"tensors": list(tensors), "arrays": size, "metadata": {}}

    good = assemble(empty, no_arrays)
    flipped = bytearray(good)
    flipped[20] ^= 1
    listed = {
        "not-a-list": ["w", "f4"],
        "unknown-kind": ["w", "f3", [1]],
        "name-is-a-number": [7, "f4", [1]],
        "negative-size": ["w", "f4", [-1]],
        "size-is-true": ["w", "f4", [True]],
        "bad-scale": ["w", "trits", [1], 1, "i4", 0],
        "scale-per-filter-of-a-scalar": ["w", "trits", [], 1, "f2", 1],
    }
    return {
        "truncated.empty": b"",
        "truncated.prefix-only": good[:20],
        "magic.text-file": b"hello, this is a text file\n",
        "version.2": assemble(empty, no_arrays, version=2),
        "checksum.flipped-bit": bytes(flipped),
        "checksum.cut-off": good[:-1],
        "reserved.1": assemble(empty, no_arrays, reserved=1),
        "header-size.longer-than-file": assemble(empty, no_arrays, stored_bytes=1 << 20),
        "header-size.claims-4-gb": assemble(empty, no_arrays, header_bytes=0xFFFFFFFF),
        "header-size.beyond-limit": assemble(empty, no_arrays, header_bytes=MAX_HEADER_BYTES + 1),
        "ratio.header-claims-too-much": assemble(empty, no_arrays, header_bytes=MAX_HEADER_BYTES),
        "header.not-deflated": assemble(empty, no_arrays, stored=b"\xff" * 20),
        "header.longer-than-declared": assemble(b" " * 100_000, header_bytes=50_000),
        "header.shorter-than-declared": assemble(empty, no_arrays, header_bytes=1000),
        "header-json.not-json": assemble(b"{"),
        "header-json.not-utf-8": assemble(b'"\xff"'),
        "header-json.nan": assemble(b'{"tensors":[],"arrays":0,"metadata":{"x":NaN}}'),
        "header-json.deep": assemble(b"[" * 100_000),
        "header-json.huge-number": assemble(b"9" * 10_000),
        "header-schema.list": assemble([]),
        "header-schema.missing-key": assemble({"tensors": [], "arrays": 0}),
        "header-schema.metadata-list": assemble({"tensors": [], "arrays": 0, "metadata": []}),
        "header-schema.duplicate-name": assemble(with_tensors(["w", "f4", [0]], ["w", "f4", [0]]), no_arrays),
        **{f"header-schema.{what}": assemble(with_tensors(tensor), no_arrays) for what, tensor in listed.items()},
        "limit.dimensions": assemble(with_tensors(["w", "f4", [1] * 9]), no_arrays),
        "limit.elements": assemble(with_tensors(["w", "f4", [MAX_ELEMENTS, 2]]), no_arrays),
        "limit.size-beside-a-zero": assemble(with_tensors(["w", "f4", [0, MAX_ELEMENTS + 1]]), no_arrays),
        "ratio.arrays-claim-too-much": assemble(with_tensors(["w", "f8", [1 << 20]]), no_arrays),
        "ratio.trits-claim-too-much": assemble(with_tensors(["w", "trits", [1 << 30], 1]), b"\0" + no_arrays),
        "coverage.hole": assemble(empty, b"\0" + no_arrays),
        "coverage.trailing-byte": assemble(empty, no_arrays + b"\0"),
        "coverage.section-beyond-file": assemble(with_tensors(["w", "trits", [4], 99]), b"\0" + no_arrays),
        "trits.too-long": assemble(with_tensors(["w", "trits", [1], 9]), bytes(9) + no_arrays),
        "trits.too-short": assemble(with_tensors(["w", "trits", [9999], 1]), b"\x55" + no_arrays),
        "arrays.not-deflated": assemble({"tensors": [], "arrays": 3, "metadata": {}}, b"\xff\xff\xff"),
        "arrays.too-short": assemble(with_tensors(["w", "u1", [3]]), no_arrays),
        "arrays.bool-of-2": assemble(
            {"tensors": [["w", "b1", [1]]], "arrays": len(deflate(b"\2")), "metadata": {}}, deflate(b"\2")
        ),
    }


def main() -> None:
    """Write all files."""
    (FOLDER / "bad").mkdir(exist_ok=True)
    (FOLDER / "good.sterna").write_bytes(encode(good_model()))
    for name, data in bad_files().items():
        (FOLDER / "bad" / f"{name}.sterna").write_bytes(data)


if __name__ == "__main__":
    main()
