"""What is in a ``.sterna`` file and where its bytes are, as plain rows."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from sterna.container import CHECKSUM, read_with_layout
from sterna.ternary_model import TernaryModel, TernaryTensor

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a file.

    Args:
        name: of the tensor.
        shape: of the tensor.
        elements: their number.
        kind: ``ternary``, or the type of its elements (``float16``, ...).
        granularity: what shares a scale: ``filter``, ``layer``, ``folded`` (a batch norm holds it); empty for arrays.
        sparsity: fraction of zeros of a ternary tensor.
        entropy_bits_per_weight: zero-order entropy of its trits.
        bits_per_weight: coded trits and scale, or the elements' own bits (before they are compressed together).
        coded_bytes: of its trits in the file; of an array, its uncompressed bytes.
        share: of the file, of the coded trits; 0 for arrays, which are compressed together.
    """

    name: str
    shape: tuple[int, ...]
    elements: int
    kind: str
    granularity: str
    sparsity: float | None
    entropy_bits_per_weight: float | None
    bits_per_weight: float
    coded_bytes: int
    share: float


@dataclass(frozen=True)
class Inspection:
    """A whole file; the four parts are all of its bytes.

    Args:
        rows: its tensors, in the order of the file.
        file_bytes: its size; the sum of the next four.
        header_bytes: prefix and compressed header.
        trit_bytes: coded trits.
        array_bytes: everything else, compressed: scales, folded batch norms, layers in floating point.
        checksum_bytes: at the end.
        parameters: number of elements of all tensors.
        ternary_parameters: of them, trits.
        float32_bytes: four for each parameter.
        compression_ratio: ``float32_bytes / file_bytes``, every byte of the file counted.
        sparsity: fraction of zeros over all trits.
        not_ternary: names of the tensors in floating point with two or more dimensions (weights that stayed).
        metadata: of the file.
    """

    rows: tuple[TensorRow, ...]
    file_bytes: int
    header_bytes: int
    trit_bytes: int
    array_bytes: int
    checksum_bytes: int
    parameters: int
    ternary_parameters: int
    float32_bytes: int
    compression_ratio: float
    sparsity: float
    not_ternary: tuple[str, ...]
    metadata: dict[str, Any]


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Read and check a whole file and say where its bytes are; needs NumPy alone.

    Raises:
        FormatError: the file is not a ``.sterna`` file, is damaged, or breaks a limit.
        SternaError: it cannot be read.
    """
    model, layout = read_with_layout(path)
    coded = {entry.name: entry.coded_bytes for entry in layout.entries}
    rows = tuple(
        _ternary_row(name, tensor, coded[name], layout.file_bytes)
        if isinstance(tensor, TernaryTensor)
        else TensorRow(
            name,
            tensor.shape,
            tensor.size,
            str(tensor.dtype),
            "",
            None,
            None,
            8.0 * tensor.itemsize,
            tensor.nbytes,
            0.0,
        )
        for name, tensor in model.tensors.items()
    )
    parameters = sum(row.elements for row in rows)
    return Inspection(
        rows=rows,
        file_bytes=layout.file_bytes,
        header_bytes=layout.header_bytes,
        trit_bytes=sum(coded.values()),
        array_bytes=layout.array_bytes,
        checksum_bytes=CHECKSUM.size,
        parameters=parameters,
        ternary_parameters=sum(row.elements for row in rows if row.kind == "ternary"),
        float32_bytes=_FLOAT32_BYTES * parameters,
        compression_ratio=_FLOAT32_BYTES * parameters / layout.file_bytes,
        sparsity=float(model.sparsity),
        not_ternary=_not_ternary(model),
        metadata=dict(layout.metadata),
    )


def _ternary_row(name: str, tensor: TernaryTensor, coded_bytes: int, file_bytes: int) -> TensorRow:
    elements = tensor.trits.size
    granularity = "folded" if tensor.scale is None else "filter" if tensor.scale.ndim else "layer"
    scale_bytes = tensor.scale.nbytes if tensor.scale is not None else 0
    return TensorRow(
        name=name,
        shape=tensor.trits.shape,
        elements=elements,
        kind="ternary",
        granularity=granularity,
        sparsity=float(tensor.sparsity),
        entropy_bits_per_weight=trit_entropy(tensor),
        bits_per_weight=8.0 * (coded_bytes + scale_bytes) / elements if elements else 0.0,
        coded_bytes=coded_bytes,
        share=coded_bytes / file_bytes,
    )


def trit_entropy(tensor: TernaryTensor) -> float:
    """Zero-order entropy of the trits in bits a weight, ``-sum p log2 p``."""
    counts = [int(np.count_nonzero(tensor.trits == value)) for value in (-1, 0, 1)]
    total = tensor.trits.size
    return -sum(c / total * math.log2(c / total) for c in counts if c) if total else 0.0


def _not_ternary(model: TernaryModel) -> tuple[str, ...]:
    return tuple(
        name
        for name, tensor in model.tensors.items()
        if not isinstance(tensor, TernaryTensor) and tensor.dtype.kind == "f" and tensor.ndim >= 2
    )
