"""Run a graph in NumPy: in real numbers, and in 8-bit levels as the engine does (``docs/architecture.md``).

Slow and obvious on purpose. What :func:`run_graph_int8` returns, the engine returns too, to the bit; only where ``exp``
is computed a level may be the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sterna.errors import SternaError
from sterna.graph import Graph, Node
from sterna.reference import operators
from sterna.reference.operators import ACTIVATIONS, Array, by_channel
from sterna.ternary_model import Int8Tensor, TernaryModel, TernaryTensor

_WEIGHTED = ("conv2d", "linear", "conv_transpose2d")
_INT8_LARGEST = np.float32(127)


def run_graph(
    graph: Graph, model: TernaryModel, inputs: Mapping[str, Array], *, dtype: npt.DTypeLike = np.float32
) -> dict[str, Array]:
    """What a graph computes, in real numbers.

    Args:
        graph: of the model.
        model: its tensors.
        inputs: by name, ``(n, channels, height, width)`` or ``(n, columns)``.
        dtype: float32 or float64, of all that is computed.

    Returns:
        the outputs by name.

    Raises:
        SternaError: an input is missing, or has another number of axes.
    """
    values = _all_values(graph, model, inputs, np.dtype(dtype))
    return {name: values[value] for name, value in graph.outputs}


def _all_values(graph: Graph, model: TernaryModel, inputs: Mapping[str, Array], dtype: np.dtype[Any]) -> list[Array]:
    values = [array.astype(dtype) for array in _checked(graph, inputs)]
    for node in graph.nodes:
        values.append(_compute(node, model, [values[value] for value in node.inputs], dtype))
    return values


def _checked(graph: Graph, inputs: Mapping[str, Array]) -> list[Array]:
    if set(inputs) != {graph_input.name for graph_input in graph.inputs}:
        raise SternaError(
            f"the graph has inputs {[graph_input.name for graph_input in graph.inputs]}, got {list(inputs)}"
        )
    arrays = [np.asarray(inputs[graph_input.name]) for graph_input in graph.inputs]
    for graph_input, array in zip(graph.inputs, arrays, strict=True):
        if array.ndim != 1 + len(graph_input.shape):
            raise SternaError(
                f"input {graph_input.name!r} must have a batch of shape {graph_input.shape}, got {array.shape}"
            )
    return arrays


def _compute(node: Node, model: TernaryModel, inputs: list[Array], dtype: np.dtype[Any]) -> Array:
    """One node in real numbers."""
    x, attributes = inputs[0], node.attributes
    tensors = [_real(model, name).astype(dtype) for name in node.parameters if name is not None]
    if node.operator in _WEIGHTED:
        sums = _sums(node, x, tensors[0])
        return sums if len(tensors) == 1 else sums + by_channel(tensors[1], x.ndim)
    if node.operator == "affine":
        return x * by_channel(tensors[0], x.ndim) + by_channel(tensors[1], x.ndim)
    if node.operator in ACTIVATIONS:
        return ACTIVATIONS[node.operator](x)
    if node.operator == "add":
        return x + inputs[1]
    if node.operator == "mul":
        return x * inputs[1]
    if node.operator == "concat":
        return np.concatenate(inputs, axis=1)
    if node.operator in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "pad"):
        pooled: Array = getattr(operators, node.operator)(x, attributes)
        return pooled
    if node.operator in ("flatten", "softmax"):
        changed: Array = getattr(operators, node.operator)(x)
        return changed
    height, width = _new_size(node, inputs)
    if node.operator.endswith("_nearest"):
        return operators.resize_nearest(x, height, width)
    return operators.resize_bilinear(x, height, width, bool(attributes["align_corners"]))


def _sums(node: Node, x: Array, weight: Array) -> Array:
    if node.operator == "linear":
        return operators.linear(x, weight)
    if node.operator == "conv2d":
        return operators.conv2d(x, weight, node.attributes)
    return operators.conv_transpose2d(x, weight, node.attributes)


def _new_size(node: Node, inputs: list[Array]) -> tuple[int, int]:
    """Height and width after a ``resize`` or an ``upsample``."""
    height, width = inputs[0].shape[2:]
    if node.operator.startswith("upsample_"):
        return height * int(node.attributes["factor_height"]), width * int(node.attributes["factor_width"])
    if len(inputs) == 2:
        return inputs[1].shape[2], inputs[1].shape[3]
    return int(node.attributes["height"]), int(node.attributes["width"])


def _real(model: TernaryModel, name: str) -> Array:
    tensor = model.tensors[name]
    return tensor.dequantize() if isinstance(tensor, TernaryTensor | Int8Tensor) else tensor


@dataclass(frozen=True)
class Levels:
    """What whole numbers mean: ``step`` times the number.

    Args:
        step: float32.
        lowest: and
        highest: what is allowed.
    """

    step: np.float32
    lowest: int
    highest: int

    @classmethod
    def of(cls, low: float, high: float) -> Levels:
        """The levels that hold a range."""
        if low >= 0:
            step, lowest, highest = np.float32(high) / np.float32(255), 0, 255
        else:
            step, lowest, highest = max(abs(np.float32(low)), abs(np.float32(high))) / np.float32(127), -127, 127
        return cls(step if step > 0 else np.float32(1), lowest, highest)

    def quantize(self, y: Array) -> npt.NDArray[np.int32]:
        """The nearest level of each number, the even one of two; float32 in."""
        scaled = y * (np.float32(1) / self.step)
        return np.clip(np.rint(scaled), self.lowest, self.highest).astype(np.int32)


@dataclass(frozen=True)
class Value:
    """What is known of a value while a graph runs.

    Args:
        numbers: levels (int32), or real numbers (float32) where ``levels`` is nothing.
        levels: what they mean.
    """

    numbers: Array
    levels: Levels | None

    def real(self) -> Array:
        """In float32."""
        if self.levels is None:
            return self.numbers
        return self.numbers.astype(np.float32) * self.levels.step


@dataclass(frozen=True)
class Group:
    """Nodes that are computed together; only what comes out of the last one is rounded to levels.

    Args:
        node: the first of them; ``conv2d``, ``linear`` or ``conv_transpose2d`` if there are more.
        affine: the one that follows, if there is one.
        residual: the value that is added then, if there is one.
        activation: the operator that follows, if there is one.
        value: that comes out.
    """

    node: Node
    affine: Node | None
    residual: int | None
    activation: str | None
    value: int


def run_graph_int8(
    graph: Graph,
    model: TernaryModel,
    inputs: Mapping[str, Array],
    *,
    levels: dict[int, npt.NDArray[np.int32]] | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """What a calibrated graph computes in 8-bit levels.

    Args:
        graph: with ranges.
        model: its tensors.
        inputs: by name, as for :func:`run_graph`.
        levels: gets the levels of every value that is kept in levels, by its number.

    Returns:
        the outputs by name, float32.

    Raises:
        SternaError: the graph has no ranges, or as :func:`run_graph`.
    """
    if not graph.ranges:
        raise SternaError("the graph has no ranges: it is not calibrated")
    used = {value for node in graph.nodes for value in node.inputs}
    values: dict[int, Value] = {}
    for number, array in enumerate(_checked(graph, inputs)):
        values[number] = _kept(array.astype(np.float32), graph, number, used)
    for group in fused(graph, model, inputs):
        arguments = [values[value] for value in group.node.inputs]
        if group.node.operator in _WEIGHTED:
            y = _weighted(group, model, values)
            values[group.value] = _kept(y, graph, group.value, used)
        elif group.node.operator in ("max_pool2d", "adaptive_max_pool2d"):
            # The largest of some levels is one of them.
            values[group.value] = Value(
                _compute(group.node, model, [arguments[0].numbers], np.dtype(np.int32)), arguments[0].levels
            )
        elif group.node.operator == "adaptive_avg_pool2d" and set(group.node.attributes.values()) == {1}:
            values[group.value] = _kept(_global_mean(arguments[0]), graph, group.value, used)
        else:
            y = _compute(group.node, model, [argument.real() for argument in arguments], np.dtype(np.float32))
            values[group.value] = _kept(y, graph, group.value, used)
    if levels is not None:
        levels.update({number: value.numbers for number, value in values.items() if value.levels is not None})
    return {name: values[value].real() for name, value in graph.outputs}


def _global_mean(value: Value) -> Array:
    """Of all pixels of each channel: the exact sum of levels, divided once."""
    if value.levels is None:
        return operators.adaptive_avg_pool2d(value.numbers, {"height": 1, "width": 1})
    pixels = np.float32(value.numbers.shape[2] * value.numbers.shape[3])
    total = value.numbers.sum(axis=(2, 3), keepdims=True, dtype=np.int64).astype(np.float32)
    mean: Array = total * value.levels.step / pixels
    return mean


def _kept(y: Array, graph: Graph, value: int, used: set[int]) -> Value:
    """In levels if a node computes with it; what nobody computes with is an output, and stays as it is."""
    if value not in used:
        return Value(y, None)
    levels = Levels.of(*graph.ranges[value])
    return Value(levels.quantize(y), levels)


def fused(graph: Graph, model: TernaryModel, inputs: Mapping[str, Array]) -> list[Group]:
    """The groups of a graph for inputs of some sizes, in the order in which they are computed."""
    one_image = {name: array[:1] for name, array in inputs.items()}
    shapes = [value.shape for value in _all_values(graph, model, one_image, np.dtype(np.float32))]
    first = len(graph.inputs)
    taken: set[int] = set()
    groups = []
    for number, node in enumerate(graph.nodes):
        if number in taken:
            continue
        value = first + number
        affine, residual, activation = None, None, None
        if node.operator in _WEIGHTED:
            following = _only_user(graph, value)
            if following is not None and graph.nodes[following].operator == "affine":
                affine, value = graph.nodes[following], first + following
                taken.add(following)
                following = _only_user(graph, value)
            if following is not None and graph.nodes[following].operator == "add" and following not in taken:
                left, right = graph.nodes[following].inputs
                other = right if left == value else left
                if shapes[other] == shapes[value]:
                    residual, value = other, first + following
                    taken.add(following)
                    following = _only_user(graph, value)
            if following is not None and graph.nodes[following].operator in ACTIVATIONS:
                activation, value = graph.nodes[following].operator, first + following
                taken.add(following)
        groups.append(Group(node, affine, residual, activation, value))
    return sorted(groups, key=lambda group: group.value)


def _only_user(graph: Graph, value: int) -> int | None:
    """The node that uses a value, if there is one that uses it once and it is no output."""
    users = [number for number, node in enumerate(graph.nodes) for used in node.inputs if used == value]
    is_output = any(output == value for _, output in graph.outputs)
    return users[0] if len(users) == 1 and not is_output else None


def _weighted(group: Group, model: TernaryModel, values: Mapping[int, Value]) -> Array:
    """A convolution or linear layer and what is fused into it, in float32 after the exact sums."""
    x = values[group.node.inputs[0]]
    weight, *bias = [name for name in group.node.parameters if name is not None]
    whole, scale = _whole_weights(model, weight, axis=1 if group.node.operator == "conv_transpose2d" else 0)
    # Sums of products of 8-bit numbers: exact in float64.
    sums = _sums(group.node, x.numbers.astype(np.float64), whole.astype(np.float64))
    factor = scale * (np.float32(1) if x.levels is None else x.levels.step)
    shift = _real(model, bias[0]).astype(np.float32) if bias else np.zeros_like(factor)
    if group.affine is not None:
        gain, offset = (_real(model, str(name)).astype(np.float32) for name in group.affine.parameters)
        factor = factor * gain
        shift = shift * gain + offset
    y = sums.astype(np.float32) * by_channel(factor, sums.ndim) + by_channel(shift, sums.ndim)
    if group.residual is not None:
        y = y + values[group.residual].real()
    return y if group.activation is None else ACTIVATIONS[group.activation](y)


def _whole_weights(model: TernaryModel, name: str, axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Whole numbers of 8 bits and a scale for each filter, the indices of an axis."""
    tensor = model.tensors[name]
    if axis == 0 and isinstance(tensor, TernaryTensor | Int8Tensor):
        whole = tensor.trits if isinstance(tensor, TernaryTensor) else tensor.values
        scale = np.float32(1) if tensor.scale is None else tensor.scale.astype(np.float32)
        return whole, np.broadcast_to(scale, whole.shape[:1]).astype(np.float32)
    # Their scales, if they have some, are those of another axis.
    real = _real(model, name).astype(np.float32)
    others = tuple(other for other in range(real.ndim) if other != axis)
    scale = np.abs(real).max(axis=others) / _INT8_LARGEST
    wide = scale.reshape([-1 if other == axis else 1 for other in range(real.ndim)])
    steps = np.divide(real, wide, out=np.zeros_like(real), where=wide > 0)
    return np.rint(steps).astype(np.int8), scale
