"""The file of a whole ResNet-18 at a given sparsity: its parts, the time to read it on one and two threads, and memory.

    python benchmarks/resnet18_file.py [--sparsity 0.9] [--coder small]

The network has torchvision's tensors, all but the first convolution ternary. The trits are independent and random, the
hardest case for a coder, whose limit is their zero-order entropy; the first convolution and the batch norms are those
of `resnet18_imagenet.safetensors` in STERNA_DATA, the scale of the classifier too. Reading is measured in turns, memory
in a process of its own: the peak of the resident memory over that before reading.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sterna.container import SternaFile, save
from sterna.inspection import inspect, trit_entropy
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor

_MEMORY = """
import sys
from sterna.container import read
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
before = peak()
model = read(sys.argv[1], threads=int(sys.argv[2]))
print(peak() - before)
"""


def network(sparsity: float, first: str, seed: int) -> TernaryModel:
    from safetensors.numpy import load_file

    weights = load_file(Path(os.environ.get("STERNA_DATA", ".data")) / "weights" / "resnet18_imagenet.safetensors")
    random = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    for name, value in weights.items():
        leaf = name.rpartition(".")[2]
        if leaf in ("running_mean", "running_var", "num_batches_tracked"):
            continue
        if value.ndim < 2:
            tensors[name] = value.astype(np.float16)
        elif name == "conv1.weight":
            scale = (np.abs(value).max(axis=(1, 2, 3)) / 127).astype(np.float16)
            wide = scale.astype(np.float32).reshape(-1, 1, 1, 1)
            steps = np.rint(np.divide(value, wide, out=np.zeros_like(value), where=wide > 0)).clip(-127, 127)
            tensors[name] = Int8Tensor(steps.astype(np.int8), scale) if first == "int8" else value.astype(np.float16)
        else:
            signs = random.choice(np.array([-1, 1], np.int8), value.shape)
            trits = np.where(random.random(value.shape) < sparsity, 0, signs).astype(np.int8)
            scale = np.abs(value).mean(axis=1).astype(np.float16) if name == "fc.weight" else None
            tensors[name] = TernaryTensor(trits, scale)
    return TernaryModel(tensors, {"model": {"name": "torchvision:resnet18", "arguments": {}}})


def parts_of(tensor: Tensor) -> list[npt.NDArray[Any]]:
    if isinstance(tensor, np.ndarray):
        return [tensor]
    values = tensor.trits if isinstance(tensor, TernaryTensor) else tensor.values
    return [values] if tensor.scale is None else [values, tensor.scale]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--coder", choices=("small", "fast", "smallest", "auto"), default="small")
    parser.add_argument("--first", choices=("float16", "int8"), default="float16", help="type of the first convolution")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    model = network(arguments.sparsity, arguments.first, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet18.sterna"
        start = time.perf_counter()
        save(model, path, coder=arguments.coder)
        writing = time.perf_counter() - start
        parts = inspect(path)
        limit = sum(trit_entropy(tensor) * tensor.trits.size / 8 for tensor in model.ternary().values())
        print(f"file {parts.file_bytes:,} B, {parts.compression_ratio:.1f}x")
        print(
            f"  trits {parts.trit_bytes:,} B, {parts.trit_bytes / limit:.4f} of their zero-order entropy {limit:,.0f} B"
        )
        print(f"  arrays {parts.array_bytes:,} B, header {parts.header_bytes:,} B")
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(arguments.rounds):
            for threads, measured in seconds.items():
                start = time.perf_counter()
                SternaFile.open(path, whole_checksum=True).read(threads=threads)
                measured.append(time.perf_counter() - start)
        one, two = (statistics.median(measured) for measured in seconds.values())
        weights = parts.ternary_parameters / 1e6
        print(f"write {writing:.2f} s ({weights / writing:.0f} M weights/s)")
        print(f"read, one thread: {one * 1e3:.0f} ms ({weights / one:.1f} M weights/s)")
        print(f"read, two threads: {two * 1e3:.0f} ms, {one / two:.2f}x")
        decoded = sum(part.nbytes for tensor in model.tensors.values() for part in parts_of(tensor)) / 2**20
        for threads in (1, 2):
            command = [sys.executable, "-c", _MEMORY, str(path), str(threads)]
            peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 2**10
            print(f"memory, {threads} threads: decoded {decoded:.1f} MiB, peak {peak:.1f} MiB more than before")


if __name__ == "__main__":
    main()
