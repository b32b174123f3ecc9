"""Coder ``smallest`` in plain Python, laid out like that section of ``docs/format.md``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sterna.reference.mixing import ONE, STRETCH, RangeDecoder, squash
from sterna.reference.small_coder import kernel_shape

CHANNELS = 65536
POSITIONS = 32
CELLS = 9
# The sizes of the sets of weights: all, by count, by pair, by filter, by pattern.
SETS = (1, 10, 5, 16, 41)
MAX_WEIGHT = 16 << 22

# (row, column) from the trit: l, ll, u, ul, ur, ull, urr, uu, uul, uur
NEIGHBOURS = ((0, -1), (0, -2), (-1, 0), (-1, -1), (-1, 1), (-1, -2), (-1, 2), (-2, 0), (-2, -1), (-2, 1))
ENERGY_WEIGHTS = (307, 102, 154, 51, 102, 0, 51, 51, 0, 0)
SIGN_WEIGHTS = (-512, -51, -410, 26, -128, 26, -26, 0, 0, 26)
ZERO_MIXER_WEIGHTS = (32, 32, 32, 32, 32, 32, 102, 38)
SIGN_MIXER_WEIGHTS = (51, 51, 51, 51, 51, 205, 0, 0, 0)


def clamp(value: int, least: int, most: int) -> int:
    """The value, or the bound that it is beyond."""
    return max(least, min(most, value))


class Counter:
    """Probability that a decision is true, in 2^-22."""

    def __init__(self) -> None:
        self.probability = 1 << 21
        self.seen = 0

    def logit(self) -> int:
        """In 1/256."""
        return STRETCH[self.probability >> 10]

    def update(self, decision: bool) -> None:
        """Move towards the decision."""
        target = 1 << 22 if decision else 0
        self.probability += (target - self.probability) * (131072 // (2 * self.seen + 3)) >> 16
        self.seen = min(self.seen + 1, 1023)


class Rate:
    """How far weights follow an error; less with each use."""

    def __init__(self, fast: int, slow: int, steps: int) -> None:
        self.fast, self.slow, self.steps, self.uses = fast, slow, steps, 0

    def error(self, decision: bool, probability: int) -> int:
        """What a decision differed from its probability by, times the next value of the rate."""
        rate = self.slow + self.fast * self.steps // (self.steps + self.uses)
        self.uses = min(self.uses + 1, 1 << 20)
        return ((ONE if decision else 0) - probability) * rate >> 10


def nudge(weights: list[int], inputs: Sequence[int], error: int) -> None:
    """Move each weight by its input and the error."""
    for i, value in enumerate(inputs):
        weights[i] = clamp(weights[i] + (value * error + 128 >> 8), -MAX_WEIGHT, MAX_WEIGHT)


class Predictor:
    """A linear sum of ten inputs, by weights common to all positions and by those of one."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.common = [weight * 16384 for weight in weights]
        self.own = [[0] * len(weights) for _ in range(POSITIONS)]
        self.common_rate = Rate(3200, 96, 300)
        self.own_rate = [Rate(3200, 96, 300) for _ in range(POSITIONS)]

    def logit(self, inputs: Sequence[int], position: int) -> int:
        """In 1/256."""
        terms = zip(inputs, self.common, self.own[position], strict=True)
        return clamp(sum(value * (common + own) for value, common, own in terms) >> 22, -2047, 2047)

    def update(self, inputs: Sequence[int], position: int, decision: bool, logit: int) -> None:
        """Learn from a decision that was thought to have a logit."""
        probability = squash(logit)
        common_error = self.common_rate.error(decision, probability)
        own_error = self.own_rate[position].error(decision, probability)
        nudge(self.common, inputs, common_error)
        nudge(self.own[position], inputs, own_error)


