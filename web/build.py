"""Build the WebAssembly engine: ``python web/build.py``.

Compiles ``core/`` unchanged, with ``web/native/exports.cc``, by the C++ compiler in the package ``ziglang`` (it brings
the C++ library of WebAssembly with it) to ``web/dist/sterna.wasm``.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

WEB = Path(__file__).resolve().parent
REPOSITORY = WEB.parent
OBJECTS = REPOSITORY / "build" / "web"
MODULE = WEB / "dist" / "sterna.wasm"

# Memory of an instance: a bound for what a file or an image may ask for, far beyond any network.
MEMORY_BYTES = 1 << 30
STACK_BYTES = 1 << 19

# The kernels are compiled once for each instruction set, and some for one of other processors alone.
KERNELS = REPOSITORY / "core" / "kernels" / "kernel_set.cc"
# The plain ones are there to compare with, and are as small as they get.
KERNEL_FLAGS = {"scalar": ["-Os"], "wasm": []}
FOREIGN = [REPOSITORY / "core" / "kernels" / "matrix_conv" / "amx.cc"]
TESTING = REPOSITORY / "core" / "testing"
SOURCES = sorted(
    path
    for path in (REPOSITORY / "core").rglob("*.cc")
    if TESTING not in path.parents and path not in [KERNELS, *FOREIGN]
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
LINK_FLAGS = ["-Wl,--strip-all", f"-Wl,--max-memory={MEMORY_BYTES}", f"-Wl,-z,stack-size={STACK_BYTES}"]


def compiler() -> list[str]:
    """The command of the C++ compiler."""
    if find_spec("ziglang") is None:
        sys.exit("building the WebAssembly engine needs the package ziglang: pip install ziglang")
    return [sys.executable, "-m", "ziglang", "c++", *FLAGS]


def build(sources: Sequence[Path], module: Path, *flags: str) -> None:
    """Compile these files and the core, and link them to a module."""
    command = compiler()
    OBJECTS.mkdir(parents=True, exist_ok=True)
    module.parent.mkdir(parents=True, exist_ok=True)
    units = [(source, source.stem, [flag for flag in flags if flag.startswith("-Wno")]) for source in sources]
    units += [(source, source.stem, []) for source in SOURCES]
    units += [(KERNELS, f"kernels_{isa}", [f"-DSTERNA_ISA={isa}", *own]) for isa, own in KERNEL_FLAGS.items()]

    def compile_unit(unit: tuple[Path, str, list[str]]) -> Path:
        source, name, own_flags = unit
        built = OBJECTS / f"{name}.o"
        subprocess.run([*command, *own_flags, "-c", source, "-o", built], check=True)
        return built

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_unit, units))
        subprocess.run([*command, *LINK_FLAGS, *flags, *objects, "-o", module], check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(f"the compiler ended with {error.returncode}")


def main() -> None:
    """Build what is asked for, and say how large the engine is."""
    parser = argparse.ArgumentParser(description="Build the WebAssembly engine, web/dist/sterna.wasm.")
    parser.add_argument(
        "--test", action="store_true", help="build the test of the kernels, build/web/kernels_test.wasm"
    )
    if parser.parse_args().test:
        # Test networks count in 64 bits, and are small.
        build(sorted(TESTING.glob("*.cc")), OBJECTS / "kernels_test.wasm", "-Wno-shorten-64-to-32")
        return
    build([WEB / "native" / "exports.cc"], MODULE, "-mexec-model=reactor", "-Wl,--no-entry")
    data = MODULE.read_bytes()
    print(f"{MODULE.relative_to(REPOSITORY)}: {len(data):,} bytes, {len(gzip.compress(data, 9)):,} with gzip")


if __name__ == "__main__":
    main()
