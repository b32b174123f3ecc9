"""What a file says of a detector beside its graphs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from sterna.detector_metadata import describe_detector
from sterna.models import build_model

ARGUMENTS = {"num_classes": 3, "min_size": [64, 96], "max_size": 120, "score_thresh": 0.1, "nms_thresh": 0.4}


@pytest.fixture(scope="module")
def retinanet() -> Any:
    return build_model("retinanet_mobilenet_v2_fpn", ARGUMENTS).eval()


def test_a_retinanet_is_described_by_its_own_numbers(retinanet: Any) -> None:
    described = describe_detector(retinanet)
    assert described is not None
    assert json.loads(json.dumps(described)) == described
    anchors = described.pop("anchors")
    assert [len(level) for level in anchors] == [9, 9, 9]
    assert anchors[0][3] == [-32.0, -32.0, 32.0, 32.0]
    assert described == {
        "kind": "retinanet",
        "min_size": 96,
        "max_size": 120,
        "size_divisible": 32,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "box_weights": [1.0, 1.0, 1.0, 1.0],
        "box_clip": pytest.approx(4.135166556742356),
        "score_thresh": 0.1,
        "nms_thresh": 0.4,
        "topk_candidates": 1000,
        "detections_per_img": 300,
    }


def test_boxes_follow_from_it_as_docs_format_says(retinanet: Any) -> None:
    described = describe_detector(retinanet)
    assert described is not None
    random = torch.Generator().manual_seed(0)
    anchors = torch.tensor(described["anchors"][0]) + 40
    numbers = torch.randn(len(anchors), 4, generator=random) * 3
    corners = anchors.view(-1, 2, 2)
    size, centre = corners[:, 1] - corners[:, 0], corners.mean(1)
    d = numbers / torch.tensor(described["box_weights"])
    middle = centre + d[:, :2] * size
    half = d[:, 2:].clamp(max=described["box_clip"]).exp() * size / 2
    expected: Tensor = retinanet.box_coder.decode_single(numbers, anchors)
    torch.testing.assert_close(torch.cat([middle - half, middle + half], 1), expected)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fasterrcnn_mobilenet_v2_fpn", {}),
        ("retinanet_mobilenet_v2_fpn", {"fixed_size": [64, 64]}),
        ("cifar_resnet20", {}),
    ],
)
def test_other_models_are_not_described(name: str, arguments: dict[str, Any]) -> None:
    assert describe_detector(build_model(name, arguments)) is None
