"""The trit coder: what goes in comes out, small; bad bytes are refused; the native and the reference decoder agree."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sterna import _core
from sterna.inspection import trit_entropy
from sterna.reference import trit_coder
from sterna.ternary_model import TernaryTensor

REPOSITORY = Path(__file__).resolve().parent.parent

SHAPES = st.lists(st.integers(0, 5), max_size=8).filter(lambda shape: math.prod(shape) <= 600).map(tuple)
SPARSITIES = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))


def random_trits(shape: Sequence[int], sparsity: float, seed: int) -> npt.NDArray[np.int8]:
    random = np.random.default_rng(seed)
    signs = random.choice(np.array([-1, 1], np.int8), tuple(shape))
    return np.asarray(np.where(random.random(tuple(shape)) < sparsity, 0, signs), np.int8)


def entropy_bytes(trits: npt.NDArray[np.int8]) -> float:
    return trit_entropy(TernaryTensor(trits)) * trits.size / 8


@given(shape=SHAPES, sparsity=SPARSITIES, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_any_shape_and_sparsity_survives_both_decoders(shape: tuple[int, ...], sparsity: float, seed: int) -> None:
    trits = random_trits(shape, sparsity, seed)
    coded = _core.encode_trits(trits)
    native = _core.decode_trits(coded, shape)
    assert native.dtype == np.int8
    assert native.shape == shape
    np.testing.assert_array_equal(native, trits)
    np.testing.assert_array_equal(trit_coder.decode_trits(coded, shape), trits)


@given(data=st.binary(max_size=60), shape=SHAPES)
@settings(deadline=None)
def test_both_decoders_do_the_same_with_any_bytes(data: bytes, shape: tuple[int, ...]) -> None:
    try:
        expected = trit_coder.decode_trits(data, shape)
    except ValueError:
        with pytest.raises(ValueError, match="coded trits"):
            _core.decode_trits(data, shape)
    else:
        np.testing.assert_array_equal(_core.decode_trits(data, shape), expected)


@pytest.mark.parametrize("shape", [(1, 1, 11, 13), (2, 1, 40), (3, 50), (70,), (2, 2, 2, 3, 4)])
def test_kernels_beyond_the_number_of_positions_survive(shape: tuple[int, ...]) -> None:
    trits = random_trits(shape, 0.6, seed=7)
    coded = _core.encode_trits(trits)
    np.testing.assert_array_equal(_core.decode_trits(coded, shape), trits)
    np.testing.assert_array_equal(trit_coder.decode_trits(coded, shape), trits)


def test_equal_trits_give_equal_bytes_whatever_their_memory_layout() -> None:
    trits = random_trits((8, 6, 3, 3), 0.7, seed=1)
    reversed_twice = trits[::-1].copy()[::-1]
    assert not reversed_twice.flags.c_contiguous
    assert _core.encode_trits(reversed_twice) == _core.encode_trits(trits)


# What the counters and mixers cost to learn, which weighs more the smaller the tensor.
@pytest.mark.parametrize(("shape", "overhead"), [((64, 64, 3, 3), 0.01), ((200, 200), 0.01), ((100, 100), 0.025)])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.9])
def test_independent_trits_cost_little_more_than_their_entropy(
    sparsity: float, shape: tuple[int, ...], overhead: float
) -> None:
    trits = random_trits(shape, sparsity, seed=3)
    assert len(_core.encode_trits(trits)) <= (1 + overhead) * entropy_bytes(trits)


def test_signs_that_neighbours_predict_cost_less_than_a_bit() -> None:
    signs = np.random.default_rng(5).choice(np.array([-1, 1], np.int8), (64, 32, 1, 1))
    trits = np.where(random_trits((64, 32, 3, 3), 0.7, seed=6) != 0, signs, 0).astype(np.int8)
    assert len(_core.encode_trits(trits)) < 0.85 * entropy_bytes(trits)


def test_channels_of_unequal_density_cost_less_than_entropy() -> None:
    random = np.random.default_rng(8)
    density = random.choice([0.05, 0.7], 128)
    trits = (random.choice([-1, 1], (256, 128)) * (random.random((256, 128)) < density)).astype(np.int8)
    assert len(_core.encode_trits(trits)) < 0.85 * entropy_bytes(trits)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 2)])
def test_a_tiny_tensor_costs_at_most_one_byte_more_than_two_bits_a_trit(shape: tuple[int, ...]) -> None:
    for seed in range(20):
        trits = random_trits(shape, 0.5, seed)
        assert len(_core.encode_trits(trits)) <= 1 + math.ceil(trits.size / 4)


def test_an_empty_tensor_costs_nothing() -> None:
    assert _core.encode_trits(np.zeros((3, 0, 2), np.int8)) == b""


def test_zeros_stay_below_the_bound_on_weights_per_byte() -> None:
    trits = np.zeros((1000, 1000), np.int8)
    coded = _core.encode_trits(trits)
    assert len(coded) < 400
    assert trits.size <= (len(coded) + 4) * _core.MAX_WEIGHTS_PER_BYTE


@pytest.mark.parametrize("value", [-128, -2, 2, 127])
def test_a_value_that_is_no_trit_is_refused(value: int) -> None:
    trits = np.zeros((2, 3), np.int8)
    trits[1, 2] = value
    with pytest.raises(ValueError, match="trits must be -1, 0 or 1"):
        _core.encode_trits(trits)


def test_cut_off_trits_are_refused() -> None:
    shape = (16, 8, 3, 3)
    coded = _core.encode_trits(random_trits(shape, 0.5, seed=2))
    with pytest.raises(ValueError, match="end too early"):
        _core.decode_trits(coded[:-8], shape)


def test_bytes_after_the_trits_are_refused() -> None:
    shape = (16, 8, 3, 3)
    coded = _core.encode_trits(random_trits(shape, 0.5, seed=2))
    with pytest.raises(ValueError, match="bytes are left"):
        _core.decode_trits(coded + b"\0" * 5, shape)


def test_a_shape_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="more weights than"):
        _core.decode_trits(b"", (2**40, 2**40))


# Bytes of the 18 ternary layers of the EC2T networks, of their zero-order entropy, and what we promise.
@pytest.mark.parametrize(("zeros", "promised"), [(45, 44500), (64, 37600), (73, 32000)])
def test_real_networks_cost_less_than_promised(data_root: Path, zeros: int, promised: int) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    weights = load_file(data_root / "weights" / f"ec2t_resnet20_cifar10_zeros{zeros}.safetensors")
    layers = [np.sign(w).astype(np.int8) for w in weights.values() if w.ndim in (2, 4) and np.unique(w).size == 3]
    assert len(layers) == 18
    coded = [_core.encode_trits(trits) for trits in layers]
    for trits, data in zip(layers, coded, strict=True):
        np.testing.assert_array_equal(_core.decode_trits(data, trits.shape), trits)
    total = sum(map(len, coded))
    assert total <= promised
    assert total < 0.9 * sum(map(entropy_bytes, layers))


@pytest.mark.slow
def test_the_coder_passes_its_stress_test_under_sanitizers(tmp_path: Path) -> None:
    cmake, compiler = shutil.which("cmake"), shutil.which("c++")
    if cmake is None or compiler is None:
        pytest.skip("needs cmake and a C++ compiler")
    probe = tmp_path / "probe.cc"
    probe.write_text("int main() {}\n")
    linked = subprocess.run([compiler, "-fsanitize=address,undefined", probe, "-o", tmp_path / "probe"], check=False)
    if linked.returncode != 0:
        pytest.skip("the C++ compiler has no sanitizers")
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": "1"}
    subprocess.run([cmake, "--preset", "asan", "-B", tmp_path], cwd=REPOSITORY, check=True, env=environment)
    subprocess.run([cmake, "--build", tmp_path], cwd=REPOSITORY, check=True, env=environment)
    subprocess.run([tmp_path / "trit_coder_stress", "1000"], check=True)


def test_the_tables_of_the_reference_are_what_the_specification_says() -> None:
    knots = [round(65536 / (1 + math.exp(-logit / 2))) for logit in range(-16, 17)]
    assert list(trit_coder.SQUASH_KNOTS) == knots
    steps = (0, 1, 1024, 2047, 2048, 3072, 4095)
    assert [trit_coder.STRETCH[q] for q in steps] == [-2047, -2029, -283, 0, 1, 285, 2047]
    assert zlib.crc32(np.array(trit_coder.STRETCH, "<i2").tobytes()) == 0xC89DC67D
