"""What the system tells of the processor and of memory."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from sterna.machine import peak_bytes, processor, return_freed_memory


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def test_the_processor_has_a_name() -> None:
    name, _ = processor()
    assert name


def test_the_peak_is_no_less_than_what_was_once_in_use() -> None:
    before = peak_bytes()
    block = np.ones(8_000_000)
    assert peak_bytes() >= before
    assert peak_bytes() >= block.nbytes


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_goes_back_to_the_system() -> None:
    # Below the size from which on glibc maps each block; the last one keeps the heap from shrinking by itself.
    blocks = [np.ones(8_000) for _ in range(2_000)]
    last = blocks.pop()
    used = resident_bytes()
    blocks.clear()
    return_freed_memory()
    assert resident_bytes() < used - 60_000_000
    assert last[0] == 1.0
