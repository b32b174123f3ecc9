"""Timing in turns, so that whatever else the machine does falls on all engines alike, and its statistics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

# A turn is at least so long that timers and wake-ups do not count.
TURN_MS = 50.0


class Timed(Protocol):
    """What takes turns."""

    def time(self, runs: int) -> float:
        """Milliseconds of a run, the mean of so many."""
        ...


@dataclass(frozen=True)
class Spread:
    """Median and interquartile range over rounds."""

    median: float
    interquartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; quartiles are interpolated between values."""
        if len(values) == 1:
            return cls(values[0], 0.0)
        first, middle, third = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, third - first)


def runs_in_a_turn(run_ms: float) -> int:
    """How many runs of this length take at least :data:`TURN_MS`."""
    return max(1, math.ceil(TURN_MS / run_ms)) if run_ms > 0 else 1


def take_turns(
    engines: Mapping[str, Timed],
    run_ms: Mapping[str, float],
    rounds: int,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> dict[str, list[float]]:
    """In each round each engine in turn runs some times; another one begins each round.

    Args:
        engines: by name.
        run_ms: about how long a run of each takes.
        rounds: how many.
        progress: called with the turns done and all turns.

    Returns:
        of each engine the milliseconds of a run, a value for each round.
    """
    names = list(engines)
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names) if names else 0
        for place, name in enumerate(names[start:] + names[:start]):
            milliseconds[name].append(engines[name].time(runs_in_a_turn(run_ms[name])))
            progress(number * len(names) + place + 1, rounds * len(names))
    return milliseconds


def ratio(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Of ``value / base`` within each round."""
    return Spread.of([value / other for value, other in zip(values, base, strict=True)])
