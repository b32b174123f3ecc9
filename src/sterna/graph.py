"""The plain-data graph of a network: what the engine runs, the exporter writes and the file holds.

A graph is a list of nodes in an order in which they can be computed; each has one output. Weights are named, not held:
they are the tensors of the :class:`~sterna.ternary_model.TernaryModel` beside it. Values are images ``(N, C, H, W)`` or
matrices ``(N, F)`` of float32; the batch, and the height and width of images, are free.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
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
# Limits for readers of files; no network comes near.
MAX_INPUTS = 256  # of a node, and of a graph
MAX_GRAPHS = 64
MAX_NODES = 1 << 16  # of all graphs
MAX_OUTPUTS = 1 << 10
MAX_SIZE = 1 << 20  # of an axis of an input
MAX_ATTRIBUTE = 1 << 24
MAX_NAME_BYTES = 1 << 10

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

_FLAGS = ("ceil_mode", "count_include_pad", "align_corners")
_MAY_BE_ZERO = (*_PADS, "channels_before", "channels_after", *_FLAGS)


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

    ``(channels, height, width)`` of an image, as ``(3, 224, 224)`` for which the network was made (the engine takes
    other heights and widths too), or ``(columns,)`` of a matrix.
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
            parameters or attributes than its operator, or attributes that mean nothing; names are not unique; a range
            is not finite or begins above its end.
    """

    name: str
    inputs: tuple[GraphInput, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, int], ...]
    ranges: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not 0 < len(self.inputs) <= MAX_INPUTS or not 0 < len(self.outputs) <= MAX_OUTPUTS:
            raise SternaError(
                f"graph {self.name!r} must have up to {MAX_INPUTS} inputs and {MAX_OUTPUTS} outputs, and one of each, "
                f"got {len(self.inputs)} and {len(self.outputs)}"
            )
        for graph_input in self.inputs:
            _check_shape(graph_input)
        for number, node in enumerate(self.nodes):
            _check_node(node, number, len(self.inputs) + number)
        for name, value in self.outputs:
            if not 0 <= value < self.value_count:
                raise SternaError(f"output {name!r} must be a value below {self.value_count}, got {value}")
        for names in ([each.name for each in self.inputs], [name for name, _ in self.outputs]):
            if len(set(names)) != len(names):
                raise SternaError(f"inputs, and outputs, must have names that differ, got {names}")
        if len(self.ranges) not in (0, self.value_count):
            raise SternaError(f"there must be {self.value_count} ranges or none, got {len(self.ranges)}")
        if not all(math.isfinite(low) and math.isfinite(high) and low <= high for low, high in self.ranges):
            raise SternaError("ranges must be finite, from a low to a high number")

    @property
    def value_count(self) -> int:
        """Number of values: inputs and nodes."""
        return len(self.inputs) + len(self.nodes)


def _check_shape(graph_input: GraphInput) -> None:
    shape = graph_input.shape
    if len(shape) not in (1, 3) or any(not 0 <= size <= MAX_SIZE for size in shape):
        raise SternaError(f"input {graph_input.name!r} must have 1 or 3 sizes from 0 to {MAX_SIZE}, got {shape}")


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
    sizes_of_input = node.operator.startswith("resize_") and len(node.inputs) == 2
    for name, value in node.attributes.items():
        least = 0 if name in _MAY_BE_ZERO or (sizes_of_input and name in ("height", "width")) else 1
        most = 1 if name in _FLAGS else 0 if sizes_of_input and name in ("height", "width") else MAX_ATTRIBUTE
        if not isinstance(value, int) or not least <= value <= most:
            raise SternaError(f"{where}: {name} must be an integer from {least} to {most}, got {value}")


def encode_graphs(graphs: Sequence[Graph], tensors: Sequence[str]) -> bytes:
    """The graphs as the bytes that a file codes (``docs/format.md``, Graphs).

    Args:
        graphs: with names that differ. Their ranges are rounded to float32.
        tensors: names of all tensors of the file, in the order of its table.

    Raises:
        SternaError: a node names a tensor that is not there, two graphs have one name, or a limit is broken.
    """
    _check_graphs(graphs)
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
        parts += [_encode_range(low, high) for low, high in graph.ranges]
    return b"".join(parts)


def _check_graphs(graphs: Sequence[Graph]) -> None:
    if len({graph.name for graph in graphs}) != len(graphs):
        raise SternaError(f"graphs must have names that differ, got {[graph.name for graph in graphs]}")
    if len(graphs) > MAX_GRAPHS:
        raise SternaError(f"a file holds at most {MAX_GRAPHS} graphs, got {len(graphs)}")
    nodes = sum(len(graph.nodes) for graph in graphs)
    if nodes > MAX_NODES:
        raise SternaError(f"all graphs of a file have at most {MAX_NODES} nodes, got {nodes}")


