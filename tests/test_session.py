"""The native engine: every operator is the reference's, integer inference to the bit, on every instruction set."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph_runner import CASES, TENSORS, graph_of, normal

from sterna.container import encode
from sterna.errors import DataError, FormatError, SternaError
from sterna.graph import Graph, GraphInput, Node
from sterna.reference.graph_runner import run_graph, run_graph_int8
from sterna.session import InferenceSession, instruction_sets
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor

Array = npt.NDArray[Any]
# exp has no exact rounding, so that a level may be the next one.
APPROXIMATE = {"silu", "sigmoid", "softmax"}


def file_of(graph: Graph, tensors: dict[str, Any]) -> bytes:
    return encode(TernaryModel(tensors, {}, (graph,)))


def conv(
    weight: str,
    value: int = 0,
    *,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: str | None = None,
) -> Node:
    attributes = {"stride_height": stride, "stride_width": stride}
    attributes |= dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), pad)
    attributes |= {"dilation_height": dilation, "dilation_width": dilation, "groups": groups}
    return Node("conv2d", (value,), (weight, bias), attributes)


def transposed(
    weight: str, value: int = 0, *, stride: tuple[int, int] = (1, 1), pads: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> Node:
    attributes = dict(zip(("stride_height", "stride_width"), stride, strict=True))
    attributes |= dict(zip(("pad_top", "pad_left", "pad_bottom", "pad_right"), pads, strict=True))
    return Node("conv_transpose2d", (value,), (weight, None), attributes)


def trits(*shape: int, density: float = 0.3, seed: int = 0, scale: bool = True) -> TernaryTensor:
    random = np.random.default_rng(seed)
    signs = np.where(random.random(shape) < density, random.choice([-1, 1], shape), 0).astype(np.int8)
    return TernaryTensor(signs, random.uniform(0.5, 1.5, shape[0]).astype(np.float16) if scale else None)


MISFITS: dict[str, Any] = {
    "w": trits(8, 8, 3, 3), "up": trits(4, 8, 2, 2), "point": trits(8, 2, 1, 1),
}  # fmt: skip


def as_dict(result: Any) -> dict[str, Array]:
    return result if isinstance(result, dict) else {"y": result}


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)])
@pytest.mark.parametrize("isa", instruction_sets())
def test_an_operator_is_the_references(case: Any, isa: str) -> None:
    operator, attributes, parameters, shapes, _ = case
    graph = graph_of([Node(operator, tuple(range(len(shapes))), parameters, attributes)], shapes)
    arrays = [3 * normal(*shape, seed=number) for number, shape in enumerate(shapes)]
    inputs = {f"x{number}": array for number, array in enumerate(arrays)}
    expected = run_graph(graph, TernaryModel(TENSORS), inputs)["y"]
    actual = InferenceSession(file_of(graph, TENSORS), isa=isa).run(*arrays)
    assert isinstance(actual, np.ndarray)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)])
@pytest.mark.parametrize("isa", instruction_sets())
def test_an_operator_has_the_references_levels(case: Any, isa: str) -> None:
    operator, attributes, parameters, shapes, _ = case
    first = len(shapes)
    # What follows makes the operator's value one that is kept in levels.
    nodes = [Node(operator, tuple(range(first)), parameters, attributes), Node("add", (first, first))]
    ranges = ((-3.0, 2.5),) * first + ((-4.0, 5.0), (0.0, 0.0))
    graph = graph_of(nodes, shapes, ranges=ranges)
    arrays = [normal(*shape, seed=number) for number, shape in enumerate(shapes)]
    inputs = {f"x{number}": array for number, array in enumerate(arrays)}
    expected = run_graph_int8(graph, TernaryModel(TENSORS), inputs)["y"]
    actual = InferenceSession(file_of(graph, TENSORS), isa=isa, activations="int8").run(*arrays)
    if operator in APPROXIMATE:
        np.testing.assert_allclose(actual, expected, atol=2.0 * 5.0 / 127 + 1e-6)
    else:
        np.testing.assert_array_equal(actual, expected)


@st.composite
def networks(draw: st.DrawFn) -> tuple[Graph, dict[str, Tensor], list[Array]]:
    """A convolution of awkward shape with what may follow it, and a second one on its value."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    in_group, out_group = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    if draw(st.booleans()) and groups > 1:
        in_group = 1  # depthwise
    kernel, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    pad = draw(st.integers(0, 3))
    reach = dilation * (kernel - 1) + 1
    height, width = (max(draw(st.integers(1, 19)), reach - 2 * pad) for _ in range(2))
    images, seed = draw(st.integers(1, 9)), draw(st.integers(0, 2**32 - 1))
    channels, filters = groups * in_group, groups * out_group
    random = np.random.default_rng(seed)
    shape = (filters, in_group, kernel, kernel)
    kind = draw(st.sampled_from(["trits", "trits", "int8", "float"]))
    weight: Tensor
    if kind == "trits":
        weight = trits(
            *shape, density=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), seed=seed, scale=draw(st.booleans())
        )
    elif kind == "int8":
        weight = Int8Tensor(random.integers(-127, 128, shape).astype(np.int8), np.full(filters, 0.01, np.float32))
    else:
        weight = random.standard_normal(shape).astype(np.float32)
    tensors: dict[str, Tensor] = {"w": weight, "v": trits(5, filters, 1, 1, seed=seed)}
    nodes = [conv("w", stride=stride, pad=pad, dilation=dilation, groups=groups)]
    if draw(st.booleans()):
        tensors |= {
            "s": random.standard_normal(filters).astype(np.float32),
            "t": random.standard_normal(filters).astype(np.float32),
        }
        nodes.append(Node("affine", (1,), ("s", "t")))
    if draw(st.booleans()):
        nodes.append(Node(draw(st.sampled_from(["relu", "relu6", "hardswish", "hardsigmoid"])), (len(nodes),)))
    value = len(nodes)
    if draw(st.booleans()):
        # A second convolution takes in the sum of its value and the first one's.
        tensors["u"] = trits(filters, filters, 3, 3, seed=seed + 1)
        nodes += [conv("u", value, pad=1), Node("add", (value, value + 1)), Node("relu", (value + 2,))]
        value += 3
    nodes.append(conv("v", value))
    low = draw(st.sampled_from([0.0, -2.0]))
    ranges = [(low, 3.0)] + [(draw(st.sampled_from([0.0, -6.0])), draw(st.floats(0.5, 20.0))) for _ in nodes]
    graph = Graph("", (GraphInput("x0", (channels, height, width)),), tuple(nodes), (("y", len(nodes)),), tuple(ranges))
    return graph, tensors, [random.normal(0.0, 2.0, (images, channels, height, width)).astype(np.float32)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(networks())
def test_convolutions_of_any_shape_are_the_references_on_every_instruction_set(
    network: tuple[Graph, dict[str, Tensor], list[Array]],
) -> None:
    assert_is_the_references(*network)


def assert_is_the_references(graph: Graph, tensors: dict[str, Tensor], arrays: list[Array]) -> None:
    model = TernaryModel(tensors)
    expected = run_graph_int8(graph, model, {"x0": arrays[0]})["y"]
    real = run_graph(graph, model, {"x0": arrays[0]}, dtype=np.float64)["y"]
    data = file_of(graph, tensors)
    for number, isa in enumerate(instruction_sets()):
        session = InferenceSession(data, isa=isa, activations="int8", threads=1 + number % 3)
        np.testing.assert_array_equal(session.run(*arrays), expected)
        actual = InferenceSession(data, isa=isa).run(*arrays)
        np.testing.assert_allclose(actual, real, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(real).max())))


