"""``sterna transcode``: write a ``.sterna`` file anew, with another coder or other floating-point types."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sterna.cli import options, output
from sterna.cli.text import in_bytes
from sterna.errors import ConfigError


class CoderName(StrEnum):
    """Coders of trits."""

    small = "small"
    fast = "fast"
    smallest = "smallest"
    auto = "auto"


class FloatType(StrEnum):
    """Types of arrays and scales."""

    keep = "keep"
    float16 = "float16"
    float32 = "float32"


def transcode(
    source: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="The file to write anew.")],
    target: Annotated[Path, typer.Argument(metavar="NEW.sterna", help="Where to; may be the same file, with --force.")],
    coder: Annotated[
        CoderName,
        typer.Option(
            help="small: for size, the default of all files. fast: for load time; decodes about twenty times as fast "
            "and is up to 9 % larger. smallest: about 1 % smaller, decodes three to five times as slowly. "
            "auto: for each tensor fast where that costs at most 2 %, else small."
        ),
    ] = CoderName.small,
    float_dtype: Annotated[
        FloatType,
        typer.Option(help="Type of arrays and scales; float16 is given only to those that it holds exactly."),
    ] = FloatType.keep,
    force: Annotated[bool, typer.Option("--force", help="Replace NEW.sterna if it exists.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a .sterna file anew, with another coder or other number types.

    Nothing is lost: every trit and every number stays what it is. The new
    file is read back and compared before the command ends.

    Examples:
      sterna transcode model.sterna fast.sterna --coder fast
      sterna transcode model.sterna model.sterna --coder smallest --force
    """
    from sterna.transcoding import transcode as transcode_file

    if target.exists() and not force:
        raise ConfigError(f"{target} exists: replace it with --force, or choose another name")
    with output.progress("transcode") as progress:
        result = transcode_file(source, target, coder=coder.value, float_dtype=float_dtype.value, progress=progress)
    if as_json:
        output.print_json({"source": source, "path": target, "coder": coder.value, **asdict(result)})
        return
    rows = [
        ("file", str(target)),
        ("size", in_bytes(result.file_bytes)),
        ("before", in_bytes(result.source_bytes)),
        ("change", f"{100 * (result.file_bytes / result.source_bytes - 1):+.1f} %"),
    ]
    if result.kept_float32:
        rows.append(("still float32", f"{len(result.kept_float32)} tensors that float16 would round"))
    output.stdout().print(output.pairs(rows))
