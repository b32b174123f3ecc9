"""Write and read ``.sterna`` files; ``docs/format.md`` specifies every byte.

Files are hostile until proven otherwise: every size is checked against a named limit and against the bytes that are
really there before anything is allocated, and the checksum of the whole file before anything is believed.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sterna import _core
from sterna.errors import FormatError, SternaError
from sterna.ternary_model import Tensor, TernaryModel, TernaryTensor

if TYPE_CHECKING:
    from torch import nn

MAGIC = b"\x89STERNA\n"
VERSION = 1
PREFIX = struct.Struct("<8sHHII")  # magic, version, reserved, stored header bytes, header bytes
CHECKSUM = struct.Struct("<I")

MAX_HEADER_BYTES = 1 << 24
MAX_TENSORS = 1 << 16
MAX_NAME_CHARACTERS = 512
MAX_DIMENSIONS = 8
MAX_ELEMENTS = int(_core.MAX_WEIGHTS)  # in one tensor
MAX_DEFLATE_RATIO = 1032  # what the deflate format can reach
MAX_WEIGHTS_PER_BYTE = int(_core.MAX_WEIGHTS_PER_BYTE)
SLACK_BYTES = 64  # so that the ratios also hold for tiny sections

# Kinds of arrays: NumPy's letter and the bytes of an element, little endian.
ARRAY_KINDS = ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
SCALE_KINDS = ("f2", "f4")


@dataclass(frozen=True)
class Entry:
    """One tensor in the header.

    Args:
        name: of the tensor.
        kind: ``trits``, or one of :data:`ARRAY_KINDS`.
        shape: of the tensor.
        coded_bytes: of the trits; 0 for arrays.
        scale_kind: ``f2``, ``f4``, or nothing where the trits have no scale.
        scale_per_filter: one scale for each index of the first axis, or one for all.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    coded_bytes: int = 0
    scale_kind: str | None = None
    scale_per_filter: bool = False

    @property
    def elements(self) -> int:
        """Number of trits or array elements."""
        return math.prod(self.shape)

    def array(self) -> tuple[str, tuple[int, ...]] | None:
        """Kind and shape of what this tensor keeps among the arrays: itself, its scale, or nothing."""
        if self.kind != "trits":
            return self.kind, self.shape
        if self.scale_kind is None:
            return None
        return self.scale_kind, self.shape[:1] if self.scale_per_filter else ()


@dataclass(frozen=True)
class Layout:
    """Where everything is in a file, and what its header says."""

    entries: tuple[Entry, ...]
    metadata: dict[str, Any]
    file_bytes: int
    header_bytes: int
    array_bytes: int


def save(obj: TernaryModel | nn.Module, path: str | os.PathLike[str]) -> int:
    """Write a model to a file: whole, or not at all.

    The bytes go to a temporary file beside it, which is then renamed, so that an older file at ``path`` is
    replaced in one step or stays as it was.

    Args:
        obj: a converted model, or a prepared module in the ternary phase, which is converted first.
        path: of the file, by custom with the suffix ``.sterna``.

    Returns:
        Size of the file in bytes.

    Raises:
        NotTernaryError: a module that is not ternary yet.
        SternaError: the model cannot be stored, or the file cannot be written.
    """
    if not isinstance(obj, TernaryModel):
        from sterna.conversion import convert

        obj = convert(obj)
    data = encode(obj)
    write_whole(Path(path), data)
    return len(data)


def read(path: str | os.PathLike[str]) -> TernaryModel:
    """Read a file into plain data; needs no PyTorch.

    Raises:
        FormatError: the file is not a ``.sterna`` file, is damaged, or breaks a limit.
        SternaError: it cannot be read.
    """
    return read_with_layout(path)[0]


