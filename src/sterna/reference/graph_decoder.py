"""Decode the graphs of a file in plain Python, laid out like ``docs/format.md``, Graph."""

from __future__ import annotations

import struct

from sterna.graph import Graph, GraphInput, Node
from sterna.reference.byte_coder import read_varint

_STRIDES = ("stride_height", "stride_width")
_KERNEL = ("kernel_height", "kernel_width")
_PADS = ("pad_top", "pad_left", "pad_bottom", "pad_right")
_DILATIONS = ("dilation_height", "dilation_width")
_SIZE = ("height", "width")
_FACTORS = ("factor_height", "factor_width")

# By their numbers: name, number of parameters, attributes.
OPERATORS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("conv2d", 2, (*_STRIDES, *_PADS, *_DILATIONS, "groups")),
    ("linear", 2, ()),
    ("affine", 2, ()),
    ("relu", 0, ()),
    ("relu6", 0, ()),
    ("hardswish", 0, ()),
    ("silu", 0, ()),
    ("sigmoid", 0, ()),
    ("hardsigmoid", 0, ()),
    ("add", 0, ()),
    ("mul", 0, ()),
    ("concat", 0, ()),
    ("max_pool2d", 0, (*_KERNEL, *_STRIDES, *_PADS, *_DILATIONS, "ceil_mode")),
    ("avg_pool2d", 0, (*_KERNEL, *_STRIDES, *_PADS, "ceil_mode", "count_include_pad")),
    ("adaptive_avg_pool2d", 0, _SIZE),
    ("flatten", 0, ()),
    ("resize_nearest", 0, _SIZE),
    ("resize_bilinear", 0, (*_SIZE, "align_corners")),
    ("pad", 0, (*_PADS, "channels_before", "channels_after")),
    ("softmax", 0, ()),
    ("adaptive_max_pool2d", 0, _SIZE),
    ("upsample_nearest", 0, _FACTORS),
    ("upsample_bilinear", 0, (*_FACTORS, "align_corners")),
    ("conv_transpose2d", 2, (*_STRIDES, *_PADS)),
)


def decode_graphs(text: bytes, tensors: list[str]) -> tuple[Graph, ...]:
    """The graphs in a decoded text.

    Args:
        text: of the section.
        tensors: names of all tensors of the file.

    Raises:
        ValueError: bytes follow the last graph.
    """
    count, at = read_varint(text, 0)
    graphs = []
    for _ in range(count):
        graph, at = _graph(text, at, tensors)
        graphs.append(graph)
    if at != len(text):
        raise ValueError("bytes follow the last graph")
    return tuple(graphs)


def _graph(text: bytes, at: int, tensors: list[str]) -> tuple[Graph, int]:
    name, at = _name(text, at)
    inputs, nodes, outputs, ranges = [], [], [], []
    count, at = read_varint(text, at)
    for _ in range(count):
        input_name, at = _name(text, at)
        axes, at = read_varint(text, at)
        shape, at = _numbers(text, at, axes)
        inputs.append(GraphInput(input_name, shape))
    count, at = read_varint(text, at)
    for _ in range(count):
        operator, num_parameters, attributes = OPERATORS[text[at]]
        num_inputs, at = read_varint(text, at + 1)
        values, at = _numbers(text, at, num_inputs)
        places, at = _numbers(text, at, num_parameters)
        numbers, at = _numbers(text, at, len(attributes))
        parameters = tuple(tensors[place - 1] if place else None for place in places)
        nodes.append(Node(operator, values, parameters, dict(zip(attributes, numbers, strict=True))))
    count, at = read_varint(text, at)
    for _ in range(count):
        output_name, at = _name(text, at)
        value, at = read_varint(text, at)
        outputs.append((output_name, value))
    count, at = read_varint(text, at)
    for _ in range(count):
        low, high = struct.unpack_from("<ff", text, at)
        ranges.append((low, high))
        at += 8
    return Graph(name, tuple(inputs), tuple(nodes), tuple(outputs), tuple(ranges)), at


def _name(text: bytes, at: int) -> tuple[str, int]:
    size, at = read_varint(text, at)
    return text[at : at + size].decode(), at + size


def _numbers(text: bytes, at: int, count: int) -> tuple[tuple[int, ...], int]:
    numbers = []
    for _ in range(count):
        number, at = read_varint(text, at)
        numbers.append(number)
    return tuple(numbers), at
