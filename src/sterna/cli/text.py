"""Text that is safe to print: names in files are a stranger's, and a terminal obeys control characters."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line, with everything that a terminal would act on written as an escape."""
    line = " ".join(text.split("\n"))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def in_bytes(count: int) -> str:
    """``38,912 B (38.0 KiB)``."""
    if count < 1024:
        return f"{count:,} B"
    power = min((count.bit_length() - 1) // 10, 3)
    return f"{count:,} B ({count / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]})"
