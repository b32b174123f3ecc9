"""What is in a ``.sterna`` file and where its bytes are, as plain rows."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from sterna.container import SternaFile
from sterna.container.layout import Progress, Section
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a file.

    Args:
        name: of the tensor.
        shape: of the tensor.
        elements: their number.
        kind: ``ternary``, ``int8`` with a scale, or the type of its elements (``float16``, ...).
        granularity: what shares a scale: ``filter``, ``layer``, ``folded`` (a batch norm holds it); empty for arrays.
        sparsity: fraction of zeros of a ternary tensor.
        entropy_bits_per_weight: zero-order entropy of its trits.
        bits_per_weight: ``8 coded_bytes / elements``.
        coder: of its trits; empty for arrays, which have one coder.
        coded_bytes: in the file, with its scale. Arrays and scales are compressed together with others, whose bytes are
            shared out by size.
        share: of the file.
    """

    name: str
    shape: tuple[int, ...]
    elements: int
    kind: str
    granularity: str
    sparsity: float | None
    entropy_bits_per_weight: float | None
    bits_per_weight: float
    coder: str
    coded_bytes: int
    share: float


@dataclass(frozen=True)
class GraphRow:
    """One graph of a file.

    Args:
        name: of the part of the network; empty for a whole one.
        inputs: their shapes by name, without the batch; 0 is any size.
        nodes: their number.
        outputs: their names.
        calibrated: whether it has ranges for integer inference.
    """

    name: str
    inputs: dict[str, tuple[int, ...]]
    nodes: int
    outputs: tuple[str, ...]
    calibrated: bool


@dataclass(frozen=True)
class Inspection:
    """A whole file; the three parts are all of its bytes.

    Args:
        rows: its tensors, in the order of the file.
        file_bytes: its size; the sum of the next three.
        header_bytes: everything but tensors: prefix, names and shapes, metadata, graphs, the frames of sections,
            checksums.
        trit_bytes: trits with the list of their sizes.
        array_bytes: everything else, compressed: scales, folded batch norms, layers in floating point or int8.
        parameters: number of elements of all tensors.
        ternary_parameters: of them, trits.
        float32_bytes: four for each parameter.
        compression_ratio: ``float32_bytes / file_bytes``, every byte of the file counted.
        sparsity: fraction of zeros over all trits.
        not_ternary: names of the other tensors with two or more dimensions (weights that stayed).
        metadata: of the file.
        graphs: of the file; empty if it has none.
        graph_bytes: of them in the file, a part of ``header_bytes``.
    """

    rows: tuple[TensorRow, ...]
    file_bytes: int
    header_bytes: int
    trit_bytes: int
    array_bytes: int
    parameters: int
    ternary_parameters: int
    float32_bytes: int
    compression_ratio: float
    sparsity: float
    not_ternary: tuple[str, ...]
    metadata: dict[str, Any]
    graphs: tuple[GraphRow, ...]
    graph_bytes: int


def inspect(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Inspection:
    """Read and check a whole file and say where its bytes are; needs NumPy alone.

    Args:
        path: of the file.
        progress: called with the elements decoded so far and all elements.

    Raises:
        FormatError: the file is not a ``.sterna`` file, is damaged, or breaks a limit.
        SternaError: it cannot be read.
    """
    file = SternaFile.open(path, whole_checksum=True)
    model = file.read(progress=progress)
    rows = tuple(_row(file, name, tensor) for name, tensor in model.tensors.items())
    parameters = sum(row.elements for row in rows)
    trit_bytes, array_bytes, graph_bytes = (
        sum(size for kind, _, size, *_ in file.sections if kind == wanted)
        for wanted in (Section.TRITS, Section.ARRAYS, Section.GRAPH)
    )
    file_bytes = file.data.size
    return Inspection(
        rows=rows,
        file_bytes=file_bytes,
        header_bytes=file_bytes - trit_bytes - array_bytes,
        trit_bytes=trit_bytes,
        array_bytes=array_bytes,
        parameters=parameters,
        ternary_parameters=sum(row.elements for row in rows if row.kind == "ternary"),
        float32_bytes=_FLOAT32_BYTES * parameters,
        compression_ratio=_FLOAT32_BYTES * parameters / file_bytes,
        sparsity=float(model.sparsity),
        not_ternary=_not_ternary(model),
        metadata=dict(file.metadata),
        graphs=tuple(
            GraphRow(
                name=graph.name,
                inputs={graph_input.name: graph_input.shape for graph_input in graph.inputs},
                nodes=len(graph.nodes),
                outputs=tuple(name for name, _ in graph.outputs),
                calibrated=bool(graph.ranges),
            )
            for graph in model.graphs
        ),
        graph_bytes=graph_bytes,
    )


def trit_entropy(tensor: TernaryTensor) -> float:
    """Zero-order entropy of the trits in bits a weight, ``-sum p log2 p``."""
    counts = [int(np.count_nonzero(tensor.trits == value)) for value in (-1, 0, 1)]
    total = tensor.trits.size
    return -sum(c / total * math.log2(c / total) for c in counts if c) if total else 0.0


def _row(file: SternaFile, name: str, tensor: Tensor) -> TensorRow:
    entry = file.entries[name]
    coded_bytes = entry.coded_bytes + round(_array_bytes(file, name))
    ternary = tensor if isinstance(tensor, TernaryTensor) else None
    if isinstance(tensor, np.ndarray):
        kind, granularity = str(tensor.dtype), ""
    else:
        kind = "int8" if ternary is None else "ternary"
        granularity = "folded" if tensor.scale is None else "filter" if tensor.scale.ndim else "layer"
    return TensorRow(
        name=name,
        shape=entry.shape,
        elements=entry.elements,
        kind=kind,
        granularity=granularity,
        sparsity=float(ternary.sparsity) if ternary is not None else None,
        entropy_bits_per_weight=trit_entropy(ternary) if ternary is not None else None,
        bits_per_weight=8.0 * coded_bytes / entry.elements if entry.elements else 0.0,
        coder=entry.coder,
        coded_bytes=coded_bytes,
        share=coded_bytes / file.data.size,
    )


def _array_bytes(file: SternaFile, name: str) -> float:
    """A tensor's part of the sections in which its arrays are, by its part of their elements' bytes."""
    part = 0.0
    entry = file.entries[name]
    for (section, _), (kind, shape) in zip(entry.arrays, entry.kept(), strict=True):
        own = math.prod(shape) * int(kind[1])
        if own:
            part += file.sections[section][2] * own / file.raw_array_bytes[section]
    return part


def _not_ternary(model: TernaryModel) -> tuple[str, ...]:
    return tuple(
        name
        for name, tensor in model.tensors.items()
        if isinstance(tensor, Int8Tensor)
        or (isinstance(tensor, np.ndarray) and tensor.dtype.kind == "f" and tensor.ndim >= 2)
    )