def read_with_layout(path: str | os.PathLike[str]) -> tuple[TernaryModel, Layout]:
    """Read a file and say where its bytes are; errors as :func:`read`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SternaError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from error
    try:
        layout = parse(data)
        return _decode(data, layout), layout
    except FormatError as error:
        raise FormatError(error.cause, f"{os.fspath(path)}: {error}") from None


def decode(data: bytes) -> TernaryModel:
    """The model in the bytes of a file; errors as :func:`read`."""
    return _decode(data, parse(data))


def encode(model: TernaryModel) -> bytes:
    """The bytes of a file; equal models give equal bytes (with the same version of zlib).

    Raises:
        SternaError: a tensor or the metadata cannot be stored in this format.
    """
    entries: list[Any] = []
    sections: list[bytes] = []
    arrays: list[npt.NDArray[Any]] = []
    if len(model.tensors) > MAX_TENSORS:
        raise SternaError(f"a file holds at most {MAX_TENSORS} tensors, got {len(model.tensors)}")
    for name, tensor in model.tensors.items():
        values = tensor.trits if isinstance(tensor, TernaryTensor) else tensor
        _check_storable(name, values)
        shape = list(values.shape)
        if not isinstance(tensor, TernaryTensor):
            entries.append([name, _kind(values), shape])
            arrays.append(values)
            continue
        coded = _core.encode_trits(np.array(tensor.trits, order="C"))
        sections.append(coded)
        entry = [name, "trits", shape, len(coded)]
        if tensor.scale is not None:
            entry += [_kind(tensor.scale), int(tensor.scale.ndim)]
            arrays.append(tensor.scale)
        entries.append(entry)
    packed = _deflate(_planes(arrays))
    text = _header_text({"tensors": entries, "arrays": len(packed), "metadata": dict(model.metadata)})
    header = _deflate(text)
    prefix = PREFIX.pack(MAGIC, VERSION, 0, len(header), len(text))
    body = b"".join([prefix, header, *sections, packed])
    return body + CHECKSUM.pack(zlib.crc32(body))


def parse(data: bytes) -> Layout:
    """Check a file up to its sections: prefix, checksum, header, limits, and that the sections cover it exactly.

    Raises:
        FormatError: the first rule that is broken.
    """
    if len(data) < PREFIX.size + CHECKSUM.size:
        raise FormatError(
            "truncated", f"a .sterna file has at least {PREFIX.size + CHECKSUM.size} bytes, got {len(data)}"
        )
    magic, version, reserved, stored_bytes, text_bytes = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise FormatError("magic", f"not a .sterna file: it begins with {data[:8]!r}, not with {MAGIC!r}")
    if version != VERSION:
        raise FormatError(
            "version", f"version {version} needs a Sterna that reads it; this one reads version {VERSION}"
        )
    if zlib.crc32(data[: -CHECKSUM.size]) != CHECKSUM.unpack_from(data, len(data) - CHECKSUM.size)[0]:
        raise FormatError("checksum", "the checksum does not match: the file is damaged or cut off")
    if reserved != 0:
        raise FormatError("reserved", f"prefix at offset 10: reserved bits must be 0, got {reserved:#06x}")
    remaining = len(data) - PREFIX.size - CHECKSUM.size
    if stored_bytes > remaining:
        raise FormatError(
            "header-size", f"header at offset {PREFIX.size}: declared {stored_bytes} bytes, {remaining} remain"
        )
    if text_bytes > MAX_HEADER_BYTES:
        raise FormatError(
            "header-size", f"header at offset {PREFIX.size}: at most {MAX_HEADER_BYTES} bytes, got {text_bytes}"
        )
    text = _inflate(data[PREFIX.size : PREFIX.size + stored_bytes], text_bytes, "header", PREFIX.size)
    entries, array_bytes, metadata = _parse_header(text)
    sections = sum(entry.coded_bytes for entry in entries) + array_bytes
    if PREFIX.size + stored_bytes + sections + CHECKSUM.size != len(data):
        raise FormatError(
            "coverage",
            f"sections at offset {PREFIX.size + stored_bytes}: declared {sections} bytes, "
            f"{remaining - stored_bytes} remain",
        )
    return Layout(entries, metadata, len(data), PREFIX.size + stored_bytes, array_bytes)


def _decode(data: bytes, layout: Layout) -> TernaryModel:
    offset = layout.header_bytes
    trits: dict[str, npt.NDArray[np.int8]] = {}
    for entry in layout.entries:
        if entry.kind != "trits":
            continue
        section = data[offset : offset + entry.coded_bytes]
        try:
            trits[entry.name] = _core.decode_trits(section, entry.shape)
        except ValueError as error:
            raise FormatError("trits", f"section of {entry.name!r} at offset {offset}: {error}") from None
        offset += entry.coded_bytes
    wanted = [kept for entry in layout.entries if (kept := entry.array()) is not None]
    raw_bytes = sum(math.prod(shape) * int(kind[1]) for kind, shape in wanted)
    planes = _inflate(data[offset : offset + layout.array_bytes], raw_bytes, "arrays", offset)
    arrays = iter(_arrays(planes, wanted, offset))
    tensors: dict[str, Tensor] = {}
    for entry in layout.entries:
        if entry.kind == "trits":
            scale = next(arrays) if entry.scale_kind is not None else None
            tensors[entry.name] = TernaryTensor(trits[entry.name], scale)
        else:
            tensors[entry.name] = next(arrays)
    return TernaryModel(tensors, layout.metadata)


def _parse_header(text: bytes) -> tuple[tuple[Entry, ...], int, dict[str, Any]]:
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FormatError("header-json", f"header: not valid JSON: {error}") from None
    if not isinstance(header, dict) or header.keys() != {"tensors", "arrays", "metadata"}:
        raise FormatError("header-schema", "header: must be an object with tensors, arrays and metadata")
    listed, array_bytes, metadata = header["tensors"], header["arrays"], header["metadata"]
    if not isinstance(listed, list) or not isinstance(metadata, dict) or not _is_count(array_bytes):
        raise FormatError("header-schema", "header: tensors must be a list, arrays a size, metadata an object")
    if len(listed) > MAX_TENSORS:
        raise FormatError("limit", f"header: at most {MAX_TENSORS} tensors, got {len(listed)}")
    entries = tuple(_parse_entry(item, number) for number, item in enumerate(listed))
    if len({entry.name for entry in entries}) != len(entries):
        raise FormatError("header-schema", "header: two tensors have the same name")
    return entries, array_bytes, metadata


def _parse_entry(item: Any, number: int) -> Entry:
    place = f"header: tensor {number}"
    if not isinstance(item, list) or len(item) < 3:
        raise FormatError("header-schema", f"{place}: must be a list of name, kind, shape, ...")
    name, kind, shape, *rest = item
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS:
        raise FormatError(
            "header-schema", f"{place}: the name must be text of at most {MAX_NAME_CHARACTERS} characters"
        )
    if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
        raise FormatError("header-schema", f"{place}: the shape must be a list of sizes")
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError("limit", f"{place}: at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    if math.prod(shape) > MAX_ELEMENTS or any(size > MAX_ELEMENTS for size in shape):
        raise FormatError("limit", f"{place}: at most {MAX_ELEMENTS} elements, got shape {shape}")
    if kind in ARRAY_KINDS and not rest:
        return Entry(name, kind, tuple(shape))
    if kind != "trits" or len(rest) not in (1, 3) or not _is_count(rest[0]):
        raise FormatError("header-schema", f"{place}: unknown kind or wrong number of values: {kind!r}")
    if math.prod(shape) > (rest[0] + SLACK_BYTES) * MAX_WEIGHTS_PER_BYTE:
        raise FormatError("ratio", f"{place}: {rest[0]} bytes cannot hold trits of shape {shape}")
    if len(rest) == 1:
        return Entry(name, kind, tuple(shape), rest[0])
    if rest[1] not in SCALE_KINDS or rest[2] not in (0, 1) or (rest[2] == 1 and not shape):
        raise FormatError("header-schema", f"{place}: the scale must be of kind f2 or f4 and of rank 0 or 1")
    return Entry(name, kind, tuple(shape), rest[0], rest[1], rest[2] == 1)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond every number")
    return value


def _check_storable(name: str, values: npt.NDArray[Any]) -> None:
    if len(name) > MAX_NAME_CHARACTERS:
        raise SternaError(
            f"a tensor's name has at most {MAX_NAME_CHARACTERS} characters, got {len(name)}: {name[:40]!r}..."
        )
    if values.ndim > MAX_DIMENSIONS or values.size > MAX_ELEMENTS:
        raise SternaError(
            f"tensor {name!r} must have at most {MAX_DIMENSIONS} dimensions and {MAX_ELEMENTS} elements, "
            f"got shape {values.shape}"
        )


def _kind(array: npt.NDArray[Any]) -> str:
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    if kind not in ARRAY_KINDS:
        raise SternaError(f"arrays must be of {', '.join(ARRAY_KINDS)} (NumPy's letters and bytes), got {array.dtype}")
    return kind


def _header_text(header: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SternaError(f"the metadata must be JSON values: {error}") from error
    if len(text) > MAX_HEADER_BYTES:
        raise SternaError(f"header of at most {MAX_HEADER_BYTES} bytes, got {len(text)}: the metadata are too large")
    return text


def _planes(arrays: Sequence[npt.NDArray[Any]]) -> bytes:
    """All arrays, those of equal element size together, first all lowest bytes, then all second bytes, and so on.

    Sign and exponent of numbers of one tensor are alike, so that their plane compresses.
    """
    parts = []
    for size in (1, 2, 4, 8):
        little = [
            np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes() for a in arrays if a.dtype.itemsize == size
        ]
        parts.append(np.frombuffer(b"".join(little), np.uint8).reshape(-1, size).T.tobytes())
    return b"".join(parts)


def _arrays(planes: bytes, wanted: Sequence[tuple[str, tuple[int, ...]]], offset: int) -> list[npt.NDArray[Any]]:
    """Undo :func:`_planes`."""
    streams = {}
    start = 0
    for size in (1, 2, 4, 8):
        count = sum(math.prod(shape) for kind, shape in wanted if int(kind[1]) == size)
        part = np.frombuffer(planes, np.uint8, count * size, start).reshape(size, count)
        streams[size] = memoryview(part.T.tobytes())
        start += count * size
    arrays = []
    for kind, shape in wanted:
        size = int(kind[1])
        taken = math.prod(shape) * size
        if kind == "b1" and any(byte > 1 for byte in streams[size][:taken]):
            raise FormatError("arrays", f"arrays at offset {offset}: a truth value must be 0 or 1")
        array = np.frombuffer(streams[size][:taken], np.dtype(f"<{kind}")).reshape(shape)
        arrays.append(array.astype(array.dtype.newbyteorder("=")))
        streams[size] = streams[size][taken:]
    return arrays


def _deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS, memLevel=9)
    return compressor.compress(data) + compressor.flush()


def _inflate(data: bytes, size: int, section: str, offset: int) -> bytes:
    """Decompress to exactly ``size`` bytes, after checking that so few bytes can hold so many."""
    if size > (len(data) + SLACK_BYTES) * MAX_DEFLATE_RATIO:
        raise FormatError("ratio", f"{section} at offset {offset}: {len(data)} bytes cannot hold {size}")
    decompressor = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        # One byte more than allowed shows that there is more.
        text = decompressor.decompress(data, size + 1)
    except zlib.error as error:
        raise FormatError(section, f"{section} at offset {offset}: not deflated data: {error}") from None
    if len(text) != size or not decompressor.eof or decompressor.unused_data or decompressor.unconsumed_tail:
        raise FormatError(section, f"{section} at offset {offset}: must inflate to exactly {size} bytes")
    return text


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step: a temporary file beside it, synchronised, then renamed.

    Raises:
        SternaError: it cannot be written; an older file at ``path`` is as it was, and no temporary file is left.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        synchronize_folder(path.parent)
    except OSError as error:
        raise SternaError(f"cannot write {path} ({len(data)} bytes): {error.strerror or error}") from error


def synchronize_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut; systems that cannot open folders do without."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
