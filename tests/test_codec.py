"""The coders of trits: what goes in comes out, small; bad bytes are refused; native and reference decoders agree."""

from __future__ import annotations

import math
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
from sterna.reference import mixing
from sterna.reference.fast_coder import decode_fast
from sterna.reference.small_coder import decode_small
from sterna.reference.smallest_coder import decode_smallest
from sterna.ternary_model import TernaryTensor

SHAPES = st.lists(st.integers(0, 5), max_size=8).filter(lambda shape: math.prod(shape) <= 600).map(tuple)
SPARSITIES = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))


def random_trits(shape: Sequence[int], sparsity: float, seed: int) -> npt.NDArray[np.int8]:
    random = np.random.default_rng(seed)
    signs = random.choice(np.array([-1, 1], np.int8), tuple(shape))
    return np.asarray(np.where(random.random(tuple(shape)) < sparsity, 0, signs), np.int8)


CODERS = {"small": 0, "fast": 1, "smallest": 2}
REFERENCES = {"small": decode_small, "fast": decode_fast, "smallest": decode_smallest}


def encode(trits: npt.NDArray[np.int8], coder: str = "small") -> bytes:
    return _core.encode_trits(trits, CODERS[coder])


def decode(data: bytes, shape: Sequence[int], coder: str = "small") -> npt.NDArray[np.int8]:
    trits = np.full(tuple(shape), 99, np.int8)
    _core.decode_trits(np.frombuffer(data, np.uint8), trits, CODERS[coder])
    return trits


def entropy_bytes(trits: npt.NDArray[np.int8]) -> float:
    return trit_entropy(TernaryTensor(trits)) * trits.size / 8


@pytest.mark.parametrize("coder", CODERS)
@given(shape=SHAPES, sparsity=SPARSITIES, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_any_shape_and_sparsity_survives_both_decoders(
    coder: str, shape: tuple[int, ...], sparsity: float, seed: int
) -> None:
    trits = random_trits(shape, sparsity, seed)
    coded = encode(trits, coder)
    np.testing.assert_array_equal(decode(coded, shape, coder), trits)
    np.testing.assert_array_equal(REFERENCES[coder](coded, shape), trits)


@pytest.mark.parametrize("coder", ["small", "smallest"])
@given(data=st.binary(max_size=60), shape=SHAPES)
@settings(deadline=None)
def test_both_decoders_do_the_same_with_any_bytes(coder: str, data: bytes, shape: tuple[int, ...]) -> None:
    try:
        expected = REFERENCES[coder](data, shape)
    except ValueError:
        with pytest.raises(ValueError, match=r"coded bytes|bytes are left"):
            decode(data, shape, coder)
    else:
        np.testing.assert_array_equal(decode(data, shape, coder), expected)


@given(data=st.data(), shape=SHAPES, sparsity=SPARSITIES)
@settings(deadline=None)
def test_damaged_fast_code_is_refused_or_gives_trits(
    data: st.DataObject, shape: tuple[int, ...], sparsity: float
) -> None:
    coded = bytearray(encode(random_trits(shape, sparsity, seed=9), "fast"))
    for _ in range(data.draw(st.integers(1, 3)) if coded else 0):
        coded[data.draw(st.integers(0, len(coded) - 1))] = data.draw(st.integers(0, 255))
    try:
        trits = decode(bytes(coded), shape, "fast")
    except ValueError:
        return
    assert trits.size == 0 or (trits.min() >= -1 and trits.max() <= 1)


@pytest.mark.parametrize("shape", [(1, 1, 11, 13), (2, 1, 40), (3, 50), (70,), (2, 2, 2, 3, 4), (3, 5, 4, 3)])
@pytest.mark.parametrize("coder", CODERS)
def test_kernels_of_unusual_sizes_survive(coder: str, shape: tuple[int, ...]) -> None:
    trits = random_trits(shape, 0.6, seed=7)
    coded = encode(trits, coder)
    np.testing.assert_array_equal(decode(coded, shape, coder), trits)
    np.testing.assert_array_equal(REFERENCES[coder](coded, shape), trits)


def test_equal_trits_give_equal_bytes_whatever_their_memory_layout() -> None:
    trits = random_trits((8, 6, 3, 3), 0.7, seed=1)
    reversed_twice = trits[::-1].copy()[::-1]
    assert not reversed_twice.flags.c_contiguous
    assert encode(reversed_twice) == encode(trits)


# What tables, counters and mixers cost to learn, which weighs more the smaller the tensor.
@pytest.mark.parametrize(
    ("coder", "shape", "overhead"),
    [
        ("small", (64, 64, 3, 3), 0.012),
        ("small", (200, 200), 0.012),
        ("small", (100, 100), 0.02),
        ("smallest", (64, 64, 3, 3), 0.006),
        ("smallest", (100, 100), 0.012),
        ("fast", (256, 256, 3, 3), 0.005),
        ("fast", (1000, 500), 0.005),
        ("fast", (64, 64, 3, 3), 0.03),
    ],
)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.9])
def test_independent_trits_cost_little_more_than_their_entropy(
    sparsity: float, coder: str, shape: tuple[int, ...], overhead: float
) -> None:
    trits = random_trits(shape, sparsity, seed=3)
    assert len(encode(trits, coder)) <= (1 + overhead) * entropy_bytes(trits)


