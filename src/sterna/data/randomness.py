"""Random numbers that depend on what they are for, never on when they are drawn.

A number is a hash of ``(seed, epoch, stream, index)``, so that a sample is augmented equally whatever the batch,
the process or the point of resumption it is met in, and an order can be repeated without replaying a generator.
The hash is SplitMix64 applied to each word in turn; it is ours, so that no library update changes a result.

References:
    Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014 (the mixing function).
    Salmon et al.: Parallel random numbers: as easy as 1, 2, 3, SC 2011 (counter-based generators).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def _mix(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def random_words(seed: int, epoch: int, stream: int, indices: npt.NDArray[Any]) -> Words:
    """One uniform 64-bit word for each index.

    ``h = 0; for w in (seed, epoch, stream, index): h = mix((h xor w) + golden)``, modulo 2^64.

    Args:
        seed: of the run.
        epoch: of training.
        stream: tells apart the uses of random numbers for one sample.
        indices: ``(n,)``, of the samples.

    Returns:
        ``(n,)`` uint64.
    """
    # Arrays, not scalars, because NumPy wraps arrays in silence and warns about scalars.
    state = np.zeros(1, np.uint64)
    for word in (seed, epoch, stream):
        state = _mix((state ^ np.uint64(word & _MASK)) + _GOLDEN)
    return _mix((state ^ np.asarray(indices).astype(np.uint64)) + _GOLDEN)


def random_integers(words: Words, count: int) -> Indices:
    """Map words to integers in ``[0, count)`` by their upper 32 bits; the bias is below ``count / 2^32``."""
    return ((words >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def random_fractions(words: Words) -> npt.NDArray[np.float64]:
    """Map words to numbers in ``[0, 1)`` by their upper 53 bits."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def random_order(count: int, seed: int, epoch: int, stream: int) -> Indices:
    """A permutation of ``0 .. count-1``: the indices sorted by their random words."""
    return np.argsort(random_words(seed, epoch, stream, np.arange(count)), kind="stable").astype(np.int64)
