"""``sterna inspect``: what is in a ``.sterna`` file, and where its bytes are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sterna.cli import options, output
from sterna.cli.text import in_bytes, printable

if TYPE_CHECKING:
    from sterna.inspection import GraphRow, Inspection


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="What `sterna compress` or sterna.save wrote.")],
    as_json: options.Json = False,
) -> None:
    """Show what is in a .sterna file and where its bytes are.

    Each tensor has a line with its zeros, bits a weight and bytes; the totals
    follow. Bytes of arrays and scales, which are compressed together, are
    shared out by size. The whole file is checked. Needs neither PyTorch nor
    the model.

    Examples:
      sterna inspect runs/digits_demo/digits_demo.sterna
      sterna inspect model.sterna --json
    """
    from sterna.inspection import inspect as inspect_file

    with output.progress("read") as progress:
        contents = inspect_file(file, progress=progress)
    if as_json:
        output.print_json(asdict(contents))
        return
    table = output.table(
        ("tensor", "shape", "kind", "scale", "zeros", "bits", "entropy", "coder", "bytes", "share"),
        numbers=("zeros", "bits", "entropy", "bytes", "share"),
    )
    for row in contents.rows:
        table.add_row(
            printable(row.name),
            "x".join(map(str, row.shape)) or "scalar",
            row.kind,
            row.granularity,
            percent(row.sparsity),
            f"{row.bits_per_weight:.3f}",
            "" if row.entropy_bits_per_weight is None else f"{row.entropy_bits_per_weight:.3f}",
            row.coder,
            f"{row.coded_bytes:,}",
            percent(row.share or None),
        )
    console = output.stdout()
    console.print(table)
    console.print(output.pairs(_totals(contents), title="\nThe whole file"))


class _Known(dict[str, object]):
    """What is missing in a file's metadata is told so."""

    def __missing__(self, key: str) -> str:
        return "?"


def percent(fraction: float | None) -> str:
    """A fraction in percent, or nothing."""
    return "" if fraction is None else f"{100 * fraction:.1f} %"


def _totals(contents: Inspection) -> list[tuple[str, str]]:
    metrics = contents.metadata.get("metrics")
    model = contents.metadata.get("model")
    rows = [
        ("size", in_bytes(contents.file_bytes)),
        ("  trits", in_bytes(contents.trit_bytes)),
        (
            "  arrays",
            f"{in_bytes(contents.array_bytes)} (scales, batch norms, layers that are not ternary; compressed)",
        ),
        ("  header", f"{in_bytes(contents.header_bytes)} (names and shapes, metadata, graph, checksums)"),
        ("parameters", f"{contents.parameters:,}, of them {contents.ternary_parameters:,} ternary"),
        ("zeros", f"{100 * contents.sparsity:.2f} % of the ternary parameters"),
        ("compression", f"{contents.compression_ratio:.1f}x against float32 ({in_bytes(contents.float32_bytes)})"),
        ("not ternary", ", ".join(contents.not_ternary) or "nothing"),
        ("graph", "; ".join(map(_graph, contents.graphs)) or "none: only PyTorch can run this model"),
    ]
    calibration = contents.metadata.get("calibration")
    if isinstance(calibration, dict) and any(graph.calibrated for graph in contents.graphs):
        rows.append(("calibration", "{method}, {images} images of {data}".format_map(_Known(calibration))))
    if isinstance(model, dict):
        rows.insert(0, ("model", str(model.get("name"))))
    if isinstance(metrics, dict) and isinstance(metrics.get("top1"), int | float):
        images = f"{metrics.get('images')} {metrics.get('split', '')} images"
        rows.append(("accuracy", f"{metrics['top1']:.2f} % of {images}"))
    return rows


def _graph(graph: GraphRow) -> str:
    name = f"{printable(graph.name)}: " if graph.name else ""
    outputs = "1 output" if len(graph.outputs) == 1 else f"{len(graph.outputs)} outputs"
    return f"{name}{graph.nodes} nodes, {outputs}, {'calibrated' if graph.calibrated else 'not calibrated'}"
