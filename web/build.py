"""Build the WebAssembly engine: ``python web/build.py``.

Compiles ``core/`` unchanged, with ``web/native/exports.cc``, by the C++ compiler in the package ``ziglang`` (it brings the
C++ library of WebAssembly with it) to ``web/dist/sterna.wasm``.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WEB = Path(__file__).resolve().parent
REPOSITORY = WEB.parent
OBJECTS = REPOSITORY / "build" / "web"
MODULE = WEB / "dist" / "sterna.wasm"

# Memory of an instance: a bound for what a file or an image may ask for, far beyond any network.
MEMORY_BYTES = 1 << 30
STACK_BYTES = 1 << 19

# The kernels are compiled once for each instruction set.
KERNELS = REPOSITORY / "core" / "kernels" / "kernel_set.cc"
SOURCES = sorted(
    path for path in (REPOSITORY / "core").rglob("*.cc") if path.parent.name != "testing" and path != KERNELS
)
FLAGS = [
    "-target",
    "wasm32-wasi",
    "-std=c++20",
    "-O3",
    "-msimd128",
    "-fno-exceptions",
    "-fno-rtti",
    # Products and sums are rounded one by one, as on all instruction sets.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Werror",
    "-DSTERNA_NO_THREADS",
    "-DSTERNA_WASM",
    f"-DSTERNA_MEMORY_BYTES={MEMORY_BYTES}u",
    f"-I{REPOSITORY}",
]
LINK_FLAGS = [
    "-mexec-model=reactor",
    "-Wl,--no-entry",
    "-Wl,--strip-all",
    f"-Wl,--max-memory={MEMORY_BYTES}",
    f"-Wl,-z,stack-size={STACK_BYTES}",
]


def compiler() -> list[str]:
    """The command of the C++ compiler."""
    try:
        import ziglang  # noqa: F401  # its path is its own affair
    except ImportError:
        sys.exit("building the WebAssembly engine needs the package ziglang: pip install ziglang")
    return [sys.executable, "-m", "ziglang", "c++"]


def main() -> None:
    """Compile, link, and say how large the module is."""
    command = [*compiler(), *FLAGS]
    OBJECTS.mkdir(parents=True, exist_ok=True)
    MODULE.parent.mkdir(exist_ok=True)
    units = [(source, source.stem, []) for source in [*SOURCES, WEB / "native" / "exports.cc"]]
    units += [(KERNELS, f"kernels_{isa}", [f"-DSTERNA_ISA={isa}"]) for isa in ("scalar", "wasm")]

    def build(unit: tuple[Path, str, list[str]]) -> Path:
        source, name, definitions = unit
        built = OBJECTS / f"{name}.o"
        subprocess.run([*command, *definitions, "-c", source, "-o", built], check=True)
        return built

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(build, units))
        subprocess.run([*command, *LINK_FLAGS, *objects, "-o", MODULE], check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(f"the compiler ended with {error.returncode}")
    data = MODULE.read_bytes()
    print(f"{MODULE.relative_to(REPOSITORY)}: {len(data):,} bytes, {len(gzip.compress(data, 9)):,} with gzip")


if __name__ == "__main__":
    main()
