"""Time and peak memory of a training step: a ternary model against the same plain one.

    python benchmarks/training_step.py --threads 2 --output docs/tables/training_step.md

Time: both models live in one process and take turns, ``mask_interval`` steps each, so that whatever else the machine
does falls on both; the table has the median over turns, and the median over rounds of the ratio within a round. A turn
of the ternary model includes one update of its masks, as in training. Memory: a process of its own for each model and
case, its peak resident set, once whole and once above what the imports alone take.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from sterna.config import OptimizerConfig, TernaryConfig
from sterna.container import write_whole
from sterna.machine import peak_bytes
from sterna.models import build_model
from sterna.preparation import prepare, set_phase, update_masks
from sterna.train.optimizer import make_optimizer

MASK_INTERVAL = 10
SPARSITY = 0.7
TARGET = 1.15


@dataclass(frozen=True)
class Case:
    """A model, a batch and a precision."""

    model: str
    batch: int
    side: int
    classes: int
    precision: str

    @property
    def name(self) -> str:
        """For the table."""
        """Of the case, as the table has it."""
        return f"{self.model} batch {self.batch} at {self.side} px, {self.precision}"


CASES = tuple(
    Case(model, batch, side, classes, precision)
    for model, batch, side, classes in (
        ("cifar_resnet20", 128, 32, 10),
        ("torchvision:resnet18", 32, 128, 1000),
    )
    for precision in ("float32", "bfloat16")
)


def make_turn(case: Case, variant: str) -> Callable[[int], None]:
    """A function that does a number of training steps with the plain or the ternary model."""
    torch.manual_seed(0)
    model = build_model(case.model).to(memory_format=torch.channels_last).train()
    if variant == "ternary":
        prepare(model, TernaryConfig(sparsity=SPARSITY))
        update_masks(model, SPARSITY)
        set_phase(model, "ternary")
        optimizer = make_optimizer(model, OptimizerConfig())
    else:
        optimizer = plain_optimizer(model, OptimizerConfig())
    images = torch.randn(case.batch, 3, case.side, case.side).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(case.classes, (case.batch,))

    def turn(steps: int) -> None:
        for step in range(steps):
            if variant == "ternary" and step % MASK_INTERVAL == 0:
                update_masks(model, SPARSITY)
            with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bfloat16"):
                logits = model(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return turn


def plain_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """What :func:`make_optimizer` gives a ternary model: decay on weights of layers, none on the rest."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    return torch.optim.SGD(
        [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        momentum=config.momentum,
    )


def measure_time(case: Case, rounds: int) -> tuple[float, float, float]:
    """Median seconds of a plain and of a ternary step, and the median ratio."""
    turns = {variant: make_turn(case, variant) for variant in ("plain", "ternary")}
    seconds: dict[str, list[float]] = {variant: [] for variant in turns}
    for turn in turns.values():
        turn(2)
    for index in range(rounds):
        # Who goes first changes too.
        for variant in sorted(turns, reverse=bool(index % 2)):
            started = time.perf_counter()
            turns[variant](MASK_INTERVAL)
            seconds[variant].append((time.perf_counter() - started) / MASK_INTERVAL)
    ratio = statistics.median(t / p for p, t in zip(seconds["plain"], seconds["ternary"], strict=True))
    return statistics.median(seconds["plain"]), statistics.median(seconds["ternary"]), ratio


def measure_memory(case: Case, threads: int, steps: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """``(peak, peak above imports)`` in bytes, of the plain and of the ternary model."""
    results = []
    for variant in ("plain", "ternary"):
        arguments = ["--memory-of", str(CASES.index(case)), variant, "--threads", str(threads), "--steps", str(steps)]
        output = subprocess.run(
            [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
        ).stdout.split()
        results.append((int(output[1]), int(output[1]) - int(output[0])))
    return results[0], results[1]


def print_memory(case: Case, variant: str, steps: int) -> None:
    """The peak after the imports, then after some training steps."""
    imported = peak_bytes()
    make_turn(case, variant)(steps)
    print(imported, peak_bytes())


def processor() -> str:
    """Name of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9, help="turns of each model, for time")
    parser.add_argument("--steps", type=int, default=12, help="steps of each model, for memory")
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="by number; default: all")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print_memory(CASES[int(options.memory_of[0])], options.memory_of[1], options.steps)
        return

    lines = [
        f"`python {shlex.join(sys.argv)}`, {options.threads} threads, {processor()}, torch {torch.__version__}; "
        f"{options.rounds} rounds of {MASK_INTERVAL} steps, {100 * SPARSITY:.0f} % zeros, masks updated every "
        f"{MASK_INTERVAL} steps; target {TARGET:.2f} for time and peak memory.",
        "",
        "| case | plain, ms a step | ternary, ms a step | time, ratio | plain peak, MB | ternary peak, MB "
        "| memory, ratio | memory above imports, ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number in options.cases:
        case = CASES[number]
        plain, ternary, ratio = measure_time(case, options.rounds)
        (plain_peak, plain_above), (ternary_peak, ternary_above) = measure_memory(case, options.threads, options.steps)
        lines.append(
            f"| {case.name} | {1e3 * plain:.1f} | {1e3 * ternary:.1f} | {ratio:.3f} "
            f"| {plain_peak / 1e6:.0f} | {ternary_peak / 1e6:.0f} | {ternary_peak / plain_peak:.3f} "
            f"| {ternary_above / plain_above:.3f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.output is not None:
        write_whole(options.output, text.encode())


if __name__ == "__main__":
    main()
