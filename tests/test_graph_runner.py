"""The reference runner: every operator is PyTorch's, and levels follow the rules of integer inference to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sterna.errors import SternaError
from sterna.graph import OPERATORS, Graph, GraphInput, Node
from sterna.reference.graph_runner import Levels, fused, run_graph, run_graph_int8
from sterna.ternary_model import Int8Tensor, TernaryModel, TernaryTensor
from sterna.ternary_model import Tensor as StoredTensor

Array = npt.NDArray[Any]
f32 = np.float32


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CONV = {"stride_height": 2, "stride_width": 1, "pad_top": 1, "pad_left": 2, "pad_bottom": 1, "pad_right": 2}
POOL = {"kernel_height": 3, "kernel_width": 2, "stride_height": 2, "stride_width": 2}
PADS = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
PLAIN = {
    "stride_height": 1, "stride_width": 1, "pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1,
    "dilation_height": 1, "dilation_width": 1, "groups": 1,
}  # fmt: skip
TENSORS = {
    "conv": normal(6, 2, 3, 5, seed=1), "up": normal(4, 3, 3, 2, seed=2), "linear": normal(5, 4, seed=3),
    "bias6": normal(6, seed=4), "bias3": normal(3, seed=5), "bias5": normal(5, seed=6), "scale": normal(4, seed=7),
    "shift": normal(4, seed=8),
}  # fmt: skip
W = {name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()}

# Operator, its attributes and parameters, the shapes of its inputs, and what PyTorch makes of them.
CASES: list[tuple[str, dict[str, int], tuple[str, ...], list[tuple[int, ...]], Callable[..., Tensor]]] = [
    ("conv2d", {**CONV, "dilation_height": 1, "dilation_width": 2, "groups": 2}, ("conv", "bias6"), [(2, 4, 7, 9)],
     lambda x: F.conv2d(x, W["conv"], W["bias6"], (2, 1), (1, 2), (1, 2), 2)),
    ("conv_transpose2d", {**CONV, "pad_left": 1, "pad_right": 1}, ("up", "bias3"), [(2, 4, 5, 6)],
     lambda x: F.conv_transpose2d(x, W["up"], W["bias3"], (2, 1), (1, 1))),
    ("linear", {}, ("linear", "bias5"), [(3, 4)], lambda x: F.linear(x, W["linear"], W["bias5"])),
    ("affine", {}, ("scale", "shift"), [(2, 4, 3, 3)],
     lambda x: x * W["scale"].view(1, -1, 1, 1) + W["shift"].view(1, -1, 1, 1)),
    ("relu", {}, (), [(2, 4, 3, 3)], F.relu),
    ("relu6", {}, (), [(2, 4, 3, 3)], lambda x: F.relu6(4 * x)),
    ("hardswish", {}, (), [(2, 4, 3, 3)], F.hardswish),
    ("silu", {}, (), [(2, 4, 3, 3)], F.silu),
    ("sigmoid", {}, (), [(2, 4, 3, 3)], torch.sigmoid),
    ("hardsigmoid", {}, (), [(2, 4, 3, 3)], F.hardsigmoid),
    ("add", {}, (), [(2, 4, 3, 3), (2, 4, 3, 3)], torch.add),
    ("mul", {}, (), [(2, 4, 1, 1), (2, 4, 3, 3)], torch.mul),
    ("concat", {}, (), [(2, 4, 3, 3), (2, 1, 3, 3), (2, 2, 3, 3)], lambda *x: torch.cat(x, 1)),
    ("max_pool2d", {**POOL, **PADS, "dilation_height": 1, "dilation_width": 2, "ceil_mode": 1}, (), [(2, 4, 8, 9)],
     lambda x: F.max_pool2d(x, (3, 2), 2, 1, (1, 2), ceil_mode=True)),
    ("avg_pool2d", {**POOL, **PADS, "ceil_mode": 1, "count_include_pad": 1}, (), [(2, 4, 8, 9)],
     lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True, count_include_pad=True)),
    ("avg_pool2d", {**POOL, **PADS, "ceil_mode": 1, "count_include_pad": 0}, (), [(2, 4, 8, 9)],
     lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True, count_include_pad=False)),
    ("adaptive_avg_pool2d", {"height": 3, "width": 4}, (), [(2, 4, 7, 9)], lambda x: F.adaptive_avg_pool2d(x, (3, 4))),
    ("adaptive_max_pool2d", {"height": 3, "width": 4}, (), [(2, 4, 7, 9)], lambda x: F.adaptive_max_pool2d(x, (3, 4))),
    ("flatten", {}, (), [(2, 4, 3, 5)], lambda x: x.flatten(1)),
    ("resize_nearest", {"height": 5, "width": 13}, (), [(2, 4, 7, 9)], lambda x: F.interpolate(x, (5, 13))),
    ("resize_nearest", {"height": 0, "width": 0}, (), [(2, 4, 7, 9), (2, 1, 9, 7)],
     lambda x, y: F.interpolate(x, y.shape[2:])),
    ("resize_bilinear", {"height": 5, "width": 13, "align_corners": 1}, (), [(2, 4, 7, 9)],
     lambda x: F.interpolate(x, (5, 13), mode="bilinear", align_corners=True)),
    ("resize_bilinear", {"height": 5, "width": 1, "align_corners": 0}, (), [(2, 4, 7, 9)],
     lambda x: F.interpolate(x, (5, 1), mode="bilinear")),
    ("upsample_nearest", {"factor_height": 2, "factor_width": 3}, (), [(2, 4, 7, 9)],
     lambda x: F.interpolate(x, scale_factor=(2.0, 3.0))),
    ("upsample_bilinear", {"factor_height": 2, "factor_width": 3, "align_corners": 0}, (), [(2, 4, 7, 9)],
     lambda x: F.interpolate(x, scale_factor=(2.0, 3.0), mode="bilinear")),
    ("pad", {"pad_top": 1, "pad_left": 2, "pad_bottom": 3, "pad_right": 4, "channels_before": 2, "channels_after": 1},
     (), [(2, 4, 3, 3)], lambda x: F.pad(x, (2, 4, 1, 3, 2, 1))),
    ("softmax", {}, (), [(2, 4, 3, 3)], lambda x: x.softmax(1)),
]  # fmt: skip


def graph_of(nodes: list[Node], shapes: list[tuple[int, ...]], **changed: Any) -> Graph:
    inputs = tuple(GraphInput(f"x{number}", shape[1:]) for number, shape in enumerate(shapes))
    last = len(inputs) + len(nodes) - 1
    return Graph(**{"name": "", "inputs": inputs, "nodes": tuple(nodes), "outputs": (("y", last),), **changed})


@pytest.mark.parametrize(
    ("operator", "attributes", "parameters", "shapes", "expected"),
    CASES,
    ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)],
)
def test_an_operator_computes_what_pytorch_does(
    operator: str,
    attributes: dict[str, int],
    parameters: tuple[str, ...],
    shapes: list[tuple[int, ...]],
    expected: Callable[..., Tensor],
) -> None:
    arrays = [normal(*shape, seed=number) for number, shape in enumerate(shapes)]
    if operator == "relu6":
        arrays = [4 * array for array in arrays]
    node = Node(operator, tuple(range(len(shapes))), parameters, attributes)
    graph = graph_of([node], shapes)
    inputs = {f"x{number}": array for number, array in enumerate(arrays)}
    actual = run_graph(graph, TernaryModel(TENSORS), inputs)["y"]
    wanted = expected(*(torch.from_numpy(normal(*shape, seed=number)) for number, shape in enumerate(shapes))).numpy()
    assert actual.dtype == np.float32
    assert actual.shape == wanted.shape
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


def test_every_operator_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(OPERATORS)


def test_double_precision_is_computed_throughout() -> None:
    graph = graph_of([Node("linear", (0,), ("w", None))], [(1, 2)])
    model = TernaryModel({"w": TernaryTensor(np.array([[1, -1]], np.int8))})
    x = np.array([[1.0, 1e-12]])
    assert run_graph(graph, model, {"x0": x}, dtype=np.float64)["y"] == 1 - 1e-12


@pytest.mark.parametrize(
    ("inputs", "message"),
    [({}, r"inputs \['x0'\], got \[\]"), ({"x0": normal(4)}, r"batch of shape \(4, 3, 3\), got \(4,\)")],
)
def test_inputs_that_do_not_fit_are_refused(inputs: Mapping[str, Array], message: str) -> None:
    with pytest.raises(SternaError, match=message):
        run_graph(graph_of([Node("relu", (0,))], [(1, 4, 3, 3)]), TernaryModel({}), inputs)


# ---- Levels ----------------------------------------------------------------------------------------------------------


def calibrated(graph: Graph, model: TernaryModel, inputs: Mapping[str, Array]) -> Graph:
    """With the range of each value on these inputs."""
    every = dataclasses.replace(graph, outputs=tuple((str(value), value) for value in range(graph.value_count)))
    values = run_graph(every, model, inputs).values()
    return dataclasses.replace(graph, ranges=tuple((float(value.min()), float(value.max())) for value in values))


def test_a_range_from_zero_has_256_levels_and_another_one_255() -> None:
    assert Levels.of(0.0, 2.55) == Levels(f32(2.55) / f32(255), 0, 255)
    assert Levels.of(-1.0, 2.54) == Levels(f32(2.54) / f32(127), -127, 127)
    assert Levels.of(-3.0, 1.0) == Levels(f32(3) / f32(127), -127, 127)
    assert Levels.of(0.0, 0.0) == Levels(f32(1), 0, 255)


def test_halves_go_to_the_even_level_and_what_is_beyond_to_the_last_one() -> None:
    levels = Levels(f32(1), -127, 127)
    numbers = np.array([0.5, 1.5, -0.5, -2.5, 200, -200], np.float32)
    assert levels.quantize(numbers).tolist() == [0, 2, 0, -2, 127, -127]


SIGNS = np.array([[[[1]], [[-1]]], [[[0]], [[1]]]], np.int8)  # (2, 2, 1, 1)
POINTWISE = {**PLAIN, **dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), 0)}


def test_a_fused_convolution_rounds_once_at_its_end() -> None:
    scale, shift = np.array([0.3, 0.7], np.float16), np.array([0.1, -0.2], np.float32)
    tensors: dict[str, StoredTensor] = {
        "w": TernaryTensor(SIGNS, np.array([0.5, 2.0], np.float16)), "b": np.array([0.25, 0.5], np.float32),
        "scale": scale, "shift": shift,
    }  # fmt: skip
    nodes = [
        Node("conv2d", (0,), ("w", "b"), POINTWISE),
        Node("affine", (1,), ("scale", "shift")),
        Node("add", (0, 2)),
        Node("hardswish", (3,)),
        Node("relu", (4,)),
    ]
    ranges = ((-1.0, 1.0), (0.0, 1e3), (0.0, 1e3), (0.0, 1e3), (-0.5, 3.0), (0.0, 3.0))
    graph = graph_of(nodes, [(1, 2, 1, 1)], ranges=ranges)
    x = np.array([0.61, -0.33], np.float32)
    levels: dict[int, npt.NDArray[np.int32]] = {}
    y = run_graph_int8(graph, TernaryModel(tensors), {"x0": x.reshape(1, 2, 1, 1)}, levels=levels)["y"]
    step, out = f32(1) / f32(127), f32(3) / f32(127)
    q = np.rint(x * (f32(1) / step))
    sums = np.array([q[0] - q[1], q[1]], np.float32)
    a = np.array([0.5, 2.0], np.float32) * step * scale.astype(np.float32)
    b = np.array([0.25, 0.5], np.float32) * scale.astype(np.float32) + shift
    real = sums * a + b
    real = real + q.astype(np.float32) * step
    real = real * (np.minimum(np.maximum(real + f32(3), 0), 6) * f32(1 / 6))
    expected = np.rint(real * (f32(1) / out))
    assert set(levels) == {0, 4}
    assert levels[4].ravel().tolist() == expected.tolist()
    assert y.ravel().tolist() == np.maximum(expected.astype(np.float32) * out, 0).tolist()


def test_only_values_with_one_user_that_are_no_outputs_are_fused() -> None:
    tensors = {"w": TernaryTensor(SIGNS), "v": np.ones(2, np.float32)}
    x = {"x0": normal(1, 2, 2, 2)}
    conv, affine = Node("conv2d", (0,), ("w", None), POINTWISE), Node("affine", (1,), ("v", "v"))

    def groups(nodes: list[Node], **changed: Any) -> list[tuple[int, int | None, str | None]]:
        graph = graph_of(nodes, [(1, 2, 2, 2)], **changed)
        return [(group.value, group.residual, group.activation) for group in fused(graph, TernaryModel(tensors), x)]

    def apart(*values: int) -> list[tuple[int, int | None, str | None]]:
        return [(value, None, None) for value in values]

    assert groups([conv, affine, Node("relu", (2,))]) == [(3, None, "relu")]
    assert groups([conv, affine, Node("relu", (2,))], outputs=(("a", 2), ("b", 3))) == apart(2, 3)
    assert groups([conv, Node("relu", (1,)), Node("add", (1, 2))]) == apart(1, 2, 3)
    assert groups([conv, Node("add", (1, 1))]) == apart(1, 2)
    # Of two convolutions the first one takes the addition, and is computed after the second.
    assert groups([conv, conv, Node("add", (1, 2)), Node("silu", (3,))]) == [(2, None, None), (4, 2, "silu")]
    pool = Node("adaptive_avg_pool2d", (0,), (), {"height": 1, "width": 1})
    assert groups([conv, pool, Node("add", (1, 2))]) == apart(1, 2, 3)
    assert groups([Node("add", (0, 0)), Node("relu", (1,))]) == apart(1, 2)


def test_the_largest_of_levels_keeps_their_step() -> None:
    pool = {**dict.fromkeys(OPERATORS["max_pool2d"].attributes, 1), "kernel_height": 2, "ceil_mode": 0}
    graph = graph_of(
        [Node("max_pool2d", (0,), (), pool), Node("relu", (1,))], [(1, 1, 2, 1)],
        ranges=((-1.0, 1.0), (-9.0, 9.0), (0.0, 255.0)),
    )  # fmt: skip
    levels: dict[int, npt.NDArray[np.int32]] = {}
    x = np.array([-0.5, 0.25], np.float32).reshape(1, 1, 2, 1)
    run_graph_int8(graph, TernaryModel({}), {"x0": x}, levels=levels)
    assert levels[0].ravel().tolist() == [-64, 32]
    assert levels[1].max() == 32


def test_an_output_is_rounded_to_levels_only_if_a_node_uses_it() -> None:
    nodes = [Node("affine", (0,), ("v", "v")), Node("relu", (1,))]
    graph = graph_of(nodes, [(1, 1)], outputs=(("used", 1), ("last", 2)), ranges=((0.0, 255.0),) * 3)
    actual = run_graph_int8(graph, TernaryModel({"v": np.array([0.3], np.float32)}), {"x0": np.array([[2.2]])})
    assert actual["used"] == 1.0  # 0.3 * 2 + 0.3 = 0.9
    assert actual["last"] == 1.0
    graph = graph_of(nodes[:1], [(1, 1)], ranges=((0.0, 255.0),) * 2)
    actual = run_graph_int8(graph, TernaryModel({"v": np.array([0.3], np.float32)}), {"x0": np.array([[2.2]])})
    assert actual["y"] == f32(0.3) * f32(2) + f32(0.3)


@pytest.mark.parametrize("operator", ["conv2d", "conv_transpose2d"])
def test_weights_in_floating_point_are_rounded_to_8_bits_for_each_filter(operator: str) -> None:
    axis = 0 if operator == "conv2d" else 1
    weight = normal(3, 3, 1, 1)
    scale = np.abs(weight).max(axis=tuple({0, 1, 2, 3} - {axis}), keepdims=True) / f32(127)
    rounded = (np.rint(weight / scale) * scale).astype(np.float32)
    attributes = {name: POINTWISE[name] for name in OPERATORS[operator].attributes}
    graph = graph_of(
        [Node(operator, (0,), ("w", None), attributes)], [(1, 3, 2, 2)], ranges=((-127.0, 127.0), (0.0, 1.0))
    )
    x = {"x0": np.rint(10 * normal(1, 3, 2, 2))}
    actual = run_graph_int8(graph, TernaryModel({"w": weight}), x)["y"]
    expected = run_graph(graph, TernaryModel({"w": rounded}), x, dtype=np.float64)["y"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    whole = run_graph_int8(
        graph, TernaryModel({"w": Int8Tensor(np.eye(3, dtype=np.int8)[..., None, None], f32(1))}), x
    )["y"]
    np.testing.assert_allclose(whole, x["x0"], rtol=1e-6)


def test_a_calibrated_network_in_levels_is_near_the_one_in_real_numbers() -> None:
    random = np.random.default_rng(0)
    tensors: dict[str, StoredTensor] = {"fc": normal(5, 8, seed=9) / 4}
    nodes: list[Node] = []
    value = 0
    for layer in range(4):
        trits = random.integers(-1, 2, (8, 8, 3, 3)).astype(np.int8)
        tensors |= {
            f"w{layer}": TernaryTensor(trits),
            f"s{layer}": normal(8, seed=layer) / 30 + f32(0.05),
            f"b{layer}": normal(8),
        }
        nodes += [
            Node("conv2d", (value,), (f"w{layer}", None), PLAIN),
            Node("affine", (3 * layer + 1,), (f"s{layer}", f"b{layer}")),
        ]
        nodes.append(Node("relu", (3 * layer + 2,)))
        value = 3 * layer + 3
    nodes += [Node("adaptive_avg_pool2d", (value,), (), {"height": 1, "width": 1}), Node("flatten", (value + 1,))]
    nodes.append(Node("linear", (value + 2,), ("fc", None)))
    x = {"x0": normal(4, 8, 12, 12)}
    model = TernaryModel(tensors)
    graph = calibrated(graph_of(nodes, [(4, 8, 12, 12)]), model, x)
    real, actual = run_graph(graph, model, x)["y"], run_graph_int8(graph, model, x)["y"]
    assert 0 < np.abs(actual - real).max() < 0.03 * np.abs(real).max()


def test_a_graph_without_ranges_is_refused() -> None:
    with pytest.raises(SternaError, match="no ranges: it is not calibrated"):
        run_graph_int8(graph_of([Node("relu", (0,))], [(1, 4)]), TernaryModel({}), {"x0": normal(1, 4)})
