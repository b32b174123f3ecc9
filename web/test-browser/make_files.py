"""Write networks and pictures, and what the native engine says of them: ``python make_files.py FOLDER``.

``FOLDER/answers.json`` holds, for each type of activations and each picture, the classes by their probability, and the
probabilities.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from graphs import small_network  # noqa: E402 (the folder of tests is no package)

from sterna import InferenceSession, TernaryModel, TernaryTensor, calibrate, save  # noqa: E402
from sterna.pictures import Preprocessing, prepare_picture, read_image, top_classes  # noqa: E402

LABELS = [
    "<img src=x onerror=alert(1)>",  # what a stranger may call a class
    "\u202egnihton \u05d0\u05d1",
    "a name that is much too long for the place that there is for it, in every language that has long names for things",
    "&amp;",
    "",
]
METADATA = {
    "model": {"name": "small"},
    "task": "classification",
    "labels": LABELS,
    "preprocessing": {
        "input_shape": [3, 48, 48], "resize": 52, "pixel_maximum": 255.0,
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    },
    "metrics": {"top1": 91.07, "images": 10000},
}  # fmt: skip
PICTURES = {"wide.png": (320, 200), "tall.png": (60, 190), "small.png": (9, 9)}


def picture(random: np.random.Generator, width: int, height: int) -> Image.Image:
    """Large patches of colour, so that pictures differ in more than noise."""
    patches = random.integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def tell_apart(model: TernaryModel, images: list[np.ndarray], path: Path) -> TernaryModel:
    """Take away what the network says of all pictures, and say the rest louder, so that answers differ."""
    classifier = model.tensors["classifier.weight"]
    assert isinstance(classifier, TernaryTensor)
    assert classifier.scale is not None
    loud = TernaryTensor(classifier.trits, classifier.scale * np.float16(16))
    tensors = {**model.tensors, "classifier.weight": loud, "classifier.bias": np.zeros(len(LABELS), np.float16)}
    save(replace(model, tensors=tensors), path)
    logits = np.asarray(InferenceSession(path).run(np.concatenate(images)))
    tensors["classifier.bias"] = -logits.mean(0).astype(np.float16)
    return replace(model, tensors=tensors)


def main(folder: Path) -> None:
    """Write everything."""
    random = np.random.default_rng(0)
    for name, (width, height) in PICTURES.items():
        picture(random, width, height).save(folder / name)
    (folder / "broken.png").write_bytes(b"This is not a picture.")
    preprocessing = Preprocessing.from_metadata(METADATA)
    images = [prepare_picture(picture(random, 64, 64), preprocessing) for _ in range(8)]
    exact, network = folder / "exact.sterna", folder / "network.sterna"
    model = tell_apart(small_network(), images, exact)
    save(replace(model, metadata=METADATA), exact)
    save(calibrate(exact, images), network)
    save(replace(model, metadata={**METADATA, "task": "detection"}), folder / "detector.sterna")
    save(replace(model, metadata={**METADATA, "task": "instance-segmentation"}), folder / "masks.sterna")
    save(replace(model, metadata=METADATA, graphs=()), folder / "graphless.sterna")
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "damaged.sterna").write_bytes(data)
    answers: dict[str, Any] = {}
    for activations in ("int8", "float32"):
        session = InferenceSession(network, activations=activations, isa="scalar")
        answers[activations] = {}
        for name in PICTURES:
            logits = np.asarray(session.run(prepare_picture(read_image(folder / name), preprocessing)))
            answers[activations][name] = top_classes(logits[0], LABELS)
    (folder / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
