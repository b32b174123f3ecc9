"""Bytes and speed of the trit coder beside general compressors, as Markdown tables.

    python benchmarks/codec.py                          the EC2T networks in STERNA_DATA
    python benchmarks/codec.py a.sterna b.safetensors

A ``.safetensors`` network counts its tensors of exactly three values, one of them zero. The general compressors get all
trits of a network in one piece, four to a byte; ours and the zero-order entropy are sums over tensors. ``zstd`` needs
the package ``zstandard``.
"""

from __future__ import annotations

import argparse
import lzma
import os
import platform
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sterna import _core
from sterna.container import read
from sterna.inspection import trit_entropy
from sterna.ternary_model import TernaryTensor

Trits = npt.NDArray[np.int8]


def trits_of(path: Path) -> list[Trits]:
    if path.suffix == ".sterna":
        return [tensor.trits for tensor in read(path).ternary().values()]
    from safetensors.numpy import load_file

    weights = load_file(path).values()
    return [np.sign(w).astype(np.int8) for w in weights if w.ndim >= 2 and np.unique(w).size == 3 and (w == 0).any()]


def pack(tensors: list[Trits]) -> bytes:
    codes = np.concatenate([trits.ravel() for trits in tensors]) + 1
    codes = np.append(codes, np.zeros(-codes.size % 4, codes.dtype)).astype(np.uint8).reshape(-1, 4)
    return np.bitwise_or.reduce(codes << np.array([0, 2, 4, 6], np.uint8), axis=1).tobytes()


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    found: dict[str, Callable[[bytes], bytes]] = {
        "zlib -9": lambda data: zlib.compress(data, 9),
        "xz -9e": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    try:
        import zstandard
    except ModuleNotFoundError:
        return found
    return {**found, "zstd -22": zstandard.ZstdCompressor(level=22).compress}


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def row(path: Path, repeats: int) -> list[str]:
    tensors = trits_of(path)
    weights = sum(trits.size for trits in tensors)
    if weights == 0:
        raise SystemExit(f"{path} has no ternary tensors")
    coded = [_core.encode_trits(trits) for trits in tensors]
    pairs = list(zip(coded, tensors, strict=True))
    if not all(np.array_equal(_core.decode_trits(data, trits.shape), trits) for data, trits in pairs):
        raise SystemExit(f"{path}: the trits that came back are others")
    encode = best_seconds(lambda: [_core.encode_trits(trits) for trits in tensors], repeats)
    decode = best_seconds(lambda: [_core.decode_trits(data, trits.shape) for data, trits in pairs], repeats)
    total = sum(map(len, coded))
    entropy = sum(trit_entropy(TernaryTensor(trits)) * trits.size / 8 for trits in tensors)
    zeros = 1 - sum(np.count_nonzero(trits) for trits in tensors) / weights
    packed = pack(tensors)
    others = [f"{len(compress(packed)):,}" for compress in compressors().values()]
    return [
        path.stem,
        f"{weights:,}",
        f"{100 * zeros:.1f}",
        f"{entropy:,.0f}",
        *others,
        f"{total:,}",
        f"{8 * total / weights:.3f}",
        f"{total / entropy:.3f}",
        f"{weights / encode / 1e6:.1f}",
        f"{weights / decode / 1e6:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", type=Path, help=".sterna or .safetensors files")
    parser.add_argument("--repeats", type=int, default=5, help="timings to take the best of")
    arguments = parser.parse_args()
    folder = Path(os.environ.get("STERNA_DATA", ".data")) / "weights"
    networks = arguments.networks or sorted(folder.glob("ec2t_*.safetensors"))
    if not networks:
        parser.error(f"no networks given, and no ec2t_*.safetensors in {folder}")
    columns = ["network", "weights", "zeros %", "entropy B", *(f"{name} B" for name in compressors()), "Sterna B"]
    columns += ["bits/weight", "of entropy", "encode M/s", "decode M/s"]
    print(f"{platform.machine()}, one thread, Python {platform.python_version()}; M/s: million weights a second\n")
    print(f"| {' | '.join(columns)} |")
    print(f"|---{'|--:' * (len(columns) - 1)}|")
    for path in networks:
        print(f"| {' | '.join(row(path, arguments.repeats))} |", flush=True)


if __name__ == "__main__":
    main()
