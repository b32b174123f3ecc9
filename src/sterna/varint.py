"""Integers in as few bytes as they need (``docs/format.md``, Conventions)."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A number in bytes of seven bits, the lowest first; the eighth bit says that another byte follows."""
    coded = bytearray()
    while value > 127:
        coded.append(128 | value & 127)
        value >>= 7
    coded.append(value)
    return bytes(coded)
