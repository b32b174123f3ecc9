"""The numbers by which files name sections, kinds of tensors and coders (``docs/format.md``)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum

from sterna import _core

MAGIC = b"\x89STERNA\n"
VERSION = _core.VERSION
PREFIX = struct.Struct("<8sHH")  # magic, version, reserved
SECTION = struct.Struct("<BBHI")  # kind, flags, version needed, bytes of the payload
CHECKSUM = struct.Struct("<I")

OPTIONAL = 1  # flag of a section: a reader that does not know its kind goes on without it


class Section(IntEnum):
    """Kinds of sections."""

    END = 0
    TENSORS = 1
    METADATA = 2
    TRITS = 3
    ARRAYS = 4
    GRAPH = 5


# Kinds of tensors by their numbers: NumPy's letter and the bytes of an element; then ternary, then int8 with a scale.
ARRAY_KINDS = ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
TRITS = len(ARRAY_KINDS)
SCALED_INT8 = TRITS + 1

# Kinds of scales by their numbers: type and rank (0: one of all; 1: one for each index of the first axis).
SCALE_KINDS = (None, ("f2", 0), ("f2", 1), ("f4", 0), ("f4", 1))

# Coders of trits by their numbers.
CODERS = ("small", "fast", "smallest")


# Called with the work done so far and all work.
Progress = Callable[[int, int], None]
