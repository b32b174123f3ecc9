"""The members of tar files, for reading at random: where each lies, without unpacking anything.

References:
    POSIX.1-2001, ``pax``: the ustar and pax formats; GNU tar manual, "Basic Tar Format": its long names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sterna.errors import DataError

_COMPRESSED_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK = 512
_LARGEST_METADATA_BYTES = 1 << 20
_LARGEST_PADDING_BYTES = 1 << 20
# Kinds of members, each one byte of the header: metadata are pax (x, Solaris X, for all members g) or GNU (long name L,
# long link K); links, devices, folders and pipes have no payload, whatever size they declare.
_REGULAR = b"07\0"
_METADATA = b"xXgLK"
_WITHOUT_PAYLOAD = b"123456"


class Member(NamedTuple):
    """A regular member of a tar file; its payload is ``size`` bytes from byte ``offset`` of the file on."""

    name: str
    offset: int
    size: int


def read_members(file: BinaryIO, path: Path) -> Iterator[Member]:
    """The regular members of a tar file (ustar, pax, GNU or old), in its order; payloads are skipped.

    Python's ``tarfile`` is not used because it takes a damaged header for the end of the file.

    Args:
        file: opened for reading.
        path: of the file, for messages.

    Raises:
        DataError: the file is compressed, truncated, damaged or has sparse members.
    """
    file_bytes = os.fstat(file.fileno()).st_size
    position = 0
    shared: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    while (header := _read_header(file, path, position)) is not None:
        place = f"'{path}' at offset {position}"
        kind = header[156:157]
        attributes = shared | own
        name = (attributes.get(b"path") or _header_name(header)).decode(errors="surrogateescape")
        try:
            size = 0 if kind in _WITHOUT_PAYLOAD else _parse_size(header[124:136])
            if b"size" in attributes and kind not in _METADATA:
                size = int(attributes[b"size"][:20])
            if size < 0:
                raise ValueError("negative")
        except ValueError as error:
            raise DataError(f"{place}: the size of the member is not a number of bytes") from error
        offset = position + _BLOCK
        if size > file_bytes - offset:
            raise DataError(
                f"'{path}' is truncated: it has {file_bytes} bytes, member {name!r} ends at {offset + size}"
            )
        if kind in _METADATA:
            if size > _LARGEST_METADATA_BYTES:
                raise DataError(f"{place}: {size} bytes of metadata, at most {_LARGEST_METADATA_BYTES} are allowed")
            payload = file.read(size)
            try:
                if kind == b"L":
                    own[b"path"] = payload.partition(b"\0")[0]
                elif kind != b"K":
                    (shared if kind == b"g" else own).update(_parse_pax(payload))
            except ValueError as error:
                raise DataError(f"{place}: damaged pax header") from error
        else:
            if kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in attributes):
                raise DataError(f"{place}: member {name!r} is sparse, which is not supported")
            if kind in _REGULAR and not name.endswith("/"):
                yield Member(name, offset, size)
            own = {}
        position = offset + -(-size // _BLOCK) * _BLOCK


def _read_header(file: BinaryIO, path: Path, position: int) -> bytes | None:
    """The header at this offset, or nothing for the end mark."""
    file.seek(position)
    header = file.read(_BLOCK)
    if position == 0 and (compression := _compression(header)):
        raise DataError(f"'{path}' is compressed with {compression}; shards must be uncompressed .tar files")
    if len(header) < _BLOCK:
        raise DataError(f"'{path}' is truncated: it ends without an end mark")
    if not header.strip(b"\0"):
        # The end of one archive and the start of a next one would be samples lost in silence.
        if file.read(_LARGEST_PADDING_BYTES).strip(b"\0"):
            raise DataError(f"'{path}' at offset {position}: data follow the end mark")
        return None
    if not _checksum_fits(header):
        raise DataError(f"'{path}' at offset {position}: not a tar header, or a damaged one")
    return header


def _compression(header: bytes) -> str | None:
    """Name of the format that the file is compressed with; a tar file may begin with any bytes."""
    names = (name for magic, name in _COMPRESSED_MAGIC.items() if header.startswith(magic))
    return None if _checksum_fits(header) else next(names, None)


def _checksum_fits(header: bytes) -> bool:
    try:
        stored = int(header[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return stored == sum(header[:148]) + 8 * ord(" ") + sum(header[156:])


def _parse_size(field: bytes) -> int:
    """Octal text, or GNU's big-endian binary number behind a byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _header_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _parse_pax(payload: bytes) -> dict[bytes, bytes]:
    """Records of length (of all of the record), blank, key, "=", value and line end; ValueError if they are not."""
    records = {}
    position = 0
    while position < len(payload):
        digits = payload[position : position + 20].partition(b" ")[0]
        end = position + (int(digits) if digits.isdigit() else 0)
        key, equals, value = payload[position + len(digits) + 1 : end - 1].partition(b"=")
        if end <= position or not equals or payload[end - 1 : end] != b"\n":
            raise ValueError("not a pax record")
        records[key] = value
        position = end
    return records
