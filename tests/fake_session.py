"""Sessions in the place of Sterna's own, for the workers of a benchmark."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


class FakeSession:
    """Says what it was asked for in its output: threads, whether capped, whether in 8 bits, ranges."""

    def __init__(self, path: str, *, threads: int, isa: str | None, activations: str, ranges: Any = ()) -> None:
        assert os.path.exists(path)  # noqa: PTH110
        self._told = [threads, isa == "avx2", activations == "int8", len(ranges)]

    def run(self, array: np.ndarray) -> np.ndarray:
        return np.tile(np.array(self._told, np.float32), (len(array), 1))


class Refusing(FakeSession):
    """Cannot be made."""

    def __init__(self, path: str, **options: Any) -> None:
        raise ValueError("no two\nways")


class Dying(FakeSession):
    """Ends its process with the first run."""

    def run(self, array: np.ndarray) -> np.ndarray:
        print("said before the end")
        os._exit(3)
