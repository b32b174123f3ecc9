"""Read ``.sterna`` files: as a whole, or tensor by tensor; on several threads."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sterna import _core
from sterna.container.layout import ARRAY_KINDS, CODERS, SCALE_KINDS, SCALED_INT8, TRITS, Progress, Section
from sterna.errors import FormatError, SternaError
from sterna.graph import Graph, decode_graphs
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor

# Smaller files are read into memory: one that is cut short meanwhile then does no harm.
_MAPPED_BYTES = 1 << 20
# Fewer elements are decoded sooner than threads have started.
_THREADED_ELEMENTS = 1 << 18
# Roughly, in million elements (bytes of arrays) a second: what is long is decoded first.
_SPEEDS = {"small": 25.0, "fast": 450.0, "smallest": 6.0, "arrays": 3.0}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, before it is decoded.

    Args:
        name: of the tensor.
        kind: number of its kind in the file.
        shape: of the tensor.
        scale_kind: number of the kind of its scale.
        coder: of its trits; empty for other tensors.
        coded_bytes: of its trits in the file; 0 for other tensors, which are coded together.
        chunks: of its trits, by their numbers in the file.
        arrays: that it keeps, itself or its scale: section and place in it of each.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    scale_kind: int
    coder: str = ""
    coded_bytes: int = 0
    chunks: tuple[int, ...] = ()
    arrays: tuple[tuple[int, int], ...] = ()

    @property
    def elements(self) -> int:
        """Number of trits or array elements."""
        return math.prod(self.shape)

    def kept(self) -> list[tuple[str, tuple[int, ...]]]:
        """Type and shape of each of :attr:`arrays`."""
        kept = []
        if self.kind != TRITS:
            kept.append(("i1" if self.kind == SCALED_INT8 else ARRAY_KINDS[self.kind], self.shape))
        scale = SCALE_KINDS[self.scale_kind]
        if scale is not None:
            kept.append((scale[0], self.shape[: scale[1]]))
        return kept


@dataclass(frozen=True)
class _Task:
    """A chunk of trits or a section of arrays to decode."""

    size: int
    coder: str
    work: Callable[[], None]

    @property
    def cost(self) -> float:
        return self.size / _SPEEDS[self.coder]


@dataclass
class _Plan:
    """What is decoded, and into which memory."""

    trits: dict[int, npt.NDArray[np.int8]] = field(default_factory=dict)  # by tensor
    arrays: dict[tuple[int, int], npt.NDArray[Any]] = field(default_factory=dict)  # by section and place


class SternaFile:
    """A ``.sterna`` file whose tensors are decoded when they are asked for.

    Args:
        data: its bytes; they must not change.
        name: begins the messages of errors.
        whole_checksum: compare the checksum of the whole file now; without it, the file's other sections are compared
            with their own.

    Attributes:
        entries: its tensors by name, in order.
        metadata: JSON values.
        data: its bytes.
        sections: (kind, offset of the payload, its bytes, first chunk or array, their number) of each section.
        raw_array_bytes: by section, of its arrays when decoded.

    Raises:
        FormatError: this is no ``.sterna`` file, it is damaged, or it breaks a limit.
    """

    def __init__(self, data: bytes | npt.NDArray[np.uint8], name: str = "", *, whole_checksum: bool = True) -> None:
        self._name = name
        self.data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        try:
            self._reader = _core.Reader(self.data, whole_checksum)
        except _core.Fault as fault:
            raise self._error(fault) from None
        self.sections = self._reader.sections()
        self.raw_array_bytes: dict[int, int] = {}
        self.entries: Mapping[str, Entry] = self._list_entries()
        self.metadata = self._read_metadata()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, whole_checksum: bool = False) -> SternaFile:
        """Open a file; a large one is mapped into memory, so that only what is used is read from the disk.

        Raises:
            FormatError: this is no ``.sterna`` file, it is damaged, or it breaks a limit.
            SternaError: it cannot be read.
        """
        try:
            large = Path(path).stat().st_size >= _MAPPED_BYTES
            data = np.memmap(path, np.uint8, "r") if large else Path(path).read_bytes()
        except OSError as error:
            raise SternaError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from error
        return cls(data, os.fspath(path), whole_checksum=whole_checksum)

    def tensor(self, name: str) -> Tensor:
        """Decode one tensor.

        Raises:
            SternaError: the file has no tensor of this name.
            FormatError: its code is damaged.
        """
        if name not in self.entries:
            known = ", ".join(repr(other) for other in list(self.entries)[:3])
            raise SternaError(f"{self._name or 'the file'} has no tensor {name!r}; it has {known}, ...")
        return self._decode([self.entries[name]], 1, None)[name]

    @cached_property
    def graphs(self) -> tuple[Graph, ...]:
        """The graphs of the file, empty if it has none; decoded when they are asked for.

        Raises:
            FormatError: they are damaged, or need a newer Sterna.
        """
        if not any(kind == Section.GRAPH for kind, *_ in self.sections):
            return ()
        try:
            return decode_graphs(self._reader.graph(), list(self.entries))
        except FormatError as error:
            raise self._error(f"{error.cause}: {error}") from None

    def read(
        self, *, threads: int | None = None, progress: Progress | None = None, with_graphs: bool = True
    ) -> TernaryModel:
        """Decode all tensors.

        Args:
            threads: to decode on; nothing means all processors. The result is the same.
            progress: called, from any thread, with the elements decoded so far and all elements.
            with_graphs: decode the graphs too; without, the model has none.

        Raises:
            FormatError: a section is damaged.
        """
        graphs = self.graphs if with_graphs else ()
        tensors = self._decode(list(self.entries.values()), threads, progress)
        return TernaryModel(tensors, self.metadata, graphs)

    def _list_entries(self) -> dict[str, Entry]:
        chunks: dict[int, list[int]] = {}
        listed = self._reader.trit_chunks()
        for number, (tensor, *_) in enumerate(listed):
            chunks.setdefault(tensor, []).append(number)
        arrays: dict[int, list[tuple[int, int]]] = {}
        for number, (tensor, section, _, width, elements) in enumerate(self._reader.arrays()):
            self.raw_array_bytes[section] = self.raw_array_bytes.get(section, 0) + width * elements
            arrays.setdefault(tensor, []).append((section, number - self.sections[section][3]))
        entries: dict[str, Entry] = {}
        for number, (encoded, kind, scale_kind, shape) in enumerate(self._reader.tensors()):
            try:
                name = encoded.decode()
            except UnicodeDecodeError as error:
                raise self._error(f"table: the name of tensor {number} is not UTF-8: {error}") from None
            if name in entries:
                raise self._error(f"table: two tensors have the name {name!r}")
            own = tuple(chunks.get(number, ()))
            entries[name] = Entry(
                name,
                kind,
                tuple(shape),
                scale_kind,
                CODERS[listed[own[0]][1]] if own else "",
                sum(listed[chunk][2] for chunk in own),
                own,
                tuple(arrays.get(number, ())),
            )
        return entries

    def _read_metadata(self) -> dict[str, Any]:
        if not any(kind == Section.METADATA for kind, *_ in self.sections):
            return {}
        try:
            metadata = json.loads(
                self._reader.metadata().decode(), parse_constant=_refuse_constant, parse_float=_finite
            )
        except (ValueError, RecursionError) as error:
            raise self._error(f"metadata: not valid JSON: {error}") from None
        if not isinstance(metadata, dict):
            raise self._error("metadata: must be a JSON object")
        return metadata

    def _decode(self, entries: list[Entry], threads: int | None, progress: Progress | None) -> dict[str, Tensor]:
        """Decode some tensors, and with them what shares their sections of arrays."""
        plan = _Plan()
        listed = self._reader.trit_chunks()
        tasks: list[_Task] = []
        for entry in entries:
            if entry.kind == TRITS:
                out = plan.trits[id(entry)] = np.empty(entry.shape, np.int8)
                flat = out.reshape(-1)
                tasks += [
                    _Task(listed[chunk][4], CODERS[listed[chunk][1]], _call(self._reader.read_trits, chunk, flat))
                    for chunk in entry.chunks
                ]
        for section in sorted({section for entry in entries for section, _ in entry.arrays}):
            outputs = []
            for other in self.entries.values():
                for (owner, place), (kind, shape) in zip(other.arrays, other.kept(), strict=True):
                    if owner == section:
                        plan.arrays[section, place] = np.empty(shape, f"<{kind}")
                        outputs.append(plan.arrays[section, place].reshape(-1).view(np.uint8))
            size = sum(out.size for out in outputs)
            tasks.append(_Task(size, "arrays", _call(self._reader.read_arrays, section, outputs)))
        self._run(tasks, threads, progress)
        return {entry.name: self._assemble(entry, plan) for entry in entries}

    def _run(self, tasks: list[_Task], threads: int | None, progress: Progress | None) -> None:
        total = sum(task.size for task in tasks)
        done = 0
        counting = threading.Lock()

        def run(task: _Task) -> None:
            nonlocal done
            task.work()
            with counting:
                done += task.size
                if progress is not None:
                    progress(done, total)

        workers = min(threads or os.cpu_count() or 1, len(tasks)) if total >= _THREADED_ELEMENTS else 1
        try:
            if workers <= 1:
                for task in tasks:
                    run(task)
                return
            with ThreadPoolExecutor(workers) as pool:
                # Long ones first, so that no thread is left with one when the others have ended.
                for _ in pool.map(run, sorted(tasks, key=lambda task: -task.cost)):
                    pass
        except _core.Fault as fault:
            raise self._error(fault) from None

    def _assemble(self, entry: Entry, plan: _Plan) -> Tensor:
        arrays = [plan.arrays[place] for place in entry.arrays]
        if any(array.dtype == bool and (array.view(np.uint8) > 1).any() for array in arrays):
            raise self._error(f"arrays: truth values of {entry.name!r} must be 0 or 1")
        arrays = [array.astype(array.dtype.newbyteorder("="), copy=False) for array in arrays]
        if entry.kind == TRITS:
            return TernaryTensor(plan.trits[id(entry)], arrays[0] if arrays else None)
        return Int8Tensor(arrays[0], arrays[1]) if entry.kind == SCALED_INT8 else arrays[0]

    def _error(self, problem: object) -> FormatError:
        cause, _, text = str(problem).partition(": ")
        return FormatError(cause, f"{self._name}: {text}" if self._name else text)


def read(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    with_graphs: bool = True,
) -> TernaryModel:
    """Read a file into plain data; needs no PyTorch. Arguments as :meth:`SternaFile.read`.

    Raises:
        FormatError: the file is not a ``.sterna`` file, is damaged, or breaks a limit.
        SternaError: it cannot be read.
    """
    return SternaFile.open(path, whole_checksum=True).read(threads=threads, progress=progress, with_graphs=with_graphs)


def decode(data: bytes) -> TernaryModel:
    """The model in the bytes of a file; errors as :func:`read`."""
    return SternaFile(data).read()


def _call(function: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    return lambda: function(*arguments)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond every number")
    return value
