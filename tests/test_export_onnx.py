"""The ONNX files of graphs compute what PyTorch does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch says what is right")
onnx = pytest.importorskip("onnx", reason="needs sterna[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="computes the exported files")

from graphs import node, one_node, small_network, ternary, with_graphs  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from sterna.errors import SternaError  # noqa: E402
from sterna.export import export_onnx, onnx_model  # noqa: E402
from sterna.graph import OPERATORS, Graph, GraphInput, Node  # noqa: E402
from sterna.ternary_model import TernaryModel  # noqa: E402

RANDOM = np.random.default_rng(7)
WEIGHTS: dict[str, Any] = {
    "dense": RANDOM.standard_normal((6, 4, 3, 3)).astype(np.float32),
    "trits": ternary(RANDOM, 6, 2, 3, 2, scale=True),
    "transposed": RANDOM.standard_normal((4, 6, 2, 2)).astype(np.float32),
    "matrix": ternary(RANDOM, 6, 4, scale=True),
    "six": RANDOM.standard_normal(6).astype(np.float16),
    "four": RANDOM.standard_normal(4).astype(np.float32),
    "four_more": RANDOM.standard_normal(4).astype(np.float32),
}
IMAGE = (4, 9, 7)


def weight(name: str) -> Tensor:
    tensor = WEIGHTS[name]
    return torch.from_numpy(np.asarray(tensor if isinstance(tensor, np.ndarray) else tensor.dequantize(), np.float32))


def run(proto: Any, *arrays: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def image(*shape: int) -> np.ndarray:
    return (3 * np.random.default_rng(sum(shape)).standard_normal((2, *shape))).astype(np.float32)


PADS = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
UNEVEN = {"pad_top": 0, "pad_left": 2, "pad_bottom": 1, "pad_right": 3}
STRIDES = {"stride_height": 2, "stride_width": 3}
KERNEL = {"kernel_height": 3, "kernel_width": 2}

Case = tuple[Node, Callable[..., Tensor], Sequence[tuple[int, ...]]]
CASES: dict[str, Case] = {
    "conv2d": (
        node("conv2d", 0, parameters=("dense", "six"), **STRIDES, **UNEVEN),
        lambda x: F.conv2d(F.pad(x, (2, 3, 0, 1)), weight("dense"), weight("six"), (2, 3)),
        [IMAGE],
    ),
    "conv2d of trits with groups and dilation": (
        node("conv2d", 0, parameters=("trits", None), dilation_height=2, dilation_width=3, groups=2, **PADS),
        lambda x: F.conv2d(x, weight("trits"), None, 1, 1, (2, 3), 2),
        [IMAGE],
    ),
    "linear": (
        node("linear", 0, parameters=("matrix", "six")),
        lambda x: F.linear(x, weight("matrix"), weight("six")),
        [(4,)],
    ),
    "linear without bias": (
        node("linear", 0, parameters=("matrix", None)),
        lambda x: F.linear(x, weight("matrix")),
        [(4,)],
    ),
    "affine of an image": (
        node("affine", 0, parameters=("four", "four_more")),
        lambda x: x * weight("four")[:, None, None] + weight("four_more")[:, None, None],
        [IMAGE],
    ),
    "affine of a matrix": (
        node("affine", 0, parameters=("four", "four_more")),
        lambda x: x * weight("four") + weight("four_more"),
        [(4,)],
    ),
    "relu": (node("relu", 0), F.relu, [IMAGE]),
    "relu6": (node("relu6", 0), F.relu6, [IMAGE]),
    "hardswish": (node("hardswish", 0), F.hardswish, [IMAGE]),
    "silu": (node("silu", 0), F.silu, [IMAGE]),
    "sigmoid": (node("sigmoid", 0), torch.sigmoid, [(4,)]),
    "hardsigmoid": (node("hardsigmoid", 0), F.hardsigmoid, [IMAGE]),
    "add": (node("add", 0, 1), torch.add, [IMAGE, IMAGE]),
    "mul of an image": (node("mul", 0, 1), torch.mul, [IMAGE, (4, 1, 1)]),
    "mul by an image": (node("mul", 0, 1), torch.mul, [(4, 1, 1), IMAGE]),
    "concat": (node("concat", 0, 1), lambda a, b: torch.cat([a, b], 1), [IMAGE, (2, 9, 7)]),
    "concat of matrices": (node("concat", 0, 1), lambda a, b: torch.cat([a, b], 1), [(4,), (3,)]),
    "max_pool2d": (
        node("max_pool2d", 0, dilation_height=2, **KERNEL, **STRIDES, **PADS),
        lambda x: F.max_pool2d(x, (3, 2), (2, 3), 1, (2, 1)),
        [IMAGE],
    ),
    "flatten": (node("flatten", 0), lambda x: x.flatten(1), [(4, 1, 1)]),
    "pad": (node("pad", 0, **UNEVEN), lambda x: F.pad(x, (2, 3, 0, 1)), [IMAGE]),
    "softmax of an image": (node("softmax", 0), lambda x: x.softmax(1), [IMAGE]),
    "softmax of a matrix": (node("softmax", 0), lambda x: x.softmax(1), [(4,)]),
    "resize_nearest like another": (
        node("resize_nearest", 0, 1),
        lambda x, y: F.interpolate(x, y.shape[2:]),
        [IMAGE, (1, 13, 14)],
    ),
    "upsample_nearest": (
        node("upsample_nearest", 0, factor_height=2, factor_width=3),
        lambda x: F.interpolate(x, scale_factor=(2.0, 3.0)),
        [IMAGE],
    ),
}
if "conv_transpose2d" in OPERATORS:
    CASES["conv_transpose2d"] = (
        node("conv_transpose2d", 0, parameters=("transposed", "six"), stride_height=2, stride_width=2, **PADS),
        lambda x: F.conv_transpose2d(x, weight("transposed"), weight("six"), 2, 1),
        [IMAGE],
    )
if "channels_before" in OPERATORS["pad"].attributes:
    CASES["pad of channels"] = (
        node("pad", 0, channels_before=1, channels_after=2, **PADS),
        lambda x: F.pad(x, (1, 1, 1, 1, 1, 2)),
        [IMAGE],
    )
for ceil_mode in (0, 1):
    for include in (0, 1):
        CASES[f"avg_pool2d, ceil_mode {ceil_mode}, count_include_pad {include}"] = (
            node("avg_pool2d", 0, ceil_mode=ceil_mode, count_include_pad=include, **KERNEL, **STRIDES, **PADS),
            lambda x, c=ceil_mode, i=include: F.avg_pool2d(x, (3, 2), (2, 3), 1, bool(c), bool(i)),
            [IMAGE],
        )
for side in range(4, 10):
    # With stride 3 and padding 1, the last window may begin in the padding alone; PyTorch leaves it out.
    CASES[f"max_pool2d, ceil_mode, {side} pixels"] = (
        node("max_pool2d", 0, ceil_mode=1, kernel_height=2, kernel_width=2, stride_height=3, stride_width=3, **PADS),
        lambda x: F.max_pool2d(x, 2, 3, 1, 1, True),
        [(4, side, 7)],
    )
    CASES[f"avg_pool2d, ceil_mode, {side} pixels"] = (
        node(
            "avg_pool2d",
            0,
            ceil_mode=1,
            count_include_pad=1,
            kernel_height=2,
            kernel_width=2,
            stride_height=3,
            stride_width=3,
            **PADS,
        ),
        lambda x: F.avg_pool2d(x, 2, 3, 1, True, True),
        [(4, side, 7)],
    )
for cells in ((1, 1), (3, 7), (4, 5), (11, 2), (9, 7)):
    for kind, pool in (("avg", F.adaptive_avg_pool2d), ("max", F.adaptive_max_pool2d)):
        CASES[f"adaptive_{kind}_pool2d, {cells}"] = (
            node(f"adaptive_{kind}_pool2d", 0, height=cells[0], width=cells[1]),
            lambda x, p=pool, c=cells: p(x, c),
            [IMAGE],
        )
for size in ((18, 14), (13, 11), (5, 3), (1, 1)):
    CASES[f"resize_nearest, {size}"] = (
        node("resize_nearest", 0, height=size[0], width=size[1]),
        lambda x, s=size: F.interpolate(x, s),
        [IMAGE],
    )
    for aligned in (0, 1):
        CASES[f"resize_bilinear, {size}, align_corners {aligned}"] = (
            node("resize_bilinear", 0, height=size[0], width=size[1], align_corners=aligned),
            lambda x, s=size, a=aligned: F.interpolate(x, s, mode="bilinear", align_corners=bool(a)),
            [IMAGE],
        )
for aligned in (0, 1):
    CASES[f"resize_bilinear like another, align_corners {aligned}"] = (
        node("resize_bilinear", 0, 1, align_corners=aligned),
        lambda x, y, a=aligned: F.interpolate(x, y.shape[2:], mode="bilinear", align_corners=bool(a)),
        [IMAGE, (1, 13, 14)],
    )
    CASES[f"upsample_bilinear, align_corners {aligned}"] = (
        node("upsample_bilinear", 0, factor_height=2, factor_width=3, align_corners=aligned),
        lambda x, a=aligned: F.interpolate(x, scale_factor=(2.0, 3.0), mode="bilinear", align_corners=bool(a)),
        [IMAGE],
    )


@pytest.mark.parametrize("fixed", [False, True], ids=["any size", "one size"])
@pytest.mark.parametrize("name", CASES)
def test_each_operator_is_that_of_pytorch(name: str, fixed: bool) -> None:
    made, expected, shapes = CASES[name]
    if fixed and len(shapes) > 1:
        pytest.skip("a fixed shape is for graphs of one input")
    model = TernaryModel(WEIGHTS)
    proto = onnx_model(one_node(made, *shapes), model, shape=(2, *shapes[0]) if fixed else None)
    arrays = [image(*shape) for shape in shapes]
    (result,) = run(proto, *arrays)
    wanted = expected(*map(torch.from_numpy, arrays)).numpy()
    assert result.shape == wanted.shape
    # Sums of up to 54 products of a few units, in another order: 54 eps of the largest sum of magnitudes.
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-5)


def test_every_operator_is_tried() -> None:
    assert {made.operator for made, _, _ in CASES.values()} == set(OPERATORS)


def torch_network(model: TernaryModel, x: Tensor) -> Tensor:
    """The network of :func:`graphs.small_network` in PyTorch."""
    w = {
        name: torch.from_numpy(np.asarray(t if isinstance(t, np.ndarray) else t.dequantize(), np.float32))
        for name, t in model.tensors.items()
    }

    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, torch.zeros(8), torch.ones(8), w[f"{name}.weight"], w[f"{name}.bias"], eps=0.0)

    x = F.relu(norm(F.conv2d(x, w["first.weight"], stride=2, padding=1), "norm1"))
    x = F.relu(norm(F.conv2d(x, w["second.weight"], padding=1), "norm2") + x)
    x = F.relu6(norm(F.conv2d(x, w["depthwise.weight"], padding=1, groups=8), "norm3"))
    x = F.max_pool2d(x, 2).mean((2, 3))
    return F.linear(x, w["classifier.weight"], w["classifier.bias"])


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (5, 3, 8, 20)])
def test_a_network_takes_any_batch_height_and_width(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = small_network()
    size = export_onnx(model, tmp_path / "n.onnx")
    assert size == (tmp_path / "n.onnx").stat().st_size
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (result,) = run(onnx.load(tmp_path / "n.onnx"), x)
    np.testing.assert_allclose(result, torch_network(model, torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-5)


def test_norms_are_folded_into_the_layer_that_they_alone_use() -> None:
    model = small_network()
    proto = onnx_model(model.graphs[0], model)
    assert [made.op_type for made in proto.graph.node] == [
        "Conv", "Relu", "Conv", "Add", "Relu", "Conv", "Clip", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm",
    ]  # fmt: skip
    assert [entry.name for entry in proto.graph.output] == ["output"]


def test_a_layer_that_others_use_too_is_left_as_it_is() -> None:
    nodes = (
        node("conv2d", 0, parameters=("dense", "six")),
        node("affine", 1, parameters=("six", "six")),
        node("add", 1, 2),
    )
    graph = Graph("", (GraphInput("x", IMAGE),), nodes, (("y", 3),))
    proto = onnx_model(graph, TernaryModel(WEIGHTS))
    assert [made.op_type for made in proto.graph.node] == ["Conv", "Mul", "Add", "Add"]
    shown = onnx_model(replace(graph, nodes=nodes[:2], outputs=(("y", 2), ("raw", 1))), TernaryModel(WEIGHTS))
    x = image(*IMAGE)
    y, raw = run(shown, x)
    six = WEIGHTS["six"].astype(np.float32)[:, None, None]
    np.testing.assert_allclose(y, raw * six + six, rtol=1e-5, atol=1e-5)


def test_a_bias_goes_through_the_norm_that_follows() -> None:
    nodes = (node("linear", 0, parameters=("matrix", "six")), node("affine", 1, parameters=("six", "six")))
    graph = Graph("", (GraphInput("x", (4,)),), nodes, (("y", 2),))
    proto = onnx_model(graph, TernaryModel(WEIGHTS))
    assert [made.op_type for made in proto.graph.node] == ["Gemm"]
    x = image(4)
    wanted = F.linear(torch.from_numpy(x), weight("matrix"), weight("six")) * weight("six") + weight("six")
    np.testing.assert_allclose(run(proto, x)[0], wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_one_value_can_be_several_outputs_and_an_input_can_be_one() -> None:
    graph = Graph("", (GraphInput("x", IMAGE),), (node("relu", 0),), (("a", 1), ("b", 1), ("c", 0)))
    x = image(*IMAGE)
    a, b, c = run(onnx_model(graph, TernaryModel({})), x)
    assert np.array_equal(a, np.maximum(x, 0))
    assert np.array_equal(a, b)
    assert np.array_equal(c, x)


def test_names_of_tensors_inputs_and_outputs_may_be_equal() -> None:
    nodes = (node("linear", 0, parameters=("x", None)), node("relu", 1))
    graph = Graph("", (GraphInput("x", (4,)),), nodes, (("Relu", 2),))
    x = image(4)
    (y,) = run(onnx_model(graph, TernaryModel({"x": WEIGHTS["matrix"]})), x)
    np.testing.assert_allclose(y, F.relu(F.linear(torch.from_numpy(x), weight("matrix"))).numpy(), rtol=1e-5, atol=1e-6)


def test_weights_that_two_layers_share_are_written_once() -> None:
    nodes = (node("conv2d", 0, parameters=("w", None), **PADS), node("conv2d", 1, parameters=("w", None), **PADS))
    graph = Graph("", (GraphInput("x", IMAGE),), nodes, (("y", 2),))
    w = WEIGHTS["dense"][:4]
    proto = onnx_model(graph, TernaryModel({"w": w}))
    assert [entry.name for entry in proto.graph.initializer] == ["w"]
    x = image(*IMAGE)
    kernel = torch.from_numpy(w)
    wanted = F.conv2d(F.conv2d(torch.from_numpy(x), kernel, padding=1), kernel, padding=1).numpy()
    np.testing.assert_allclose(run(proto, x)[0], wanted, rtol=1e-4, atol=1e-3)


def test_every_value_can_be_shown() -> None:
    model = small_network()
    graph = model.graphs[0]
    x = image(3, 16, 16)
    values = run(onnx_model(graph, model, every_value=True), x)
    assert len(values) == graph.value_count
    assert np.array_equal(values[0], x)
    np.testing.assert_allclose(values[-1], run(onnx_model(graph, model), x)[0], rtol=1e-4, atol=1e-5)


def test_equal_models_give_equal_bytes_with_what_a_user_needs(tmp_path: Path) -> None:
    for name in "ab":
        export_onnx(small_network(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    proto = onnx.load(tmp_path / "a")
    assert proto.opset_import[0].version == 17
    assert json.loads(proto.metadata_props[0].value) == list("abcde")
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", 3, "input_height", "input_width",
    ]  # fmt: skip


def test_int8_is_close_to_float32_and_a_quarter_of_its_size(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    tensors = {**small_network().tensors, "second.weight": ternary(random, 8, 8, 3, 3)}
    model = with_graphs(tensors, small_network().graphs[0])
    images = [random.standard_normal((4, 3, 16, 16)).astype(np.float32) for _ in range(4)]
    export_onnx(model, tmp_path / "f.onnx")
    export_onnx(model, tmp_path / "i.onnx", int8=images)
    kinds = {made.op_type for made in onnx.load(tmp_path / "i.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    exact, rounded = (run(onnx.load(tmp_path / name), images[0])[0] for name in ("f.onnx", "i.onnx"))
    assert 20 * np.log10(np.linalg.norm(exact) / np.linalg.norm(exact - rounded)) > 20


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda model, out: export_onnx(model, out, graph="backbone"), "no graph 'backbone'; it has ''"),
        (lambda model, out: export_onnx(TernaryModel(model.tensors), out), "holds no graph of the network"),
        (lambda model, out: export_onnx(model, out, shape=(1, 4, 16, 16)), r"takes shapes \(n, 3, 16, 16\)"),
        (lambda model, out: export_onnx(model, out, int8=[]), "at least one array"),
        (lambda model, out: export_onnx(with_graphs({}, *model.graphs), out), "needs tensor 'first.weight'"),
        (
            lambda model, out: export_onnx(
                with_graphs({**model.tensors, "norm1.weight": np.ones(7, np.float32)}, *model.graphs), out
            ),
            "'first.weight' and 'norm1.weight'",
        ),
        (
            lambda model, out: export_onnx(
                with_graphs({**model.tensors, "second.weight": np.ones((8, 7, 3, 3), np.float32)}, *model.graphs), out
            ),
            "second.weight.* takes 7 channels, its input has 8",
        ),
    ],
)
def test_what_cannot_be_written_is_said_and_leaves_no_file(
    call: Callable[[TernaryModel, Path], int], text: str, tmp_path: Path
) -> None:
    with pytest.raises(SternaError, match=text):
        call(small_network(), tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())
