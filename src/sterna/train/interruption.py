"""Ctrl-C at a moment that suits PyTorch.

Python raises ``KeyboardInterrupt`` wherever it happens to be, also inside a callback of PyTorch's C++ code. While it
computes gradients or writes an archive, that code does not expect it: the process aborts, or reports an unfinished
archive as a failed write. So the interrupt waits there for the end of the work.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block; a second one does not wait.

    Does nothing outside the main thread, which alone gets signals, and where a program has a handler of its own.

    Raises:
        KeyboardInterrupt: at the end of the block, if Ctrl-C came within it and the block did not fail.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def hold(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
