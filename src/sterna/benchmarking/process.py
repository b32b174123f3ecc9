"""The near end of a worker: starting it, asking it, ending it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sterna.benchmarking.peers import Engine, Job
from sterna.errors import SternaError

_SHOWN = 200


class EngineError(SternaError):
    """An engine refused, failed or died; the benchmark goes on without it."""


class EngineProcess:
    """An engine in a process of its own. A context manager: the process ends with it.

    Args:
        engine: which.
        job: what it is to do.

    Attributes:
        cpu_ms: milliseconds of processors, all threads together, that a run took, for each :meth:`time`.
    """

    def __init__(self, engine: type[Engine], job: Job) -> None:
        self.name = engine.name
        self.cpu_ms: list[float] = []
        # What it prints is kept: the last line may say why it died.
        self._log = (Path(job.folder) / f"{engine.name}-{job.isa or 'native'}-{job.activations}.log").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sterna.benchmarking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | engine.environment(job),
            text=True,
        )
        self._send({"engine": engine.name, "job": asdict(job)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            EngineError: it failed.
        """
        self._send({"request": request, **arguments})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(f"its process ended with code {self._process.wait()}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(str(answer["error"])[:_SHOWN])
        return answer

    def load(self) -> float:
        """Load the model and run it once; returns the milliseconds that both took."""
        return float(self.ask("load")["load_ms"])

    def warm(self) -> tuple[float, int]:
        """Run a few times; returns the milliseconds of the shortest run, and the peak memory above the imports."""
        answer = self.ask("warm")
        return float(answer["ms"]), int(answer["peak_bytes"])

    def time(self, runs: int) -> float:
        """Milliseconds of one of so many runs."""
        answer = self.ask("time", runs=runs)
        self.cpu_ms.append(float(answer["cpu_ms"]))
        return float(answer["ms"])

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EngineError(f"its process ended with code {self._process.wait()}{self._last_words()}") from None

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:_SHOWN]}" if lines else ""