@st.composite
def transposed_networks(draw: st.DrawFn) -> tuple[Graph, dict[str, Tensor], list[Array]]:
    """A transposed convolution with what may follow it, between a convolution and another one."""
    channels, filters = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    size = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    before, after = [], []
    for axis in (0, 1):
        # Pads beyond the kernel leave pixels of the input out.
        whole = (size[axis] - 1) * stride[axis] + kernel[axis]
        before.append(draw(st.integers(0, whole - 1)))
        after.append(draw(st.integers(0, whole - 1 - before[axis])))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    shape = (channels, filters, *kernel)
    weight: Tensor = random.standard_normal(shape).astype(np.float32)
    kind = draw(st.sampled_from(["trits", "trits", "int8", "float"]))
    if kind == "trits":
        # The scale is one of the channels of the input.
        weight = trits(
            *shape, density=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), seed=seed, scale=draw(st.booleans())
        )
    elif kind == "int8":
        scale = random.uniform(0.005, 0.01, channels).astype(np.float32)
        weight = Int8Tensor(random.integers(-127, 128, shape).astype(np.int8), scale)
    tensors: dict[str, Tensor] = {"first": trits(channels, channels, 1, 1, seed=seed), "w": weight}
    nodes = [conv("first"), transposed("w", 1, stride=stride, pads=(before[0], before[1], after[0], after[1]))]
    if draw(st.booleans()):
        tensors |= {
            "s": random.standard_normal(filters).astype(np.float32),
            "t": random.standard_normal(filters).astype(np.float32),
        }
        nodes.append(Node("affine", (len(nodes),), ("s", "t")))
    if draw(st.booleans()):
        # A second one takes in the sum of both, unless the first one does.
        tensors["u"] = trits(*shape, seed=seed + 1)
        nodes += [dataclasses.replace(nodes[1], parameters=("u", None)), Node("add", (len(nodes), len(nodes) + 1))]
    if draw(st.booleans()):
        nodes.append(Node(draw(st.sampled_from(["relu", "relu6", "hardswish", "hardsigmoid"])), (len(nodes),)))
    if draw(st.booleans()):
        tensors["v"] = trits(3, filters, 1, 1, seed=seed)
        nodes.append(conv("v", len(nodes)))
    ranges = [(-2.0, 3.0)] + [(draw(st.sampled_from([0.0, -6.0])), draw(st.floats(0.5, 20.0))) for _ in nodes]
    graph = Graph("", (GraphInput("x0", (channels, *size)),), tuple(nodes), (("y", len(nodes)),), tuple(ranges))
    images = draw(st.sampled_from([1, 2, 9]))
    return graph, tensors, [random.normal(0.0, 2.0, (images, channels, *size)).astype(np.float32)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(transposed_networks())
def test_transposed_convolutions_of_any_shape_are_the_references_on_every_instruction_set(
    network: tuple[Graph, dict[str, Tensor], list[Array]],
) -> None:
    assert_is_the_references(*network)


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("low", [0.0, -1.0])
@pytest.mark.parametrize("channels", [1, 127, 128, 129, 300, 1000])
def test_sums_do_not_overflow_where_all_weights_and_levels_are_the_largest(
    isa: str, sign: int, low: float, channels: int
) -> None:
    weight = TernaryTensor(np.full((3, channels, 1, 1), sign, np.int8))
    weight.trits[1] *= -1
    weight.trits[2, ::2] *= -1
    graph = graph_of([conv("w")], [(1, channels, 9, 9)], ranges=((low, 1.0), (0.0, 0.0)))
    for value in (1.0, low):
        x = np.full((1, channels, 9, 9), value, np.float32)
        expected = run_graph_int8(graph, TernaryModel({"w": weight}), {"x0": x})["y"]
        actual = InferenceSession(file_of(graph, {"w": weight}), isa=isa, activations="int8").run(x)
        np.testing.assert_array_equal(actual, expected)


@pytest.fixture
def small_file() -> bytes:
    graph = graph_of([conv("w", pad=1), Node("relu", (1,)), conv("w", 2, stride=2)], [(1, 8, 6, 6)])
    return file_of(graph, {"w": trits(8, 8, 3, 3)})


def test_other_sizes_and_batches_run_on_one_session(small_file: bytes) -> None:
    session = InferenceSession(small_file)
    for shape in [(1, 8, 6, 6), (3, 8, 9, 5), (2, 8, 6, 6), (1, 8, 30, 31)]:
        assert session.run(normal(*shape)).shape == (shape[0], 8, (shape[2] - 1) // 2, (shape[3] - 1) // 2)  # type: ignore[union-attr]


def test_shapes_of_outputs_are_told_without_a_run(small_file: bytes) -> None:
    session = InferenceSession(small_file)
    assert session.output_shapes((3, 8, 9, 5)) == {"y": (3, 8, 4, 2)}
    with pytest.raises(DataError, match="must have shape"):
        session.output_shapes((3, 7, 9, 5))


def test_images_of_a_batch_do_not_see_each_other(small_file: bytes) -> None:
    session = InferenceSession(small_file, tune=False)
    x = normal(9, 8, 6, 7)
    np.testing.assert_array_equal(session.run(x), np.concatenate([session.run(x[i : i + 1]) for i in range(9)]))  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 3])
