"""What the benchmarks of ``web/`` run: ``python web/benchmark/make_models.py FILE.sterna FOLDER``.

Writes ``network.sterna`` (with ranges for 8-bit activations: those of the file, or else some that are good enough to
time with), the same network as ``float32.onnx`` and ``int8.onnx`` for one image, and ``input.f32``, a random image.
Needs the packages of ``sterna[export]`` and ``onnxruntime``.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

import sterna
from sterna.benchmarking.comparison import image_shape
from sterna.benchmarking.ranges import ranges_for_timing
from sterna.export import export_onnx
from sterna.export.onnx import find_graph

_CALIBRATION_IMAGES = 16


def main() -> None:
    """Write the files of one network."""
    parser = argparse.ArgumentParser(description="Make the files that the benchmarks of web/ run.")
    parser.add_argument("file", type=Path, help="a .sterna file with a graph of one input")
    parser.add_argument("folder", type=Path, help="where the files go")
    given = parser.parse_args()
    model = sterna.container.read(given.file)
    graph = find_graph(model.graphs)
    shape = (1, *image_shape(graph, None))
    images = np.random.default_rng(1).standard_normal((_CALIBRATION_IMAGES, *shape)).astype(np.float32)
    given.folder.mkdir(parents=True, exist_ok=True)
    images[0].tofile(given.folder / "input.f32")
    ranges = [(min(low, 0.0), max(high, 0.0)) for low, high in ranges_for_timing(given.file, graph, images[0])]
    timed = dataclasses.replace(graph, ranges=tuple(ranges))
    sterna.save(dataclasses.replace(model, graphs=(timed,)), given.folder / "network.sterna")
    export_onnx(model, given.folder / "float32.onnx", shape=shape)
    export_onnx(model, given.folder / "int8.onnx", shape=shape, int8=images)


if __name__ == "__main__":
    main()
