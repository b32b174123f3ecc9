"""The time of each layer of a network in Sterna's engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sterna.benchmarking.comparison import NATIVE, image_shape
from sterna.benchmarking.ranges import ranges_for_timing
from sterna.container import SternaFile
from sterna.export.onnx import find_graph
from sterna.session import Activations, InferenceSession, LayerTime


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Args:
        name: of its weights, or of its operator.
        operator: as in the graph; empty for what the engine adds.
        kernel: what computes it.
        milliseconds: the median over runs.
        share: of the sum over all layers.
        operations: useful ones in one run: additions of weights that are not zero, or products with their additions.
        giga_operations_per_second: their rate.
    """

    name: str
    operator: str
    kernel: str
    milliseconds: float
    share: float
    operations: int
    giga_operations_per_second: float


def profile_layers(
    file: str | os.PathLike[str],
    *,
    threads: int = 1,
    batch: int = 1,
    size: tuple[int, int] | None = None,
    isa: str = NATIVE,
    activations: Activations = "float32",
    runs: int = 20,
) -> tuple[LayerRow, ...]:
    """Time each layer of the network of a file on random images.

    Args:
        file: a ``.sterna`` file with the graph of its network.
        threads: that compute a run.
        batch: images in a run.
        size: height and width of the input; nothing means those in the file.
        isa: instruction set; ``native`` is the best one.
        activations: ``float32`` or ``int8``.
        runs: to take the median of.

    Raises:
        SternaError: the file holds no graph or cannot be read, or the engine refuses an argument.
    """
    graph = find_graph(SternaFile.open(file).graphs)
    shape = (batch, *image_shape(graph, size))
    array: npt.NDArray[np.float32] = np.random.default_rng(0).standard_normal(shape, np.float32)
    session = InferenceSession(
        file,
        threads=threads,
        isa=None if isa == NATIVE else isa,
        activations=activations,
        ranges=ranges_for_timing(file, graph, array) if activations == "int8" else (),
    )
    return rows_of(session.profile(array, runs=runs))


def rows_of(layers: Sequence[LayerTime]) -> tuple[LayerRow, ...]:
    """The layers with their shares and rates."""
    total = sum(layer.milliseconds for layer in layers)
    return tuple(
        LayerRow(
            name=layer.name,
            operator=layer.operator,
            kernel=layer.kernel,
            milliseconds=layer.milliseconds,
            share=layer.milliseconds / total if total else 0.0,
            operations=layer.operations,
            giga_operations_per_second=layer.operations_per_second / 1e9,
        )
        for layer in layers
    )
