"""From PyTorch's operators, as ``torch.export`` names them, to those of a :class:`~sterna.graph.Graph`.

Each function here is one row of a table: the arguments of an operator of PyTorch become a node, or no node where the
operator changes nothing in evaluation. What cannot be said raises :class:`Unsupported`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from sterna.graph import MAX_INPUTS, OPERATORS, Attribute, Node


class Unsupported(Exception):  # noqa: N818
    """An operation that no graph holds; the text says why where its name does not."""


@dataclass
class Cell:
    """The memory of a tensor, which operations in place give a new value.

    Args:
        value: its number in the graph.
        base: the memory that it is a view of, in another shape.
        is_stale: it was changed through a view, so that its value is not known.
    """

    value: int
    base: Cell | None = None
    is_stale: bool = False


@dataclass(frozen=True)
class Refused:
    """An operation that no graph holds, in the place of a node.

    Args:
        text: what it is.
        where: path of the module that it is in.
        inputs: values that it uses.
    """

    text: str
    where: str
    inputs: tuple[int, ...]


class Tape:
    """The nodes of a graph that is being made.

    Args:
        parameters: names of tensors of the model, by the nodes of the exported program that stand for them.
        inputs: nodes of the exported program that are the inputs of the graph.
    """

    def __init__(self, parameters: Mapping[fx.Node, str], inputs: Sequence[fx.Node]) -> None:
        self.parameters = parameters
        self.cells = {node: Cell(value) for value, node in enumerate(inputs)}
        self.nodes: list[Node | Refused] = []
        self._first = len(inputs)

    def value(self, node: Any) -> int:
        """The number of a tensor."""
        if not isinstance(node, fx.Node) or node not in self.cells:
            raise Unsupported("of something that is not computed from the input")
        cell = self.cells[node]
        if cell.is_stale:
            raise Unsupported("of a tensor that was changed through a view of it")
        return cell.value

    def parameter(self, node: Any) -> str | None:
        """The name of a tensor of the model, or of none."""
        if node is None:
            return None
        if node not in self.parameters:
            raise Unsupported("with weights that are computed")
        return self.parameters[node]

    def add(
        self,
        operator: str,
        inputs: Sequence[int],
        attributes: Mapping[str, Attribute] | None = None,
        parameters: Sequence[str | None] = (),
    ) -> int:
        """Append a node and return the number of its value."""
        given = attributes or {}
        ordered = {name: given[name] for name in OPERATORS[operator].attributes}
        self.nodes.append(Node(operator, tuple(inputs), tuple(parameters), ordered))
        return self._first + len(self.nodes) - 1

    def refuse(self, node: fx.Node, text: str, where: str) -> None:
        """Append an operation that no graph holds; it matters only if an output needs it."""
        inputs = tuple(self.cells[used].value for used in node.all_input_nodes if used in self.cells)
        self.nodes.append(Refused(text, where, inputs))
        self.cells[node] = Cell(self._first + len(self.nodes) - 1)

    def producer(self, value: int) -> Node | None:
        """The node that computes a value."""
        node = self.nodes[value - self._first] if value >= self._first else None
        return node if isinstance(node, Node) else None


Arguments = dict[str, Any]
Handler = Callable[[Tape, Arguments, fx.Node], "int | Cell"]


def handle(tape: Tape, node: fx.Node) -> None:
    """Put what an operator of PyTorch computes on the tape.

    Raises:
        Unsupported: it is none of the graph's.
    """
    name, arguments = _bound(node)
    in_place = name.endswith("_")
    handler = HANDLERS.get(name.removesuffix("_"))
    if handler is None:
        raise Unsupported
    result = handler(tape, arguments, node)
    if isinstance(result, Cell):
        tape.cells[node] = result
    elif in_place:
        cell = tape.cells[next(iter(arguments.values()))]
        cell.value = result
        if cell.base is not None:
            cell.base.is_stale = True
        tape.cells[node] = cell
    else:
        tape.cells[node] = Cell(result)


def _bound(node: fx.Node) -> tuple[str, Arguments]:
    """The name of an operator, as ``conv2d``, and its arguments by their names, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return "", {}
    arguments = {argument.name: argument.default_value for argument in schema.arguments}
    arguments.update(zip(arguments, node.args, strict=False))
    arguments.update(node.kwargs)
    return str(schema.name).removeprefix("aten::"), arguments


def shape_of(node: Any) -> list[int | str]:
    """Sizes of a tensor, and those that are free as text."""
    return [size if isinstance(size, int) else str(size) for size in node.meta["val"].shape]


