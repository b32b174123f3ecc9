"""Ways of choosing the ranges of 8-bit activations, side by side, on training images that calibration has not seen.

    python benchmarks/calibration.py FILE.sterna [FILE.sterna ...] [--images 256] [--others 1000]

For each file and method: how much the logits of int8 differ from those of float32, as a ratio of signal to noise, and
how many images get another class. The test split is not read.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sterna.calibration import Method, measure_values, with_ranges
from sterna.cli.data_sets import data_config
from sterna.container import SternaFile
from sterna.data import load_data
from sterna.data.dataset import SHUFFLE_STREAM
from sterna.data.randomness import random_order
from sterna.session import InferenceSession

METHODS: list[tuple[Method, float]] = [
    ("max", 100.0), ("percentile", 99.9), ("percentile", 99.99), ("percentile", 99.999), ("mse", 100.0),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=256, help="to calibrate with")
    parser.add_argument("--others", type=int, default=1000, help="to compare on, at most")
    arguments = parser.parse_args()
    print("| file | method | signal to noise | other classes |\n|---|---|--:|--:|")
    for path in arguments.files:
        compare(path, arguments.images, arguments.others)


def compare(path: Path, images: int, others: int) -> None:
    """Print the rows of one file."""
    file = SternaFile.open(path)
    dataset = load_data(data_config(file.metadata, None, str(path))).train
    order = random_order(len(dataset), 0, 0, SHUFFLE_STREAM).tolist()
    size = min(32, max(1, 602_112 // math.prod(dataset[0][0].shape)))

    def batches(rows: list[int]) -> Iterator[Any]:
        for first in range(0, len(rows), size):
            yield dataset.__getitems__(rows[first : first + size])[0].numpy()

    (graph,) = file.graphs
    statistics = measure_values(path, graph, batches(order[:images]))
    inputs = list(batches(order[images : images + others]))

    def logits(**options: Any) -> Any:
        session = InferenceSession(path, tune=False, **options)
        return np.concatenate([np.asarray(session.run(batch)) for batch in inputs]).astype(np.float64)

    exact = logits()
    for method, percentile in METHODS:
        rounded = logits(activations="int8", ranges=with_ranges(graph, statistics, method, percentile).ranges)
        noise_db = 10 * math.log10(np.square(exact).sum() / np.square(rounded - exact).sum())
        different = int((exact.argmax(1) != rounded.argmax(1)).sum())
        name = f"{method} {percentile} %" if method == "percentile" else method
        print(f"| {path.stem} | {name} | {noise_db:.1f} dB | {different} of {len(exact)} |", flush=True)


if __name__ == "__main__":
    main()
