"""The plain-data graph of a network: what the engine runs, the exporter writes and the file holds.

A graph is a list of nodes in an order in which they can be computed; each has one output. Weights are named, not held:
they are the tensors of the :class:`~sterna.ternary_model.TernaryModel` beside it. Values are images ``(N, C, H, W)`` or
matrices ``(N, F)`` of float32; the batch, and the height and width of images, are free.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from sterna.errors import FormatError, SternaError
from sterna.varint import varint

Attribute = int | float


@dataclass(frozen=True)
class Operator:
    """What nodes of one kind have.

    Args:
        number: by which files name it.
        inputs: smallest and largest number of inputs.
        parameters: names of its tensors; those after ``required`` may be left out.
        required: how many of them every node has.
        attributes: names of its numbers and their types, in the order of the file.
    """

    number: int
    inputs: tuple[int, int] = (1, 1)
    parameters: tuple[str, ...] = ()
    required: int = 0
    attributes: Mapping[str, Literal["int", "float"]] = field(default_factory=dict)


def _integers(*names: str) -> dict[str, Literal["int", "float"]]:
    return dict.fromkeys(names, "int")


_PADS = ("pad_top", "pad_left", "pad_bottom", "pad_right")
_STRIDES = ("stride_height", "stride_width")
_KERNEL = ("kernel_height", "kernel_width")
_DILATIONS = ("dilation_height", "dilation_width")
# More inputs than any network concatenates; a limit for readers of files.
MAX_INPUTS = 256

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        # y[n, o] = sum over c, i, j of weight[o, c, i, j] x[n, c, y stride + i dilation - pad, ...] + bias[o]
        "conv2d": Operator(0, (1, 1), ("weight", "bias"), 1, _integers(*_STRIDES, *_PADS, *_DILATIONS, "groups")),
        # y = x weight^T + bias, of a matrix
        "linear": Operator(1, (1, 1), ("weight", "bias"), 1),
        # y[n, c] = scale[c] x[n, c] + shift[c]: a folded batch norm
        "affine": Operator(2, (1, 1), ("scale", "shift"), 2),
        "relu": Operator(3),
        "relu6": Operator(4),
        "hardswish": Operator(5),
        "silu": Operator(6),
        "sigmoid": Operator(7),
        "hardsigmoid": Operator(8),
        # Of two values of one shape, or of an image and one of height and width 1, in either order
        "add": Operator(9, (2, 2)),
        "mul": Operator(10, (2, 2)),
        # Along the channels
        "concat": Operator(11, (1, MAX_INPUTS)),
        # What lies outside counts as minus infinity
        "max_pool2d": Operator(12, (1, 1), (), 0, _integers(*_KERNEL, *_STRIDES, *_PADS, *_DILATIONS, "ceil_mode")),
        "avg_pool2d": Operator(
            13, (1, 1), (), 0, _integers(*_KERNEL, *_STRIDES, *_PADS, "ceil_mode", "count_include_pad")
        ),
        # Cell (i, j) is the mean of rows floor(i H / height) to ceil((i + 1) H / height) and columns likewise
        "adaptive_avg_pool2d": Operator(14, (1, 1), (), 0, _integers("height", "width")),
        # (N, C, H, W) to (N, C H W)
        "flatten": Operator(15),
        # To height and width, or if these are 0, to those of the second input
        "resize_nearest": Operator(16, (1, 2), (), 0, _integers("height", "width")),
        "resize_bilinear": Operator(17, (1, 2), (), 0, _integers("height", "width", "align_corners")),
        # Zeros around an image, and channels of zeros before and after its own
        "pad": Operator(18, (1, 1), (), 0, _integers(*_PADS, "channels_before", "channels_after")),
        # Over the channels of an image, or over the columns of a matrix
        "softmax": Operator(19),
        "adaptive_max_pool2d": Operator(20, (1, 1), (), 0, _integers("height", "width")),
        # By whole factors, wherever the input's size is not known beforehand
        "upsample_nearest": Operator(21, (1, 1), (), 0, _integers("factor_height", "factor_width")),
        "upsample_bilinear": Operator(22, (1, 1), (), 0, _integers("factor_height", "factor_width", "align_corners")),
        # y[n, o, y stride + i - pad, ...] = sum of weight[c, o, i, j] x[n, c, y, ...], + bias[o]; to each side of the
        # sum over all x, y and i, j the pads are cut off
        "conv_transpose2d": Operator(23, (1, 1), ("weight", "bias"), 1, _integers(*_STRIDES, *_PADS)),
    }
)
_BY_NUMBER = {operator.number: name for name, operator in OPERATORS.items()}


@dataclass(frozen=True)
class Node:
    """One operation.

    Args:
        operator: a key of :data:`OPERATORS`.
        inputs: numbers of values. Value ``i`` is input ``i`` of the graph for ``i < len(graph.inputs)``, and after
            those the output of node ``i - len(graph.inputs)``.
        parameters: names of tensors, ``None`` for one that is left out; as many as the operator has.
        attributes: by name, each of the operator's.
    """

    operator: str
    inputs: tuple[int, ...]
    parameters: tuple[str | None, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphInput:
    """An input: its name and its shape without the batch; 0 stands for any size.

    ``(3, 224, 224)`` is what the network was made for; the engine takes other heights and widths too.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A network or a part of it.

    Args:
        name: empty for a whole network; else the name of the submodule that it stands for, as ``backbone``.
        inputs: at least one.
        nodes: each uses only values before its own.
        outputs: names and values.
        ranges: of each value what its quantization to 8 bits must hold, ``(low, high)``; empty before calibration.

    Raises:
        SternaError: a node uses a value that does not exist yet, an unknown operator, or has other numbers of inputs,
            parameters or attributes than its operator.
    """

    name: str
    inputs: tuple[GraphInput, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, int], ...]
    ranges: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise SternaError(f"graph {self.name!r} must have inputs and outputs")
        for number, node in enumerate(self.nodes):
            _check_node(node, number, len(self.inputs) + number)
        for name, value in self.outputs:
            if not 0 <= value < self.value_count:
                raise SternaError(f"output {name!r} must be a value below {self.value_count}, got {value}")
        if len(self.ranges) not in (0, self.value_count):
            raise SternaError(f"there must be {self.value_count} ranges or none, got {len(self.ranges)}")

    @property
    def value_count(self) -> int:
        """Number of values: inputs and nodes."""
        return len(self.inputs) + len(self.nodes)


def _check_node(node: Node, number: int, values: int) -> None:
    operator = OPERATORS.get(node.operator)
    where = f"node {number} ({node.operator})"
    if operator is None:
        raise SternaError(f"{where}: no such operator; there are {', '.join(OPERATORS)}")
    if not operator.inputs[0] <= len(node.inputs) <= operator.inputs[1]:
        raise SternaError(f"{where} takes {operator.inputs[0]} to {operator.inputs[1]} inputs, got {len(node.inputs)}")
    if any(not 0 <= value < values for value in node.inputs):
        raise SternaError(f"{where} must use values below {values}, got {node.inputs}")
    if len(node.parameters) != len(operator.parameters) or None in node.parameters[: operator.required]:
        raise SternaError(f"{where} must have parameters {operator.parameters}, got {node.parameters}")
    if list(node.attributes) != list(operator.attributes):
        raise SternaError(f"{where} must have attributes {tuple(operator.attributes)}, got {tuple(node.attributes)}")


def encode_graphs(graphs: Sequence[Graph], tensors: Sequence[str]) -> bytes:
    """The graphs as the bytes that a file codes (``docs/format.md``, Graphs).

    Args:
        graphs: with names that differ.
        tensors: names of all tensors of the file, in the order of its table.

    Raises:
        SternaError: a node names a tensor that is not there, or two graphs have one name.
    """
    if len({graph.name for graph in graphs}) != len(graphs):
        raise SternaError(f"graphs must have names that differ, got {[graph.name for graph in graphs]}")
    places = {name: place for place, name in enumerate(tensors)}
    parts = [varint(len(graphs))]
    for graph in graphs:
        parts += [_named(graph.name), varint(len(graph.inputs))]
        for graph_input in graph.inputs:
            parts += [_named(graph_input.name), varint(len(graph_input.shape)), *map(varint, graph_input.shape)]
        parts.append(varint(len(graph.nodes)))
        for node in graph.nodes:
            parts.append(_encode_node(node, places))
        parts.append(varint(len(graph.outputs)))
        for name, value in graph.outputs:
            parts += [_named(name), varint(value)]
        parts.append(varint(len(graph.ranges)))
        parts += [struct.pack("<ff", low, high) for low, high in graph.ranges]
    return b"".join(parts)


def _named(name: str) -> bytes:
    encoded = name.encode()
    return varint(len(encoded)) + encoded


def _encode_node(node: Node, places: Mapping[str, int]) -> bytes:
    operator = OPERATORS[node.operator]
    parts = [bytes([operator.number]), varint(len(node.inputs)), *map(varint, node.inputs)]
    for name in node.parameters:
        if name is not None and name not in places:
            raise SternaError(f"a {node.operator} of the graph needs tensor {name!r}, which the model does not have")
        parts.append(varint(0 if name is None else places[name] + 1))
    for name, kind in operator.attributes.items():
        value = node.attributes[name]
        if kind == "float":
            parts.append(struct.pack("<f", value))
        elif isinstance(value, int) and 0 <= value < 1 << 31:
            parts.append(varint(value))
        else:
            raise SternaError(f"attribute {name} of a {node.operator} must be an integer of 0 to 2^31 - 1, got {value}")
    return b"".join(parts)


def decode_graphs(data: bytes, tensors: Sequence[str]) -> tuple[Graph, ...]:
    """The inverse of :func:`encode_graphs`.

    Raises:
        FormatError: the bytes are no graphs.
    """
    try:
        return _Decoder(data, tensors).graphs()
    except (IndexError, struct.error, UnicodeDecodeError, SternaError) as error:
        raise FormatError("graph", f"the graph is damaged: {error}") from None


class _Decoder:
    """Reads values one after the other; reading beyond the end raises IndexError or struct.error."""

    def __init__(self, data: bytes, tensors: Sequence[str]) -> None:
        self._data = data
        self._at = 0
        self._tensors = tensors

    def graphs(self) -> tuple[Graph, ...]:
        graphs = tuple(self._graph() for _ in range(self._number()))
        if self._at != len(self._data):
            raise SternaError("bytes follow the last graph")
        if len({graph.name for graph in graphs}) != len(graphs):
            raise SternaError("two graphs have one name")
        return graphs

    def _graph(self) -> Graph:
        name = self._name()
        inputs = tuple(
            GraphInput(self._name(), tuple(self._number() for _ in range(self._number())))
            for _ in range(self._number())
        )
        nodes = tuple(self._node() for _ in range(self._number()))
        outputs = tuple((self._name(), self._number()) for _ in range(self._number()))
        ranges = tuple((self._float(), self._float()) for _ in range(self._number()))
        return Graph(name, inputs, nodes, outputs, ranges)

    def _node(self) -> Node:
        number = self._data[self._at]
        self._at += 1
        if number not in _BY_NUMBER:
            raise SternaError(f"there is no operator {number}")
        name = _BY_NUMBER[number]
        operator = OPERATORS[name]
        inputs = tuple(self._number() for _ in range(self._number()))
        places = [self._number() for _ in operator.parameters]
        parameters = tuple(None if place == 0 else self._tensors[place - 1] for place in places)
        attributes = {
            key: self._float() if kind == "float" else self._number() for key, kind in operator.attributes.items()
        }
        return Node(name, inputs, parameters, attributes)

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift >= 63:
                raise SternaError("an integer is too large")

    def _float(self) -> float:
        (value,) = struct.unpack_from("<f", self._data, self._at)
        self._at += 4
        return float(value)

    def _name(self) -> str:
        size = self._number()
        text = self._data[self._at : self._at + size]
        if len(text) != size:
            raise SternaError("a name ends too early")
        self._at += size
        return text.decode()