def test_one_session_serves_many_threads(small_file: bytes, threads: int) -> None:
    session = InferenceSession(small_file, threads=threads)
    inputs = [normal(1 + seed % 3, 8, 12, 12, seed=seed) for seed in range(6)]
    expected = [session.run(x) for x in inputs]
    wrong = []

    def work(first: int) -> None:
        for turn in range(200):
            number = (first + turn) % len(inputs)
            if not np.array_equal(session.run(inputs[number]), expected[number]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "has 1 inputs"),
        ((normal(1, 7, 6, 6),), r"must have shape \(N, 8, H, W\) and no axis of 0, got \(1, 7, 6, 6\)"),
        ((normal(8, 6, 6),), r"got \(8, 6, 6\)"),
        ((np.zeros((0, 8, 6, 6)),), r"no axis of 0"),
        ((normal(1, 8, 1, 1),), "too small"),
        ((np.full((1, 8, 6, 6), np.nan),), "not finite"),
        ((np.full((1, 8, 6, 6), np.inf),), "not finite"),
        ((np.full((1, 8, 6, 6), "a"),), "must be numbers"),
        ((np.zeros((1, 8, 1, 1 << 20)),), "too small|too large"),
    ],
)
def test_bad_input_is_named(small_file: bytes, inputs: tuple[Array, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        InferenceSession(small_file).run(*inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be 1 to"),
        ({"isa": "mmx"}, "instruction set 'mmx' is not available"),
        ({"activations": "int4"}, "activations must be"),
        ({"graph": "head"}, "no graph of the name 'head'"),
        ({"values": [99]}, "no value 99"),
        ({"activations": "int8", "ranges": [(0.0, 1.0)]}, "4 ranges"),
    ],
)
def test_bad_options_are_named(small_file: bytes, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SternaError, match=message):
        InferenceSession(small_file, **options)


def test_integer_inference_needs_ranges(small_file: bytes) -> None:
    with pytest.raises(DataError, match="not calibrated"):
        InferenceSession(small_file, activations="int8").run(normal(1, 8, 6, 6))


def test_a_file_without_a_graph_says_so() -> None:
    with pytest.raises(SternaError, match="holds no graph"):
        InferenceSession(encode(TernaryModel({"w": trits(2, 2)})))


def test_a_damaged_file_is_refused(small_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.sterna"
    path.write_bytes(small_file[:-3])
    with pytest.raises(FormatError):
        InferenceSession(path)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (conv("w", groups=2), "takes 16 channels"),
        (Node("affine", (0,), ("w", "w")), "must have 8 floating-point numbers"),
        (Node("linear", (0,), ("w", None)), "another number of axes"),
        (transposed("up"), "takes 4 channels"),
        (dataclasses.replace(transposed("w"), parameters=("w", "up")), "must have 8 floating-point numbers"),
        (transposed("w", pads=(4, 0, 4, 0)), "too small"),
        (transposed("w", stride=(1 << 24, 1 << 24)), "too large"),
        (transposed("point", stride=(1 << 12, 1 << 12), pads=(10240, 10240, 0, 0)), "too many weights"),
    ],
)  # fmt: skip
def test_a_graph_that_does_not_fit_its_tensors_is_refused(node: Node, message: str) -> None:
    data = file_of(graph_of([node], [(1, 8, 6, 6)]), MISFITS)
    with pytest.raises(DataError, match=message):
        InferenceSession(data).run(normal(1, 8, 6, 6))


