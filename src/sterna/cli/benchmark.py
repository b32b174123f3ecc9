"""``sterna benchmark``: latency, load time and memory beside other engines, or layer by layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sterna.cli import options, output
from sterna.cli.text import printable
from sterna.errors import ConfigError

if TYPE_CHECKING:
    from sterna.benchmarking import LayerRow, Report

_SIZE = re.compile(r"^([1-9][0-9]{0,4})x([1-9][0-9]{0,4})$")


class Activations(StrEnum):
    """Types of what Sterna computes with."""

    float32 = "float32"
    int8 = "int8"


def benchmark(
    file: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="A file that holds the graph of its network.")],
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Also time the other engines.")] = True,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Processor threads of every engine.")] = 1,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Images in a run.")] = 1,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Height and width of images; by default those in the file.")
    ] = None,
    isa: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Highest instruction set of Sterna and OpenVINO: native, avx2, avx2vnni, avx512core, avx512 (that is "
            "with VNNI), avx512bf16, amx. Several, with commas, are timed in turns.",
        ),
    ] = "native",
    activations: Annotated[Activations, typer.Option(help="Of Sterna: exact, or of 8 bits.")] = Activations.float32,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds, in each of which all engines run.")] = 15,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Engines, as the table names them; by default all.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Time each layer in Sterna instead.")] = False,
    as_json: options.Json = False,
) -> None:
    """Time a .sterna file, side by side with other engines.

    Every engine runs the same network on one random image (or batch), in a
    process of its own, with the same number of threads. In each round all
    run in turn, for at least 50 ms each; the table has medians over rounds
    and their interquartile range, the time that processors were busy, and
    the ratio to Sterna within rounds (above 1: Sterna is faster). int8
    peers are dense. Loading ends with a first run; peak is memory above that
    after imports. Engines that are not installed are left out and named.

    Examples:
      sterna benchmark model.sterna
      sterna benchmark model.sterna --activations int8 --isa avx2,native
      sterna benchmark model.sterna --only sterna,openvino-int8 --batch 16
      sterna benchmark model.sterna --layers
    """
    chosen = _engines(only, peers)
    height_and_width = _height_and_width(size)
    isas = tuple(isa.split(","))
    if layers:
        from sterna.benchmarking import profile_layers

        if len(isas) > 1:
            raise ConfigError(f"--layers takes one instruction set, got {isa}")
        rows = profile_layers(
            file,
            threads=threads,
            batch=batch,
            size=height_and_width,
            isa=isas[0],
            activations="int8" if activations is Activations.int8 else "float32",
            runs=rounds,
        )
        if as_json:
            output.print_json({"file": file, "layers": [asdict(row) for row in rows]})
        else:
            _print_layers(rows)
        return
    from sterna.benchmarking import benchmark as run_benchmark

    with output.steps() as progress:
        report = run_benchmark(
            file,
            engines=chosen,
            threads=threads,
            batch=batch,
            size=height_and_width,
            isas=isas,
            activations=(activations.value,),
            rounds=rounds,
            progress=progress,
        )
    if as_json:
        output.print_json(asdict(report))
    else:
        _print_report(report)


def _engines(only: str | None, peers: bool) -> Sequence[str]:
    from sterna.benchmarking.peers import ENGINES

    if only is None:
        return tuple(ENGINES) if peers else ("sterna",)
    if not peers:
        raise ConfigError("--no-peers and --only exclude each other")
    return tuple(only.split(","))


def _height_and_width(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    match = _SIZE.match(size)
    if match is None:
        raise ConfigError(f"--size must be HEIGHTxWIDTH, as 224x224, got {size!r}")
    return int(match[1]), int(match[2])


def _print_report(report: Report) -> None:
    console = output.stdout()
    shape = "x".join(map(str, report.shape))
    rows = [
        ("file", report.file),
        ("network", f"{report.model or 'unnamed'}, {100 * report.sparsity:.1f} % zeros"),
        ("input", f"{shape}, {report.threads} thread{'s' * (report.threads > 1)}, {report.rounds} rounds"),
        ("processor", report.processor),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    ]
    console.print(output.pairs(rows))
    console.print()
    columns = ("engine", "ms", "spread", "CPU ms", "images/s", "times Sterna", "load ms", "peak MiB", "SQNR dB")
    table = output.table(columns, numbers=columns[1:])
    for row in report.rows:
        table.add_row(
            row.name,
            f"{row.milliseconds:.2f}",
            f"{row.spread:.2f}",
            f"{row.cpu_milliseconds:.2f}",
            f"{row.images_per_second:.1f}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            f"{row.load_ms:.0f}",
            f"{row.peak_bytes / 2**20:.1f}",
            "" if row.sqnr_db is None else f"{row.sqnr_db:.0f}",
        )
    console.print(table)
    if report.left_out:
        console.print(output.pairs([(name, printable(why)) for name, why in report.left_out], title="\nLeft out"))


def _print_layers(rows: Sequence[LayerRow]) -> None:
    table = output.table(
        ("layer", "operator", "kernel", "ms", "share", "operations", "G operations/s"),
        numbers=("ms", "share", "operations", "G operations/s"),
    )
    for row in rows:
        table.add_row(
            printable(row.name),
            row.operator,
            row.kernel,
            f"{row.milliseconds:.3f}",
            f"{100 * row.share:.1f} %",
            f"{row.operations:,}",
            f"{row.giga_operations_per_second:.1f}",
        )
    total = sum(row.milliseconds for row in rows)
    operations = sum(row.operations for row in rows)
    rate = operations / total / 1e6 if total else 0.0
    table.add_row("all", "", "", f"{total:.3f}", "100.0 %", f"{operations:,}", f"{rate:.1f}")
    output.stdout().print(table)
