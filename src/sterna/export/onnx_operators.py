"""How each operator of a graph is written in ONNX: one function each, from its inputs to its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sterna.errors import SternaError
from sterna.export.onnx_builder import Builder, Value
from sterna.graph import Node

Weights = Mapping[str, npt.NDArray[np.float32]]
Writer = Callable[[Builder, Node, Sequence[Value], Weights], Value]


def _attributes(node: Node, *names: str) -> list[int]:
    """Whole numbers of a node; 0 for one that its operator does not have."""
    return [int(node.attributes.get(name, 0)) for name in names]


def _pads(node: Node) -> list[int]:
    """In ONNX all beginnings come before all ends."""
    return _attributes(node, "pad_top", "pad_left", "pad_bottom", "pad_right")


def _strides(node: Node) -> list[int]:
    return _attributes(node, "stride_height", "stride_width")


def _kernel(node: Node) -> list[int]:
    return _attributes(node, "kernel_height", "kernel_width")


def _dilations(node: Node) -> list[int]:
    return [number or 1 for number in _attributes(node, "dilation_height", "dilation_width")]


def _window_size(size: int, kernel: int, stride: int, pads: int, dilation: int, ceil: bool, begin: int) -> int:
    """Outputs of windows along one side: ``floor((size + pads - dilation (kernel - 1) - 1) / stride) + 1``.

    With ``ceil`` rounded up, but no window begins beyond the input and the padding before it.
    """
    if size == 0:
        return 0
    room = size + pads - dilation * (kernel - 1) - 1
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + begin else count


def _window_sizes(node: Node, value: Value, kernel: Sequence[int]) -> tuple[int, int]:
    top, left, bottom, right = _pads(node)
    ceil = bool(node.attributes.get("ceil_mode", 0))
    strides, dilations = _strides(node), _dilations(node)
    height, width = value.sizes[1:]
    return (
        _window_size(height, kernel[0], strides[0], top + bottom, dilations[0], ceil, top),
        _window_size(width, kernel[1], strides[1], left + right, dilations[1], ceil, left),
    )


def _check_channels(node: Node, value: Value, expected: int) -> None:
    if value.sizes[0] not in (0, expected):
        raise SternaError(f"weight {node.parameters[0]!r} takes {expected} channels, its input has {value.sizes[0]}")


def _parameters(builder: Builder, node: Node, weights: Weights) -> list[str]:
    """Weight and, if there is one, bias, as initializers."""
    return [builder.weight(weights[name], name) for name in node.parameters if name is not None]


def _conv2d(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    weight = weights[str(node.parameters[0])]
    groups = _attributes(node, "groups")[0]
    _check_channels(node, inputs[0], weight.shape[1] * groups)
    names = [inputs[0].name, *_parameters(builder, node, weights)]
    name = builder.add(
        "Conv",
        names,
        kernel_shape=list(weight.shape[2:]),
        strides=_strides(node),
        pads=_pads(node),
        dilations=_dilations(node),
        group=groups,
    )
    return Value(name, (weight.shape[0], *_window_sizes(node, inputs[0], weight.shape[2:])))


def _conv_transpose2d(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    weight = weights[str(node.parameters[0])]
    _check_channels(node, inputs[0], weight.shape[0])
    pads, strides, kernel = _pads(node), _strides(node), weight.shape[2:]
    names = [inputs[0].name, *_parameters(builder, node, weights)]
    name = builder.add("ConvTranspose", names, kernel_shape=list(kernel), strides=strides, pads=pads)
    sizes = [
        (size - 1) * strides[side] + kernel[side] - pads[side] - pads[side + 2] if size else 0
        for side, size in enumerate(inputs[0].sizes[1:])
    ]
    return Value(name, (weight.shape[1], *sizes))


def _linear(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    weight = weights[str(node.parameters[0])]
    _check_channels(node, inputs[0], weight.shape[1])
    names = [inputs[0].name, *_parameters(builder, node, weights)]
    return Value(builder.add("Gemm", names, transB=1), weight.shape[:1])


def _affine(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    """A multiplication and an addition; one that follows a layer alone is folded into that before it comes here."""
    value = inputs[0]
    shape = (-1, 1, 1) if value.is_image else (-1,)
    scale, shift = (builder.weight(weights[str(name)].reshape(shape), str(name)) for name in node.parameters)
    return Value(builder.add("Add", [builder.add("Mul", [value.name, scale]), shift]), value.sizes)


def _pointwise(operator: str, **attributes: Any) -> Writer:
    def write(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
        del node, weights
        return Value(builder.add(operator, [inputs[0].name], **attributes), inputs[0].sizes)

    return write


def _relu6(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    del node, weights
    limits = [builder.constant(limit, np.float32) for limit in (0.0, 6.0)]
    return Value(builder.add("Clip", [inputs[0].name, *limits]), inputs[0].sizes)


def _silu(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    del node, weights
    name = inputs[0].name
    return Value(builder.add("Mul", [name, builder.add("Sigmoid", [name])]), inputs[0].sizes)


def _of_two(operator: str) -> Writer:
    def write(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
        del node, weights
        left, right = inputs
        # Of an image and one of height and width 1 the result is as large as the image.
        sizes = right.sizes if left.sizes[1:] == (1, 1) else left.sizes
        return Value(builder.add(operator, [left.name, right.name]), sizes)

    return write


def _concat(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    del node, weights
    channels = sum(value.sizes[0] for value in inputs) if all(value.sizes[0] for value in inputs) else 0
    name = builder.add("Concat", [value.name for value in inputs], axis=1)
    return Value(name, (channels, *inputs[0].sizes[1:]))


def _max_pool2d(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    del weights
    name = builder.add(
        "MaxPool",
        [inputs[0].name],
        kernel_shape=_kernel(node),
        strides=_strides(node),
        pads=_pads(node),
        dilations=_dilations(node),
        ceil_mode=_attributes(node, "ceil_mode")[0],
    )
    return Value(name, (inputs[0].sizes[0], *_window_sizes(node, inputs[0], _kernel(node))))


def _avg_pool2d(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    del weights
    name = builder.add(
        "AveragePool",
        [inputs[0].name],
        kernel_shape=_kernel(node),
        strides=_strides(node),
        pads=_pads(node),
        ceil_mode=_attributes(node, "ceil_mode")[0],
        count_include_pad=_attributes(node, "count_include_pad")[0],
    )
    return Value(name, (inputs[0].sizes[0], *_window_sizes(node, inputs[0], _kernel(node))))


def _adaptive_pool2d(operator: str) -> Writer:
    """``operator`` is ``AveragePool`` or ``MaxPool``.

    ONNX has no such operator. Over the whole image it is a global pool; of an image whose height and width are known
    and a multiple, an ordinary one; of any other image the cells are found when it is computed.
    """

    def write(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
        del weights
        value = inputs[0]
        cells = _attributes(node, "height", "width")
        sizes = (value.sizes[0], *cells)
        if cells == [1, 1]:
            return Value(builder.add(f"Global{operator}", [value.name]), sizes)
        if value.sizes[1:] == tuple(cells):
            return Value(value.name, sizes)
        if all(size and size % count == 0 for size, count in zip(value.sizes[1:], cells, strict=True)):
            factors = [size // count for size, count in zip(value.sizes[1:], cells, strict=True)]
            return Value(builder.add(operator, [value.name], kernel_shape=factors, strides=factors), sizes)
        cell_pool = _mean_of_cells if operator == "AveragePool" else _largest_of_cells
        return Value(cell_pool(builder, value.name, cells), sizes)

    return write


def _cells(builder: Builder, image: str, axis: int, count: int) -> tuple[str, str]:
    """Which positions of an axis are in which cell, ``(count, size)`` of bool, and how many, ``(count, 1)``."""
    size = builder.add("Shape", [image], start=axis, end=axis + 1)
    counted = builder.constant([[count]])
    begin = builder.add("Div", [builder.add("Mul", [builder.constant(np.arange(count)[:, None]), size]), counted])
    beyond = builder.add("Mul", [builder.constant(np.arange(1, count + 1)[:, None]), size])
    end = builder.add("Div", [builder.add("Add", [beyond, builder.constant(count - 1)]), counted])
    scalar = builder.add("Squeeze", [size, builder.constant([0])])
    place = builder.add("Range", [builder.constant(0), scalar, builder.constant(1)])
    inside = builder.add("And", [builder.add("GreaterOrEqual", [place, begin]), builder.add("Less", [place, end])])
    return inside, builder.add("Sub", [end, begin])


def _mean_of_cells(builder: Builder, image: str, cells: Sequence[int]) -> str:
    """``rows x columns^T``, where row i of ``rows`` has ``1 / size`` at the places of cell i."""
    matrices = []
    for axis, count in zip((2, 3), cells, strict=True):
        inside, size = _cells(builder, image, axis, count)
        parts = [builder.add("Cast", [name], to=1) for name in (inside, size)]
        matrices.append(builder.add("Div", parts))
    columns = builder.add("Transpose", [matrices[1]], perm=[1, 0])
    return builder.add("MatMul", [matrices[0], builder.add("MatMul", [image, columns])])


def _largest_of_cells(builder: Builder, image: str, cells: Sequence[int]) -> str:
    """For each axis, the largest of what is left where all outside of a cell is minus infinity."""
    name = image
    for axis, count in zip((2, 3), cells, strict=True):
        inside, _ = _cells(builder, image, axis, count)
        if axis == 2:
            inside = builder.add("Unsqueeze", [inside, builder.constant([-1])])
        spread = builder.add("Unsqueeze", [name, builder.constant([axis])])
        kept = builder.add("Where", [inside, spread, builder.constant(-np.inf, np.float32)])
        name = builder.add("ReduceMax", [kept], axes=[axis + 1], keepdims=0)
    return name


def _flatten(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    del node, weights
    return Value(builder.add("Flatten", [inputs[0].name], axis=1), (int(np.prod(inputs[0].sizes)),))


def _resize(mode: str) -> Writer:
    def write(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
        del weights
        image = inputs[0].name
        size = tuple(_attributes(node, "height", "width"))
        if 0 in size and len(inputs) == 2:
            size = inputs[1].sizes[1:]
        known = builder.constant(size) if 0 not in size else builder.add("Shape", [inputs[1].name], start=2)
        whole = builder.add("Concat", [builder.add("Shape", [image], end=2), known], axis=0)
        name = builder.add("Resize", [image, "", "", whole], **_interpolation(mode, node))
        return Value(name, (inputs[0].sizes[0], *size))

    return write


def _upsample(mode: str) -> Writer:
    def write(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
        del weights
        factors = _attributes(node, "factor_height", "factor_width")
        scales = builder.constant([1, 1, *factors], np.float32)
        name = builder.add("Resize", [inputs[0].name, "", scales], **_interpolation(mode, node))
        sizes = [size * factor for size, factor in zip(inputs[0].sizes[1:], factors, strict=True)]
        return Value(name, (inputs[0].sizes[0], *sizes))

    return write


def _interpolation(mode: str, node: Node) -> dict[str, str]:
    if mode == "nearest":
        return {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    aligned = bool(node.attributes["align_corners"])
    return {"mode": mode, "coordinate_transformation_mode": "align_corners" if aligned else "half_pixel"}


def _pad(builder: Builder, node: Node, inputs: Sequence[Value], weights: Weights) -> Value:
    del weights
    top, left, bottom, right = _pads(node)
    before, after = _attributes(node, "channels_before", "channels_after")
    pads = builder.constant([0, before, top, left, 0, after, bottom, right])
    channels, height, width = inputs[0].sizes
    sizes = (
        channels + before + after if channels else 0,
        height + top + bottom if height else 0,
        width + left + right if width else 0,
    )
    return Value(builder.add("Pad", [inputs[0].name, pads]), sizes)


WRITERS: Mapping[str, Writer] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "affine": _affine,
    "relu": _pointwise("Relu"),
    "relu6": _relu6,
    "hardswish": _pointwise("HardSwish"),
    "silu": _silu,
    "sigmoid": _pointwise("Sigmoid"),
    "hardsigmoid": _pointwise("HardSigmoid", alpha=1.0 / 6.0, beta=0.5),
    "add": _of_two("Add"),
    "mul": _of_two("Mul"),
    "concat": _concat,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_pool2d("AveragePool"),
    "adaptive_max_pool2d": _adaptive_pool2d("MaxPool"),
    "flatten": _flatten,
    "resize_nearest": _resize("nearest"),
    "resize_bilinear": _resize("linear"),
    "upsample_nearest": _upsample("nearest"),
    "upsample_bilinear": _upsample("linear"),
    "pad": _pad,
    "softmax": _pointwise("Softmax", axis=1),
}
"""By the names of :data:`sterna.graph.OPERATORS`."""
