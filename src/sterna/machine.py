"""The processor and the memory of this process, as the system tells them."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from pathlib import Path


def processor() -> tuple[str, frozenset[str]]:
    """Name and flags: Linux tells both in a file, other systems at least the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, frozenset((fields.get("flags") or fields.get("Features") or "").split())


def forget_peak() -> int:
    """Begin the peak of the resident memory anew, where the system can, and return it in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # Linux hands the peak of getrusage on to child processes; this one starts anew with each program.
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def return_freed_memory() -> None:
    """Give memory that this process has freed back to the system; glibc keeps it, others need no asking."""
    # Windows has no library without a name, and other C libraries no such function.
    with contextlib.suppress(TypeError, OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
