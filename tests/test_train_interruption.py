"""Ctrl-C waits for the end of work that must not be torn."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from sterna.train.interruption import interrupts_held

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


@pytest.fixture(autouse=True)
def python_handler() -> Iterator[None]:
    """Python's own handler, which the shell that starts the tests may have taken away."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def hold(presses: int, done: list[bool]) -> None:
    with interrupts_held():
        for _ in range(presses):
            press_ctrl_c()
        done.append(True)


def test_an_interrupt_is_raised_at_the_end_of_the_block() -> None:
    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        hold(1, done)
    assert done == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_interrupt_does_not_wait() -> None:
    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        hold(2, done)
    assert done == []


def test_an_error_of_the_block_is_not_hidden_by_the_interrupt() -> None:
    @interrupts_held()
    def fail() -> None:
        press_ctrl_c()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_program_stays_in_charge() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    with interrupts_held():
        press_ctrl_c()
        assert seen == [signal.SIGINT]


def test_other_threads_may_use_it() -> None:
    done: list[bool] = []

    def work() -> None:
        with interrupts_held():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
