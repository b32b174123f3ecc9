"""``sterna inspect``: what is in a ``.sterna`` file, and where its bytes are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sterna.cli import options, output


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="What `sterna compress` or sterna.save wrote.")],
    as_json: options.Json = False,
) -> None:
    """Show what is in a .sterna file and where its bytes are.

    Each tensor has a line with its zeros, bits a weight and bytes; the totals
    follow. The whole file is checked. Needs neither PyTorch nor the model.

    Examples:
      sterna inspect runs/digits_demo/digits_demo.sterna
      sterna inspect model.sterna --json
    """
    from sterna.container import inspect as inspect_file

    contents = inspect_file(file)
    if as_json:
        output.print_json(asdict(contents))
        return
