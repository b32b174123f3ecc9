"""One engine in a process of its own, which answers requests: ``python -m sterna.benchmarking.worker``.

Requests and answers are lines of JSON on standard input and output. A process for each engine, because memory and load
time are then its own, because libraries read their environment once, and because threads of one cannot disturb another.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sterna.benchmarking.peers import ENGINES, Engine, Job
from sterna.errors import SternaError
from sterna.machine import forget_peak, peak_bytes

# A first run allocates, and processors take a moment to reach their speed.
_WARM_RUNS = 3
_WARM_SECONDS = 0.3


class Worker:
    """The answers: each public method is a request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Of no matter which values: no engine's time depends on them.
        self._input = np.random.default_rng(0).standard_normal(engine.job.shape, np.float32)

    def prepare(self) -> dict[str, Any]:
        """Make the files that loading needs."""
        self._engine.prepare()
        return {}

    def load(self) -> dict[str, Any]:
        """Load the model and run it once, and tell how long both took."""
        self._engine.imports()
        self._before = forget_peak()
        start = time.perf_counter()
        self._engine.load()
        self._engine.run(self._input)
        return {"load_ms": 1e3 * (time.perf_counter() - start)}

    def warm(self) -> dict[str, Any]:
        """Run a few times, and tell the shortest time and by how much the peak memory is above that of the imports."""
        runs: list[float] = []
        while len(runs) < _WARM_RUNS or sum(runs) < _WARM_SECONDS:
            start = time.perf_counter()
            self._engine.run(self._input)
            runs.append(time.perf_counter() - start)
        return {"ms": 1e3 * min(runs), "peak_bytes": peak_bytes() - self._before}

    def time(self, runs: int) -> dict[str, Any]:
        """Milliseconds of a run, the mean of some, and those of processors; one that is not counted comes before."""
        self._engine.run(self._input)
        start, processors = time.perf_counter(), time.process_time()
        for _ in range(runs):
            self._engine.run(self._input)
        elapsed, busy = time.perf_counter() - start, time.process_time() - processors
        return {"ms": 1e3 * elapsed / runs, "cpu_ms": 1e3 * busy / runs}

    def output(self, path: str) -> dict[str, Any]:
        """Save what the engine computes."""
        np.save(path, np.asarray(self._engine.run(self._input), np.float32))
        return {}


def main() -> None:
    """Answer until standard input ends."""
    # Libraries print too: what they write to standard output goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    first = json.loads(sys.stdin.readline())
    job = first["job"]
    job["shape"] = tuple(job["shape"])
    job["ranges"] = tuple((low, high) for low, high in job["ranges"])
    worker = Worker(ENGINES[first["engine"]](Job(**job)))
    for line in sys.stdin:
        request = json.loads(line)
        answer = _answer(getattr(worker, request.pop("request")), request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(method: Callable[..., dict[str, Any]], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return method(**arguments)
    except Exception as error:  # Whatever a peer does wrong, the others go on.
        text = " ".join(str(error).split()) or type(error).__name__
        return {"error": text if isinstance(error, SternaError) else f"{type(error).__name__}: {text}"}


if __name__ == "__main__":
    main()
