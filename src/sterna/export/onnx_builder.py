"""The pieces of an ONNX graph while it is being written: nodes, constants, and names that differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper, numpy_helper

# Of the operators used here; read by every runtime of the last years.
OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True)
class Value:
    """A value of the ONNX graph.

    Args:
        name: by which nodes use it.
        sizes: its shape without the batch, ``(channels, height, width)`` or ``(features,)``; 0 for a size that is free.
    """

    name: str
    sizes: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether it has height and width."""
        return len(self.sizes) == 3


class Builder:
    """Collects nodes in the order in which they are added.

    Args:
        reserved: names that nothing else may have, as those of inputs and outputs.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._names = set(reserved)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._weights: dict[tuple[str, tuple[int, ...]], str] = {}

    def unique(self, wanted: str) -> str:
        """The name, or one that begins so if it is taken; it is taken from now on."""
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output, and return the name of that."""
        return self.add_as(operator, inputs, self.unique(operator), **attributes)

    def add_as(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node whose output has a name that was reserved."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, array: npt.NDArray[np.float32], name: str) -> str:
        """A weight by its name; one that several nodes use in the same shape is written once."""
        key = (name, array.shape)
        if key not in self._weights:
            self._weights[key] = self._tensor(array, name)
        return self._weights[key]

    def constant(self, value: npt.ArrayLike, dtype: type[np.generic] = np.int64) -> str:
        """A small constant; equal ones are one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._tensor(array, "constant")
        return self._constants[key]

    def _tensor(self, array: npt.NDArray[Any], name: str) -> str:
        name = self.unique(name)
        self.initializers.append(numpy_helper.from_array(np.require(array, requirements="C"), name))
        return name

    def rename(self, old: str, new: str) -> None:
        """Give the output of a node another name, wherever it is used."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == old:
                        names[place] = new
