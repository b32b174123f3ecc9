"""A detector made ternary part by part, in closed form."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from detection_data import SMALL_DETECTOR, detection_recipe, write_shapes
from digits_runs import step_lines
from safetensors.torch import save_file
from torch import Tensor, nn

from sterna.config import ReconstructionConfig, TernaryConfig
from sterna.models import build_model
from sterna.preparation import layer_signs, prepare, set_phase, ternary_layers, update_masks
from sterna.train.batch_norm import reestimate_batch_norms
from sterna.train.detector_parts import detector_parts
from sterna.train.reconstruction import reconstruct
from sterna.train.run import compress

CONFIG = ReconstructionConfig(images=8, damping=1e-2, sweeps=1)
# Some layers of each part, because large ones take long.
TERNARY = TernaryConfig(
    sparsity=0.6,
    include=(
        "backbone.body.layer1.*",
        "backbone.fpn.inner_blocks.*",
        "rpn.head.conv.*",
        "roi_heads.box_head.fc7",
        "roi_heads.mask_head.0.*",
    ),
)


def images() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.rand(3, 64, 64, generator=generator) for _ in range(4)] for _ in range(2)]


def detector(name: str, **arguments: Any) -> nn.Module:
    """Random weights whose batch norms have the statistics of the images."""
    torch.manual_seed(0)
    model = build_model(name, {**SMALL_DETECTOR, **arguments})
    reestimate_batch_norms(model, images(), 2)
    return model


@torch.no_grad()
def features(model: nn.Module) -> list[Tensor]:
    backbone = model.eval().get_submodule("backbone")
    transformed = [model.transform(batch)[0].tensors for batch in images()]
    return [level for batch in transformed for level in backbone(batch).values()]


@pytest.fixture(scope="module")
def mask_rcnn() -> nn.Module:
    return detector("maskrcnn_resnet18_fpn", box_score_thresh=0.0)


@pytest.fixture(scope="module")
def solved(mask_rcnn: nn.Module) -> nn.Module:
    """Ternary in closed form; not to be changed."""
    model = prepare(deepcopy(mask_rcnn), TERNARY)
    reconstruct(model, detector_parts(model, images()), 0.6, CONFIG)
    return model


def test_the_features_are_nearer_than_with_the_largest_weights(mask_rcnn: nn.Module, solved: nn.Module) -> None:
    wanted = features(mask_rcnn)
    plain = prepare(deepcopy(mask_rcnn), TERNARY)
    update_masks(plain, 0.6)
    set_phase(plain, "ternary")

    def error(model: nn.Module) -> float:
        return sum(
            float((a - b).square().sum() / b.square().sum()) for a, b in zip(features(model), wanted, strict=True)
        )

    assert error(solved) < 0.5 * error(plain)


def test_trits_are_what_the_masks_choose_at_the_same_zeros(solved: nn.Module) -> None:
    model = deepcopy(solved)
    before = layer_signs(model)
    update_masks(model, 0.6)
    after = layer_signs(model)
    assert all(torch.equal(after[name], signs) for name, signs in before.items())
    assert all(layer.current_phase == "ternary" for layer in ternary_layers(model).values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("maskrcnn_resnet18_fpn", ["backbone", "rpn.head.conv", "roi_heads.box_head", "roi_heads.mask_head"]),
        ("fasterrcnn_resnet18_fpn", ["backbone", "rpn.head.conv", "roi_heads.box_head"]),
        ("retinanet_resnet18_fpn", ["backbone", "head.classification_head.conv", "head.regression_head.conv"]),
    ],
)
def test_each_detector_has_its_parts(name: str, expected: list[str]) -> None:
    model = build_model(name, {"num_classes": 3, "min_size": 64, "max_size": 64})
    parts = detector_parts(model, images())
    assert [part.name for part in parts] == expected
    for part in parts:
        inputs = part.inputs(model)
        assert all(isinstance(each, Tensor) and len(each) for each in inputs)


def test_heads_are_shown_the_regions_of_the_uncompressed_detector(mask_rcnn: nn.Module, solved: nn.Module) -> None:
    model = deepcopy(mask_rcnn)
    box = next(part for part in detector_parts(model, images()) if part.name == "roi_heads.box_head")
    before, now = box.inputs(model), box.inputs(solved)
    assert [batch.shape for batch in now] == [batch.shape for batch in before]
    assert all(batch.shape[1:] == (256, 7, 7) and 0 < len(batch) <= 64 for batch in now)
    assert not torch.equal(now[0], before[0])


def test_layers_that_see_nothing_keep_their_largest_weights(mask_rcnn: nn.Module) -> None:
    model = prepare(deepcopy(mask_rcnn), TernaryConfig(include=("roi_heads.mask_head.0.*",)))
    weight = model.get_submodule("roi_heads.mask_head.0.0").weight.detach().clone()
    reconstruct(model, [], 0.6, CONFIG)
    (signs,) = layer_signs(model).values()
    assert weight.abs()[signs != 0].min() >= weight.abs()[signs == 0].max()


@pytest.mark.slow
def test_a_run_can_begin_with_the_closed_form(mask_rcnn: nn.Module, tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data")
    save_file(mask_rcnn.state_dict(), tmp_path / "float.safetensors")
    recipe = detection_recipe(
        root,
        model={"weights": str(tmp_path / "float.safetensors")},
        ternary={"include": list(TERNARY.include), "exclude": []},
        reconstruction={"images": 6, "damping": 0.01, "sweeps": 1},
        schedule={"dense_epochs": 0.0, "ramp_epochs": 0.0, "freeze_epochs": 0.5},
        train={"precision": "auto"},
    )
    result = compress(recipe, tmp_path / "run", progress=False, log_interval=1)
    assert result.sparsity == pytest.approx(0.6, abs=0.02)
    assert {line["phase"] for line in step_lines(tmp_path / "run")} == {"ternary"}
