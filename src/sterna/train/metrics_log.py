"""``metrics.jsonl``: one JSON object a line, written as training goes and cut back when it is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sterna.errors import CheckpointError, SternaError


class MetricsLog:
    """An append-only file of JSON lines.

    Args:
        path: created, or continued.
        length: bytes to keep of what is there; 0 starts anew.

    Raises:
        CheckpointError: the file is shorter than ``length``.
        SternaError: the file cannot be written.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        self.path = path
        try:
            present = path.stat().st_size if path.exists() else 0
            if present < length:
                raise CheckpointError(f"{path} has {present} bytes, but the checkpoint was made when it had {length}")
            self._file = path.open("ab")
            self._file.truncate(length)
        except OSError as error:
            raise _cannot_write(path, error) from error
        self._length = length

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line and hand it to the operating system.

        Raises:
            SternaError: the disk is full, for example.
        """
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._length += len(data)

    def synchronize(self) -> int:
        """Bring everything written so far to the disk, and return its length in bytes."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        return self._length

    def close(self) -> None:
        """Close the file; a full disk does not matter any more."""
        try:
            self._file.close()
        except OSError:
            return


def _cannot_write(path: Path, error: OSError) -> SternaError:
    return SternaError(f"cannot write {path}: {error.strerror or error}")
