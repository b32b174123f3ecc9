"""Sterna beside its peers on one file: who takes part, in turns, and the rows of the table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sterna import __version__
from sterna.benchmarking import peers
from sterna.benchmarking.peers import ENGINES, ISA_FLAGS, ONEDNN_CAPS, Engine, Job, OpenVinoInt8, Sterna
from sterna.benchmarking.process import EngineError, EngineProcess
from sterna.benchmarking.ranges import ranges_for_timing
from sterna.benchmarking.rounds import Spread, ratio, take_turns
from sterna.container import read
from sterna.errors import ConfigError, SternaError
from sterna.export.onnx import export_onnx, find_graph
from sterna.graph import Graph
from sterna.machine import processor

NATIVE = "native"
ACTIVATIONS = ("float32", "int8")
_CALIBRATION_IMAGES = 16
_EXACT = ("pytorch", "onnxruntime", "openvino")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One engine.

    Args:
        name: of the engine, with ``@isa`` if its instruction sets are capped.
        engine: its name alone.
        isa: ``native`` or the cap.
        milliseconds: of a run, the median over rounds.
        spread: their interquartile range.
        cpu_milliseconds: time that all its threads together kept processors busy in a run, the median over rounds; on a
            machine that does other things meanwhile, what one thread would take alone.
        images_per_second: at the median.
        ratio: of its time to that of Sterna with the same instruction sets and, if Sterna runs with both, the same kind
            of activations, the median over rounds; above 1, Sterna is faster.
        ratio_spread: the interquartile range of that.
        load_ms: from file to the end of a first run; packages are imported before.
        peak_bytes: highest resident memory while loading and running, above that after the imports.
        sqnr_db: of its output against that of the first engine in float32, ``20 log10(|y| / |y - y'|)``.
        rounds_ms: milliseconds of a run in each round.
    """

    name: str
    engine: str
    isa: str
    milliseconds: float
    spread: float
    cpu_milliseconds: float
    images_per_second: float
    ratio: float | None
    ratio_spread: float | None
    load_ms: float
    peak_bytes: int
    sqnr_db: float | None
    rounds_ms: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """What a benchmark found, and all that is needed to repeat it."""

    file: str
    model: str
    sparsity: float
    shape: tuple[int, ...]
    threads: int
    rounds: int
    activations: str
    processor: str
    versions: dict[str, str]
    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...]


@dataclass
class _Entry:
    """An engine that takes part."""

    engine: type[Engine]
    job: Job
    label: str
    process: EngineProcess | None = field(default=None)
    load_ms: float = 0.0
    run_ms: float = 0.0
    peak: int = 0

    @property
    def isa(self) -> str:
        return self.job.isa or NATIVE


