"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sterna.errors import SternaError


def write_whole(path: Path, parts: bytes | Iterable[bytes]) -> int:
    """Write a file in one step: a temporary file beside it, synchronised, then renamed.

    Args:
        path: of the file; an older one is replaced.
        parts: its bytes, or pieces of them, each written as it comes.

    Returns:
        Size of the file in bytes.

    Raises:
        SternaError: it cannot be written; an older file at ``path`` is as it was, and no temporary file is left.
    """
    partial = path.with_name(path.name + ".partial")
    written = 0
    try:
        try:
            with partial.open("wb") as file:
                for part in (parts,) if isinstance(parts, bytes) else parts:
                    file.write(part)
                    written += len(part)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        synchronize_folder(path.parent)
    except OSError as error:
        raise SternaError(f"cannot write {path} (after {written} bytes): {error.strerror or error}") from error
    return written


def synchronize_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut; systems that cannot open folders do without."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
