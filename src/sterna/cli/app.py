"""The list of commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sterna import __version__
from sterna.cli.benchmark import benchmark
from sterna.cli.calibrate import calibrate
from sterna.cli.compress import compress
from sterna.cli.evaluate import evaluate
from sterna.cli.export import export
from sterna.cli.info import info
from sterna.cli.inspect import inspect
from sterna.cli.run import run
from sterna.cli.serve import serve
from sterna.cli.transcode import transcode

_HELP = """\
Sparse ternary vision models: small files, fast inference, kept accuracy.

A recipe (a YAML file) says which network to compress, on which images,
and how. Training ends in one .sterna file, whose weights are -1, 0 or +1
times a scale, and whose accuracy was measured on what it holds.

Start here:
  sterna compress recipes/digits_demo.yaml
  sterna inspect  runs/digits_demo/digits_demo.sterna
  sterna evaluate runs/digits_demo/digits_demo.sterna

Exit codes: 0 done; 2 a mistake or a bad file, told in one line;
130 interrupted; 1 a defect of Sterna.
"""


class Stopped(Exception):  # noqa: N818 (not an error)
    """Ctrl-C, or the reader of the output has gone; Typer has answers of its own to both, with other exit codes."""

    def __init__(self, hints: tuple[str, ...], *, output_closed: bool) -> None:
        super().__init__()
        self.hints = hints
        self.output_closed = output_closed


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Stopped(tuple(map(str, stop.args)), output_closed=False) from None
        except BrokenPipeError:
            raise Stopped((), output_closed=True) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sterna {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Group,
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version


for _command in (compress, evaluate, run, serve, inspect, calibrate, transcode, export, benchmark, info):
    app.command()(_command)