def benchmark(
    file: str | os.PathLike[str],
    *,
    engines: Sequence[str] = tuple(ENGINES),
    threads: int = 1,
    batch: int = 1,
    size: tuple[int, int] | None = None,
    isas: Sequence[str] = (NATIVE,),
    activations: Sequence[str] = ("float32",),
    rounds: int = 15,
    calibration: npt.NDArray[np.float32] | None = None,
    session: str | None = None,
    progress: Progress = lambda _what, _done, _all: None,
) -> Report:
    """Time engines in turns on the network of a file.

    Each engine has a process of its own, in which it loads the network and runs it on one random input. After a warm-up
    follow rounds, in each of which every engine runs for at least 50 ms. An engine that is not installed or fails
    is named in ``left_out``, with the reason.

    Args:
        file: a ``.sterna`` file with the graph of its network.
        engines: names, of :data:`~sterna.benchmarking.peers.ENGINES`.
        threads: of each engine.
        batch: images in a run.
        size: height and width of the input; nothing means those in the file.
        isas: instruction sets, each ``native`` or a key of :data:`~sterna.benchmarking.peers.ONEDNN_CAPS`. Engines that
            cannot be capped run once, without a cap.
        activations: of Sterna, ``float32`` or ``int8`` or both.
        rounds: of timing.
        calibration: what int8 engines calibrate with, ``(n, channels, height, width)``; nothing means random images.
        session: module and class of Sterna's session.
        progress: called with what is being done, and how much of it is done.

    Raises:
        ConfigError: an unknown name, or a size that is missing.
        SternaError: the file holds no graph, or cannot be read.
    """
    _check(engines, isas, activations)
    model = read(file)
    graph = find_graph(model.graphs)
    shape = (batch, *image_shape(graph, size))
    random = np.random.default_rng(1)
    images = calibration if calibration is not None else random.standard_normal((_CALIBRATION_IMAGES, *shape[1:]))
    with tempfile.TemporaryDirectory(prefix="sterna-benchmark-") as folder, ExitStack() as stack:
        job = Job(file=os.fspath(file), shape=shape, threads=threads, folder=folder, session=session or peers.SESSION)
        left_out: list[tuple[str, str]] = []
        entries = _entries(engines, isas, activations, job, left_out)
        if any(entry.engine.needs_onnx for entry in entries):
            export_onnx(model, job.onnx, shape=shape)
            np.save(job.calibration, _in_batches(images.astype(np.float32), batch))
        if any(entry.engine is Sterna and entry.job.activations == "int8" for entry in entries) and not graph.ranges:
            ranges = ranges_for_timing(file, graph, images.astype(np.float32))
            entries = [replace(entry, job=replace(entry.job, ranges=ranges)) for entry in entries]
        running = _start(entries, stack, left_out, progress)
        processes = {entry.label: entry.process for entry in running if entry.process is not None}
        outputs = _outputs(running, Path(folder))
        run_ms = {entry.label: entry.run_ms for entry in running}
        milliseconds = take_turns(processes, run_ms, rounds, lambda done, total: progress("time", done, total))
    rows = [_row(entry, running, milliseconds, outputs, batch) for entry in running]
    description = model.metadata.get("model")
    return Report(
        file=os.fspath(file),
        model=str(description.get("name", "")) if isinstance(description, dict) else "",
        sparsity=float(model.sparsity),
        shape=shape,
        threads=threads,
        rounds=rounds,
        activations=", ".join(activations),
        processor=processor()[0],
        versions=_versions(running),
        rows=tuple(rows),
        left_out=tuple(left_out),
    )


def _check(engines: Sequence[str], isas: Sequence[str], activations: Sequence[str]) -> None:
    for kind, names, known in (
        ("engine", engines, tuple(ENGINES)),
        ("instruction set", isas, (NATIVE, *ONEDNN_CAPS)),
        ("type of activations", activations, ACTIVATIONS),
    ):
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ConfigError(f"unknown {kind} {', '.join(map(repr, unknown))}; there are {', '.join(known)}")


def image_shape(graph: Graph, size: tuple[int, int] | None) -> tuple[int, ...]:
    """Shape of the only input without the batch, of this height and width or of those in the file.

    Raises:
        ConfigError: there are several inputs, or a size is not known.
    """
    if len(graph.inputs) != 1:
        raise ConfigError(f"only networks of one input can be timed, this one has {len(graph.inputs)}")
    shape = graph.inputs[0].shape
    if size is not None and len(shape) == 3:
        shape = (shape[0], *size)
    if 0 in shape:
        raise ConfigError(f"the file does not say how large an input is, {shape}: give its height and width")
    return shape


