"""Run a ``.sterna`` file on the native engine, with NumPy alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sterna import _core
from sterna.container import SternaFile
from sterna.errors import DataError, SternaError

FloatArray = npt.NDArray[np.float32]
Activations = Literal["float32", "int8"]


@dataclass(frozen=True)
class LayerTime:
    """What one step of a network took.

    Args:
        name: place of its node in the graph, or what the engine adds: ``load``, ``store``, ``split phases``.
        operator: of its node; empty for what the engine adds.
        kernel: that computed it.
        milliseconds: median over the runs.
        operations: additions, or multiplications with their additions, that are useful: zeros do not count.
    """

    name: str
    operator: str
    kernel: str
    milliseconds: float
    operations: int

    @property
    def operations_per_second(self) -> float:
        """Useful operations a second."""
        return self.operations / self.milliseconds * 1e3 if self.milliseconds > 0 else 0.0


class InferenceSession:
    """A network that is ready to run.

    Args:
        path: of a ``.sterna`` file with a graph; or its bytes.
        threads: that compute one run; the result is the same for any number.
        isa: name of an instruction set out of :func:`instruction_sets`; nothing means the environment variable
            ``STERNA_ISA``, and without it the best one of this processor.
        activations: ``"float32"`` computes with the weights of the file exactly, up to the order of sums; ``"int8"``
            quantizes activations to 8 bits with the ranges in the file (``sterna calibrate``), and sums exactly, so
            that results are equal on every instruction set.
        graph: name of the graph; the empty one is the whole network, others are parts of a detector.
        tune: measure which form of a kernel is the fastest for each layer, when a size of images is seen first.
        ranges: of each value of the graph, ``(low, high)``, in the place of those in the file.
        values: numbers of values that are returned in the place of the graph's outputs.

    Raises:
        FormatError: the file is damaged or not a ``.sterna`` file.
        SternaError: it has no such graph, or cannot be run by the engine; an argument is not allowed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | bytes,
        *,
        threads: int = 1,
        isa: str | None = None,
        activations: Activations = "float32",
        graph: str = "",
        tune: bool = True,
        ranges: Sequence[tuple[float, float]] = (),
        values: Sequence[int] = (),
    ) -> None:
        if not 1 <= threads <= _core.MAX_THREADS:
            raise SternaError(f"threads must be 1 to {_core.MAX_THREADS}, got {threads}")
        if activations not in ("float32", "int8"):
            raise SternaError(f"activations must be 'float32' or 'int8', got {activations!r}")
        self._name = "the file" if isinstance(path, bytes) else os.fspath(path)
        file = SternaFile(path, whole_checksum=False) if isinstance(path, bytes) else SternaFile.open(Path(path))
        self.metadata: Mapping[str, Any] = file.metadata
        self.isa = _chosen_isa(isa)
        self.threads = threads
        self.activations = activations
        self._graph = next((one for one in file.graphs if one.name == graph), None)
        self._engine = self._call(
            _core.Engine, file.data, graph, self.isa, activations == "int8", tune, threads, list(ranges), list(values)
        )
        self.inputs: dict[str, tuple[int, ...]] = {name: tuple(shape) for name, shape in self._engine.inputs()}
        self.outputs: tuple[str, ...] = tuple(self._engine.outputs())

    def run(self, *inputs: npt.ArrayLike) -> FloatArray | dict[str, FloatArray]:
        """Compute the outputs for a batch.

        Args:
            inputs: one array for each input, ``(N, C, H, W)`` or ``(N, F)``, of numbers that are finite; what is not
                float32 is converted. Height and width may differ from those in :attr:`inputs` where the network
                allows it.

        Returns:
            float32: the array of the only output, or arrays by the names of the outputs.

        Raises:
            DataError: a wrong number of inputs, a shape that the network does not take, or a number that is not finite.
        """
        arrays = self._arrays(inputs)
        results, _ = self._run(arrays, is_timed=False)
        return results[0] if len(self.outputs) == 1 else dict(zip(self.outputs, results, strict=True))

    def profile(self, *inputs: npt.ArrayLike, runs: int = 20) -> list[LayerTime]:
        """Time each step.

        Args:
            inputs: as for :meth:`run`.
            runs: of which the median is taken, after one that does not count.

        Raises:
            DataError: as :meth:`run`.
            SternaError: ``runs`` is not positive.
        """
        if runs < 1:
            raise SternaError(f"runs must be at least 1, got {runs}")
        arrays = self._arrays(inputs)
        self._run(arrays, is_timed=False)
        seconds = np.median([self._run(arrays, is_timed=True)[1] for _ in range(runs)], axis=0)
        steps = self._call(self._engine.steps, [array.shape for array in arrays])
        return [
            self._layer_time(node, kernel, operations, float(time))
            for (node, kernel, operations), time in zip(steps, seconds, strict=True)
        ]

    def output_shapes(self, *shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs by name, for inputs of these shapes.

        Raises:
            DataError: the network does not take them.
        """
        found = self._call(self._engine.output_shapes, list(shapes))
        return {name: tuple(shape) for name, shape in zip(self.outputs, found, strict=True)}

    def arena_bytes(self, *inputs: npt.ArrayLike) -> int:
        """Memory for activations that one run with such inputs takes."""
        return int(self._call(self._engine.arena_bytes, [array.shape for array in self._arrays(inputs)]))

    def computed_values(self, *inputs: npt.ArrayLike) -> list[int]:
        """Numbers of the graph's values that exist in memory: what is fused into another one does not."""
        return list(self._call(self._engine.computed_values, [array.shape for array in self._arrays(inputs)]))

    def _layer_time(self, node: int | None, kernel: str, operations: int, seconds: float) -> LayerTime:
        if node is None or self._graph is None:
            return LayerTime(kernel, "", kernel, seconds * 1e3, operations)
        one = self._graph.nodes[node]
        name = next((parameter for parameter in one.parameters if parameter), "")
        return LayerTime(name.removesuffix(".weight") or f"{node}", one.operator, kernel, seconds * 1e3, operations)

    def _arrays(self, inputs: Sequence[npt.ArrayLike]) -> list[FloatArray]:
        if len(inputs) != len(self.inputs):
            raise DataError(f"{self._name} has {len(self.inputs)} inputs ({', '.join(self.inputs)}), got {len(inputs)}")
        arrays = []
        for name, given in zip(self.inputs, inputs, strict=True):
            array = np.asarray(given)
            if array.dtype.kind not in "fiub":
                raise DataError(f"input {name!r} must be numbers, got {array.dtype}")
            arrays.append(np.ascontiguousarray(array, np.float32))
        return arrays

    def _run(self, arrays: list[FloatArray], *, is_timed: bool) -> tuple[list[FloatArray], list[float]]:
        shapes = self._call(self._engine.output_shapes, [array.shape for array in arrays])
        results = [np.empty(shape, np.float32) for shape in shapes]
        return results, self._call(self._engine.run, arrays, results, is_timed)

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except ValueError as error:
            raise DataError(f"{self._name}: {error}") from None


def instruction_sets() -> list[str]:
    """Instruction sets of this processor for which Sterna has kernels, the best one last."""
    return list(_core.isas())


def amx_state() -> str:
    """Whether this process can use AMX, in words: ``usable``, or why not.

    ``absent`` from the processor, the operating system or this build; ``refused by the operating system``, which has to
    permit it to each process; ``wrong products when tried``, after which it is left aside.
    """
    return _core.amx_state()


def _chosen_isa(isa: str | None) -> str:
    available = instruction_sets()
    chosen = isa or os.environ.get("STERNA_ISA") or available[-1]
    if chosen not in available:
        raise SternaError(f"instruction set {chosen!r} is not available; this processor has {', '.join(available)}")
    return chosen
