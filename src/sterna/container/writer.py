"""Write ``.sterna`` files, section after section."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from sterna import _core
from sterna.container.files import write_whole
from sterna.container.layout import (
    ARRAY_KINDS,
    CHECKSUM,
    CODERS,
    MAGIC,
    OPTIONAL,
    PREFIX,
    SCALE_KINDS,
    SCALED_INT8,
    SECTION,
    TRITS,
    VERSION,
    Progress,
    Section,
)
from sterna.errors import SternaError
from sterna.graph import Graph, encode_graphs
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor
from sterna.varint import varint

if TYPE_CHECKING:
    from torch import nn

Coder = Literal["small", "fast", "smallest", "auto"]

# A section is closed when it has grown to this: large enough for what all sections cost, small enough to be read alone.
_TRIT_SECTION_BYTES = 1 << 18  # coded
_ARRAY_SECTION_BYTES = 1 << 18  # not coded
# Larger tensors are cut between filters, so that several threads decode them.
_WEIGHTS_PER_CHUNK = 1 << 20
# `auto` takes `fast` where it costs at most this much more than `small`: it decodes about twenty times as fast.
_AUTO_TOLERANCE = 1.02


def save(
    obj: TernaryModel | nn.Module,
    path: str | os.PathLike[str],
    *,
    coder: Coder = "small",
    progress: Progress | None = None,
) -> int:
    """Write a model to a file: whole, or not at all.

    The bytes go to a temporary file beside it, section after section, which is then renamed, so that an older file at
    ``path`` is replaced in one step or stays as it was.

    Args:
        obj: a converted model, or a prepared module in the ternary phase, which is converted first.
        path: of the file, by custom with the suffix ``.sterna``.
        coder: of the trits: ``small``; ``fast``, which decodes twenty times as fast and is up to 9 % larger;
            ``smallest``, which is about 1 % smaller and decodes three to five times as slowly; or ``auto``, for each
            tensor ``fast`` where it costs at most 2 % more than ``small``, else ``small``.
        progress: called after each tensor with the elements done and all elements.

    Returns:
        Size of the file in bytes.

    Raises:
        NotTernaryError: a module that is not ternary yet.
        SternaError: the model cannot be stored, or the file cannot be written.
    """
    if not isinstance(obj, TernaryModel):
        from sterna.conversion import convert

        obj = convert(obj)
    return write_whole(Path(path), _parts(obj, coder, progress))


def encode(model: TernaryModel, *, coder: Coder = "small") -> bytes:
    """The bytes of a file; equal models give equal bytes on every machine.

    Raises:
        SternaError: a tensor or the metadata cannot be stored in this format.
    """
    return b"".join(_parts(model, coder, None))


def coded_bytes(trits: npt.NDArray[np.int8], coder: Coder = "small") -> int:
    """Bytes of a ternary tensor in a file, without its name, its shape and its scale."""
    if trits.size == 0:
        return 0
    section = _TritSection(coder)
    section.add(trits)
    return section.size


def _parts(model: TernaryModel, coder: Coder, progress: Progress | None) -> Iterator[bytes]:
    """The file, piece by piece, with its checksum."""
    if coder not in get_args(Coder):
        raise SternaError(f"coder must be one of {', '.join(get_args(Coder))}, got {coder!r}")
    crc = 0
    for part in _sections(model, coder, progress):
        crc = zlib.crc32(part, crc)
        yield part
    yield end_section(crc)


def end_section(crc: int) -> bytes:
    """The last section, which holds the checksum of all bytes before it."""
    return _section(Section.END, CHECKSUM.pack(crc))


def describing_sections(metadata: Mapping[str, Any], graphs: Sequence[Graph], tensors: Sequence[str]) -> list[bytes]:
    """The sections of metadata and graphs, where there are any; they follow that of the tensors' names."""
    sections = []
    if metadata:
        sections.append(_section(Section.METADATA, _text(_metadata_text(metadata), "the metadata"), OPTIONAL))
    if graphs:
        text = _text(encode_graphs(graphs, tensors), "the graph", _core.MAX_GRAPH_BYTES)
        sections.append(_section(Section.GRAPH, text, OPTIONAL))
    return sections


def _sections(model: TernaryModel, coder: Coder, progress: Progress | None) -> Iterator[bytes]:
    yield PREFIX.pack(MAGIC, VERSION, 0)
    yield _section(Section.TENSORS, _text(_table(model), "the names of the tensors"))
    yield from describing_sections(model.metadata, model.graphs, list(model.tensors))
    trits, arrays = _TritSection(coder), _ArraySection()
    total = sum(_values(tensor).size for tensor in model.tensors.values())
    done = 0
    for tensor in model.tensors.values():
        if isinstance(tensor, TernaryTensor):
            trits.add(tensor.trits)
        else:
            arrays.add(_values(tensor))
        if not isinstance(tensor, np.ndarray) and tensor.scale is not None:
            arrays.add(tensor.scale)
        if trits.size >= _TRIT_SECTION_BYTES:
            yield trits.close()
        if arrays.size >= _ARRAY_SECTION_BYTES:
            yield arrays.close()
        done += _values(tensor).size
        if progress is not None:
            progress(done, total)
    if arrays.count:
        yield arrays.close()
    if trits.count:
        yield trits.close()


def _section(kind: Section, payload: bytes, flags: int = 0) -> bytes:
    if len(payload) >= 1 << 32:
        raise SternaError(f"a section holds less than 4 GiB, got {len(payload)} bytes")
    framed = SECTION.pack(kind, flags, VERSION, len(payload)) + payload
    return framed + CHECKSUM.pack(zlib.crc32(framed))