def _in_batches(images: npt.NDArray[np.float32], batch: int) -> npt.NDArray[np.float32]:
    """``(batches, batch, channels, height, width)``; images are repeated to fill the last batch."""
    count = -(-len(images) // batch)
    return np.resize(images, (count, batch, *images.shape[1:]))


def _entries(
    engines: Sequence[str], isas: Sequence[str], activations: Sequence[str], job: Job, left_out: list[tuple[str, str]]
) -> list[_Entry]:
    flags = processor()[1]
    entries = []
    for name, engine in ENGINES.items():
        if name not in engines:
            continue
        if not engine.available():
            left_out.append((name, f"not installed: {', '.join(engine.missing())}"))
            continue
        for isa in isas if engine.caps else (NATIVE,):
            if isa not in (NATIVE, *engine.caps):
                continue
            for kind in activations if engine is Sterna else ("float32",):
                label = name + (f"-{kind}" if kind == "int8" else "") + ("" if isa == NATIVE else f"@{isa}")
                if isa != NATIVE and flags and ISA_FLAGS[isa] not in flags:
                    left_out.append((label, f"the processor has no {ISA_FLAGS[isa]}"))
                    continue
                own = replace(job, isa="" if isa == NATIVE else isa, activations=kind)
                entries.append(_Entry(engine, own, label))
    return entries


def _start(
    entries: Sequence[_Entry], stack: ExitStack, left_out: list[tuple[str, str]], progress: Progress
) -> list[_Entry]:
    """Prepare, load and warm each engine; those that fail are left out."""
    prepared: dict[type[Engine], str] = {}
    running = []
    for number, entry in enumerate(entries):
        progress(f"load {entry.label}", number, len(entries))
        try:
            if entry.engine not in prepared:
                prepared[entry.engine] = _prepare(entry)
            if prepared[entry.engine]:
                raise EngineError(prepared[entry.engine])
            entry.process = EngineProcess(entry.engine, entry.job)
            stack.callback(entry.process.close)
            entry.load_ms = entry.process.load()
            entry.run_ms, entry.peak = entry.process.warm()
        except EngineError as error:
            left_out.append((entry.label, str(error)))
            if entry.process is not None:
                entry.process.close()
            continue
        running.append(entry)
    return running


def _prepare(entry: _Entry) -> str:
    """Make an engine's files, in a process that ends with it; returns what went wrong."""
    if entry.engine.prepare is Engine.prepare:
        return ""
    try:
        # Any instruction set does for this, and all caps then load the same file.
        with EngineProcess(entry.engine, replace(entry.job, isa="")) as process:
            process.ask("prepare")
    except EngineError as error:
        return str(error)
    return ""


def _outputs(running: Sequence[_Entry], folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    outputs = {}
    for number, entry in enumerate(running):
        if entry.process is not None:
            path = folder / f"output{number}.npy"
            entry.process.ask("output", path=str(path))
            outputs[entry.label] = np.load(path)
    return outputs


def _row(
    entry: _Entry,
    running: Sequence[_Entry],
    milliseconds: dict[str, list[float]],
    outputs: dict[str, npt.NDArray[np.float32]],
    batch: int,
) -> Row:
    own = milliseconds[entry.label]
    time = Spread.of(own)
    base = _base(entry, running)
    compared = ratio(own, milliseconds[base.label]) if base is not None else None
    exact = next((outputs[other.label] for name in _EXACT for other in running if other.engine.name == name), None)
    return Row(
        name=entry.label,
        engine=entry.engine.name,
        isa=entry.isa,
        milliseconds=time.median,
        spread=time.interquartile,
        cpu_milliseconds=Spread.of(entry.process.cpu_ms).median if entry.process is not None else 0.0,
        images_per_second=1e3 * batch / time.median,
        ratio=compared.median if compared is not None else None,
        ratio_spread=compared.interquartile if compared is not None else None,
        load_ms=entry.load_ms,
        peak_bytes=entry.peak,
        sqnr_db=sqnr_db(exact, outputs[entry.label]) if exact is not None else None,
        rounds_ms=tuple(own),
    )


def _base(entry: _Entry, running: Sequence[_Entry]) -> _Entry | None:
    """The Sterna that an engine is compared with; Sterna itself with itself.

    That with the strongest instruction sets that are not beyond the engine's own. Where Sterna runs with both kinds of
    activations, int8 engines are compared with int8, and the others with float32.
    """
    if entry.engine is Sterna:
        return entry
    order = [*ONEDNN_CAPS, NATIVE]
    allowed = [
        other for other in running if other.engine is Sterna and order.index(other.isa) <= order.index(entry.isa)
    ]
    wanted = "int8" if entry.engine.is_int8 else "float32"
    return max(allowed, key=lambda other: (order.index(other.isa), other.job.activations == wanted), default=None)


def sqnr_db(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """``20 log10(|exact| / |exact - other|)``, infinite for equal arrays.

    Raises:
        SternaError: the shapes differ.
    """
    if exact.shape != other.shape:
        raise SternaError(f"outputs have shapes {exact.shape} and {other.shape}")
    noise = float(np.linalg.norm(exact - other))
    return float(20 * np.log10(np.linalg.norm(exact) / noise)) if noise else float("inf")


def _versions(running: Sequence[_Entry]) -> dict[str, str]:
    packages = {package for entry in running for package in entry.engine.packages}
    if any(entry.engine is OpenVinoInt8 for entry in running):
        packages.add("nncf")
    versions = {"sterna": __version__}
    for package in sorted(packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
