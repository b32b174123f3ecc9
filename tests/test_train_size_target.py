"""Zeros from a size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from digits_runs import digits_recipe
from hypothesis import given
from hypothesis import strategies as st

from sterna.config import TernaryConfig, bytes_of
from sterna.container import coded_bytes
from sterna.errors import ConfigError
from sterna.inspection import inspect
from sterna.train.run import compress
from sterna.train.size_target import MAX_SPARSITY, MIN_SPARSITY, SizeTarget, trit_entropy_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [("939KB", 939_000), ("939 kB", 939_000), ("3.3MB", 3_300_000), ("1KiB", 1024), ("1.5 MiB", 1_572_864), ("7B", 7)],
)
def test_a_size_has_a_unit(text: str, expected: int) -> None:
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "939", "KB", "-3KB", "0B", "1e3KB", "3 parsecs", "0.1B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number of bytes with its unit"):
        bytes_of(text)


def test_the_entropy_of_a_trit() -> None:
    assert trit_entropy_of(1 / 3) == pytest.approx(math.log2(3))
    assert trit_entropy_of(0.9) == pytest.approx(0.569, abs=1e-3)


@given(target=st.floats(0.35, 0.999), start=st.floats(0.0, 0.9999), factor=st.floats(0.7, 1.1))
def test_the_zeros_for_a_size_are_found_whatever_the_coder_gains(target: float, start: float, factor: float) -> None:
    weights, other = 1_000_000, 5_000

    def size(sparsity: float) -> int:
        # A gain of the coder that changes with the zeros.
        return round(weights * trit_entropy_of(sparsity) / 8 * factor * (1.0 - 0.1 * sparsity))

    wanted = size(target) + other
    found = SizeTarget(wanted).solve(start, size, other)
    assert MIN_SPARSITY <= found <= MAX_SPARSITY
    assert -0.01 * wanted <= size(found) + other - wanted <= 0


def test_coded_trits_come_just_below_the_target() -> None:
    random = np.random.default_rng(0)
    magnitudes, signs = random.random((64, 64, 3, 3)), random.choice(np.array([-1, 1], np.int8), (64, 64, 3, 3))

    def size(sparsity: float) -> int:
        return coded_bytes(np.where(magnitudes < sparsity, 0, signs).astype(np.int8))

    found = SizeTarget(3_000).solve(0.5, size, 200)
    assert 3_000 - 51 <= size(found) + 200 <= 3_000 - 45


@pytest.mark.parametrize("target", [1_000, 190_000])
def test_a_size_that_no_zeros_make_is_refused_with_what_is_allowed(target: int) -> None:
    with pytest.raises(ConfigError, match=r"got [0-9,]+ bytes, allowed are 4,[0-9]+ to 20[0-9],[0-9]+ for this model"):
        SizeTarget(target * 2).solve(0.7, lambda sparsity: round(125_000 * trit_entropy_of(sparsity)), 4_000)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["6KB", "9KB"])
def test_a_run_ends_with_a_file_of_the_size_that_was_asked_for(tmp_path: Path, target: str) -> None:
    result = compress(digits_recipe(ternary={"target_size": target}), tmp_path, progress=False)
    assert 0.98 * bytes_of(target) <= result.file_bytes <= bytes_of(target)
    assert inspect(result.path).file_bytes == result.file_bytes


def test_a_threshold_that_chooses_zeros_itself_does_not_go_with_a_size() -> None:
    with pytest.raises(ValueError, match="target_size needs threshold 'ratio'"):
        TernaryConfig(target_size="9KB", threshold="optimal")


def test_a_file_that_has_its_size_is_left_alone() -> None:
    assert SizeTarget(100_000).find_factor(lambda _: 99_800) == 1.0


def test_room_for_the_metrics_is_left_where_factors_change_the_size_in_leaps() -> None:
    def size(factor: float) -> int:
        return 8_948 if factor >= 1.0 else 8_999

    assert size(SizeTarget(9_000).find_factor(size)) == 8_948


@given(exact=st.floats(0.8, 1.3))
def test_thresholds_move_by_the_factor_that_makes_the_size(exact: float) -> None:
    def size(factor: float) -> int:
        return round(100_000 * (exact / factor) ** 2)

    found = SizeTarget(100_000).find_factor(size)
    assert 99_500 <= size(found) <= 100_000


def test_a_size_that_no_factor_makes_ends_below_it() -> None:
    def size(factor: float) -> int:
        return 90_000 if factor > 1.1 else 110_000

    assert size(SizeTarget(100_000).find_factor(size)) == 90_000
