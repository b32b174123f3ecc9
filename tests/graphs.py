"""Small graphs that are built by hand, and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sterna.graph import OPERATORS, Graph, GraphInput, Node
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor

_DEFAULTS = {"groups": 1, "factor_height": 1, "factor_width": 1}


def node(operator: str, *inputs: int, parameters: Sequence[str | None] = (), **attributes: int) -> Node:
    """A node; attributes that are left out are 1 for strides and dilations, and 0 otherwise."""
    names = OPERATORS[operator].attributes
    assert set(attributes) <= set(names)
    filled = {
        name: attributes.get(name, _DEFAULTS.get(name, int(name.startswith(("stride", "dilation"))))) for name in names
    }
    return Node(operator, inputs, tuple(parameters), filled)


def one_node(made: Node, *shapes: tuple[int, ...]) -> Graph:
    """A graph of this node alone, with inputs of these shapes (without the batch)."""
    inputs = tuple(GraphInput(f"x{number}", shape) for number, shape in enumerate(shapes))
    return Graph("", inputs, (made,), (("y", len(inputs)),))


def with_graphs(tensors: dict[str, Tensor], *graphs: Graph, **metadata: Any) -> TernaryModel:
    """A model that holds graphs."""
    return TernaryModel(tensors, metadata, graphs)


def ternary(random: np.random.Generator, *shape: int, scale: bool = False) -> TernaryTensor:
    """Trits of which half are zeros."""
    trits = random.choice(np.array([-1, 0, 0, 1], np.int8), shape)
    return TernaryTensor(trits, random.uniform(0.1, 0.3, shape[0]).astype(np.float16) if scale else None)


def small_network(seed: int = 0) -> TernaryModel:
    """A convolution in float16, one of trits with a residual and one in int8, each with a norm; pools; a classifier.

    For images of three channels and any size from 8 x 8; its graph takes 16 x 16 as its own.
    """
    random = np.random.default_rng(seed)

    def vector(size: int, low: float = 0.5, high: float = 1.5) -> Any:
        return random.uniform(low, high, size).astype(np.float16)

    tensors: dict[str, Tensor] = {
        "first.weight": (0.3 * random.standard_normal((8, 3, 3, 3))).astype(np.float16),
        "norm1.weight": vector(8),
        "norm1.bias": vector(8, -0.5, 0.5),
        "second.weight": ternary(random, 8, 8, 3, 3),
        "norm2.weight": vector(8, 0.1, 0.3),
        "norm2.bias": vector(8, -0.5, 0.5),
        "depthwise.weight": Int8Tensor(
            random.integers(-127, 128, (8, 1, 3, 3)).astype(np.int8), vector(8, 0.002, 0.004)
        ),
        "norm3.weight": vector(8),
        "norm3.bias": vector(8, -0.5, 0.5),
        "classifier.weight": ternary(random, 5, 8, scale=True),
        "classifier.bias": vector(5, -0.5, 0.5),
    }
    pads = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
    nodes = (
        node("conv2d", 0, parameters=("first.weight", None), stride_height=2, stride_width=2, **pads),
        node("affine", 1, parameters=("norm1.weight", "norm1.bias")),
        node("relu", 2),
        node("conv2d", 3, parameters=("second.weight", None), **pads),
        node("affine", 4, parameters=("norm2.weight", "norm2.bias")),
        node("add", 5, 3),
        node("relu", 6),
        node("conv2d", 7, parameters=("depthwise.weight", None), groups=8, **pads),
        node("affine", 8, parameters=("norm3.weight", "norm3.bias")),
        node("relu6", 9),
        node("max_pool2d", 10, kernel_height=2, kernel_width=2, stride_height=2, stride_width=2),
        node("adaptive_avg_pool2d", 11, height=1, width=1),
        node("flatten", 12),
        node("linear", 13, parameters=("classifier.weight", "classifier.bias")),
    )
    graph = Graph("", (GraphInput("input", (3, 16, 16)),), nodes, (("output", 14),))
    return with_graphs(tensors, graph, labels=list("abcde"))
