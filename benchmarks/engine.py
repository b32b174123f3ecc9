"""Latency, load time and memory of Sterna's engine beside PyTorch, ONNX Runtime and OpenVINO, as Markdown tables.

    python benchmarks/engine.py                         five networks, batches 1 and 16, one and two threads
    python benchmarks/engine.py --quick                 ResNet-18 alone, batch 1, one thread, few rounds
    python benchmarks/engine.py --only resnet50 --isas native,avx2 --output docs/tables/engine.md

The networks are torchvision's with independent random trits; the first convolution is in float16, depthwise ones are in
int8. Batch norms have the statistics of a random batch, so that activations neither grow nor vanish from layer to
layer. Time does not depend on values, only on where the zeros are. Every engine has a process of its own; they run in
turns, and ratios are taken within rounds (``sterna.benchmarking``).
"""

from __future__ import annotations

import argparse
import itertools
import platform
import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sterna.benchmarking import Report, Row, benchmark
from sterna.benchmarking.peers import ENGINES
from sterna.capturing import capture
from sterna.config import TernaryConfig
from sterna.container import save, write_whole
from sterna.conversion import convert
from sterna.models import build_model
from sterna.preparation import prepare, set_phase, update_masks

# Networks of torchvision, and their fraction of zeros: about what they can be trained to.
NETWORKS = {"resnet18": 0.90, "resnet50": 0.85, "mobilenet_v2": 0.75, "vgg16": 0.90, "regnet_x_400mf": 0.80}
SIDE = 224
_STATISTICS_IMAGES = 4


def make_file(name: str, sparsity: float, path: Path) -> None:
    """Write the network with random trits."""
    torch.manual_seed(0)
    model = build_model(f"torchvision:{name}", {})
    prepare(model, TernaryConfig(sparsity=sparsity, allocation="layer"))
    update_masks(model, sparsity)
    set_phase(model, "ternary")
    measure_statistics(model)
    metadata = {"model": {"name": f"torchvision:{name}", "arguments": {}}}
    stored = convert(model, metadata=metadata)
    save(replace(stored, graphs=(capture(model, (3, SIDE, SIDE)),)), path)


@torch.no_grad()
def measure_statistics(model: nn.Module) -> None:
    """Give each batch norm the mean and variance of its input, of one random batch."""
    for module in model.modules():
        module.train(isinstance(module, nn.BatchNorm2d))
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model(torch.randn(_STATISTICS_IMAGES, 3, SIDE, SIDE))
    model.eval()


def head(report: Report, batch: int, threads: int) -> list[str]:
    network = report.model.rpartition(":")[2]
    return [
        f"### {network}, {100 * report.sparsity:.0f} % zeros, batch {batch}, {threads} thread{'s' * (threads > 1)}",
        "",
        "| engine | ms | spread | CPU ms | images/s | times Sterna | load, ms | peak, MiB | SQNR, dB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]


def line(row: Row) -> str:
    name = f"**{row.name}**" if row.engine == "sterna" else row.name
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    sqnr = "" if row.sqnr_db is None else f"{row.sqnr_db:.0f}"
    return (
        f"| {name} | {row.milliseconds:.2f} | {row.spread:.2f} | {row.cpu_milliseconds:.2f} "
        f"| {row.images_per_second:.1f} | {ratio} | {row.load_ms:.0f} | {row.peak_bytes / 2**20:.1f} | {sqnr} |"
    )


def commit() -> str:
    folder = Path(__file__).parent
    result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def names(known: tuple[str, ...]) -> object:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(known)}")
        return chosen

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=names(tuple(NETWORKS)), default=tuple(NETWORKS), help="networks, with commas")
    parser.add_argument("--engines", type=names(tuple(ENGINES)), default=tuple(ENGINES), help="with commas")
    parser.add_argument("--isas", default="native", help="instruction sets, with commas: native,avx2,avx512vnni")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="ResNet-18 alone, batch 1, one thread, 5 rounds")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    if options.quick:
        options.only, options.batches, options.threads, options.rounds = ("resnet18",), [1], [1], 5
    lines: list[str] = []

    def put(*texts: str) -> None:
        lines.extend(texts)
        print(*texts, sep="\n", flush=True)

    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            path = Path(folder) / f"{name}.sterna"
            make_file(name, NETWORKS[name], path)
            for batch, threads in itertools.product(options.batches, options.threads):
                report = benchmark(
                    path,
                    engines=options.engines,
                    threads=threads,
                    batch=batch,
                    isas=options.isas.split(","),
                    activations=("float32", "int8"),
                    rounds=options.rounds,
                )
                versions |= report.versions
                put(*head(report, batch, threads), *map(line, report.rows), "")
                put(*(f"- {engine} left out: {reason}" for engine, reason in report.left_out))
                put(*[""] * bool(report.left_out))
            processor = report.processor
    put(
        f"`python {shlex.join(sys.argv)}`, commit `{commit()}`, {processor} ({platform.machine()}), "
        f"{options.rounds} rounds, {SIDE} x {SIDE}; "
        + ", ".join(f"{package} {version}" for package, version in versions.items() if package != "sterna")
        + "."
    )
    if options.output is not None:
        write_whole(options.output, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
