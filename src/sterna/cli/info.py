"""``sterna info``: the machine and what is installed on it."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sterna import __version__
from sterna.cli import options, output
from sterna.cli.packages import DISTRIBUTIONS, EXTRAS
from sterna.cli.text import in_bytes
from sterna.machine import processor

# Those that matter to kernels, in the words of Linux, weakest first.
_INSTRUCTION_SETS = (
    "sse4_1", "sse4_2", "f16c", "fma", "avx", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_vbmi", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "sve", "sve2",
)  # fmt: skip


def info(as_json: options.Json = False) -> None:
    """Show the processor, versions, and what is installed.

    Every package that Sterna can use is listed, with what installs it.

    Examples:
      sterna info
      sterna info --json
    """
    report = collect()
    if as_json:
        output.print_json(report)
        return
    processor, data = report["processor"], report["data"]
    rows = [
        ("sterna", report["sterna"] + ("" if report["native_core"] else " (native core missing: build it)")),
        ("Python", f"{report['python']} ({report['platform']})"),
        ("processor", processor["name"]),
        ("instruction sets", " ".join(processor["instruction_sets"]) or "unknown"),
        ("kernels for", " ".join(processor["kernels"]) + " (the last one is taken; STERNA_ISA chooses another)"),
        *_amx_row(processor),
        ("cores", f"{processor['cores_usable']} usable of {processor['cores']}"),
        ("memory", in_bytes(report["memory_bytes"]) if report["memory_bytes"] else "unknown"),
        ("STERNA_DATA", f"{data['path']} ({'exists' if data['exists'] else 'does not exist'})"),
    ]
    console = output.stdout()
    console.print(output.pairs(rows))
    console.print()
    packages = output.table(("package", "version", "installed by"))
    for name, package in report["packages"].items():
        packages.add_row(name, package["version"] or "not installed", package["install"])
    console.print(packages)


def collect() -> dict[str, Any]:
    """Everything that ``sterna info`` shows, as JSON values; nothing heavy is imported for it."""
    name, flags = processor()
    packages = {"numpy": {"version": _version("numpy"), "install": "pip install sterna"}}
    for module, extra in EXTRAS.items():
        distribution = DISTRIBUTIONS.get(module, module)
        packages[distribution] = {"version": _version(distribution), "install": f"pip install 'sterna[{extra}]'"}
    root = Path(os.environ.get("STERNA_DATA") or ".data")
    return {
        "sterna": __version__,
        "native_core": find_spec("sterna._core") is not None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": {
            "name": name,
            "instruction_sets": [known for known in _INSTRUCTION_SETS if known in flags],
            "kernels": _kernels(),
            "amx": _amx_state(),
            "cores": os.cpu_count() or 1,
            "cores_usable": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        },
        "memory_bytes": _memory_bytes(),
        "packages": packages,
        "data": {"path": str(root), "from_environment": bool(os.environ.get("STERNA_DATA")), "exists": root.is_dir()},
    }


def _kernels() -> list[str]:
    try:
        from sterna.session import instruction_sets
    except ImportError:  # the native core is missing, which is said in its own line
        return []
    return instruction_sets()


def _amx_state() -> str | None:
    try:
        from sterna.session import amx_state
    except ImportError:
        return None
    return amx_state()


def _amx_row(processor: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the processor has AMX and the engine cannot use it, why."""
    if "amx_int8" not in processor["instruction_sets"] or processor["amx"] in (None, "usable"):
        return []
    return [("AMX", f"{processor['amx']}; the kernels of the set before it are taken")]


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
