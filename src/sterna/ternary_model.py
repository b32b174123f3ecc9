"""The plain-data waist: a model whose weights are trits and scales, with no framework in it.

Training ends in a :class:`TernaryModel`, the container stores it, the loader and the engine read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sterna.errors import SternaError

if TYPE_CHECKING:
    from sterna.graph import Graph

TRIT_VALUES = (-1, 0, 1)


@dataclass(frozen=True)
class TernaryTensor:
    """A weight ``scale * trits``, with the scale broadcast over the first axis.

    Args:
        trits: int8 in {-1, 0, 1}, in the shape of the weight, ``(out_channels, in_channels, ...)``.
        scale: float16 or float32, ``(out_channels,)`` for one scale a filter, ``()`` for one a layer, or ``None``
            where the scale is one because the batch norm that follows holds it.

    Raises:
        SternaError: trits of another type or value, or a scale of another shape.
    """

    trits: npt.NDArray[np.int8]
    scale: npt.NDArray[np.floating[Any]] | None = None

    def __post_init__(self) -> None:
        if self.trits.dtype != np.int8:
            raise SternaError(f"trits must be int8, got {self.trits.dtype}")
        if self.trits.size and (self.trits.min() < -1 or self.trits.max() > 1):
            raise SternaError(f"trits must be -1, 0 or 1, got {self.trits.min()} to {self.trits.max()}")
        if self.scale is not None:
            _check_scale(self.scale, self.trits.shape)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return 1.0 - np.count_nonzero(self.trits) / self.trits.size if self.trits.size else 0.0

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The weight in floating point, ``scale * trits``, float32 in the shape of ``trits``."""
        return self.trits.astype(np.float32) if self.scale is None else _scaled(self.trits, self.scale)


@dataclass(frozen=True)
class Int8Tensor:
    """A weight ``scale * values``, with the scale broadcast over the first axis: for layers that are not ternary.

    Args:
        values: int8 in [-127, 127], in the shape of the weight.
        scale: float16 or float32, ``(out_channels,)`` or ``()``.

    Raises:
        SternaError: values of another type, or a scale of another shape.
    """

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        if self.values.dtype != np.int8:
            raise SternaError(f"values must be int8, got {self.values.dtype}")
        _check_scale(self.scale, self.values.shape)

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The weight in floating point, ``scale * values``, float32 in the shape of ``values``."""
        return _scaled(self.values, self.scale)


def _check_scale(scale: npt.NDArray[np.floating[Any]], shape: tuple[int, ...]) -> None:
    if scale.dtype not in (np.float16, np.float32):
        raise SternaError(f"scale must be float16 or float32, got {scale.dtype}")
    if scale.shape not in ((), shape[:1]):
        raise SternaError(f"scale must have shape () or {shape[:1]} for a weight of shape {shape}, got {scale.shape}")


def _scaled(values: npt.NDArray[np.int8], scale: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    wide = scale.astype(np.float32).reshape(scale.shape + (1,) * (values.ndim - scale.ndim))
    return values.astype(np.float32) * wide


Tensor = TernaryTensor | Int8Tensor | npt.NDArray[Any]


@dataclass(frozen=True)
class TernaryModel:
    """All tensors of a model by their ``state_dict`` names, and what is needed to use them.

    Args:
        tensors: in the order of the ``state_dict``. A batch norm that has ``weight`` and ``bias`` but no
            ``running_mean`` is folded: ``y = weight * x + bias``.
        metadata: JSON values only. Keys that Sterna writes: ``model`` (``name``, ``arguments``), ``labels``,
            ``preprocessing``, ``recipe``, ``metrics``, ``source_sha256``.
        graphs: what the model computes, by the names of its tensors: one graph with an empty name, or the parts of a
            detector; none where it was not captured.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    graphs: tuple[Graph, ...] = ()

    def ternary(self) -> dict[str, TernaryTensor]:
        """The ternary tensors by name."""
        return {name: tensor for name, tensor in self.tensors.items() if isinstance(tensor, TernaryTensor)}

    @property
    def sparsity(self) -> float:
        """Fraction of zeros over all ternary weights."""
        ternary = self.ternary().values()
        total = sum(tensor.trits.size for tensor in ternary)
        return 1.0 - sum(np.count_nonzero(tensor.trits) for tensor in ternary) / total if total else 0.0
