"""Bytes and speed of the coders of trits beside general compressors and NNC, as Markdown tables.

    python benchmarks/codec.py                          the EC2T networks in STERNA_DATA
    python benchmarks/codec.py a.sterna b.safetensors
    python benchmarks/codec.py --nncodec nnc/bin/python

A ``.safetensors`` network counts its tensors of exactly three values, one of them zero. The general compressors get all
trits of a network in one piece, four to a byte; ours, NNC and the zero-order entropy are sums over tensors. ``zstd``
and ``brotli`` need the packages ``zstandard`` and ``brotli``. NNC (ISO/IEC 15938-17) is measured with the package
``nncodec`` in an environment of its own, whose interpreter ``--nncodec`` names: it gets the trits as int32 tensors,
without quantization.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sterna import _core
from sterna.container import read
from sterna.container.layout import CODERS
from sterna.inspection import trit_entropy
from sterna.ternary_model import TernaryTensor

Trits = npt.NDArray[np.int8]

_NNCODEC = """
import contextlib, io, json, os, sys, time
import numpy as np, nncodec.nnc as nnc
folder = sys.argv[1]
with np.load(os.path.join(folder, "trits.npz")) as stored:
    tensors = {name: stored[name].astype(np.int32) for name in stored.files}
path = os.path.join(folder, "out.nnc")
with contextlib.redirect_stdout(io.StringIO()):
    start = time.perf_counter()
    nnc.compress(tensors, bitstream_path=path, use_dq=False)
    middle = time.perf_counter()
    decoded = nnc.decompress(path)
    end = time.perf_counter()
assert all(np.array_equal(np.asarray(decoded[name]), tensors[name]) for name in tensors)
print(json.dumps([os.path.getsize(path), middle - start, end - middle]))
"""


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
        "gzip -9": lambda data: gzip.compress(data, 9, mtime=0),
        "xz -9e": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    try:
        import zstandard

        found["zstd -19"] = zstandard.ZstdCompressor(level=19).compress
    except ModuleNotFoundError:
        pass
    try:
        import brotli

        found["brotli 11"] = lambda data: brotli.compress(data, quality=11)
    except ModuleNotFoundError:
        pass
    return found


def nncodec(python: Path, tensors: list[Trits], repeats: int) -> tuple[int, float, float]:
    """Bytes, and the shortest seconds to encode and to decode."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "trits.npz", **{f"t{n:03d}.weight": trits for n, trits in enumerate(tensors)})
        runs = [
            json.loads(subprocess.run([python, "-c", _NNCODEC, folder], check=True, capture_output=True).stdout)
            for _ in range(repeats)
        ]
    return runs[0][0], min(run[1] for run in runs), min(run[2] for run in runs)


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def coded_by(coder: str, tensors: list[Trits], repeats: int) -> tuple[int, float, float]:
    """Bytes, and the shortest seconds to encode and to decode; the trits must come back."""
    number = CODERS.index(coder)
    coded = [np.frombuffer(_core.encode_trits(trits, number), np.uint8) for trits in tensors]
    outputs = [np.empty_like(trits) for trits in tensors]

    def decode() -> None:
        for data, output in zip(coded, outputs, strict=True):
            _core.decode_trits(data, output, number)

    decoding = best_seconds(decode, repeats)
    if not all(map(np.array_equal, outputs, tensors)):
        raise SystemExit(f"the trits that came back from {coder} are others")
    encoding = best_seconds(lambda: [_core.encode_trits(trits, number) for trits in tensors], repeats)
    return sum(data.size for data in coded), encoding, decoding


def rows(path: Path, repeats: int, nncodec_python: Path | None) -> list[list[str]]:
    tensors = trits_of(path)
    weights = sum(trits.size for trits in tensors)
    if weights == 0:
        raise SystemExit(f"{path} has no ternary tensors")
    zeros = 1 - sum(np.count_nonzero(trits) for trits in tensors) / weights
    packed = pack(tensors)
    entropy = sum(trit_entropy(TernaryTensor(trits)) * trits.size / 8 for trits in tensors)
    sizes: dict[str, tuple[float, float | None, float | None]] = {"zero-order entropy": (entropy, None, None)}
    sizes |= {f"2-bit + {name}": (len(compress(packed)), None, None) for name, compress in compressors().items()}
    if nncodec_python is not None:
        sizes["nncodec"] = nncodec(nncodec_python, tensors, min(repeats, 3))
    best = min(size for size, *_ in sizes.values())
    sizes |= {f"**{coder}**": coded_by(coder, tensors, repeats) for coder in CODERS}

    def rate(seconds: float | None) -> str:
        return f"{weights / seconds / 1e6:.1f}" if seconds else ""

    head = f"{path.stem} ({weights:,} weights, {100 * zeros:.1f} % zeros)"
    return [
        [
            head if not n else "",
            name,
            f"{size:,.0f}",
            f"{8 * size / weights:.3f}",
            f"{size / best:.3f}",
            rate(encoding),
            rate(decoding),
        ]
        for n, (name, (size, encoding, decoding)) in enumerate(sizes.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", type=Path, help=".sterna or .safetensors files")
    parser.add_argument("--repeats", type=int, default=5, help="timings to take the best of")
    parser.add_argument("--nncodec", type=Path, metavar="PYTHON", help="interpreter of an environment with nncodec")
    arguments = parser.parse_args()
    folder = Path(os.environ.get("STERNA_DATA", ".data")) / "weights"
    networks = arguments.networks or sorted(folder.glob("ec2t_*.safetensors"))
    if not networks:
        parser.error(f"no networks given, and no ec2t_*.safetensors in {folder}")
    columns = ["network", "coder", "bytes", "bits/weight", "of the best other", "encode M/s", "decode M/s"]
    print(f"{platform.machine()}, one thread, Python {platform.python_version()}; M/s: million weights a second\n")
    print(f"| {' | '.join(columns)} |")
    print(f"|---|---{'|--:' * (len(columns) - 2)}|")
    for path in networks:
        for row in rows(path, arguments.repeats, arguments.nncodec):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