def test_the_environment_chooses_the_instruction_set(small_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STERNA_ISA", "scalar")
    assert InferenceSession(small_file).isa == "scalar"


def test_a_profile_names_layers_kernels_and_useful_operations(small_file: bytes) -> None:
    session = InferenceSession(small_file)
    layers = session.profile(normal(2, 8, 6, 6), runs=3)
    convolutions = [layer for layer in layers if layer.operator == "conv2d"]
    assert [layer.name for layer in convolutions] == ["w", "w"]
    nonzeros = np.count_nonzero(trits(8, 8, 3, 3).trits)
    assert [layer.operations for layer in convolutions] == [2 * 36 * nonzeros, 2 * 4 * nonzeros]
    assert all(layer.milliseconds >= 0 for layer in layers)
    assert {layer.kernel.split()[0] for layer in convolutions} <= {"sparse", "dense", "matrix"}


def test_values_can_be_looked_at(small_file: bytes) -> None:
    session = InferenceSession(small_file)
    x = normal(1, 8, 6, 6)
    values = session.computed_values(x)
    assert values == [0, 2, 3]  # the convolution before the relu is part of it
    seen = InferenceSession(small_file, values=values).run(x)
    assert isinstance(seen, dict)
    np.testing.assert_array_equal(seen["0"], x)
    assert (seen["2"] >= 0).all()
    np.testing.assert_allclose(seen["3"], session.run(x), rtol=1e-6)


def test_values_that_are_not_needed_at_the_same_time_share_memory() -> None:
    nodes = [conv("w", value, pad=1) for value in range(20)]
    session = InferenceSession(file_of(graph_of(nodes, [(1, 8, 32, 32)]), {"w": trits(8, 8, 3, 3)}))
    x = normal(1, 8, 32, 32)
    assert 2 * x.nbytes <= session.arena_bytes(x) <= 3 * x.nbytes
