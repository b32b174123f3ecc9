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

from sterna.reference.byte_coder import decode_numbers, decode_text, read_varint
from sterna.reference.fast_coder import decode_fast
from sterna.reference.graph_decoder import decode_graphs
from sterna.reference.small_coder import decode_small, kernel_shape
from sterna.reference.smallest_coder import decode_smallest
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor

KINDS = ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
TRITS, SCALED_INT8 = 9, 10
SCALES = (None, ("f2", 0), ("f2", 1), ("f4", 0), ("f4", 1))
CODERS = (decode_small, decode_fast, decode_smallest)
NUMBERS_PER_CHUNK = 1 << 18


def decode(data: bytes) -> TernaryModel:
    """The model in the bytes of a file.

    Raises:
        ValueError: the file is not good.
    """
    # Prefix
    magic, version, reserved = struct.unpack_from("<8sHH", data)
    if magic != b"\x89STERNA\n" or version != 1 or reserved != 0:
        raise ValueError("not a good .sterna file of version 1")

    # Sections
    sections: list[tuple[int, bytes]] = []
    at = 12
    while not sections or sections[-1][0] != 0:
        kind, flags, _, size = struct.unpack_from("<BBHI", data, at)
        (checksum,) = struct.unpack_from("<I", data, at + 8 + size)
        if checksum != zlib.crc32(data[at : at + 8 + size]) or flags > 1 or (kind > 5 and flags == 0):
            raise ValueError("a section is damaged or unknown")
        sections.append((kind, data[at + 8 : at + 8 + size]))
        end = at
        at += 12 + size
    if at != len(data) or sections[-1][1] != struct.pack("<I", zlib.crc32(data[:end])):
        raise ValueError("the file is damaged")
    table = _table(_text(sections[0][1]))
    texts = {kind: _text(payload) for kind, payload in sections[1:3] if kind in (2, 5)}
    metadata = json.loads(texts.get(2, b"{}"))
    graphs = decode_graphs(texts.get(5, b"\0"), [name for name, *_ in table])

    # Trits and arrays, each in the order of the table
    trits = _decode_trits([payload for kind, payload in sections if kind == 3], table)
    arrays = _decode_arrays([payload for kind, payload in sections if kind == 4], table)
    tensors: dict[str, Tensor] = {}
    for name, kind, scale, _ in table:
        if kind == TRITS:
            tensors[name] = TernaryTensor(trits.pop(0), arrays.pop(0) if scale else None)
        elif kind == SCALED_INT8:
            tensors[name] = Int8Tensor(arrays.pop(0), arrays.pop(0))
        else:
            tensors[name] = arrays.pop(0)
    return TernaryModel(tensors, metadata, graphs)


Table = list[tuple[str, int, int, tuple[int, ...]]]


def _text(payload: bytes) -> bytes:
    size, position = read_varint(payload, 0)
    return decode_text(payload[position:], size)


def _table(text: bytes) -> Table:
    """Name, kind, kind of scale and shape of each tensor."""
    count, at = read_varint(text, 0)
    table: Table = []
    for _ in range(count):
        length, at = read_varint(text, at)
        name = text[at : at + length].decode()
        kind, scale, axes = text[at + length : at + length + 3]
        at += length + 3
        shape = []
        for _ in range(axes):
            size, at = read_varint(text, at)
            shape.append(size)
        table.append((name, kind, scale, tuple(shape)))
    if at != len(text):
        raise ValueError("bytes follow the last tensor")
    return table


def _decode_trits(payloads: list[bytes], table: Table) -> list[npt.NDArray[np.int8]]:
    shapes = iter([shape for _, kind, _, shape in table if kind == TRITS])
    tensors = []
    for payload in payloads:
        count, at = read_varint(payload, 0)
        listed = []
        for shape in [next(shapes) for _ in range(count)]:
            coder, at = read_varint(payload, at)
            step, at = read_varint(payload, at)
            filters = kernel_shape(shape)[0]
            chunks = []
            for first in range(0, filters if math.prod(shape) else 0, step or 1):
                size, at = read_varint(payload, at)
                # A tensor of fewer than two axes is one filter.
                chunks.append((shape if len(shape) < 2 else (min(step, filters - first), *shape[1:]), size))
            listed.append((CODERS[coder], shape, chunks))
        for decoder, shape, chunks in listed:
            parts = [np.zeros(0, np.int8)]
            for chunk, size in chunks:
                parts.append(decoder(payload[at : at + size], chunk).reshape(-1))
                at += size
            tensors.append(np.concatenate(parts).reshape(shape))
        if at != len(payload):
            raise ValueError("bytes follow the last trits")
    return tensors


def _decode_arrays(payloads: list[bytes], table: Table) -> list[npt.NDArray[Any]]:
    kept: list[tuple[str, tuple[int, ...]]] = []
    for _, number, scale, shape in table:
        if number != TRITS:
            kept.append(("i1" if number == SCALED_INT8 else KINDS[number], shape))
        own = SCALES[scale]
        if own is not None:
            kept.append((own[0], shape[: own[1]]))
    arrays: list[npt.NDArray[Any]] = []
    for payload in payloads:
        count, at = read_varint(payload, 0)
        members = kept[len(arrays) : len(arrays) + count]
        decoded: dict[int, bytes] = {}
        for width in (1, 2, 4, 8):
            left = sum(math.prod(shape) for kind, shape in members if int(kind[1]) == width)
            decoded[width] = b""
            while left:
                numbers = min(left, NUMBERS_PER_CHUNK)
                size, at = read_varint(payload, at)
                decoded[width] += decode_numbers(payload[at : at + size], numbers, width)
                at += size
                left -= numbers
        if at != len(payload):
            raise ValueError("bytes follow the last array")
        for letter, shape in members:
            width = int(letter[1])
            size = math.prod(shape) * width
            array = np.frombuffer(decoded[width][:size], f"<{letter}").reshape(shape)
            arrays.append(array.astype(array.dtype.newbyteorder("=")))
            decoded[width] = decoded[width][size:]
    return arrays