def _pair(value: Any) -> tuple[int, int]:
    sizes = list(value) if isinstance(value, list | tuple) else [value]
    if any(not isinstance(size, int) for size in sizes):
        raise Unsupported("with sizes that depend on the input's")
    return (sizes[0], sizes[-1])


def _named_pair(name: str, value: Any) -> dict[str, Attribute]:
    height, width = _pair(value)
    return {f"{name}_height": height, f"{name}_width": width}


def _pads(value: Any) -> dict[str, Attribute]:
    height, width = _pair(value)
    return {"pad_top": height, "pad_left": width, "pad_bottom": height, "pad_right": width}


def _same_pads(weight: Any, dilation: Any) -> dict[str, Attribute]:
    """What ``padding="same"`` means: the odd pixel is on the right and at the bottom."""
    kernel = [int(size) for size in shape_of(weight)[2:]]
    totals = [step * (size - 1) for step, size in zip(_pair(dilation), kernel, strict=True)]
    names = ("pad_top", "pad_bottom"), ("pad_left", "pad_right")
    pads: dict[str, Attribute] = {}
    for total, (before, after) in zip(totals, names, strict=True):
        pads |= {before: total // 2, after: total - total // 2}
    return pads


def _conv2d(tape: Tape, given: Arguments, _: fx.Node) -> int:
    if given["padding"] == "same":
        pads = _same_pads(given["weight"], given["dilation"])
    else:
        pads = _pads(0 if given["padding"] == "valid" else given["padding"])
    value = tape.value(given["input"])
    padding = tape.producer(value)
    if padding is not None and padding.operator == "pad" and not _pads_channels(padding):
        # Zeros around an image are the convolution's own business.
        value = padding.inputs[0]
        pads = {name: pads[name] + padding.attributes[name] for name in pads}
    attributes = {
        **_named_pair("stride", given["stride"]),
        **pads,
        **_named_pair("dilation", given["dilation"]),
        "groups": given["groups"],
    }
    return tape.add("conv2d", [value], attributes, _weights(tape, given))


def _pads_channels(node: Node) -> bool:
    return bool(node.attributes["channels_before"] or node.attributes["channels_after"])


def _conv_transpose2d(tape: Tape, given: Arguments, _: fx.Node) -> int:
    if given["groups"] != 1 or _pair(given["dilation"]) != (1, 1):
        raise Unsupported("with groups or dilation")
    pads = _pads(given["padding"])
    for name, more in zip(("pad_bottom", "pad_right"), _pair(given["output_padding"]), strict=True):
        pads[name] -= more
        if pads[name] < 0:
            raise Unsupported("with more output padding than padding")
    return tape.add(
        "conv_transpose2d",
        [tape.value(given["input"])],
        {**_named_pair("stride", given["stride"]), **pads},
        _weights(tape, given),
    )


def _linear(tape: Tape, given: Arguments, _: fx.Node) -> int:
    if len(shape_of(given["input"])) != 2:
        raise Unsupported("of something else than a matrix")
    return tape.add("linear", [tape.value(given["input"])], parameters=_weights(tape, given))


def _weights(tape: Tape, given: Arguments) -> list[str | None]:
    return [tape.parameter(given["weight"]), tape.parameter(given["bias"])]


def _batch_norm(tape: Tape, given: Arguments, _: fx.Node) -> int:
    if given.get("training"):
        raise Unsupported("that measures its input")
    names = [tape.parameter(given[key]) for key in ("weight", "bias", "running_mean", "running_var")]
    owners = {None if name is None else name.rpartition(".")[0] for name in names}
    if None in owners or len(owners) != 1:
        raise Unsupported("without weight, bias and statistics of its own")
    return tape.add("affine", [tape.value(given["input"])], parameters=names[:2])


def _activation(operator: str) -> Handler:
    def handler(tape: Tape, given: Arguments, _: fx.Node) -> int:
        return tape.add(operator, [tape.value(given["self"])])

    return handler


def _clamp(low: str, high: str) -> Handler:
    """``relu`` and ``relu6`` as limits."""

    def handler(tape: Tape, given: Arguments, _: fx.Node) -> int:
        operator = {(0.0, 6.0): "relu6", (0.0, None): "relu"}.get((given[low], given[high]))
        if operator is None:
            raise Unsupported(f"to {given[low]} and {given[high]}")
        return tape.add(operator, [tape.value(given["self"])])

    return handler


def _pointwise(operator: str) -> Handler:
    def handler(tape: Tape, given: Arguments, _: fx.Node) -> int:
        left, right = given["self"], given["other"]
        values = [tape.value(left), tape.value(right)]
        if given.get("alpha", 1) != 1:
            raise Unsupported("with a factor")
        shapes = [shape_of(left), shape_of(right)]
        vectors = [shape[:2] == shapes[0][:2] and shape[2:] == [1, 1] for shape in shapes]
        if shapes[0] != shapes[1] and not any(vectors):
            raise Unsupported(f"of shapes {shapes[0]} and {shapes[1]}")
        return tape.add(operator, values)

    return handler


def _concat(tape: Tape, given: Arguments, node: fx.Node) -> int | Cell:
    tensors = list(given["tensors"])
    if given["dim"] not in (1, 1 - len(shape_of(node))):
        raise Unsupported("along another axis than the channels")
    if len(tensors) == 1:
        return Cell(tape.value(tensors[0]))
    if len(tensors) > MAX_INPUTS:
        raise Unsupported(f"of more than {MAX_INPUTS} tensors")
    return tape.add("concat", [tape.value(tensor) for tensor in tensors])


def _pool(operator: str) -> Handler:
    def handler(tape: Tape, given: Arguments, _: fx.Node) -> int:
        if given.get("divisor_override") is not None:
            raise Unsupported("with another divisor")
        if operator == "avg_pool2d" and list(_pair(given["kernel_size"])) == shape_of(given["self"])[2:]:
            # Over the whole image, whatever its size.
            return tape.add("adaptive_avg_pool2d", [tape.value(given["self"])], {"height": 1, "width": 1})
        attributes = {
            **_named_pair("kernel", given["kernel_size"]),
            **_named_pair("stride", given["stride"] or given["kernel_size"]),
            **_pads(given["padding"]),
            **_named_pair("dilation", given.get("dilation", 1)),
            "ceil_mode": int(given["ceil_mode"]),
            "count_include_pad": int(given.get("count_include_pad", 0)),
        }
        return tape.add(operator, [tape.value(given["self"])], attributes)

    return handler


def _adaptive_pool(operator: str) -> Handler:
    def handler(tape: Tape, given: Arguments, _: fx.Node) -> int:
        height, width = _pair(given["output_size"])
        return tape.add(operator, [tape.value(given["self"])], {"height": height, "width": width})

    return handler


def _mean(tape: Tape, given: Arguments, node: fx.Node) -> int:
    rank = len(shape_of(given["self"]))
    if rank != 4 or sorted(axis % rank for axis in given["dim"] or ()) != [2, 3]:
        raise Unsupported("over other axes than height and width")
    value = tape.add("adaptive_avg_pool2d", [tape.value(given["self"])], {"height": 1, "width": 1})
    return value if len(shape_of(node)) == 4 else tape.add("flatten", [value])


def _reshape(tape: Tape, given: Arguments, node: fx.Node) -> int | Cell:
    source = next(iter(given.values()))
    before, after = shape_of(source), shape_of(node)
    value = tape.value(source)
    if before == after:
        return tape.cells[source]
    if len(after) != 2 or before[0] != after[0]:
        raise Unsupported(f"of {before} to {after}")
    return Cell(tape.add("flatten", [value]), base=tape.cells[source])


def _slice(tape: Tape, given: Arguments, _: fx.Node) -> int | Cell:
    """Every so many rows or columns; a maximum over single pixels takes them."""
    size = shape_of(given["self"])[given["dim"]]
    if given["start"] not in (None, 0) or given["end"] not in (None, size, sys.maxsize):
        raise Unsupported("of a part")
    axis, step, value = given["dim"] % len(shape_of(given["self"])), given["step"], tape.value(given["self"])
    if step == 1:
        return tape.cells[given["self"]]
    if axis not in (2, 3):
        raise Unsupported("of every so many channels or images")
    steps = {"stride_height": step if axis == 2 else 1, "stride_width": step if axis == 3 else 1}
    single = {**_named_pair("kernel", 1), **_pads(0), **_named_pair("dilation", 1), "ceil_mode": 0}
    before = tape.producer(value)
    if before is not None and before.operator == "max_pool2d" and single.items() <= before.attributes.items():
        # Rows were taken just before: both are taken at once.
        value = before.inputs[0]
        steps = {name: steps[name] * int(before.attributes[name]) for name in steps}
    return tape.add("max_pool2d", [value], {**single, **steps})


def _pad(tape: Tape, given: Arguments, _: fx.Node) -> int | Cell:
    amounts = list(given["pad"])
    if given.get("mode", "constant") != "constant" or given["value"] not in (None, 0, 0.0):
        raise Unsupported("with something else than zeros")
    if any(not isinstance(amount, int) for amount in amounts):
        raise Unsupported("by amounts that depend on the input's size")
    if any(amount < 0 for amount in amounts) or len(amounts) > 6 or len(shape_of(given["self"])) != 4:
        raise Unsupported(f"by {amounts}")
    names = ("pad_left", "pad_right", "pad_top", "pad_bottom", "channels_before", "channels_after")
    attributes = dict(zip(names, amounts + [0] * (6 - len(amounts)), strict=True))
    if not any(amounts):
        return Cell(tape.value(given["self"]))
    return tape.add("pad", [tape.value(given["self"])], attributes)


def _upsample(mode: str) -> Handler:
    def handler(tape: Tape, given: Arguments, node: fx.Node) -> int:
        value = tape.value(given["input"] if "input" in given else given["self"])
        corners = {"align_corners": int(given.get("align_corners", False))}
        factors, sizes = given.get("scale_factors"), given["output_size"]
        if factors is not None:
            if any(factor != int(factor) for factor in factors):
                raise Unsupported(f"by {list(factors)}")
            height, width = (int(factor) for factor in factors)
            return tape.add(f"upsample_{mode}", [value], {"factor_height": height, "factor_width": width, **corners})
        like = _image_like(tape, node)
        if like is not None:
            return tape.add(f"resize_{mode}", [value, tape.value(like)], {"height": 0, "width": 0, **corners})
        height, width = _pair(sizes)
        return tape.add(f"resize_{mode}", [value], {"height": height, "width": width, **corners})

    return handler


def _image_like(tape: Tape, node: fx.Node) -> fx.Node | None:
    """The image computed last whose height and width are those of the result, whatever the input's are."""
    wanted = shape_of(node)[2:]
    if all(isinstance(size, int) for size in wanted):
        return None
    for other in reversed(tape.cells):
        if isinstance(other.meta["val"], Tensor) and len(shape_of(other)) == 4 and shape_of(other)[2:] == wanted:
            return other
    return None


def _softmax(tape: Tape, given: Arguments, node: fx.Node) -> int:
    if given["dim"] not in (1, 1 - len(shape_of(node))):
        raise Unsupported("along another axis than the channels")
    return tape.add("softmax", [tape.value(given["self"])])


def _same(tape: Tape, given: Arguments, _: fx.Node) -> Cell:
    """Nothing happens in evaluation, and the memory stays the same."""
    source = next(iter(given.values()))
    tape.value(source)
    return tape.cells[source]


def _copy(tape: Tape, given: Arguments, node: fx.Node) -> Cell:
    source = next(iter(given.values()))
    if node.meta["val"].dtype != source.meta["val"].dtype:
        raise Unsupported(f"to {node.meta['val'].dtype}")
    return Cell(tape.value(source))


def _dropout(tape: Tape, given: Arguments, node: fx.Node) -> Cell:
    if given["train"]:
        raise Unsupported("that drops")
    return _same(tape, given, node)


HANDLERS: dict[str, Handler] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "relu": _activation("relu"),
    "relu6": _activation("relu6"),
    "hardtanh": _clamp("min_val", "max_val"),
    "clamp": _clamp("min", "max"),
    "clamp_min": lambda tape, given, node: _clamp("min", "max")(tape, {**given, "max": None}, node),
    "hardswish": _activation("hardswish"),
    "silu": _activation("silu"),
    "sigmoid": _activation("sigmoid"),
    "hardsigmoid": _activation("hardsigmoid"),
    "add": _pointwise("add"),
    "mul": _pointwise("mul"),
    "cat": _concat,
    "concat": _concat,
    "max_pool2d": _pool("max_pool2d"),
    "avg_pool2d": _pool("avg_pool2d"),
    "adaptive_avg_pool2d": _adaptive_pool("adaptive_avg_pool2d"),
    "adaptive_max_pool2d": _adaptive_pool("adaptive_max_pool2d"),
    "mean": _mean,
    "flatten": _reshape,
    "view": _reshape,
    "reshape": _reshape,
    "squeeze": _reshape,
    "slice": _slice,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "upsample_nearest2d": _upsample("nearest"),
    "upsample_bilinear2d": _upsample("bilinear"),
    "softmax": _softmax,
    "contiguous": _same,
    "alias": _same,
    "detach": _same,
    "clone": _copy,
    "to": _copy,
    "_to_copy": _copy,
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "alpha_dropout": _dropout,
}