def _named(name: str) -> bytes:
    encoded = name.encode()
    if len(encoded) > MAX_NAME_BYTES:
        raise SternaError(f"a name in a graph has at most {MAX_NAME_BYTES} bytes, got {len(encoded)}: {name[:40]!r}...")
    return varint(len(encoded)) + encoded


def _encode_range(low: float, high: float) -> bytes:
    try:
        return struct.pack("<ff", low, high)
    except OverflowError:
        raise SternaError(f"a range must be one of float32 numbers, got {low} to {high}") from None


def _encode_node(node: Node, places: Mapping[str, int]) -> bytes:
    operator = OPERATORS[node.operator]
    parts = [bytes([operator.number]), varint(len(node.inputs)), *map(varint, node.inputs)]
    for name in node.parameters:
        if name is not None and name not in places:
            raise SternaError(f"a {node.operator} of the graph needs tensor {name!r}, which the model does not have")
        parts.append(varint(0 if name is None else places[name] + 1))
    for name, kind in operator.attributes.items():
        value = node.attributes[name]
        parts.append(struct.pack("<f", value) if kind == "float" else varint(int(value)))
    return b"".join(parts)


def decode_graphs(data: bytes, tensors: Sequence[str]) -> tuple[Graph, ...]:
    """The inverse of :func:`encode_graphs`; whatever the bytes are, it takes no more memory than a few times theirs.

    Raises:
        FormatError: the bytes are no graphs (cause ``graph``), or need a newer Sterna (``version``).
    """
    try:
        return _Decoder(data, tensors).graphs()
    except FormatError:
        raise
    except (IndexError, struct.error, UnicodeDecodeError, SternaError) as error:
        reason = error if isinstance(error, SternaError) else "it ends too early, or a name is not UTF-8"
        raise FormatError("graph", f"the graph is damaged: {reason}") from None


class _Decoder:
    """Reads values one after the other; reading beyond the end raises IndexError or struct.error."""

    def __init__(self, data: bytes, tensors: Sequence[str]) -> None:
        self._data = data
        self._at = 0
        self._tensors = tensors
        self._nodes_left = MAX_NODES

    def graphs(self) -> tuple[Graph, ...]:
        graphs = tuple(self._graph() for _ in self._counted(MAX_GRAPHS, "graphs"))
        if self._at != len(self._data):
            raise SternaError("bytes follow the last graph")
        _check_graphs(graphs)
        return graphs

    def _graph(self) -> Graph:
        name = self._name()
        inputs = tuple(
            GraphInput(self._name(), tuple(self._number() for _ in self._counted(3, "sizes of an input")))
            for _ in self._counted(MAX_INPUTS, "inputs of a graph")
        )
        nodes = tuple(self._node() for _ in self._counted(self._nodes_left, "nodes"))
        self._nodes_left -= len(nodes)
        outputs = tuple((self._name(), self._number()) for _ in self._counted(MAX_OUTPUTS, "outputs of a graph"))
        ranges = tuple((self._float(), self._float()) for _ in self._counted(len(inputs) + len(nodes), "ranges"))
        return Graph(name, inputs, nodes, outputs, ranges)

    def _node(self) -> Node:
        number = self._data[self._at]
        self._at += 1
        if number not in _BY_NUMBER:
            raise FormatError("version", f"the graph needs a Sterna that knows operator {number}")
        name = _BY_NUMBER[number]
        operator = OPERATORS[name]
        inputs = tuple(self._number() for _ in self._counted(operator.inputs[1], f"inputs of a {name}"))
        places = [self._number() for _ in operator.parameters]
        if any(place > len(self._tensors) for place in places):
            raise SternaError(f"there are {len(self._tensors)} tensors, got number {max(places)}")
        parameters = tuple(None if place == 0 else self._tensors[place - 1] for place in places)
        attributes = {
            key: self._float() if kind == "float" else self._number() for key, kind in operator.attributes.items()
        }
        return Node(name, inputs, parameters, attributes)

    def _counted(self, most: int, what: str) -> Iterator[int]:
        """Counts up to a number that is read, and that a hostile file cannot make large."""
        count = self._number()
        if count > most:
            raise SternaError(f"there are at most {most} {what}, got {count}")
        return iter(range(count))

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                if byte == 0 and shift > 7:
                    raise SternaError("an integer has a needless byte")
                return value
            if shift >= 63:
                raise SternaError("an integer is too large")

    def _float(self) -> float:
        (value,) = struct.unpack_from("<f", self._data, self._at)
        self._at += 4
        return float(value)

    def _name(self) -> str:
        size = self._number()
        if size > MAX_NAME_BYTES:
            raise SternaError(f"a name has at most {MAX_NAME_BYTES} bytes, got {size}")
        text = self._data[self._at : self._at + size]
        if len(text) != size:
            raise SternaError("a name ends too early")
        self._at += size
        return text.decode()
