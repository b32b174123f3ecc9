"""``sterna export``: write a network for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sterna.cli import options, output
from sterna.cli.text import in_bytes
from sterna.errors import ConfigError


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="A file that holds the graph of its network.")],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="OUT.onnx", help="The ONNX file to write.")],
    graph: Annotated[str, typer.Option(metavar="NAME", help="Which graph; by default that of the whole network.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.onnx if it exists.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write the network of a .sterna file as ONNX.

    It computes the same in float32: weights are dense (scale times trits),
    so the file is as large as that of the uncompressed network, and batch
    norms are folded into convolutions. Batch, height and width are free.
    Needs no PyTorch; opset 17.

    Examples:
      sterna export model.sterna --onnx model.onnx
      sterna export detector.sterna --onnx backbone.onnx --graph backbone
    """
    from sterna.export import export_onnx

    if onnx.exists() and not force:
        raise ConfigError(f"{onnx} exists: replace it with --force, or choose another name")
    size = export_onnx(file, onnx, graph=graph)
    if as_json:
        output.print_json({"source": file, "path": onnx, "graph": graph, "file_bytes": size})
        return
    output.stdout().print(output.pairs([("file", str(onnx)), ("size", in_bytes(size))]))
