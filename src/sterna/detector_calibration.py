"""Ranges for 8-bit activations of a detector: every graph of its file sees what reaches it in the whole detector."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sterna.calibration import MeasuredGraph, Method, check_method, with_ranges
from sterna.container import SternaFile
from sterna.detector_metadata import describe_detector
from sterna.errors import DataError, SternaError
from sterna.loading import assemble
from sterna.ternary_model import TernaryModel


@torch.inference_mode()
def calibrate_detector(
    path: str | os.PathLike[str],
    batches: Iterable[list[Tensor]],
    *,
    model: nn.Module | None = None,
    method: Method = "mse",
    percentile: float = 99.999,
    threads: int = 1,
) -> TernaryModel:
    """As :func:`sterna.calibrate`, for the graphs of a detector (:func:`sterna.capture_detector`).

    The detector finds objects in the images with its graphs in float32: those of the heads see the regions that are
    proposed and found.

    Args:
        path: of a ``.sterna`` file with such graphs.
        batches: of images as the detector takes them, ``(3, height, width)`` in 0..1.
        model: a module of the same architecture; nothing means to build it by the name in the file.
        method: as for :func:`sterna.calibration.choose_range`.
        percentile: of the method of this name.
        threads: that compute the graphs.

    Returns:
        The model of the file, with ranges in its graphs, and with what its metadata say of detectors: files of earlier
        versions lack that.

    Raises:
        FormatError: the file is damaged or not a ``.sterna`` file.
        DataError: the file has no graphs or does not fit the model, or a graph had nothing to compute, as that of masks
            where nothing is found.
        SternaError: an argument is not allowed.
    """
    check_method(method, percentile)
    file = SternaFile.open(Path(path), whole_checksum=True)
    if not file.graphs:
        raise SternaError(f"{os.fspath(path)} has no graph to calibrate: it can be loaded into a PyTorch module only")
    measured = {graph.name: MeasuredGraph(path, graph, threads=threads) for graph in file.graphs}
    detector = assemble(os.fspath(path), file, measured, model)
    try:
        for images in batches:
            detector(images)
        graphs = tuple(
            with_ranges(graph, measured[graph.name].statistics(), method, percentile) for graph in file.graphs
        )
    except DataError as error:
        raise DataError(f"{os.fspath(path)}: {error}") from None
    found = file.read()
    described = describe_detector(detector)
    metadata = found.metadata if described is None else {**found.metadata, "detector": described}
    return replace(found, graphs=graphs, metadata=metadata)
