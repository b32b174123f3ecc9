"""Decode a ``.sterna`` file in plain Python, laid out like ``docs/format.md``.

For good files: what a reader of hostile files has to check besides is in :mod:`sterna.container`.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from sterna.reference.trit_coder import decode_trits
from sterna.ternary_model import Tensor, TernaryModel, TernaryTensor


def decode(data: bytes) -> TernaryModel:
    """The model in the bytes of a file.

    Raises:
        ValueError: wrong magic, version, checksum or length.
    """
    # Prefix and checksum
    magic, version, reserved, stored_bytes, header_bytes = struct.unpack_from("<8sHHII", data)
    (checksum,) = struct.unpack_from("<I", data, len(data) - 4)
    if magic != b"\x89STERNA\n" or version != 1 or reserved != 0 or checksum != zlib.crc32(data[:-4]):
        raise ValueError("not a good .sterna file of version 1")

    # Header
    text = zlib.decompress(data[20 : 20 + stored_bytes], wbits=-15)
    header = json.loads(text)
    if len(text) != header_bytes:
        raise ValueError("the header has another length than declared")

    # Sections of trits, in the order of the header
    offset = 20 + stored_bytes
    trits: dict[str, npt.NDArray[np.int8]] = {}
    kept: list[tuple[str, list[int]]] = []  # kind and shape of every array
    for name, kind, shape, *rest in header["tensors"]:
        if kind != "trits":
            kept.append((kind, shape))
            continue
        trits[name] = decode_trits(data[offset : offset + rest[0]], shape)
        offset += rest[0]
        if len(rest) == 3:
            kept.append((rest[1], shape[:1] if rest[2] == 1 else []))

    # Section of arrays
    arrays = iter(_arrays(zlib.decompress(data[offset : offset + header["arrays"]], wbits=-15), kept))
    if offset + header["arrays"] + 4 != len(data):
        raise ValueError("the sections do not cover the file")

    tensors: dict[str, Tensor] = {}
    for name, kind, _, *rest in header["tensors"]:
        if kind == "trits":
            tensors[name] = TernaryTensor(trits[name], next(arrays) if len(rest) == 3 else None)
        else:
            tensors[name] = next(arrays)
    return TernaryModel(tensors, header["metadata"])


def _arrays(planes: bytes, kept: list[tuple[str, list[int]]]) -> list[npt.NDArray[Any]]:
    """Byte ``b`` of element ``i`` of the ``n`` elements of one size is at ``start + b * n + i``."""
    arrays: dict[int, npt.NDArray[Any]] = {}
    start = 0
    for size in (1, 2, 4, 8):
        members = [number for number, (kind, _) in enumerate(kept) if int(kind[1]) == size]
        n = sum(math.prod(kept[number][1]) for number in members)
        first = 0
        for number in members:
            kind, shape = kept[number]
            elements = bytearray()
            for i in range(first, first + math.prod(shape)):
                elements += bytes(planes[start + b * n + i] for b in range(size))
            array = np.frombuffer(bytes(elements), f"<{kind}").reshape(shape)
            arrays[number] = array.astype(array.dtype.newbyteorder("="))
            first += math.prod(shape)
        start += size * n
    return [arrays[number] for number in range(len(kept))]
