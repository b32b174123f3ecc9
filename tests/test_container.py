"""The container: models survive it, damage and hostile claims are refused, files are written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from golden.make_golden import assemble, bad_files, golden_graphs, good_model, graph_model, section, table
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sterna.container import Coder, SternaFile, decode, encode, read, save, writer
from sterna.container.layout import PREFIX, SECTION, Section
from sterna.errors import FormatError, SternaError
from sterna.reference import container as reference
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden"
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
BAD_FILES = sorted((GOLDEN / "bad").glob("*.sterna"))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def parts(tensor: Tensor) -> list[npt.NDArray[Any] | None]:
    if isinstance(tensor, TernaryTensor):
        return [tensor.trits, tensor.scale]
    return [tensor.values, tensor.scale] if isinstance(tensor, Int8Tensor) else [tensor]


def assert_equal(left: TernaryModel, right: TernaryModel) -> None:
    """Equal to the bit: names and their order, types, shapes, NaN and the sign of zero included."""
    assert list(left.tensors) == list(right.tensors)
    for name, a in left.tensors.items():
        b = right.tensors[name]
        assert type(a) is type(b)
        for one, other in zip(parts(a), parts(b), strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert_same_array(one, other)
    assert left.metadata == right.metadata
    assert left.graphs == right.graphs


def assert_same_array(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aé海", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)


@st.composite
def ternary_tensors(draw: st.DrawFn) -> TernaryTensor:
    trits = draw(hnp.arrays(np.int8, SHAPES, elements=st.integers(-1, 1)))
    dtype = draw(st.sampled_from([np.float16, np.float32]))
    scale = draw(st.sampled_from([None, (), trits.shape[:1]]))
    return TernaryTensor(trits, None if scale is None else draw(hnp.arrays(dtype, scale)))


@st.composite
def int8_tensors(draw: st.DrawFn) -> Int8Tensor:
    values = draw(hnp.arrays(np.int8, SHAPES))
    return Int8Tensor(values, draw(hnp.arrays(np.float16, draw(st.sampled_from([(), values.shape[:1]])))))


TENSORS: st.SearchStrategy[Tensor] = st.one_of(
    ternary_tensors(), int8_tensors(), st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
)
MODELS = st.builds(
    TernaryModel,
    st.dictionaries(st.text("abc.é", min_size=1, max_size=6), TENSORS, max_size=4),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), JSON_VALUES, max_size=3),
)


@given(MODELS, st.sampled_from(["small", "fast", "smallest", "auto"]))
@settings(deadline=None)
def test_any_model_comes_back_equal(model: TernaryModel, coder: Coder) -> None:
    assert_equal(decode(encode(model, coder=coder)), model)


@given(MODELS, st.sampled_from(["small", "fast", "smallest"]))
@settings(deadline=None, max_examples=10)
def test_the_reference_decodes_any_model(model: TernaryModel, coder: Coder) -> None:
    assert_equal(reference.decode(encode(model, coder=coder)), model)


@given(MODELS)
@settings(deadline=None, max_examples=25)
def test_equal_models_give_equal_bytes(model: TernaryModel) -> None:
    assert encode(decode(encode(model))) == encode(model)


def test_arrays_that_come_back_can_be_written_to() -> None:
    restored = decode(encode(good_model()))
    for tensor in restored.tensors.values():
        assert all(part.flags.writeable for part in parts(tensor) if part is not None)


def test_big_endian_and_strided_arrays_are_stored_by_value() -> None:
    values = np.arange(12, dtype=">f4").reshape(3, 4)[::2, ::-1]
    restored = decode(encode(TernaryModel({"w": values}))).tensors["w"]
    np.testing.assert_array_equal(restored, values)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["good", "fast", "smallest"])
def test_the_good_golden_files_decode_to_their_model(name: str) -> None:
    data = (GOLDEN / f"{name}.sterna").read_bytes()
    assert_equal(decode(data), good_model())
    assert_equal(reference.decode(data), good_model())


def test_the_golden_file_with_graphs_decodes_to_them() -> None:
    data = (GOLDEN / "graph.sterna").read_bytes()
    rounded = float(np.float32(1e30))
    whole, head = golden_graphs()
    expected = (whole, dataclasses.replace(head, ranges=(*head.ranges[:2], (-1.0, rounded))))
    for model in (decode(data), reference.decode(data)):
        assert_equal(model, dataclasses.replace(graph_model(), graphs=expected))
    assert encode(decode(data)) == data


def test_the_golden_model_encodes_to_the_bytes_of_its_files() -> None:
    assert encode(good_model()) == (GOLDEN / "good.sterna").read_bytes()
    assert encode(good_model(), coder="fast") == (GOLDEN / "fast.sterna").read_bytes()
    assert encode(good_model(), coder="smallest") == (GOLDEN / "smallest.sterna").read_bytes()
    assert encode(graph_model()) == (GOLDEN / "graph.sterna").read_bytes()


@pytest.mark.parametrize("path", BAD_FILES, ids=lambda path: path.stem)
def test_a_bad_golden_file_is_refused_for_its_cause(path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        read(path)
    assert caught.value.cause == path.name.split(".")[0]
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_the_golden_folder_holds_a_file_for_each_bad_case() -> None:
    assert {path.stem for path in BAD_FILES} == set(bad_files())


def test_every_single_flipped_bit_of_the_golden_file_is_refused() -> None:
    data = (GOLDEN / "good.sterna").read_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            decode(bytes(damaged))


def test_every_truncation_of_the_golden_file_is_refused() -> None:
    data = (GOLDEN / "good.sterna").read_bytes()
    for size in range(len(data)):
        with pytest.raises(FormatError):
            decode(data[:size])


def test_the_example_of_the_specification_decodes_to_what_it_says() -> None:
    text = (REPOSITORY / "docs" / "format.md").read_text(encoding="utf-8")
    listing = re.search(r"```hex\n(.*?)```", text, re.DOTALL)
    assert listing is not None
    data = bytes.fromhex(listing[1])
    scale = np.array([0.5, 2.0], np.float16)
    trits = np.array([[1, 0, -1], [0, 0, 1]], np.int8)
    expected = TernaryModel({"w": TernaryTensor(trits, scale), "b": np.array([1.0], np.float16)})
    assert_equal(decode(data), expected)
    assert_equal(reference.decode(data), expected)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_damaged_section_with_right_checksums_is_refused_or_gives_a_model(data: st.DataObject) -> None:
    good = (
        GOLDEN / data.draw(st.sampled_from(["good.sterna", "fast.sterna", "smallest.sterna", "graph.sterna"]))
    ).read_bytes()
    sections = []
    at = PREFIX.size
    while at < len(good) - 16:
        kind, flags, version, size = SECTION.unpack_from(good, at)
        sections.append([kind, flags, version, bytearray(good[at + 8 : at + 8 + size])])
        at += size + 12
    for _ in range(data.draw(st.integers(1, 3))):
        payload = data.draw(st.sampled_from([section[3] for section in sections]))
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    damaged = [
        section(kind, bytes(payload), flags=flags, version=version) for kind, flags, version, payload in sections
    ]
    try:
        model = decode(assemble(*damaged))
    except FormatError:
        return
    assert isinstance(model, TernaryModel)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_file_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data)


def test_a_file_of_a_newer_version_names_it() -> None:
    with pytest.raises(FormatError, match=r"needs a Sterna that reads its version .*: got 2, allowed 1"):
        decode((GOLDEN / "bad" / "version.2.sterna").read_bytes())


def test_an_unknown_mandatory_section_names_the_version_that_is_needed() -> None:
    with pytest.raises(FormatError, match=r"a section needs a Sterna .*: got 5, allowed 1"):
        decode(assemble(table(), section(77, b"later", flags=0, version=5)))


def test_an_unknown_optional_section_is_skipped() -> None:
    weight = np.array([1.5], np.float32)
    known = encode(TernaryModel({"w": weight}, {"a": 1}))
    at = PREFIX.size
    sections = []
    while at < len(known) - 16:
        size = SECTION.unpack_from(known, at)[3] + 12
        sections.append(known[at : at + size])
        at += size
    for place in range(1, len(sections) + 1):
        later = section(200, b"of a later version", flags=1, version=9)
        mixed = [*sections[:place], later, *sections[place:]]
        if place == 1:
            with pytest.raises(FormatError, match="metadata follow"):
                decode(assemble(*mixed))
        else:
            assert_equal(decode(assemble(*mixed)), TernaryModel({"w": weight}, {"a": 1}))


def test_a_damaged_graph_does_not_keep_tensors_from_being_read() -> None:
    file = SternaFile((GOLDEN / "bad" / "version.unknown-operator.sterna").read_bytes())
    assert list(file.read(with_graphs=False).tensors) == ["w"]
    with pytest.raises(FormatError, match="knows operator 255"):
        file.read()


def test_a_small_file_that_claims_gigabytes_takes_no_memory() -> None:
    code = (
        "import resource, sys; from pathlib import Path; from sterna.container import decode\n"
        "from sterna.errors import FormatError\n"
        "files = [path.read_bytes() for path in Path(sys.argv[1]).glob('*.sterna')]\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for data in files:\n"
        "    try: decode(data)\n"
        "    except FormatError: pass\n"
        "    else: sys.exit('a bad file was accepted')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(GOLDEN / "bad")], capture_output=True, text=True, check=True
    )
    # Kilobytes; the largest lawful text is 16 MB.
    assert int(result.stdout) < 60_000


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"x": float("nan")}, "JSON"),
        ({"x": {1, 2}}, "JSON"),
        ({"x": "\ud800"}, "JSON"),
        ({"x": [{1: 2}]}, "keys must be text, got 1"),
    ],
)
def test_metadata_that_are_not_json_are_refused(metadata: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SternaError, match=message):
        encode(TernaryModel({}, metadata))


@pytest.mark.parametrize("dtype", ["uint16", "complex64", "U3", "O"])
def test_an_array_of_another_type_is_refused(dtype: str) -> None:
    with pytest.raises(SternaError, match="arrays must be of b1"):
        encode(TernaryModel({"w": np.zeros(2, dtype)}))


def test_a_tensor_of_nine_dimensions_is_refused() -> None:
    with pytest.raises(SternaError, match="'w' must have at most 8 dimensions"):
        encode(TernaryModel({"w": np.zeros((1,) * 9, np.float32)}))


def test_save_says_how_many_bytes_it_wrote_and_read_gives_the_model_back(tmp_path: Path) -> None:
    path = tmp_path / "model.sterna"
    assert save(good_model(), path) == path.stat().st_size
    assert_equal(read(path), good_model())
    assert names_in(tmp_path) == ["model.sterna"]


def test_a_missing_file_and_a_folder_are_one_line_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.sterna", tmp_path):
        with pytest.raises(SternaError, match="cannot read") as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_missing_folder_to_write_to_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(SternaError, match="cannot write"):
        save(good_model(), tmp_path / "missing" / "model.sterna")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_fills_up_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "model.sterna"
    path.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
    with pytest.raises(SternaError, match=r"cannot write .*model.sterna \(after \d+ bytes\): No space left on device"):
        save(good_model(), path)
    assert path.read_bytes() == b"older"
    assert names_in(tmp_path) == ["model.sterna"]


def test_an_interrupted_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.sterna"
    path.write_bytes(b"older")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(good_model(), path)
    assert path.read_bytes() == b"older"
    assert names_in(tmp_path) == ["model.sterna"]


def test_a_real_limit_on_file_size_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "model.sterna"
    path.write_bytes(b"older")
    code = (
        "import resource, signal, sys; import numpy as np\n"
        "from sterna.container import save; from sterna.errors import SternaError\n"
        "from sterna.ternary_model import TernaryModel\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "noise = np.random.default_rng(0).random(10_000)\n"
        "try: save(TernaryModel({'w': noise}), sys.argv[1])\n"
        "except SternaError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write" in result.stdout
    assert path.read_bytes() == b"older"
    assert names_in(tmp_path) == ["model.sterna"]


def test_the_header_of_a_resnet20_with_its_recipe_stays_below_600_bytes() -> None:
    tensors: dict[str, Tensor] = {"conv1.weight": np.zeros((16, 3, 3, 3), np.float16)}
    width = 16
    for stage in (1, 2, 3):
        for block in range(3):
            for number in (1, 2):
                inputs = width // 2 if stage > 1 and block == 0 and number == 1 else width
                name = f"layer{stage}.{block}"
                tensors[f"{name}.conv{number}.weight"] = TernaryTensor(np.zeros((width, inputs, 3, 3), np.int8))
                for part in ("weight", "bias"):
                    tensors[f"{name}.bn{number}.{part}"] = np.zeros(width, np.float16)
        width *= 2
    tensors["fc.weight"] = TernaryTensor(np.zeros((10, 64), np.int8), np.zeros(10, np.float16))
    tensors["fc.bias"] = np.zeros(10, np.float16)
    assert 55 < len(tensors) < 65
    pytest.importorskip("pydantic")
    from sterna.train.recipe import load_recipe

    recipe = load_recipe(REPOSITORY / "recipes" / "resnet20_cifar10_z70.yaml", [])
    metadata = {
        "model": {"name": "cifar_resnet20", "arguments": {}},
        "task": "classification",
        "labels": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        "preprocessing": {"image_size": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "recipe": recipe.model_dump(mode="json"),
        "metrics": {"top1": 91.23, "top5": 99.7, "loss": 0.3017, "images": 10000, "split": "test"},
        "source_sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    assert len(json.dumps(metadata)) > 1500
    file = SternaFile(encode(TernaryModel(tensors, metadata)))
    held = sum(size for kind, _, size, *_ in file.sections if kind in (Section.TRITS, Section.ARRAYS))
    assert file.data.size - held < 600


def test_one_tensor_is_read_without_the_others() -> None:
    model = good_model()
    file = SternaFile(encode(model))
    assert list(file.entries) == list(model.tensors)
    for name, tensor in model.tensors.items():
        assert_equal(TernaryModel({name: file.tensor(name)}), TernaryModel({name: tensor}))
    with pytest.raises(SternaError, match=r"the file has no tensor 'w'; it has 'folded\.weight'"):
        file.tensor("w")


def test_damage_is_found_without_the_checksum_of_the_whole_file_too() -> None:
    good = encode(good_model())
    for kind, offset, *_ in SternaFile(good).sections:
        data = bytearray(good)
        data[offset] ^= 1
        with pytest.raises(FormatError, match="the checksum of a section"):
            SternaFile(bytes(data), whole_checksum=False)
        assert kind in tuple(Section)


def large_model() -> TernaryModel:
    """Tensors of several chunks and sections."""
    random = np.random.default_rng(4)
    trits = (random.integers(-1, 2, (700, 600, 3, 3)) * (random.random((700, 600, 3, 3)) < 0.3)).astype(np.int8)
    flat = random.integers(-1, 2, 300_000).astype(np.int8)
    return TernaryModel(
        {
            "large": TernaryTensor(trits, random.random(700).astype(np.float16)),
            "flat": TernaryTensor(flat),
            "float32": random.normal(size=(300, 1000)).astype(np.float32),
            "float16": random.normal(size=300_000).astype(np.float16),
            "small": TernaryTensor(trits[:10, :10].copy()),
        }
    )


@pytest.mark.parametrize("coder", ["small", "fast", "smallest"])
def test_threads_and_chunks_change_nothing(coder: Coder, tmp_path: Path) -> None:
    model = large_model()
    seen: list[tuple[int, int]] = []
    save(model, tmp_path / "w.sterna", coder=coder)
    file = SternaFile.open(tmp_path / "w.sterna")
    assert len(file.entries["large"].chunks) == 4
    assert isinstance(file.data, np.memmap)
    for threads in (1, 3):
        assert_equal(file.read(threads=threads, progress=lambda *counts: seen.append(counts)), model)
    assert seen[-1][0] == seen[-1][1] > 0
    assert_equal(TernaryModel({"large": file.tensor("large")}), TernaryModel({"large": model.tensors["large"]}))


def test_writing_never_holds_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    monkeypatch.setattr(writer, "write_whole", lambda path, parts: sum(pieces.append(len(p)) or len(p) for p in parts))
    total = save(large_model(), tmp_path / "w.sterna")
    assert len(pieces) > 5
    assert max(pieces) < 0.8 * total


def test_an_unknown_coder_is_refused() -> None:
    with pytest.raises(SternaError, match="coder must be one of small, fast, smallest, auto, got 'zip'"):
        encode(TernaryModel({}), coder="zip")  # type: ignore[arg-type]


def test_auto_takes_the_fast_coder_where_it_costs_little() -> None:
    random = np.random.default_rng(3)
    even = (random.integers(-1, 2, (200, 300)) * (random.random((200, 300)) < 0.3)).astype(np.int8)
    signs = random.choice(np.array([-1, 1], np.int8), (64, 32, 1, 1))
    smooth = (signs * (random.random((64, 32, 3, 3)) < 0.4)).astype(np.int8)
    file = SternaFile(encode(TernaryModel({"a": TernaryTensor(even), "b": TernaryTensor(smooth)}), coder="auto"))
    assert [entry.coder for entry in file.entries.values()] == ["fast", "small"]
