"""The container: models survive it, damage and hostile claims are refused, files are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from golden.make_golden import assemble, bad_files, good_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sterna import container
from sterna.container import decode, encode, read, save
from sterna.errors import FormatError, SternaError
from sterna.reference import container as reference
from sterna.ternary_model import Tensor, TernaryModel, TernaryTensor

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden"
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
BAD_FILES = sorted((GOLDEN / "bad").glob("*.sterna"))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def assert_equal(left: TernaryModel, right: TernaryModel) -> None:
    """Equal to the bit: names and their order, types, shapes, NaN and the sign of zero included."""
    assert list(left.tensors) == list(right.tensors)
    for name, a in left.tensors.items():
        b = right.tensors[name]
        assert type(a) is type(b)
        if isinstance(a, TernaryTensor) and isinstance(b, TernaryTensor):
            assert_same_array(a.trits, b.trits)
            assert (a.scale is None) == (b.scale is None)
            if a.scale is not None and b.scale is not None:
                assert_same_array(a.scale, b.scale)
        else:
            assert_same_array(np.asarray(a), np.asarray(b))
    assert left.metadata == right.metadata


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


TENSORS: st.SearchStrategy[Tensor] = st.one_of(
    ternary_tensors(), st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
)
MODELS = st.builds(
    TernaryModel,
    st.dictionaries(st.text("abc.é", min_size=1, max_size=6), TENSORS, max_size=4),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), JSON_VALUES, max_size=3),
)


@given(MODELS)
@settings(deadline=None)
def test_any_model_comes_back_equal_from_both_decoders(model: TernaryModel) -> None:
    data = encode(model)
    assert_equal(decode(data), model)
    assert_equal(reference.decode(data), model)


@given(MODELS)
@settings(deadline=None, max_examples=25)
def test_equal_models_give_equal_bytes(model: TernaryModel) -> None:
    assert encode(decode(encode(model))) == encode(model)


def test_arrays_that_come_back_can_be_written_to() -> None:
    restored = decode(encode(good_model()))
    for tensor in restored.tensors.values():
        parts = [tensor.trits, tensor.scale] if isinstance(tensor, TernaryTensor) else [tensor]
        assert all(part.flags.writeable for part in parts if part is not None)


def test_big_endian_and_strided_arrays_are_stored_by_value() -> None:
    values = np.arange(12, dtype=">f4").reshape(3, 4)[::2, ::-1]
    restored = decode(encode(TernaryModel({"w": values}))).tensors["w"]
    np.testing.assert_array_equal(restored, values)  # type: ignore[arg-type]


def test_the_good_golden_file_decodes_to_its_model() -> None:
    data = (GOLDEN / "good.sterna").read_bytes()
    assert_equal(decode(data), good_model())
    assert_equal(reference.decode(data), good_model())


@pytest.mark.skipif("ng" in zlib.ZLIB_RUNTIME_VERSION, reason="zlib-ng deflates to other, equally valid bytes")
def test_the_golden_model_encodes_to_the_bytes_of_its_file() -> None:
    assert encode(good_model()) == (GOLDEN / "good.sterna").read_bytes()


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


def with_right_checksum(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_damage_with_a_right_checksum_is_refused_or_gives_a_model(data: st.DataObject) -> None:
    damaged = bytearray((GOLDEN / "good.sterna").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 5))] = data.draw(st.integers(0, 255))
    try:
        model = decode(with_right_checksum(bytes(damaged)))
    except FormatError:
        return
    assert isinstance(model, TernaryModel)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_file_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data)


@given(st.recursive(st.integers() | st.text(max_size=5) | st.booleans() | st.none(), lambda x: st.lists(x, max_size=6)))
@settings(deadline=None)
def test_any_tensor_entry_that_describes_no_tensor_is_refused(entry: Any) -> None:
    arrays = bytes([3, 0])  # an empty deflate stream
    data = assemble({"tensors": [entry], "arrays": len(arrays), "metadata": {}}, arrays)
    with pytest.raises(FormatError):
        decode(data)


def test_a_file_of_a_newer_version_names_it() -> None:
    with pytest.raises(FormatError, match=r"version 2 needs a Sterna that reads it; this one reads version 1"):
        decode(assemble({}, version=2))


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
    # Kilobytes; the largest lawful header is 16 MB, and its text is held beside its bytes.
    assert int(result.stdout) < 100_000


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"x": float("nan")}, "JSON"),
        ({"x": {1, 2}}, "JSON"),
        ({"x": "\ud800"}, "JSON"),
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

    monkeypatch.setattr(*((container.os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
    with pytest.raises(SternaError, match=r"cannot write .*model.sterna \(\d+ bytes\): No space left on device"):
        save(good_model(), path)
    assert path.read_bytes() == b"older"
    assert names_in(tmp_path) == ["model.sterna"]


def test_an_interrupted_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.sterna"
    path.write_bytes(b"older")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(container.os, "fsync", interrupt)
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


def test_the_header_of_a_resnet20_with_its_recipe_stays_below_1200_bytes() -> None:
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
    assert container.parse(encode(TernaryModel(tensors, metadata))).header_bytes < 1200


def test_the_layout_covers_the_file_exactly() -> None:
    layout = container.parse((GOLDEN / "good.sterna").read_bytes())
    coded = sum(entry.coded_bytes for entry in layout.entries)
    assert layout.header_bytes + coded + layout.array_bytes + container.CHECKSUM.size == layout.file_bytes
