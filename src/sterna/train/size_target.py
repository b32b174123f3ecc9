"""How many zeros make a file of a given size."""

from __future__ import annotations

import math
from collections.abc import Callable

from sterna.errors import ConfigError

# The entropy of a trit falls from here on: below a third of zeros, fewer zeros make a smaller file again.
MIN_SPARSITY = 1 / 3
MAX_SPARSITY = 0.9999
_TOLERANCE = 0.001
_MAX_ROUNDS = 8
# Aimed at is a little less than what is asked for: metrics and batch norms, which are measured last, change some bytes.
_MARGIN = 0.0015
_MIN_MARGIN_BYTES = 48
# For the last correction.
_LARGEST_FACTOR = 1.5
_MAX_FACTORS = 12


class SizeTarget:
    """Finds the fraction of zeros at which a model's file has a given size.

    The bytes of trits are what the coder makes of them, not an estimate: a fraction is tried, and the next one follows
    from the entropy ``H(s) = -s ld s - (1 - s) ld((1 - s) / 2)`` scaled to what was found.

    Args:
        target_bytes: of the whole file; it will be up to 0.3 % smaller.
    """

    def __init__(self, target_bytes: int) -> None:
        self._target = target_bytes
        self._aim = target_bytes - max(round(_MARGIN * target_bytes), _MIN_MARGIN_BYTES)

    def solve(self, start: float, trit_bytes: Callable[[float], int], other_bytes: int) -> float:
        """The fraction of zeros for the target.

        Args:
            start: fraction to try first.
            trit_bytes: of a fraction of zeros: bytes of the coded trits.
            other_bytes: of the file.

        Returns:
            A fraction with which the file is within 0.1 % of what is aimed at, or the nearest of eight tries.

        Raises:
            ConfigError: no fraction makes a file so small, or so large.
        """
        budget = self._aim - other_bytes
        sparsity = min(max(start, MIN_SPARSITY), MAX_SPARSITY)
        smaller, larger = MAX_SPARSITY, MIN_SPARSITY  # bounds that are known to give too few, too many bytes
        best, best_miss = sparsity, math.inf
        for _ in range(_MAX_ROUNDS):
            found = trit_bytes(sparsity)
            miss = abs(found - budget) / self._target
            if miss < best_miss:
                best, best_miss = sparsity, miss
            if miss <= _TOLERANCE:
                break
            if found > budget:
                larger = max(larger, sparsity)
            else:
                smaller = min(smaller, sparsity)
            guess = self._invert(budget * trit_entropy_of(sparsity) / found if found else 0.0)
            if not larger < guess < smaller:
                guess = (larger + smaller) / 2
            if smaller - larger < 1e-7:
                break
            sparsity = guess
        self._check(best_miss, budget, other_bytes, trit_bytes)
        return best

    def find_factor(self, file_bytes: Callable[[float], int]) -> float:
        """What thresholds have to be multiplied by, for a file that has about the right size already.

        Args:
            file_bytes: of a factor: bytes of the file; larger factors make more zeros.

        Returns:
            1 if the file is at most 0.5 % smaller than the target; else a factor near 1 with which it is, or that of
            twelve tries with which it comes nearest from below.
        """
        if self._is_met(file_bytes(1.0)):
            return 1.0
        low, high = 1.0 / _LARGEST_FACTOR, _LARGEST_FACTOR
        for _ in range(_MAX_FACTORS):
            factor = math.sqrt(low * high)
            size = file_bytes(factor)
            if self._is_met(size):
                return factor
            low, high = (factor, high) if size > self._most else (low, factor)
        return high

    def _is_met(self, size: int) -> bool:
        margin = max(_MIN_MARGIN_BYTES, round(0.005 * self._target))
        return self._target - margin <= size <= self._most

    @property
    def _most(self) -> int:
        """What leaves room for the metrics, which are measured last."""
        return self._target - _MIN_MARGIN_BYTES // 2

    def _check(self, miss: float, budget: int, other_bytes: int, trit_bytes: Callable[[float], int]) -> None:
        if miss <= 10 * _TOLERANCE:
            return
        most, least = other_bytes + trit_bytes(MIN_SPARSITY), other_bytes + trit_bytes(MAX_SPARSITY)
        if least <= self._aim <= most and budget > 0:
            return
        raise ConfigError(
            f"ternary.target_size: got {self._target:,} bytes, allowed are {least:,} to {most:,} for this model, "
            f"of which {other_bytes:,} are not trits"
        )

    def _invert(self, bits: float) -> float:
        """The fraction of zeros, from a third on, of trits with this entropy."""
        low, high = MIN_SPARSITY, MAX_SPARSITY
        for _ in range(50):
            middle = (low + high) / 2
            if trit_entropy_of(middle) > bits:
                low = middle
            else:
                high = middle
        return (low + high) / 2


def trit_entropy_of(sparsity: float) -> float:
    """Bits of a trit that is zero with this probability in (0, 1), and else either sign with equal probability."""
    return -sparsity * math.log2(sparsity) - (1 - sparsity) * math.log2((1 - sparsity) / 2)
