"""Choose the ranges that 8-bit activations are quantized with, from the values of a network on real inputs.

The engine computes every value of a graph in float32; of each, a histogram of magnitudes is kept, from which a range is
chosen. Needs NumPy alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sterna.container import SternaFile
from sterna.errors import DataError, SternaError
from sterna.graph import Graph
from sterna.session import InferenceSession
from sterna.ternary_model import TernaryModel

Method = Literal["mse", "percentile", "max"]
Batch = npt.ArrayLike | tuple[npt.ArrayLike, ...]
"""The input of a graph, ``(N, C, H, W)`` or ``(N, F)``; a tuple of them where it has several."""

Range = tuple[float, float]

BINS = 4096
# Levels of a value that is never negative, and to each side of 0 of one that is.
UNSIGNED_LEVELS = 255
SIGNED_LEVELS = 127

_SMALLEST_EXPONENT = -100
_SIGNIFICANT_BITS = 8
_NUMBERS_AT_ONCE = 1 << 20
# Clipping values that are tried, from the greatest magnitude down to 2^-7 of it: a step changes one by 3.9 %.
_CANDIDATES = 2.0 ** -np.linspace(0.0, 7.0, 129)
# Their outputs are numbers of their first input (and zeros): with its range nothing is rounded twice.
_REARRANGING = frozenset({"max_pool2d", "adaptive_max_pool2d", "flatten", "pad", "resize_nearest", "upsample_nearest"})


class ValueStatistics:
    """What is kept of the numbers of one value: extremes and a histogram of magnitudes.

    Bin ``i`` counts the numbers, zeros apart, of magnitudes ``i w`` to ``(i + 1) w``. The width ``w`` is a power of two
    and doubles when a number does not fit, so that the result does not depend on the order of batches.

    Attributes:
        least: of the numbers.
        greatest: of the numbers.
        zeros: how many are 0.
        counts: int64 ``(BINS,)``, how many others lie in each bin.
        width: of a bin.
    """

    def __init__(self) -> None:
        self.least = math.inf
        self.greatest = -math.inf
        self.zeros = 0
        self.counts = np.zeros(BINS, np.int64)
        self._exponent = _SMALLEST_EXPONENT

    @property
    def count(self) -> int:
        """How many numbers there were."""
        return self.zeros + int(self.counts.sum())

    @property
    def magnitude(self) -> float:
        """The greatest magnitude; 0 without numbers."""
        return max(-self.least, self.greatest, 0.0)

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0 / BINS, self._exponent)

    def add(self, numbers: npt.NDArray[np.float32]) -> None:
        """Count numbers, float32 of any shape.

        Raises:
            DataError: one is not finite.
        """
        flat = numbers.reshape(-1)
        for first in range(0, flat.size, _NUMBERS_AT_ONCE):
            self._add(flat[first : first + _NUMBERS_AT_ONCE])

    def _add(self, numbers: npt.NDArray[np.float32]) -> None:
        least, greatest = float(numbers.min()), float(numbers.max())
        if not (math.isfinite(least) and math.isfinite(greatest)):
            raise DataError("a number is not finite")
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
        magnitude = max(-least, greatest)
        if magnitude > 0.0:
            self._widen(math.frexp(magnitude)[1])
        zeros = numbers.size - int(np.count_nonzero(numbers))
        # Dividing by a power of two rounds nothing.
        bins = (np.abs(numbers) * np.float32(1.0 / self.width)).astype(np.int64)
        counts = np.bincount(bins, minlength=BINS)
        counts[0] -= zeros
        self.zeros += zeros
        self.counts += counts

    def _widen(self, exponent: int) -> None:
        """Let the bins reach to ``2^exponent``."""
        doublings = exponent - self._exponent
        if doublings <= 0:
            return
        merged = np.zeros(BINS, np.int64)
        factor = 1 << min(doublings, BINS.bit_length() - 1)
        merged[: BINS // factor] = self.counts.reshape(-1, factor).sum(1)
        self.counts = merged
        self._exponent = exponent


def squared_error(statistics: ValueStatistics, limits: npt.NDArray[np.float64], levels: int) -> npt.NDArray[np.float64]:
    """Sum of squared errors of quantization, for several clipping values.

    With step ``s = t / levels`` a magnitude ``x`` becomes ``s round(min(x, t) / s)``. Numbers are taken to be spread
    evenly over their bin, where the integral of the squared error is known: with ``x = s (k + r)``, ``|r| <= 1/2``,

        G(x) = s^3 (k / 12 + r^3 / 3)  up to t,  and  G(t) + (x - t)^3 / 3  beyond.

    Args:
        statistics: of the numbers.
        limits: clipping values ``t``, ``(n,)``, above 0.
        levels: of magnitudes above 0.

    Returns:
        ``(n,)``.
    """
    last = int(np.flatnonzero(statistics.counts)[-1]) + 1 if statistics.counts.any() else 0
    edges = statistics.width * np.arange(last + 1, dtype=np.float64)
    errors = np.empty(len(limits))
    for place, limit in enumerate(limits):
        step = limit / levels
        inside = np.minimum(edges, limit) / step
        whole = np.rint(inside)
        rest, beyond = inside - whole, np.maximum(edges - limit, 0.0)
        integral = step**3 * (whole / 12.0 + rest * rest * rest / 3.0) + beyond * beyond * beyond / 3.0
        errors[place] = np.dot(np.diff(integral), statistics.counts[:last]) / statistics.width
    return errors


def choose_range(statistics: ValueStatistics, method: Method = "mse", percentile: float = 99.999) -> Range:
    """The range of a value that is quantized to the levels 0 to 255, if it is never negative, or -127 to 127.

    Args:
        statistics: of its numbers.
        method: ``max`` holds every number; ``percentile`` holds so many percent of them; ``mse`` has the least squared
            error of rounding and clipping together.
        percentile: of magnitudes, above 0 and up to 100.

    Returns:
        ``(low, high)`` with ``low <= 0 <= high``, both rounded outwards to eight significant bits; both are 0 where
        all numbers are.

    Raises:
        DataError: there were no numbers.
        SternaError: another method or percentile.
    """
    check_method(method, percentile)
    if statistics.count == 0:
        raise DataError("it has no numbers")
    limit = statistics.magnitude
    if method == "percentile":
        wanted = math.ceil(statistics.count * (percentile / 100.0)) - statistics.zeros
        last = int(np.searchsorted(np.cumsum(statistics.counts), wanted)) if wanted > 0 else 0
        limit = min(limit, statistics.width * (last + 1))
    elif method == "mse" and limit > 0.0:
        levels = UNSIGNED_LEVELS if statistics.least >= 0.0 else SIGNED_LEVELS
        limits = limit * _CANDIDATES
        limit = float(limits[np.argmin(squared_error(statistics, limits, levels))])
    low, high = max(statistics.least, -limit), min(statistics.greatest, limit)
    return -_short(max(-low, 0.0)), _short(max(high, 0.0))


def _short(bound: float) -> float:
    """The next number from ``bound`` on with eight significant bits: it is as good, and half as long in a file."""
    mantissa, exponent = math.frexp(bound)
    return math.ldexp(math.ceil(math.ldexp(mantissa, _SIGNIFICANT_BITS)), exponent - _SIGNIFICANT_BITS)


def calibrate(
    path: str | os.PathLike[str] | bytes,
    batches: Iterable[Batch] | Mapping[str, Iterable[Batch]],
    *,
    method: Method = "mse",
    percentile: float = 99.999,
    threads: int = 1,
) -> TernaryModel:
    """Give the graphs of a file the ranges that ``InferenceSession(..., activations="int8")`` needs.

    Args:
        path: of a ``.sterna`` file with a graph; or its bytes.
        batches: inputs as the network is given them, such as a few hundred preprocessed training images; the result
            depends neither on their order nor on how they are divided, up to the order of sums in the network. For a
            file with several graphs, batches by the name of the graph; the others stay as they are.
        method: as :func:`choose_range`.
        percentile: of the method of this name.
        threads: that compute the network.

    Returns:
        The model of the file, with ranges in its graphs.

    Raises:
        FormatError: the file is damaged or not a ``.sterna`` file.
        DataError: there are no batches, they do not fit, all numbers of an input are the same, or a number of the
            network is not finite.
        SternaError: the file has no such graph, or an argument is not allowed.
    """
    check_method(method, percentile)
    file = SternaFile(path) if isinstance(path, bytes) else SternaFile.open(Path(path), whole_checksum=True)
    name = "the file" if isinstance(path, bytes) else os.fspath(path)
    given = batches if isinstance(batches, Mapping) else {"": batches}
    known = [graph.name for graph in file.graphs]
    if not known:
        raise SternaError(f"{name} has no graph to calibrate: it can be loaded into a PyTorch module only")
    for wanted in given:
        if wanted not in known:
            shown = ", ".join(map(repr, known))
            raise SternaError(f"{name} has no graph {wanted!r} to calibrate; give batches by name: it has {shown}")
    if not given:
        raise DataError(f"{name}: there are no batches to calibrate with")
    graphs = []
    for graph in file.graphs:
        if graph.name in given:
            try:
                statistics = measure_values(path, graph, given[graph.name], threads=threads)
                graph = with_ranges(graph, statistics, method, percentile)
            except DataError as error:
                text = str(error)
                raise DataError(text if text.startswith(name) else f"{name}: {text}") from None
        graphs.append(graph)
    return replace(file.read(), graphs=tuple(graphs))


def measure_values(
    path: str | os.PathLike[str] | bytes, graph: Graph, batches: Iterable[Batch], *, threads: int = 1
) -> list[ValueStatistics]:
    """Statistics of every value of a graph.

    Args:
        path: of the file that holds the graph; or its bytes.
        graph: of it.
        batches: inputs.
        threads: that compute the network.

    Raises:
        DataError: there are no batches, they do not fit, all numbers of an input are the same, or a number of the
            network is not finite.
    """
    measured = MeasuredGraph(path, graph, threads=threads)
    for batch in batches:
        measured.run(*(batch if isinstance(batch, tuple) else (batch,)))
    return measured.statistics()


class MeasuredGraph:
    """A graph that is computed as by a session, and keeps statistics of every value on the way.

    Args:
        path: of the file that holds the graph; or its bytes.
        graph: of it.
        threads: that compute the network.

    Attributes:
        graph: as given.
        outputs: names of its outputs.
    """

    def __init__(self, path: str | os.PathLike[str] | bytes, graph: Graph, *, threads: int = 1) -> None:
        self.graph = graph
        self.outputs = tuple(name for name, _ in graph.outputs)
        # What an engine would fuse is computed too: the ranges do not depend on what it fuses. Without tuning, equal
        # inputs give equal ranges.
        values = range(graph.value_count)
        self._session = InferenceSession(path, threads=threads, graph=graph.name, values=values, tune=False)
        self._statistics = [ValueStatistics() for _ in values]

    def run(self, *inputs: npt.ArrayLike) -> dict[str, npt.NDArray[np.float32]]:
        """The outputs by name.

        Raises:
            DataError: as :meth:`~sterna.session.InferenceSession.run`, or a number of the network is not finite.
        """
        found = self._session.run(*inputs)
        arrays = list(found.values()) if isinstance(found, dict) else [found]
        for value, array in enumerate(arrays):
            try:
                self._statistics[value].add(array)
            except DataError as error:
                raise DataError(f"{_describe(self.graph, value)}: {error}") from None
        return {name: arrays[value] for name, value in self.graph.outputs}

    def output_shapes(self, *shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """As :meth:`~sterna.session.InferenceSession.output_shapes`."""
        found = list(self._session.output_shapes(*shapes).values())
        return {name: found[value] for name, value in self.graph.outputs}

    def statistics(self) -> list[ValueStatistics]:
        """Of every value.

        Raises:
            DataError: nothing was computed, or all numbers of an input are the same.
        """
        graph = self.graph
        if self._statistics[0].count == 0:
            raise DataError(f"there are no batches to calibrate {f'graph {graph.name!r}' if graph.name else 'it'} with")
        for graph_input, of_input in zip(graph.inputs, self._statistics, strict=False):
            if of_input.least == of_input.greatest:
                raise DataError(f"all numbers of input {graph_input.name!r} are {of_input.least}: no real inputs")
        return self._statistics


def with_ranges(
    graph: Graph, statistics: Sequence[ValueStatistics], method: Method = "mse", percentile: float = 99.999
) -> Graph:
    """The graph with a range for each value; what only moves numbers about keeps that of its input.

    Args:
        graph: to be calibrated.
        statistics: of its values, as :func:`measure_values` gives them.
        method: as :func:`choose_range`.
        percentile: of the method of this name.
    """
    ranges: list[Range] = []
    for value, of_value in enumerate(statistics):
        node = graph.nodes[value - len(graph.inputs)] if value >= len(graph.inputs) else None
        if node is not None and node.operator in _REARRANGING:
            ranges.append(ranges[node.inputs[0]])
        else:
            ranges.append(choose_range(of_value, method, percentile))
    return replace(graph, ranges=tuple(ranges))


def _describe(graph: Graph, value: int) -> str:
    if value < len(graph.inputs):
        return f"input {graph.inputs[value].name!r}"
    node = graph.nodes[value - len(graph.inputs)]
    weights = next((f" of {name!r}" for name in node.parameters if name), "")
    return f"value {value}, the {node.operator}{weights}"


def check_method(method: str, percentile: float) -> None:
    """Refuse what :func:`choose_range` does not know.

    Raises:
        SternaError: another method, or a percentile that is none.
    """
    if method not in get_args(Method):
        raise SternaError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    if not 0.0 < percentile <= 100.0:
        raise SternaError(f"percentile must be above 0 and up to 100, got {percentile}")