class _TritSection:
    """Trits of consecutive ternary tensors: their coders and sizes, then their code."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self._reset()

    def _reset(self) -> None:
        self.count = 0
        self.size = 0
        self._list: list[bytes] = []
        self._code: list[bytes] = []

    def add(self, trits: npt.NDArray[np.int8]) -> None:
        trits = np.ascontiguousarray(trits).reshape(trits.shape)
        chunks = _chunks(trits)
        number, coded = self._encode(chunks)
        filters = chunks[0].shape[0] if chunks and trits.ndim >= 2 else len(chunks)
        self._list += [varint(number), varint(filters), *(varint(len(code)) for code in coded)]
        self._code += coded
        self.size += sum(map(len, coded))
        self.count += 1

    def _encode(self, chunks: list[npt.NDArray[np.int8]]) -> tuple[int, list[bytes]]:
        if self._coder != "auto":
            number = CODERS.index(self._coder)
            return number, [_core.encode_trits(chunk, number) for chunk in chunks]
        (small, small_code), (fast, fast_code) = (
            (number, [_core.encode_trits(chunk, number) for chunk in chunks])
            for number in (CODERS.index("small"), CODERS.index("fast"))
        )
        if sum(map(len, fast_code)) <= _AUTO_TOLERANCE * sum(map(len, small_code)):
            return fast, fast_code
        return small, small_code

    def close(self) -> bytes:
        section = _section(Section.TRITS, b"".join([varint(self.count), *self._list, *self._code]))
        self._reset()
        return section


def _chunks(trits: npt.NDArray[np.int8]) -> list[npt.NDArray[np.int8]]:
    """Runs of filters of about equal size; none of an empty tensor."""
    if trits.size == 0:
        return []
    if trits.ndim < 2:
        return [trits]
    filters = trits.shape[0]
    step = math.ceil(filters / min(filters, math.ceil(trits.size / _WEIGHTS_PER_CHUNK)))
    return [trits[first : first + step] for first in range(0, filters, step)]


class _ArraySection:
    """Consecutive arrays and scales: those of one element size together, in chunks."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.count = 0
        self.size = 0
        self._bytes: dict[int, list[npt.NDArray[np.uint8]]] = {}

    def add(self, array: npt.NDArray[Any]) -> None:
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        self._bytes.setdefault(array.dtype.itemsize, []).append(little.reshape(-1).view(np.uint8))
        self.size += array.nbytes
        self.count += 1

    def close(self) -> bytes:
        parts = [varint(self.count)]
        for width in sorted(self._bytes):
            numbers = np.concatenate(self._bytes[width])
            step = _core.NUMBERS_PER_CHUNK * width
            for first in range(0, numbers.size, step):
                coded = _core.encode_numbers(numbers[first : first + step], width)
                parts += [varint(len(coded)), coded]
        section = _section(Section.ARRAYS, b"".join(parts))
        self._reset()
        return section


def _values(tensor: Tensor) -> npt.NDArray[Any]:
    if isinstance(tensor, TernaryTensor):
        return tensor.trits
    return tensor.values if isinstance(tensor, Int8Tensor) else tensor


def _table(model: TernaryModel) -> bytes:
    """Names, kinds and shapes of all tensors."""
    if len(model.tensors) > _core.MAX_TENSORS:
        raise SternaError(f"a file holds at most {_core.MAX_TENSORS} tensors, got {len(model.tensors)}")
    total = sum(_values(tensor).size for tensor in model.tensors.values())
    if total > _core.MAX_TOTAL_ELEMENTS:
        raise SternaError(f"a file holds at most {_core.MAX_TOTAL_ELEMENTS} elements, got {total}")
    parts = [varint(len(model.tensors))]
    for name, tensor in model.tensors.items():
        encoded, values = name.encode(), _values(tensor)
        if len(encoded) > _core.MAX_NAME_BYTES:
            raise SternaError(
                f"a tensor's name has at most {_core.MAX_NAME_BYTES} bytes, got {len(encoded)}: {name[:40]!r}..."
            )
        if values.ndim > _core.MAX_AXES or values.size > _core.MAX_ELEMENTS:
            raise SternaError(
                f"tensor {name!r} must have at most {_core.MAX_AXES} dimensions and {_core.MAX_ELEMENTS} elements, "
                f"got shape {values.shape}"
            )
        scale = None if isinstance(tensor, np.ndarray) else tensor.scale
        scale_kind = SCALE_KINDS.index(None if scale is None else (f"f{scale.dtype.itemsize}", scale.ndim))
        parts += [varint(len(encoded)), encoded, bytes([_kind(tensor), scale_kind, values.ndim])]
        parts += map(varint, values.shape)
    return b"".join(parts)


def _kind(tensor: Tensor) -> int:
    if isinstance(tensor, TernaryTensor):
        return TRITS
    if isinstance(tensor, Int8Tensor):
        return SCALED_INT8
    kind = f"{tensor.dtype.kind}{tensor.dtype.itemsize}"
    if kind not in ARRAY_KINDS:
        raise SternaError(f"arrays must be of {', '.join(ARRAY_KINDS)} (NumPy's letters and bytes), got {tensor.dtype}")
    return ARRAY_KINDS.index(kind)


def _text(text: bytes, what: str, most: int = _core.MAX_TEXT_BYTES) -> bytes:
    if len(text) > most:
        raise SternaError(f"{what} must have at most {most} bytes, got {len(text)}")
    return varint(len(text)) + _core.encode_text(text)


def _metadata_text(metadata: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        _check_keys(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise SternaError(f"the metadata must be JSON values: {error}") from error
    return text


def _check_keys(metadata: Mapping[str, Any]) -> None:
    """JSON would turn other keys into text, so that what is read is not what was written."""
    waiting: list[Any] = [metadata]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"keys must be text, got {key!r}")
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
