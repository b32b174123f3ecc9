from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sterna.data.randomness import random_fractions, random_integers, random_order, random_words

MASK = (1 << 64) - 1
seeds = st.integers(0, 2**63)
small = st.integers(0, 1000)


def mix_plainly(word: int) -> int:
    """SplitMix64's finaliser in Python's own integers."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def test_the_mixing_function_is_that_of_splitmix64() -> None:
    # The first output of the published generator when it is seeded with 0 is mix(golden).
    assert mix_plainly(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@given(seed=seeds, epoch=small, stream=small, index=st.integers(0, 2**40))
def test_words_equal_the_formula(seed: int, epoch: int, stream: int, index: int) -> None:
    state = 0
    for word in (seed, epoch, stream, index):
        state = mix_plainly(((state ^ word) + 0x9E3779B97F4A7C15) & MASK)
    assert random_words(seed, epoch, stream, np.array([index]))[0] == state


@given(seed=seeds, epoch=small, order=st.permutations(range(20)))
def test_a_word_depends_on_its_own_index_alone(seed: int, epoch: int, order: list[int]) -> None:
    together = random_words(seed, epoch, 3, np.arange(20))
    assert np.array_equal(random_words(seed, epoch, 3, np.array(order)), together[order])


def test_seed_epoch_and_stream_each_change_every_word() -> None:
    indices = np.arange(1000)
    variants = [random_words(*key, indices) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len(np.unique(np.concatenate(variants))) == 4000


@pytest.mark.parametrize("count", [2, 9, 81])
def test_integers_are_uniform(count: int) -> None:
    draws = 100_000
    values = random_integers(random_words(5, 0, 0, np.arange(draws)), count)
    counts = np.bincount(values, minlength=count)
    assert len(counts) == count
    # Chi-squared with count - 1 degrees of freedom: mean plus five standard deviations.
    chi_squared = float(((counts - draws / count) ** 2).sum() / (draws / count))
    assert chi_squared < (count - 1) + 5 * (2 * (count - 1)) ** 0.5


def test_consecutive_epochs_are_uncorrelated() -> None:
    now, then = (random_fractions(random_words(0, epoch, 0, np.arange(100_000))) for epoch in (7, 8))
    # A correlation of independent draws has standard deviation 1 / sqrt(n).
    assert abs(np.corrcoef(now, then)[0, 1]) < 5 / 100_000**0.5


def test_fractions_stay_below_one() -> None:
    extremes = np.array([0, MASK], np.uint64)
    assert random_fractions(extremes).tolist() == [0.0, 1.0 - 2.0**-53]
    assert random_integers(extremes, 7).tolist() == [0, 6]


@given(count=st.integers(0, 300), seed=seeds, epoch=small)
def test_an_order_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    assert sorted(random_order(count, seed, epoch, 0).tolist()) == list(range(count))


def test_orders_are_pinned() -> None:
    # A change here changes every split and every run: it is a breaking change.
    assert random_order(10, 0, 0, 0).tolist() == [0, 1, 9, 4, 2, 3, 6, 8, 7, 5]
    assert random_order(10, 7, 3, 1).tolist() == [8, 1, 5, 3, 2, 6, 4, 0, 7, 9]
