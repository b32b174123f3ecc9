"""Detectors that are built here."""

from __future__ import annotations

import pytest
import torch

from sterna.detectors import detector_names
from sterna.errors import ConfigError
from sterna.models import build_model, list_models


@pytest.mark.parametrize("name", detector_names())
def test_every_detector_gives_boxes_labels_and_scores(name: str) -> None:
    model = build_model(name, {"num_classes": 2, "min_size": 64, "max_size": 64}).eval()
    with torch.inference_mode():
        (found,) = model([torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))])
    assert found["boxes"].shape == (len(found["scores"]), 4)
    assert ("masks" in found) == name.startswith("maskrcnn")
    assert name in list_models()


def test_a_resnet_50_has_the_tensors_of_torchvision() -> None:
    ours = build_model("maskrcnn_resnet50_fpn", {"num_classes": 2}).state_dict()
    theirs = build_model("torchvision:maskrcnn_resnet50_fpn", {"num_classes": 2}).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


def test_anchors_have_the_sizes_that_are_asked_for() -> None:
    model = build_model("fasterrcnn_mobilenet_v2_fpn", {"anchor_sizes": [8, 16, 32]})
    assert model.rpn.anchor_generator.sizes == ((8,), (16,), (32,))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("maskrcnn_resnet18_fpn", {"anchor_sizes": [8]}, "anchor_sizes must have 5 values, got 1"),
        ("retinanet_resnet18_fpn", {"anchor_sizes": [8]}, "anchor_sizes is for fasterrcnn and maskrcnn"),
        ("maskrcnn_resnet18_fpn", {"colour": "red"}, "unexpected keyword argument 'colour'"),
        ("maskrcnn_resnet19_fpn", {}, "unknown model 'maskrcnn_resnet19_fpn'.*did you mean 'maskrcnn_resnet18_fpn'"),
    ],
)
def test_what_does_not_exist_is_refused(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(name, arguments)