def test_signs_that_the_row_above_predicts_cost_less_than_a_bit_in_fast_too() -> None:
    signs = np.random.default_rng(5).choice(np.array([-1, 1], np.int8), (64, 32, 1, 1))
    trits = np.where(random_trits((64, 32, 3, 3), 0.7, seed=6) != 0, signs, 0).astype(np.int8)
    assert len(encode(trits, "fast")) < 0.95 * entropy_bytes(trits)


def test_signs_that_neighbours_predict_cost_less_than_a_bit() -> None:
    signs = np.random.default_rng(5).choice(np.array([-1, 1], np.int8), (64, 32, 1, 1))
    trits = np.where(random_trits((64, 32, 3, 3), 0.7, seed=6) != 0, signs, 0).astype(np.int8)
    assert len(encode(trits)) < 0.85 * entropy_bytes(trits)


def test_channels_of_unequal_density_cost_less_than_entropy() -> None:
    random = np.random.default_rng(8)
    density = random.choice([0.05, 0.7], 128)
    trits = (random.choice([-1, 1], (256, 128)) * (random.random((256, 128)) < density)).astype(np.int8)
    assert len(encode(trits)) < 0.85 * entropy_bytes(trits)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 2)])
def test_a_tiny_tensor_costs_at_most_one_byte_more_than_two_bits_a_trit(shape: tuple[int, ...]) -> None:
    for seed in range(20):
        trits = random_trits(shape, 0.5, seed)
        assert len(encode(trits)) <= 1 + math.ceil(trits.size / 4)


@pytest.mark.parametrize("coder", CODERS)
def test_an_empty_tensor_costs_nothing(coder: str) -> None:
    assert encode(np.zeros((3, 0, 2), np.int8), coder) == b""


@pytest.mark.parametrize("coder", CODERS)
def test_zeros_stay_below_the_bound_on_trits_per_byte(coder: str) -> None:
    trits = np.zeros((1000, 1000), np.int8)
    coded = encode(trits, coder)
    assert len(coded) < 700
    assert trits.size <= (len(coded) + 4) * _core.MAX_TRITS_PER_BYTE


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("value", [-128, -2, 2, 127])
def test_a_value_that_is_no_trit_is_refused(value: int, coder: str) -> None:
    trits = np.zeros((2, 3), np.int8)
    trits[1, 2] = value
    with pytest.raises(ValueError, match="trits must be -1, 0 or 1"):
        encode(trits, coder)


@pytest.mark.parametrize("coder", CODERS)
def test_cut_off_code_is_refused(coder: str) -> None:
    shape = (16, 8, 3, 3)
    coded = encode(random_trits(shape, 0.5, seed=2), coder)
    with pytest.raises(ValueError, match="end too early"):
        decode(coded[:-8], shape, coder)


@pytest.mark.parametrize("coder", CODERS)
def test_bytes_after_the_code_are_refused(coder: str) -> None:
    shape = (16, 8, 3, 3)
    coded = encode(random_trits(shape, 0.5, seed=2), coder)
    with pytest.raises(ValueError, match="bytes are left"):
        decode(coded + b"\0" * 5, shape, coder)


def test_a_number_that_names_no_coder_is_refused() -> None:
    with pytest.raises(ValueError, match="no coder"):
        _core.encode_trits(np.zeros(3, np.int8), 3)


# Bytes of the 18 ternary layers of the EC2T networks, of their zero-order entropy, and what we promise.
@pytest.mark.parametrize(("zeros", "promised"), [(45, 44200), (64, 37300), (73, 31600)])
def test_real_networks_cost_less_than_promised(data_root: Path, zeros: int, promised: int) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    weights = load_file(data_root / "weights" / f"ec2t_resnet20_cifar10_zeros{zeros}.safetensors")
    layers = [np.sign(w).astype(np.int8) for w in weights.values() if w.ndim in (2, 4) and np.unique(w).size == 3]
    assert len(layers) == 18
    total = {}
    for coder in CODERS:
        coded = [encode(trits, coder) for trits in layers]
        for trits, data in zip(layers, coded, strict=True):
            np.testing.assert_array_equal(decode(data, trits.shape, coder), trits)
        total[coder] = sum(map(len, coded))
    assert total["small"] <= promised
    assert total["small"] < 0.9 * sum(map(entropy_bytes, layers))
    assert total["fast"] < 1.09 * total["small"]
    assert total["smallest"] < 0.993 * total["small"]


def test_the_tables_of_the_reference_are_what_the_specification_says() -> None:
    knots = [round(65536 / (1 + math.exp(-logit / 2))) for logit in range(-16, 17)]
    assert list(mixing.SQUASH_KNOTS) == knots
    steps = (0, 1, 1024, 2047, 2048, 3072, 4095)
    assert [mixing.STRETCH[q] for q in steps] == [-2047, -2029, -283, 0, 1, 285, 2047]
    assert zlib.crc32(np.array(mixing.STRETCH, "<i2").tobytes()) == 0xC89DC67D
