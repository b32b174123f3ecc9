"""Where commands write: results to stdout, as one JSON document or as tables; progress and notes to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sterna.cli.text import printable

_PIPE_WIDTH = 120


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Leave it to ``main``: rich would exit with 1, which here means a defect."""
        raise BrokenPipeError


def stdout() -> Console:
    """A console for results. Plain text stays as it is: names in files may hold brackets."""
    # Where nobody says how wide the screen is (a pipe, a file), rich would fold tables at 80 columns.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return _Console(markup=False, highlight=False, emoji=False, width=width)


def stderr() -> Console:
    """A console for progress and notes."""
    return _Console(stderr=True, markup=False, highlight=False, emoji=False)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal: call what is given with the work done and all work."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with Progress(console=stderr(), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """As :func:`progress`, for work of several kinds: call what is given with the kind of work first."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    with Progress(console=stderr(), transient=True) as bar:
        task = bar.add_task("start")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def table(columns: Iterable[str], *, numbers: Iterable[str] = (), title: str | None = None) -> Table:
    """An empty table; the columns named in ``numbers`` are right-aligned."""
    right = set(numbers)
    grid = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return grid


def pairs(rows: Iterable[tuple[str, str]], title: str | None = None) -> Table:
    """A table of names and values, without a head."""
    grid = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, printable(value))
    return grid


def print_json(value: Any) -> None:
    """Write one JSON document. JSON has no paths and no infinities: they become text and null."""
    sys.stdout.write(json.dumps(_json_value(value), indent=2, allow_nan=False) + "\n")


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
