"""Write a small RetinaNet and what PyTorch makes of it: ``python make_detector.py FOLDER``.

``FOLDER/retinanet.sterna`` is the detector, of weights of chance, with ranges for 8-bit activations. Of each picture
there are the picture (``NAME.png``), its pixels (``NAME.rgba``) and the input that PyTorch makes of it
(``NAME.input``); ``FOLDER/detections.json`` holds sizes, what PyTorch finds with the weights of the file and what the
native engine finds with 8-bit activations, and the names of the classes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import sterna
from sterna.detector_calibration import calibrate_detector
from sterna.detector_metadata import describe_detector
from sterna.models import build_model
from sterna.preparation import prepare, set_phase, update_masks
from sterna.tasks.prediction import detect

NAME = "retinanet_mobilenet_v2_fpn"
LABELS = ["background", "<b>cat</b>", "dog", "a bird with a name that is too long for its box"]
# Wide, tall, one whose sides are multiples of nothing, and one that is scaled up.
PICTURES = {"wide": (320, 200), "tall": (120, 301), "odd": (97, 91), "small": (40, 33)}
RETINANET: dict[str, Any] = {
    "num_classes": len(LABELS), "min_size": 96, "max_size": 160, "score_thresh": 0.3, "topk_candidates": 60,
    "detections_per_img": 40,
}  # fmt: skip
ZEROS = 0.9


def picture(random: np.random.Generator, width: int, height: int) -> Image.Image:
    """Large patches of colour."""
    patches = random.integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


@torch.no_grad()
def make_retinanet(images: list[torch.Tensor]) -> Any:
    """A network of chance whose answers differ from place to place, so that rounding does not change their order."""
    torch.manual_seed(0)
    model: Any = build_model(NAME, RETINANET)
    for name, value in model.named_parameters():
        if name.startswith("head.") and name.endswith(".0.weight"):
            value *= 8
        elif name.endswith("cls_logits.weight"):
            value *= 10
        elif name.endswith("bbox_reg.weight"):
            value *= 3
        elif name.endswith(("cls_logits.bias", "bbox_reg.bias")):
            value.normal_(-3.0 if name.endswith("cls_logits.bias") else 0.0, 0.3)
    prepare(model)
    update_masks(model, ZEROS)
    set_phase(model, "ternary")
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all that is seen
        norm.train()
    model.backbone(model.transform(images)[0].tensors)
    return model.eval()


def save_retinanet(path: Path, images: list[torch.Tensor]) -> None:
    """Write it as the trainer does, with ranges for 8-bit activations."""
    model = make_retinanet(images)
    metadata = {
        "model": {"name": NAME, "arguments": RETINANET},
        "task": "detection",
        "labels": LABELS,
        "preprocessing": {"pixel_maximum": 255.0},
        "detector": describe_detector(model),
    }
    converted = replace(sterna.convert(model, metadata=metadata), graphs=sterna.capture_detector(model))
    sterna.save(converted, path, coder="fast")
    sterna.save(calibrate_detector(path, [images]), path, coder="fast")


def find(model: nn.Module, image: Image.Image) -> list[dict[str, Any]]:
    """What a detector finds, best first."""
    found = detect(model, image, LABELS, threshold=RETINANET["score_thresh"])
    return [
        {"label": label, "index": index, "score": score, "box": box}
        for label, index, score, box in zip(
            found.labels, found.classes.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]


def main(folder: Path) -> None:
    """Write everything into a folder that is there."""
    random = np.random.default_rng(0)
    pictures = {name: picture(random, *size) for name, size in PICTURES.items()}
    path = folder / "retinanet.sterna"
    save_retinanet(path, [torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in pictures.values()])
    exact = sterna.load(path)
    native = sterna.load(path, engine="native", activations="int8", tune=False)
    found = {}
    for name, image in pictures.items():
        image.save(folder / f"{name}.png")
        np.array(image.convert("RGBA")).tofile(folder / f"{name}.rgba")
        scaled, _ = exact.transform([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255])
        scaled.tensors.numpy().tofile(folder / f"{name}.input")
        found[name] = {
            "width": image.width,
            "height": image.height,
            "input_shape": list(scaled.tensors.shape),
            "float32": find(exact, image),
            "int8": find(native, image),
        }
    (folder / "detections.json").write_text(json.dumps({"labels": LABELS, "pictures": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
