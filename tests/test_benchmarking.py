"""Who takes part in a benchmark, in which order, and what is made of the times."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import small_network

from sterna import save
from sterna.benchmarking import benchmark, peers, profile_layers
from sterna.benchmarking.comparison import _base, _Entry, sqnr_db
from sterna.benchmarking.layers import rows_of
from sterna.benchmarking.peers import ENGINES, ISA_FLAGS, ONEDNN_CAPS, Job, OpenVino, Sterna
from sterna.benchmarking.process import EngineError, EngineProcess
from sterna.benchmarking.ranges import ranges_for_timing
from sterna.benchmarking.rounds import Spread, ratio, runs_in_a_turn, take_turns
from sterna.errors import ConfigError, SternaError
from sterna.machine import forget_peak, peak_bytes, processor
from sterna.session import LayerTime

TESTS = Path(__file__).parent


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a small network; workers find the fake sessions."""
    path = tmp_path / "small.sterna"
    save(small_network(), path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    return path


class Clock:
    """An engine whose runs take what a list says; all of them write to one diary."""

    def __init__(self, name: str, times: list[float], diary: list[str]) -> None:
        self.name, self.times, self.diary = name, times, diary
        self.runs: list[int] = []

    def time(self, runs: int) -> float:
        self.diary.append(self.name)
        self.runs.append(runs)
        return self.times[len(self.runs) - 1]


def test_engines_take_turns_and_each_round_begins_with_another() -> None:
    diary: list[str] = []
    engines = {name: Clock(name, [1.0, 2.0, 3.0], diary) for name in "abc"}
    done: list[tuple[int, int]] = []
    times = take_turns(engines, {"a": 1.0, "b": 20.0, "c": 500.0}, 3, lambda *steps: done.append(steps))
    assert "".join(diary) == "abc" + "bca" + "cab"
    assert list(times) == list("abc")
    assert all(values == [1.0, 2.0, 3.0] for values in times.values())
    assert [engine.runs for engine in engines.values()] == [[50] * 3, [3] * 3, [1] * 3]
    assert done[-1] == (9, 9)


def test_a_turn_takes_at_least_fifty_milliseconds() -> None:
    for run_ms in (0.003, 0.7, 7.0, 49.9, 50.0, 51.0):
        assert runs_in_a_turn(run_ms) * run_ms >= 50.0
        assert (runs_in_a_turn(run_ms) - 1) * run_ms < 50.0


def test_ratios_are_taken_within_rounds() -> None:
    # The machine is twice as slow in every second round, which says nothing about the engines.
    assert ratio([2.0, 4.0, 2.0, 4.0], [1.0, 2.0, 1.0, 2.0]) == Spread(2.0, 0.0)


def test_the_spread_is_the_interquartile_range() -> None:
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 100.0]) == Spread(3.0, 2.0)
    assert Spread.of([5.0]) == Spread(5.0, 0.0)


def test_sqnr() -> None:
    exact = np.array([3.0, 4.0], np.float32)
    assert sqnr_db(exact, exact) == float("inf")
    assert sqnr_db(exact, exact * np.float32(1.125)) == pytest.approx(20 * np.log10(8))
    with pytest.raises(SternaError, match="shapes"):
        sqnr_db(exact, exact[:1])


def test_peak_memory_can_begin_anew() -> None:
    before = forget_peak()
    block = np.ones(1 << 26, np.uint8)  # so large that it is never of memory that was used before
    assert peak_bytes() - before >= block.size - (1 << 20)  # kernels count pages in lots
    del block
    if Path("/proc/self/clear_refs").exists():
        assert forget_peak() < before + (1 << 23)


def test_sterna_alone_is_its_own_measure(file: Path) -> None:
    steps: list[str] = []
    report = benchmark(
        file, engines=["sterna"], rounds=2, batch=3, threads=2, session="fake_session:FakeSession",
        progress=lambda what, _done, _all: steps.append(what),
    )  # fmt: skip
    (row,) = report.rows
    assert (row.name, row.engine, row.isa, row.ratio) == ("sterna", "sterna", "native", 1.0)
    assert len(row.rounds_ms) == 2
    assert min(row.rounds_ms) <= row.milliseconds <= max(row.rounds_ms)
    assert row.images_per_second == pytest.approx(3e3 / row.milliseconds)
    assert row.sqnr_db is None
    assert row.peak_bytes >= 0
    assert (report.shape, report.threads, report.rounds) == ((3, 3, 16, 16), 2, 2)
    assert report.left_out == ()
    assert steps[0] == "load sterna"
    assert steps[-1] == "time"


