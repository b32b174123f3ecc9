"""Write pictures and what Sterna makes of them in Python: ``python make_pictures.py FOLDER``.

``FOLDER/pictures.json`` lists them: width, height and preprocessing as metadata have it. Of the picture of place ``i``,
``i.rgba`` holds the pixels and ``i.f4`` the input of the network.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from sterna.pictures import Preprocessing, prepare_picture

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CASES = [
    # width, height, input (channels, height, width), short side, value of white
    (640, 480, (3, 224, 224), 256, 255),  # a camera
    (480, 641, (3, 224, 224), 256, 255),
    (1999, 1500, (3, 224, 224), 256, 255),  # a photograph
    (256, 256, (3, 224, 224), 256, 255),  # nothing to scale
    (257, 300, (3, 224, 224), 256, 255),  # hardly anything
    (100, 63, (3, 224, 224), 256, 255),  # enlarged
    (1, 1, (3, 32, 32), 36, 255),
    (3, 400, (3, 48, 33), 48, 255),  # long and thin
    (700, 2, (3, 33, 48), 35, 255),
    (90, 60, (3, 64, 64), 33, 255),  # black at the top and at the bottom
    (61, 91, (3, 64, 65), 33, 255),
    (50, 50, (3, 65, 64), 32, 255),  # black all around
    (51, 51, (3, 64, 64), 65, 255),  # halves
    (52, 52, (3, 64, 64), 67, 255),
    (640, 480, (3, 32, 32), None, 255),
    (33, 70, (3, 128, 40), None, 255),
    (32, 32, (3, 32, 32), None, 255),
    (640, 480, (1, 28, 28), 28, 255),  # grey
    (20, 31, (1, 8, 8), None, 16),  # the digits of scikit-learn
    (300, 200, (1, 8, 9), 8, 16),
    (300, 200, (3, 16, 16), 20, 100),
    (500, 1200, (3, 64, 64), 73, 255),  # columns are scaled before rows
    (500, 1200, (1, 64, 64), 73, 255),
    (500, 900, (3, 64, 400), None, 255),
]


def make(random: np.random.Generator, case: tuple[Any, ...]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """One case: its line of the list, its pixels, its input."""
    width, height, shape, resize, white = case
    channels = shape[0]
    statistics = IMAGENET if channels == 3 else {"mean": [0.305], "std": [0.376]}
    preprocessing = {"input_shape": list(shape), "resize": resize, "pixel_maximum": float(white), **statistics}
    pixels = random.integers(0, 256, (height, width, 4), np.uint8)
    if random.random() < 0.5:  # edges, where sums reach the ends of the scale
        pixels = np.where(pixels < 128, 0, 255).astype(np.uint8)
    prepared = prepare_picture(
        Image.fromarray(pixels, "RGBA"), Preprocessing.from_metadata({"preprocessing": preprocessing})
    )
    return {"width": width, "height": height, "preprocessing": preprocessing}, pixels, prepared[0]


def main(folder: Path) -> None:
    """Write the cases above, and some of random sizes."""
    random = np.random.default_rng(0)
    cases = list(CASES)
    for _ in range(60):
        width, height, side, rows, columns = map(int, random.integers(1, 120, 5))
        cases.append((width, height, (random.choice([1, 3]).item(), rows, columns), side, 255))
    if int(PIL.__version__.split(".")[0]) < 13:  # which scales rows first, whatever the size
        cases = [case for case in cases if case[1] < 2 * case[0] and case[3] is not None]
    listed = []
    for place, case in enumerate(cases):
        line, pixels, prepared = make(random, case)
        pixels.tofile(folder / f"{place}.rgba")
        prepared.astype("<f4").tofile(folder / f"{place}.f4")
        listed.append(line)
    (folder / "pictures.json").write_text(json.dumps(listed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
