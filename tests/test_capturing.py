"""Capturing: a graph computes what its network does, and says what it cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sterna.capturing import capture, capture_detector
from sterna.conversion import convert, convert_as_is
from sterna.errors import SternaError
from sterna.folding import is_batch_norm
from sterna.graph import Graph
from sterna.loading import fill
from sterna.models import build_model
from sterna.preparation import prepare, set_phase, update_masks
from sterna.reference.graph_runner import run_graph

# Sums of float32 in another order.
TOLERANCE = 1e-4
SMALL = ["cifar_resnet20", "torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1"]
LARGE = [
    "torchvision:resnet50", "torchvision:resnext50_32x4d", "torchvision:mobilenet_v2", "torchvision:regnet_x_400mf",
    "torchvision:regnet_y_400mf", "torchvision:efficientnet_b0", "torchvision:vgg11_bn", "torchvision:densenet121",
    "torchvision:mnasnet0_5",
]  # fmt: skip
TIMM = [
    "timm:resnet18", "timm:resnet50d", "timm:efficientnet_b0", "timm:tf_efficientnet_b0", "timm:mobilenetv3_small_050",
    "timm:mobilenetv2_100", "timm:regnetx_002", "timm:regnety_002", "timm:vgg11_bn", "timm:densenet121",
]  # fmt: skip


def lively(model: nn.Module) -> nn.Module:
    """With batch norms that do something."""
    with torch.no_grad():
        for module in model.modules():
            if is_batch_norm(module):
                norm: Any = module
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.3, 0.3)
                norm.running_mean.uniform_(-0.3, 0.3)
                norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


def built(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return lively(build_model(name, arguments))


def assert_close(actual: Any, expected: Tensor) -> None:
    wanted = expected.detach().numpy()
    assert actual.shape == wanted.shape
    assert np.abs(actual - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def assert_computes(graph: Graph, model: nn.Module, images: Tensor) -> None:
    stored = convert_as_is(model, float_dtype="float32")
    with torch.no_grad():
        expected = model(images)
    assert_close(run_graph(graph, stored, {"input": images.numpy()})["output"], expected)


def assert_network_is_captured(name: str) -> None:
    model = built(name)
    side = 32 if name.startswith("cifar") else 64
    graph = capture(model, (3, side, side))
    assert_computes(graph, model, torch.randn(2, 3, side, side))


@pytest.mark.parametrize("name", SMALL)
def test_the_graph_of_a_network_gives_its_logits(name: str) -> None:
    assert_network_is_captured(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_graph_of_a_larger_network_gives_its_logits(name: str) -> None:
    assert_network_is_captured(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_the_graph_of_a_network_of_timm_gives_its_logits(name: str) -> None:
    pytest.importorskip("timm")
    assert_network_is_captured(name)


def test_a_graph_takes_other_sizes_and_batches_than_it_was_captured_with() -> None:
    model = built("torchvision:resnet18")
    graph = capture(model, (3, 64, 64))
    assert graph.inputs[0].shape == (3, 64, 64)
    assert_computes(graph, model, torch.randn(1, 3, 48, 80))


def test_a_prepared_network_gives_what_its_converted_tensors_give() -> None:
    torch.manual_seed(0)
    model = prepare(lively(build_model("digits_cnn")))
    update_masks(model, 0.7)
    set_phase(model, "ternary")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = capture(model, (1, 8, 8))
    stored = convert(model)
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = fill(build_model("digits_cnn"), stored)(images)
    assert_close(run_graph(graph, stored, {"input": images.numpy()})["output"], expected)
    assert {name for node in graph.nodes for name in node.parameters if name} == set(stored.tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_network_that_was_filled_from_a_file_has_the_same_graph() -> None:
    model = built("digits_cnn")
    filled = fill(build_model("digits_cnn"), convert_as_is(model))
    assert capture(filled, (1, 8, 8)) == capture(model, (1, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["maskrcnn_resnet18_fpn", "retinanet_mobilenet_v2_fpn", "torchvision:keypointrcnn_resnet50_fpn"]
)
def test_the_graphs_of_a_detector_give_what_its_parts_give(name: str) -> None:
    model: Any = built(name, num_classes=5)
    graphs = {graph.name: graph for graph in capture_detector(model)}
    stored = convert_as_is(model, float_dtype="float32")
    images = torch.randn(1, 3, 96, 64)
    actual = run_graph(graphs["backbone"], stored, {"input": images.numpy()})
    with torch.no_grad():
        levels = model.backbone(images)
        for key, level in levels.items():
            assert_close(actual[f"backbone.{key}"], level)
        if hasattr(model, "rpn"):
            heads = dict(zip(("cls_logits", "bbox_pred"), model.rpn.head(list(levels.values())), strict=True))
            for output, head in heads.items():
                for key, expected in zip(levels, head, strict=True):
                    assert_close(actual[f"rpn.head.{output}.{key}"], expected)
        else:
            classes = model.head.classification_head
            for key, level in levels.items():
                expected = classes.cls_logits(classes.conv(level))
                assert_close(actual[f"head.classification_head.cls_logits.{key}"], expected)
        for part in ("box", "mask", "keypoint"):
            if f"roi_heads.{part}" not in graphs:
                continue
            heads = model.roi_heads
            regions = torch.randn(3, 256, 7 if part == "box" else 14, 7 if part == "box" else 14)
            expected = getattr(heads, f"{part}_predictor")(getattr(heads, f"{part}_head")(regions))
            computed = list(run_graph(graphs[f"roi_heads.{part}"], stored, {"input": regions.numpy()}).values())
            for one, other in zip(computed, expected if part == "box" else [expected], strict=True):
                assert_close(one, other)


class Odd(nn.Module):
    """Operations that no model of the families above has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding="same", dilation=2)
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1)
        self.pool = nn.AvgPool2d(3, 2, padding=1, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = F.relu(self.conv(F.pad(x, (1, 2, 0, 3))))
        kept = y
        y.mul_(y)  # in place: `kept` sees it
        small = F.max_pool2d(kept, 3, 2, 1, ceil_mode=True)
        wide = F.interpolate(self.up(small), size=x.shape[-2:], mode="bilinear")
        finer = F.interpolate(self.pool(wide), scale_factor=2, mode="nearest")
        padded = F.pad(finer[:, :, ::2, ::3], (0, 0, 0, 0, 1, 2))
        return padded, F.adaptive_max_pool2d(wide, (3, 2)).softmax(1), F.avg_pool2d(wide, wide.shape[2:]).flatten(1)


def test_operations_of_no_family_are_captured_too() -> None:
    torch.manual_seed(0)
    model = Odd().eval()
    graph = capture(model, (3, 20, 23))
    images = torch.randn(2, 3, 20, 23)
    actual = run_graph(graph, convert_as_is(model, float_dtype="float32"), {"input": images.numpy()})
    assert list(actual) == ["output0", "output1", "output2"]
    for one, other in zip(actual.values(), model(images), strict=True):
        assert_close(one, other)
    # Padding before a convolution is the convolution's own.
    pads = graph.nodes[0].attributes
    assert [pads[f"pad_{side}"] for side in ("left", "right", "top", "bottom")] == [3, 4, 2, 5]


def test_all_operations_that_no_graph_holds_are_named_with_their_places() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.Sequential(nn.LayerNorm(8), nn.GELU()), nn.Tanh())
    with pytest.raises(SternaError) as caught:
        capture(model, (3, 8, 8))
    assert str(caught.value) == (
        "the network has operations that no graph holds: aten.gelu at '1', '2.1'; aten.layer_norm at '2.0'; "
        "aten.tanh at '3'"
    )


def test_a_network_that_cannot_be_exported_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(SternaError, match="PyTorch cannot export the network 'part': ") as caught:
        capture(Deciding(), (3, 8, 8), name="part")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_another_detector_is_refused() -> None:
    with pytest.raises(SternaError, match="Linear cannot be captured, allowed are torchvision's FasterRCNN"):
        capture_detector(nn.Linear(1, 1))