def test_instruction_sets_and_activations_are_rows_of_their_own(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sterna.benchmarking.comparison.processor", lambda: ("some", frozenset({"avx2"})))
    report = benchmark(
        file, engines=["sterna"], isas=["native", "avx2", "avx512"], activations=["float32", "int8"], rounds=1,
        session="fake_session:FakeSession",
    )  # fmt: skip
    assert [row.name for row in report.rows] == ["sterna", "sterna-int8", "sterna@avx2", "sterna-int8@avx2"]
    assert [row.ratio for row in report.rows] == [1.0] * 4
    reason = "the processor has no avx512_vnni"
    assert report.left_out == (("sterna@avx512", reason), ("sterna-int8@avx512", reason))


@pytest.mark.parametrize(
    ("engine", "isa", "base"),
    [
        ("openvino", "", "sterna"),
        ("openvino-int8", "", "sterna-int8"),
        ("openvino-int8", "avx2", "sterna-int8@avx2"),
        ("openvino", "avx2vnni", "sterna@avx2"),
        ("openvino-bf16", "avx512bf16", "sterna@avx2"),
        ("sterna", "", "sterna"),
    ],
)
def test_an_engine_is_compared_with_the_sterna_of_its_kind(engine: str, isa: str, base: str) -> None:
    plain = Job(file="", shape=(1,), threads=1, folder="")
    ours = [
        _Entry(Sterna, replace(plain, isa=own, activations=kind), label)
        for own, kind, label in (
            ("", "float32", "sterna"),
            ("", "int8", "sterna-int8"),
            ("avx2", "float32", "sterna@avx2"),
            ("avx2", "int8", "sterna-int8@avx2"),
        )
    ]
    entry = ours[0] if engine == "sterna" else _Entry(ENGINES[engine], replace(plain, isa=isa), "other")
    found = _base(entry, [*ours, entry])
    assert found is not None
    assert found.label == base
    assert _base(_Entry(OpenVino, plain, "alone"), []) is None


def asked(file: Path, folder: Path, engine: str = "sterna", **options: object) -> np.ndarray:
    """The output of an engine in its process."""
    job = Job(file=str(file), shape=(1, 3, 16, 16), threads=1, folder=str(folder), **options)  # type: ignore[arg-type]
    with EngineProcess(ENGINES[engine], job) as process:
        assert process.load() > 0
        run_ms, peak = process.warm()
        assert run_ms > 0
        assert peak >= 0
        assert process.time(2) > 0
        process.ask("output", path=str(folder / "y.npy"))
    return np.load(folder / "y.npy")


def test_a_session_is_told_what_was_asked_for(file: Path, tmp_path: Path) -> None:
    fake = {"session": "fake_session:FakeSession"}
    assert asked(file, tmp_path, **fake).tolist() == [[1, 0, 0, 0]]
    told = asked(file, tmp_path, **fake, isa="avx2", activations="int8", ranges=((0.0, 1.0), (-1.0, 1.0)))
    assert told.tolist() == [[1, 1, 1, 2]]


def test_an_engine_that_refuses_or_dies_is_left_out_with_its_reason(file: Path) -> None:
    for session, reason in (
        ("fake_session:Refusing", "ValueError: no two ways"),
        ("fake_session:Missing", "this version of fake_session has no Missing"),
        ("fake_session:Dying", "its process ended with code 3"),
    ):
        report = benchmark(file, engines=["sterna"], rounds=1, session=session)
        assert report.rows == ()
        ((name, text),) = report.left_out
        assert name == "sterna"
        assert reason in text


def test_a_process_ends_with_its_context(file: Path, tmp_path: Path) -> None:
    job = Job(file=str(file), shape=(1, 3, 16, 16), threads=1, folder=str(tmp_path))
    with EngineProcess(ENGINES["sterna"], job) as process:
        pass
    with pytest.raises((EngineError, ValueError)):
        process.ask("warm")


def test_packages_that_are_not_installed_are_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _name: None)
    report = benchmark(file, rounds=1, session="fake_session:FakeSession")
    assert [row.name for row in report.rows] == ["sterna"]
    assert dict(report.left_out) == {
        "pytorch": "not installed: torch, torchvision",
        "pytorch-compiled": "not installed: torch, torchvision",
        "onnxruntime": "not installed: onnxruntime, onnx",
        "onnxruntime-int8": "not installed: onnxruntime, onnx",
        "openvino": "not installed: openvino, onnx",
        "openvino-bf16": "not installed: openvino, onnx",
        "openvino-int8": "not installed: openvino, onnx, nncf",
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"engines": ["sterna", "tvm"]}, "unknown engine 'tvm'; there are sterna, pytorch"),
        ({"isas": ["sse9"]}, "unknown instruction set 'sse9'; there are native, avx2"),
        ({"activations": ["int4"]}, "unknown type of activations 'int4'"),
    ],
)
def test_unknown_names_are_refused_with_those_that_exist(file: Path, options: dict[str, list[str]], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        benchmark(file, **options)  # type: ignore[arg-type]


def test_every_cap_has_the_flag_of_a_processor() -> None:
    assert list(ISA_FLAGS) == list(ONEDNN_CAPS)
    assert all(set(engine.caps) <= set(ONEDNN_CAPS) for engine in ENGINES.values())
    job = Job(file="", shape=(1,), threads=3, folder="", isa="avx2")
    assert OpenVino.environment(job) == {"OMP_NUM_THREADS": "3", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def test_the_peers_compute_the_network(file: Path) -> None:
    wanted = ("sterna", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8")
    missing = sorted({package for name in wanted for package in ENGINES[name].missing()})
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    report = benchmark(file, engines=wanted, rounds=1, batch=2)
    assert report.left_out == ()
    assert [row.name for row in report.rows] == list(wanted)
    assert all(row.ratio is not None for row in report.rows)
    sqnr = {row.name: row.sqnr_db or 0.0 for row in report.rows}
    # Sums in another order, against 8 bits of mantissa or integers.
    assert all(value > (80 if name in ("sterna", "onnxruntime", "openvino") else 15) for name, value in sqnr.items())


def test_pytorch_computes_the_network_that_the_file_names(tmp_path: Path) -> None:
    if not ENGINES["pytorch"].available():
        pytest.skip("needs PyTorch")
    import torch

    from sterna import TernaryConfig, capture, convert, prepare
    from sterna.models import build_model
    from sterna.preparation import set_phase, update_masks

    torch.manual_seed(0)
    model = prepare(build_model("digits_cnn").eval(), TernaryConfig(sparsity=0.5))
    update_masks(model, 0.5)
    set_phase(model, "ternary")
    shape = (1, 8, 8)
    stored = convert(model, metadata={"model": {"name": "digits_cnn", "arguments": {}}})
    save(type(stored)(stored.tensors, stored.metadata, (capture(model, shape),)), tmp_path / "d.sterna")
    report = benchmark(tmp_path / "d.sterna", engines=["sterna", "pytorch"], rounds=1)
    assert report.left_out == ()
    assert report.model == "digits_cnn"
    ours, theirs = report.rows
    assert (ours.name, theirs.name) == ("sterna", "pytorch")
    assert ours.sqnr_db is not None
    assert ours.sqnr_db > 80


def test_ranges_are_those_of_the_file_or_of_what_is_computed(file: Path) -> None:
    graph = small_network().graphs[0]
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    ranges = ranges_for_timing(file, graph, images)
    assert len(ranges) == graph.value_count
    assert ranges[0] == (float(images[0].min()), float(images[0].max()))
    assert all(low >= 0 for (low, _), node in zip(ranges[1:], graph.nodes, strict=True) if node.operator == "relu")
    known = tuple((-1.0, float(number)) for number in range(graph.value_count))
    assert ranges_for_timing(file, replace(graph, ranges=known), images) == known


def test_layers_have_shares_and_rates() -> None:
    layers = [
        LayerTime("a", "conv2d", "sparse", 3.0, 6_000_000),
        LayerTime("b", "relu", "", 1.0, 0),
        LayerTime("c", "", "", 0.0, 0),
    ]
    rows = rows_of(layers)
    assert [row.share for row in rows] == [0.75, 0.25, 0.0]
    assert [row.giga_operations_per_second for row in rows] == [pytest.approx(2.0), 0.0, 0.0]


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_layers_of_a_file(file: Path, activations: str) -> None:
    rows = profile_layers(file, activations=activations, runs=2)  # type: ignore[arg-type]
    assert {"first", "second", "depthwise", "classifier"} <= {row.name for row in rows}
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    second = next(row for row in rows if row.name == "second")
    assert second.operations > 0


def test_the_processor_has_a_name() -> None:
    assert processor()[0]
