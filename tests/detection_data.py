"""A small data set in COCO's format, and a small detector, that the tests of detection share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sterna.config import Recipe

SIDE = 64
SMALL_DETECTOR: dict[str, Any] = {
    "num_classes": 3,
    "min_size": SIDE,
    "max_size": SIDE,
    "anchor_sizes": [8, 16, 24, 32, 64],
    "rpn_pre_nms_top_n_train": 50,
    "rpn_post_nms_top_n_train": 20,
    "rpn_pre_nms_top_n_test": 50,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size_per_image": 8,
    "box_detections_per_img": 5,
}
_ONE_STAGE = {key: SMALL_DETECTOR[key] for key in ("num_classes", "min_size", "max_size")}
_PREDICTORS = ["rpn.head.cls_logits", "rpn.head.bbox_pred", "roi_heads.box_predictor.*"]


def write_shapes(root: Path, train: int = 6, test: int = 3) -> Path:
    """Pictures of one to three bright (1) or dark (2) rectangles on grey, as boxes and polygons; one has none."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", test)):
        images, annotations = [], []
        (root / split).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
            images.append({"id": number + 1, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
            for _ in range(0 if number == 1 else int(random.integers(1, 4))):
                left, top = (int(v) for v in random.integers(0, SIDE - 24, 2))
                width, height = (int(v) for v in random.integers(10, 24, 2))
                category = int(random.integers(1, 3))
                pixels[top : top + height, left : left + width] = 230 if category == 1 else 20
                right, bottom = left + width, top + height
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number + 1,
                        "category_id": category,
                        "bbox": [left, top, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                    }
                )
            Image.fromarray(pixels).save(root / split / f"{number}.png")
        categories = [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def detection_recipe(root: Path, head: str = "maskrcnn", **sections: Any) -> Recipe:
    """Six steps of a small detector, ternary from the third on."""
    values: dict[str, Any] = {
        "name": "shapes",
        "task": "instance-segmentation" if head == "maskrcnn" else "detection",
        "model": {"name": f"{head}_resnet18_fpn", "arguments": _ONE_STAGE if head == "retinanet" else SMALL_DETECTOR},
        "data": {"name": "coco", "path": str(root)},
        "ternary": {
            "sparsity": 0.6,
            "exclude": ["head.*"] if head == "retinanet" else _PREDICTORS,
        },
        "schedule": {"dense_epochs": 0.5, "ramp_epochs": 0.5, "freeze_epochs": 0.5, "mask_interval": 1},
        "optimizer": {"name": "adamw", "learning_rate": 1e-4, "gradient_clip": 5.0},
        "train": {
            "epochs": 2,
            "batch_size": 2,
            "precision": "float32",
            "freeze_batch_norm": True,
            "batch_norm_batches": 0,
            "checkpoint_steps": 2,
            "validation_interval": 2,
        },
    }
    for name, section in sections.items():
        values[name] = {**(values.get(name) or {}), **section} if isinstance(section, dict) else section
    return Recipe.model_validate_json(json.dumps(values))
