"""Ranges of values for 8-bit activations, for files that were never calibrated.

They are good enough to time with: how long a run takes does not depend on values. They say nothing about accuracy.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from sterna.graph import Graph
from sterna.session import InferenceSession


def ranges_for_timing(
    file: str | os.PathLike[str], graph: Graph, images: npt.NDArray[np.float32]
) -> tuple[tuple[float, float], ...]:
    """``(low, high)`` of each value of the graph: those in the file, or else those on some images.

    Args:
        file: the ``.sterna`` file.
        graph: of it, with one input.
        images: to measure on, ``(n, channels, height, width)``.

    Raises:
        SternaError: the engine cannot run the graph.
    """
    if graph.ranges:
        return graph.ranges
    session = InferenceSession(file, values=range(graph.value_count), tune=False)
    result = session.run(images[:1])
    values = result.values() if isinstance(result, dict) else (result,)
    return tuple((float(value.min()), float(value.max())) for value in values)