class Mixer:
    """Mixes counters, relative to one that is the base, and inputs, by sums of five weights."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.sets = [[[0] * len(weights) for _ in range(size)] for size in SETS]
        self.sets[0][0] = [weight * 16384 for weight in weights]
        self.rate = Rate(640, 32, 600)

    def decide(
        self,
        decoder: RangeDecoder,
        base: Counter,
        counters: Sequence[tuple[Counter, int]],
        inputs: Sequence[int],
        choice: Sequence[int],
    ) -> bool:
        """Decode a decision; each counter has a sign: 1, -1 (mirrored) or 0 (silent)."""
        logit = base.logit()
        values = []
        for counter, sign in counters:
            if sign != 0 and counter.seen == 0:
                counter.probability = base.probability
            values.append(sign * ((counter.logit() - logit) * (256 * counter.seen // (counter.seen + 8)) >> 8))
        values += inputs
        chosen = [weights[number] for weights, number in zip(self.sets, choice, strict=True)]
        total = sum(value * sum(weights[i] for weights in chosen) for i, value in enumerate(values))
        probability = squash(logit + (total >> 22))
        decision = decoder.decide(probability)
        error = self.rate.error(decision, probability)
        for weights in chosen:
            nudge(weights, values, error)
        for counter, sign in counters:
            if sign != 0:
                counter.update(decision if sign > 0 else not decision)
        return decision


def _mirrored(counters: defaultdict[tuple[int, ...], Counter], pattern: int, *more: int) -> tuple[Counter, int]:
    return counters[abs(pattern), *more], (pattern > 0) - (pattern < 0)


def decode_smallest(data: bytes, shape: Sequence[int]) -> npt.NDArray[np.int8]:
    """The trits of one tensor.

    Args:
        data: its code.
        shape: of the tensor.

    Returns:
        int8 in {-1, 0, 1}, of the given shape.

    Raises:
        ValueError: the code is too short or too long.
    """
    filters, channels, rows, columns = kernel_shape(shape)
    trits = np.zeros((filters, channels, rows, columns), np.int8)
    if trits.size == 0:
        if data:
            raise ValueError("bytes are left after the code")
        return trits.reshape(shape)

    decoder = RangeDecoder(data)
    size = rows * columns
    has_kernels = size > 1
    energy = Predictor(ENERGY_WEIGHTS if has_kernels else [0] * 10)
    sign = Predictor(SIGN_WEIGHTS if has_kernels else [0] * 10)
    zero_mixer, sign_mixer = Mixer(ZERO_MIXER_WEIGHTS), Mixer(SIGN_MIXER_WEIGHTS)
    every, even = Counter(), Counter()
    zero_channel, zero_cell, zero_position, zero_around, zero_flags, sign_channel, sign_position, *patterns = (
        defaultdict[tuple[int, ...], Counter](Counter) for _ in range(10)
    )
    sign_far, sign_last, sign_trail = patterns

    for f in range(filters):
        zero_filter = Counter()
        for c in range(channels):
            nonzeros = total = last = flags = 0
            trail = [0] * 5
            plane = trits[f, c] if has_kernels else trits[:, :, 0, 0]
            top, start = (0, 0) if has_kernels else (f, c)
            channel = c % CHANNELS
            for place in range(size):
                y, x = top + place // columns, start + place % columns
                near = [_at(plane, y + dy, x + dx) for dy, dx in NEIGHBOURS]
                left, left2, up, up_left, up_right, _, _, up2, _, _ = near
                position = place if size <= POSITIONS else POSITIONS * place // size
                cell = place if size <= CELLS else CELLS * place // size
                pattern = 27 * left + 9 * up + 3 * up_right + up_left
                choice = (0, nonzeros, abs(3 * left + up), min(f, 15), abs(pattern))

                sign_inputs = [256 * value for value in near]
                zero_inputs = [(256 if value else 0) - (every.probability >> 14) for value in near]
                s, g = sign.logit(sign_inputs, position), energy.logit(zero_inputs, position)
                doubt, level = min((abs(s) + 50) // 100, 7), (clamp(g, -400, 399) + 400) // 80
                thought = every.logit() + g
                is_nonzero = zero_mixer.decide(
                    decoder,
                    every,
                    [
                        (zero_channel[channel,], 1),
                        (zero_cell[channel, cell], 1),
                        (zero_filter, 1),
                        (zero_position[position,], 1),
                        (zero_around[doubt, level, position], 1),
                        (zero_flags[flags, position], 1),
                    ],
                    [g, abs(s) - 180],
                    choice,
                )
                energy.update(zero_inputs, position, is_nonzero, thought)
                every.update(is_nonzero)
                trit = 0
                if is_nonzero:
                    is_negative = sign_mixer.decide(
                        decoder,
                        even,
                        [
                            (sign_channel[channel,], 1),
                            (sign_position[position,], 1),
                            _mirrored(sign_far, 27 * left + 9 * up + 3 * left2 + up2),
                            _mirrored(sign_last, 27 * last + 9 * left + 3 * up + up_right),
                            _mirrored(sign_trail, sum(3**j * value for j, value in enumerate(trail)), position),
                        ],
                        [s, 128 * total, 256 * last, 256],
                        choice,
                    )
                    sign.update(sign_inputs, position, is_negative, s)
                    plane[y, x] = trit = last = -1 if is_negative else 1
                    nonzeros, total = min(nonzeros + 1, 9), clamp(total + trit, -8, 8)
                flags = (2 * flags + is_nonzero) & 255
                trail = [trit, *trail[:4]]
    decoder.finish()
    return trits.reshape(shape)


def _at(plane: npt.NDArray[np.int8], y: int, x: int) -> int:
    """A trit of the plane; zero outside of it."""
    return int(plane[y, x]) if 0 <= y < plane.shape[0] and 0 <= x < plane.shape[1] else 0
