"""Write networks and what the native engine makes of them: ``python make_networks.py FOLDER``.

``FOLDER/networks.json`` lists the runs: file, activations, shape of the input, and files of numbers: the input and the
outputs, by instruction set. ``FOLDER/bad.json`` tells for every golden bad file what is said of it, and whether that is
a fault of the file as such, or one that is seen only when what it describes is used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import sterna
from sterna import _core
from sterna.calibration import calibrate
from sterna.container import SternaFile
from sterna.errors import SternaError
from sterna.session import InferenceSession, instruction_sets

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from graphs import small_network  # noqa: E402

SEEDS = 3
# Images that are smaller than a tile, that are no multiples of it, a batch, and several tiles.
SHAPES = [(1, 3, 16, 16), (1, 3, 8, 9), (3, 3, 33, 20), (1, 3, 96, 96)]


def main(folder: Path) -> None:
    """Write everything into a folder that is there."""
    networks = []
    for seed in range(SEEDS):
        model = small_network(seed)
        random = np.random.default_rng(seed)
        images = random.standard_normal((4, 3, 32, 32)).astype(np.float32)
        name = f"{seed}.sterna"
        sterna.save(model, folder / name)
        sterna.save(calibrate(folder / name, [images]), folder / name)
        for place, shape in enumerate(SHAPES):
            given = random.standard_normal(shape).astype(np.float32)
            given.tofile(folder / f"{seed}.{place}.input")
            for activations in ("float32", "int8"):
                outputs = {}
                for isa in instruction_sets():
                    outputs[isa] = f"{seed}.{place}.{activations}.{isa}"
                    session = InferenceSession(folder / name, activations=activations, isa=isa)
                    np.asarray(session.run(given)).tofile(folder / outputs[isa])
                networks.append(
                    {
                        "file": name,
                        "activations": activations,
                        "shape": shape,
                        "input": f"{seed}.{place}.input",
                        "outputs": outputs,
                    }
                )
    (folder / "networks.json").write_text(json.dumps(networks))
    bad = {path.name: _problem(path) for path in sorted((REPOSITORY / "tests" / "golden" / "bad").iterdir())}
    (folder / "bad.json").write_text(json.dumps(bad))


def _problem(path: Path) -> dict[str, Any]:
    data = np.fromfile(path, np.uint8)
    try:
        _core.Reader(data, True)
    except ValueError as error:
        return {"is_fault": True, "text": str(error)}
    try:
        file = SternaFile(path.read_bytes())
        file.read()
    except SternaError as error:
        return {"is_fault": False, "text": str(error)}
    raise AssertionError(f"{path.name} is read")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
