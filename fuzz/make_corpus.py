"""Make the first inputs of the fuzz targets from the golden files: ``python fuzz/make_corpus.py FOLDER``.

The folder gets one folder for each target; then, for instance, ``build/fuzz/fuzz_reader FOLDER/reader``.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

from sterna import _core
from sterna.container.layout import PREFIX, SECTION
from sterna.reference.byte_coder import decode_text, read_varint

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
LARGEST = 4096


def in_parts(data: bytes) -> bytes | None:
    """A file as the target of the reader takes it: the table of tensors as plain bytes, then the other sections."""
    try:
        kind, _, _, size = SECTION.unpack_from(data, PREFIX.size)
        text_bytes, start = read_varint(data[PREFIX.size + SECTION.size :], 0)
        if text_bytes >= LARGEST:
            return None
        table = decode_text(data[PREFIX.size + SECTION.size + start : PREFIX.size + SECTION.size + size], text_bytes)
    except (ValueError, IndexError, struct.error):
        return None
    rest = data[PREFIX.size + SECTION.size + size + 4 : -16]
    return struct.pack("<BH", 1, len(table)) + table + rest if kind == 1 else None


def main(folder: Path) -> None:
    """Write all inputs."""
    for target in ("reader", "trit_coder", "byte_coder"):
        (folder / target).mkdir(parents=True, exist_ok=True)
    for path in sorted(GOLDEN.rglob("*.sterna")):
        data = path.read_bytes()
        for number, item in enumerate((in_parts(data), b"\2" + data)):
            if item is not None and len(item) < LARGEST:
                (folder / "reader" / f"{path.stem}.{number}").write_bytes(item)
    random = np.random.default_rng(0)
    for shape in ((12, 8, 3, 3), (20, 30), (5, 4, 1, 7), (3, 3, 5, 5)):
        for density in (0.05, 0.3, 0.7):
            trits = (random.choice([-1, 1], shape) * (random.random(shape) < density)).astype(np.int8)
            for coder in (0, 1, 2):
                head = bytes([coder, len(shape), *shape, *[0] * (4 - len(shape))])
                name = f"{coder}-{'x'.join(map(str, shape))}-{density}"
                (folder / "trit_coder" / name).write_bytes(head + _core.encode_trits(trits, coder))
    text = b'{"model":{"name":"golden"},"labels":["a","b"]}'
    (folder / "byte_coder" / "text").write_bytes(bytes([0, len(text), 0]) + _core.encode_text(text))
    for number, width in enumerate((1, 2, 4, 8), 1):
        numbers = random.normal(size=32).astype(np.float16).view(np.uint8)
        coded = _core.encode_numbers(numbers, width)
        (folder / "byte_coder" / f"numbers-{width}").write_bytes(bytes([number, 64, 0]) + coded)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
