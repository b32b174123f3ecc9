"""What a person sees."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from sterna.train.progress import PlainLines, ProgressBar, Silence, Snapshot, make_display, show_stage

SNAPSHOT = Snapshot(
    step=20,
    epoch=2,
    phase="ternary",
    loss=0.51234,
    train_top1=87.654,
    sparsity=0.7003,
    cosine=0.9312,
    expected_bytes=39_322,
    validation=("top-1", 91.2),
)


def test_without_a_terminal_there_is_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainLines(epochs=3, total_steps=30) as display:
        for step in range(1, 21):
            display.advance(step)
        display.show(SNAPSHOT)
        display.end_epoch(SNAPSHOT)
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    for text in ("epoch 2/3", "ternary", "0.5123", "87.65 %", "70.0 %", "0.931", "39.3 kB", "91.20 %", "left 0:00"):
        assert text in line


def test_a_terminal_gets_a_bar_with_all_numbers_and_a_line_an_epoch() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    with ProgressBar(epochs=3, total_steps=30, done_steps=10, console=console) as bar:
        bar.advance(15)
        bar.show(replace(SNAPSHOT, validation=None))
        bar.end_epoch(SNAPSHOT)
        bar.advance(20)
    text = stream.getvalue()
    for part in ("20/30", "epoch 2/3", "loss 0.5123", "train 87.65 %", "zeros 70.0 %", "file 39.3 kB", "left"):
        assert part in text
    assert "validation top-1 91.20 %" in text


def test_the_bar_ends_when_training_is_interrupted() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    bar = ProgressBar(1, 10, console=console)

    def interrupted() -> None:
        with bar:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not bar._progress.live.is_started


def test_silence_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Silence() as display:
        display.advance(1)
        display.show(SNAPSHOT)
        display.end_epoch(SNAPSHOT)
    assert capsys.readouterr() == ("", "")


def test_the_display_is_chosen_by_wish_and_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_display(False, 1, 1, 0)) is Silence
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert type(make_display(True, 1, 1, 0)) is PlainLines
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert type(make_display(True, 1, 1, 0)) is ProgressBar


def test_a_stage_is_named_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_stage(True, "choosing trits") as report:
        report(1, 2)
    assert capsys.readouterr() == ("", "choosing trits\n")


def test_a_stage_has_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stream)
    with show_stage(True, "choosing trits") as report:
        report(3, 21)
    assert "choosing trits" in stream.getvalue()
    assert "3/21" in stream.getvalue()


def test_a_stage_that_nobody_wants_to_see_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_stage(False, "choosing trits") as report:
        report(1, 2)
    assert capsys.readouterr() == ("", "")
