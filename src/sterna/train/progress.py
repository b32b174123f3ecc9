"""What a person sees while training runs, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


@dataclass(frozen=True)
class Snapshot:
    """Numbers of a run at one step.

    Args:
        step: steps done.
        epoch: the running epoch, from 1.
        phase: of the ternary layers.
        loss: mean over the running epoch.
        train_top1: percent, over the running epoch; nothing where the task has no such notion.
        sparsity: fraction of zeros.
        cosine: mean over layers, between latent and ternary weights.
        expected_bytes: of the file, if training ended here.
        validation: name and value in percent of the metric that counts, at the end of an epoch.
    """

    step: int
    epoch: int
    phase: str
    loss: float
    train_top1: float | None
    sparsity: float
    cosine: float
    expected_bytes: int
    validation: tuple[str, float] | None = None

    def text(self) -> str:
        """The numbers in one line."""
        parts = [f"{self.phase:7}", f"loss {self.loss:.4f}"]
        if self.train_top1 is not None:
            parts.append(f"train {self.train_top1:.2f} %")
        if self.phase != "dense":
            parts += [f"zeros {100 * self.sparsity:.1f} %", f"cosine {self.cosine:.3f}"]
            parts.append(f"file {self.expected_bytes / 1000:.1f} kB")
        if self.validation is not None:
            parts.append(f"validation {self.validation[0]} {self.validation[1]:.2f} %")
        return "  ".join(parts)


class Display(Protocol):
    """Shows a run; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def advance(self, step: int) -> None:
        """A step is done."""

    def show(self, snapshot: Snapshot) -> None:
        """New numbers."""

    def end_epoch(self, snapshot: Snapshot) -> None:
        """An epoch is done and validated."""


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, step: int) -> None:
        """Do nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Do nothing."""

    def end_epoch(self, snapshot: Snapshot) -> None:
        """Do nothing."""


class PlainLines(Silence):
    """One line an epoch, for files and pipes.

    Args:
        epochs: of the run.
        total_steps: of the run.
        done_steps: of them, before this process began.
    """

    def __init__(self, epochs: int, total_steps: int, done_steps: int = 0) -> None:
        self._epochs = epochs
        self._total_steps = total_steps
        self._done_steps = done_steps
        self._start = time.monotonic()

    def end_epoch(self, snapshot: Snapshot) -> None:
        """Write the line."""
        rate = (time.monotonic() - self._start) / max(1, snapshot.step - self._done_steps)
        left = round(rate * (self._total_steps - snapshot.step))
        line = f"epoch {snapshot.epoch}/{self._epochs}  {snapshot.text()}  left {left // 60}:{left % 60:02}"
        print(line, file=sys.stderr, flush=True)


class ProgressBar:
    """A bar with the newest numbers under it and a line above it for each epoch, for terminals.

    Args:
        epochs: of the run.
        total_steps: of the run.
        done_steps: of them, before this process began.
        console: to write to; nothing means standard error.
    """

    def __init__(self, epochs: int, total_steps: int, done_steps: int = 0, console: Console | None = None) -> None:
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            _Steps(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console or Console(stderr=True),
        )
        self._task: TaskID = self._progress.add_task(
            f"epoch {1}/{epochs}", total=total_steps, completed=done_steps, numbers=""
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def show(self, snapshot: Snapshot) -> None:
        """Renew the numbers beside the bar."""
        self._progress.update(self._task, description=f"epoch {snapshot.epoch}/{self._epochs}", numbers=snapshot.text())

    def end_epoch(self, snapshot: Snapshot) -> None:
        """Leave a line above the bar."""
        self.show(snapshot)
        self._progress.console.print(f"epoch {snapshot.epoch}/{self._epochs}  {snapshot.text()}", highlight=False)


def make_display(wanted: bool, epochs: int, total_steps: int, done_steps: int) -> Display:
    """A bar on a terminal, plain lines elsewhere, silence where nothing is wanted."""
    if not wanted:
        return Silence()
    if sys.stderr.isatty():
        return ProgressBar(epochs, total_steps, done_steps)
    return PlainLines(epochs, total_steps, done_steps)


@contextmanager
def show_stage(wanted: bool, label: str) -> Iterator[Callable[[int, int], None]]:
    """Tell what a run does before its first step, and how far it is.

    Args:
        wanted: whether to show anything.
        label: what is being done.

    Yields:
        a function of what is done and of all there is, which moves a bar on a terminal. Elsewhere the label is written
        once; where nothing is reported, the bar only shows that something is going on.
    """
    if not wanted:
        yield lambda _done, _total: None
        return
    if not sys.stderr.isatty():
        print(label, file=sys.stderr, flush=True)
        yield lambda _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), _Steps(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Steps(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed)}/{int(task.total)}" if task.total is not None else "")
