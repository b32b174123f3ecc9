"""A graph and its weights as an ONNX model with dense float32 weights, for every other runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sterna.container import read, write_whole
from sterna.errors import MissingDependencyError, SternaError
from sterna.graph import Graph, GraphInput, Node
from sterna.ternary_model import Int8Tensor, TernaryModel, TernaryTensor

if TYPE_CHECKING:
    from sterna.export.onnx_builder import Value

_FOLDING = ("conv2d", "conv_transpose2d", "linear")
_PORTABLE_METADATA = ("model", "labels", "preprocessing", "metrics")


def export_onnx(
    path_or_model: str | os.PathLike[str] | TernaryModel,
    out: str | os.PathLike[str],
    *,
    graph: str = "",
    int8: Iterable[npt.NDArray[np.float32]] | None = None,
    shape: Sequence[int] | None = None,
) -> int:
    """Write a network as an ONNX file: what it computes in float32, with dense weights, checked by ``onnx.checker``.

    Args:
        path_or_model: a ``.sterna`` file, or what :func:`sterna.container.read` gives.
        out: the ``.onnx`` file, written whole or not at all; an older one is replaced.
        graph: name of the graph; empty for the whole network.
        int8: images to calibrate with, arrays ``(n, channels, height, width)``: the file then computes its
            convolutions and products in int8, between ``QuantizeLinear`` and ``DequantizeLinear``. This needs
            ``onnxruntime``.
        shape: the only shape, ``(n, channels, height, width)``, that the file will be run with. Nothing leaves the
            batch and the height and width of images free.

    Returns:
        Size of the file in bytes.

    Raises:
        SternaError: the file holds no such graph, or the graph does not fit its tensors.
        MissingDependencyError: ``onnx``, or for int8 ``onnxruntime``, is not installed.
    """
    model = path_or_model if isinstance(path_or_model, TernaryModel) else read(path_or_model)
    proto = onnx_model(find_graph(model.graphs, graph), model, shape=shape)
    if int8 is not None:
        from sterna.export.quantized_onnx import quantize

        proto = quantize(proto, int8)
    return write_whole(Path(out), proto.SerializeToString(deterministic=True))


def find_graph(graphs: Sequence[Graph], name: str = "") -> Graph:
    """The graph of this name.

    Raises:
        SternaError: there is none; the text lists those that there are.
    """
    for candidate in graphs:
        if candidate.name == name:
            return candidate
    if not graphs:
        raise SternaError("the file holds no graph of the network: save it anew with one")
    wanted = f"graph {name!r}" if name else "graph of the whole network"
    raise SternaError(f"the file holds no {wanted}; it has {', '.join(repr(other.name) for other in graphs)}")


def onnx_model(
    graph: Graph, model: TernaryModel, *, shape: Sequence[int] | None = None, every_value: bool = False
) -> Any:
    """The ONNX model, ``onnx.ModelProto``, of a graph.

    A batch norm (``affine``) that alone uses a convolution or product is folded into its weights:
    ``weight' = scale weight``, ``bias' = scale bias + shift``.

    Args:
        graph: what to compute.
        model: holds the tensors that the graph names.
        shape: as :func:`export_onnx`; only for graphs of one input.
        every_value: make each value of the graph an output, ``value0`` (the first input) and following, instead of its
            outputs; nothing is folded then.

    Raises:
        SternaError: a tensor is missing, ``shape`` does not fit the input, or ONNX refuses the result.
        MissingDependencyError: ``onnx`` is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper

        from sterna.export.onnx_builder import IR_VERSION, OPSET, Builder, Value
        from sterna.export.onnx_operators import WRITERS
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"writing ONNX needs the package '{error.name}': install it with  pip install 'sterna[export]'"
        ) from error
    wanted = [(f"value{number}", number) for number in range(graph.value_count)] if every_value else graph.outputs
    builder = Builder([*(entry.name for entry in graph.inputs), *(name for name, _ in wanted)])
    values = [Value(entry.name, _sizes(entry, shape)) for entry in graph.inputs]
    weights = _weights(graph, model)
    folded = {} if every_value else _foldable(graph)
    for number, node in enumerate(graph.nodes, len(graph.inputs)):
        if node.operator not in WRITERS:
            raise SternaError(f"operator {node.operator} cannot be written as ONNX")
        if number in folded.values():
            values.append(values[node.inputs[0]])
            continue
        if number in folded:
            node = _fold(node, graph.nodes[folded[number] - len(graph.inputs)], weights)
        values.append(WRITERS[node.operator](builder, node, [values[value] for value in node.inputs], weights))
    outputs = _name_outputs(builder, wanted, values, len(graph.inputs))
    proto = helper.make_model(
        helper.make_graph(
            builder.nodes,
            graph.name or "network",
            [
                helper.make_tensor_value_info(entry.name, TensorProto.FLOAT, _dimensions(entry, shape))
                for entry in graph.inputs
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs],
            builder.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="sterna",
    )
    described = {key: model.metadata[key] for key in _PORTABLE_METADATA if key in model.metadata}
    helper.set_model_props(proto, {key: json.dumps(value, sort_keys=True) for key, value in described.items()})
    try:
        onnx.checker.check_model(proto)
        return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SternaError(f"graph {graph.name!r} does not fit its tensors: {reason}") from error


def _sizes(entry: GraphInput, shape: Sequence[int] | None) -> tuple[int, ...]:
    """Shape of an input without the batch, where 0 is free: of images height and width, unless ``shape`` is given."""
    if shape is None:
        return (entry.shape[0], 0, 0) if len(entry.shape) == 3 else entry.shape
    given = tuple(shape)[1:]
    if len(given) != len(entry.shape) or any(a != b for a, b in zip(given[:1], entry.shape[:1], strict=True) if b):
        raise SternaError(f"input {entry.name!r} takes shapes (n, {', '.join(map(str, entry.shape))}), got {shape}")
    return given


def _dimensions(entry: GraphInput, shape: Sequence[int] | None) -> list[int | str]:
    if shape is not None:
        return list(shape)
    if len(entry.shape) != 3:
        return ["batch", *(size or f"{entry.name}_{place}" for place, size in enumerate(entry.shape))]
    return ["batch", entry.shape[0] or f"{entry.name}_channels", f"{entry.name}_height", f"{entry.name}_width"]


def _weights(graph: Graph, model: TernaryModel) -> dict[str, npt.NDArray[np.float32]]:
    """All tensors that the nodes name, dense and in float32."""
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for node in graph.nodes:
        for name in node.parameters:
            if name is None or name in weights:
                continue
            if name not in model.tensors:
                raise SternaError(
                    f"a {node.operator} of graph {graph.name!r} needs tensor {name!r}, which is not there"
                )
            tensor = model.tensors[name]
            dense = tensor.dequantize() if isinstance(tensor, TernaryTensor | Int8Tensor) else tensor
            weights[name] = np.asarray(dense, np.float32)
    return weights


def _foldable(graph: Graph) -> dict[int, int]:
    """Values of layers that one affine alone uses, and the value of that."""
    users: dict[int, list[int]] = {}
    for number, node in enumerate(graph.nodes, len(graph.inputs)):
        for value in node.inputs:
            users.setdefault(value, []).append(number)
    shown = {value for _, value in graph.outputs}
    first = len(graph.inputs)
    return {
        number: users[number][0]
        for number, node in enumerate(graph.nodes, first)
        if node.operator in _FOLDING
        and number not in shown
        and len(users.get(number, ())) == 1
        and graph.nodes[users[number][0] - first].operator == "affine"
    }


def _fold(layer: Node, affine: Node, weights: dict[str, npt.NDArray[np.float32]]) -> Node:
    """The layer with the affine in its parameters, which ``weights`` then holds too."""
    weight, bias = str(layer.parameters[0]), layer.parameters[1]
    scale, shift = str(affine.parameters[0]), str(affine.parameters[1])
    axis = 1 if layer.operator == "conv_transpose2d" else 0
    spread = [1] * weights[weight].ndim
    spread[axis] = -1
    new_weight, new_bias = f"{weight}*{scale}", shift if bias is None else f"{bias}*{scale}+{shift}"
    try:
        weights[new_weight] = weights[weight] * weights[scale].reshape(spread)
        if bias is not None:
            weights[new_bias] = weights[bias] * weights[scale] + weights[shift]
    except ValueError as error:
        raise SternaError(f"{weight!r} and {scale!r}, which follows it, do not fit each other: {error}") from None
    return replace(layer, parameters=(new_weight, new_bias))


def _name_outputs(
    builder: Any, wanted: Iterable[tuple[str, int]], values: Sequence[Value], inputs: int
) -> list[tuple[str, int]]:
    """Give what comes out its name, and return names and ranks."""
    renamed: dict[str, str] = {values[number].name: "" for number in range(inputs)}
    outputs = []
    for name, number in wanted:
        value = values[number]
        if value.name in renamed:
            # An input, or a value that has been given the name of another output.
            builder.add_as("Identity", [renamed[value.name] or value.name], name)
        else:
            builder.rename(value.name, name)
            renamed[value.name] = name
        outputs.append((name, 1 + len(value.sizes)))
    return outputs
