"""Decode the trits of one tensor in plain Python, laid out like the section "Trits" of ``docs/format.md``.

Hundreds of times slower than the native decoder, and meant to be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ONE = 1 << 16  # a probability of one
MIN_PROBABILITY = 16
MIN_RANGE = 1 << 24
MAX_LOGIT = 2047

SQUASH_KNOTS = (
    *(22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768),
    *(40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514),
)

COUNTER_LIMIT = 255
LEARNING_RATE = 50
ZERO_WEIGHT = 15729  # 0.24 in 1/65536
SIGN_WEIGHT = 18350  # 0.28
POSITIONS = 32
COUNTS = 10


def squash(logit: int) -> int:
    """Probability in 1/65536 of a logit in 1/256, linear between the knots."""
    shifted = min(max(logit, -MAX_LOGIT), MAX_LOGIT) + 2048
    knot, part = shifted >> 7, shifted & 127
    return (SQUASH_KNOTS[knot] * (128 - part) + SQUASH_KNOTS[knot + 1] * part) >> 7


def _stretch_table() -> tuple[int, ...]:
    table = []
    logit = -MAX_LOGIT
    for step in range(4096):
        while logit < MAX_LOGIT and squash(logit) < 16 * step + 8:
            logit += 1
        table.append(logit)
    return tuple(table)


STRETCH = _stretch_table()


class RangeDecoder:
    """Binary decisions from bytes; bytes after the end read as zero."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.range = 0xFFFFFFFF
        self.code = 0
        for _ in range(4):
            self.code = self.code << 8 | self._next_byte()

    def _next_byte(self) -> int:
        byte = self.data[self.position] if self.position < len(self.data) else 0
        self.position += 1
        return byte

    def decide(self, probability: int) -> bool:
        """The next decision, true with the given probability in 1/65536."""
        lower = self.range * (ONE - probability) >> 16
        decision = self.code >= lower
        if decision:
            self.code -= lower
            self.range -= lower
        else:
            self.range = lower
        while self.range < MIN_RANGE:
            self.range <<= 8
            self.code = self.code << 8 | self._next_byte()
        return decision

    def finish(self) -> None:
        """Check that the bytes ended where the decisions did."""
        if self.position > len(self.data) + 4:
            raise ValueError("the coded trits end too early")
        if self.position < len(self.data):
            raise ValueError("bytes are left after the coded trits")


class Counter:
    """Probability that a decision is true, learned from the decisions seen in one context."""

    def __init__(self) -> None:
        self.probability = 32768
        self.seen = 0

    def update(self, decision: bool) -> None:
        """Move towards the decision by 1 / (seen + 1.5)."""
        rate = 131072 // (2 * self.seen + 3)
        self.probability += ((ONE if decision else 0) - self.probability) * rate >> 16
        self.seen = min(self.seen + 1, COUNTER_LIMIT)


class Mixer:
    """Mixes the logits of several counters by weights that learn."""

    def __init__(self, inputs: int, weight: int) -> None:
        self.weights = [weight] * inputs

    def decide(self, decoder: RangeDecoder, contexts: Sequence[tuple[Counter, int]]) -> bool:
        """Decode a decision; each context is a counter and its sign: 1, -1 (mirrored) or 0 (silent)."""
        logits = [sign * STRETCH[counter.probability >> 4] for counter, sign in contexts]
        mixed = sum(weight * logit for weight, logit in zip(self.weights, logits, strict=True)) >> 16
        probability = min(max(squash(mixed), MIN_PROBABILITY), ONE - MIN_PROBABILITY)
        decision = decoder.decide(probability)
        error = ((ONE if decision else 0) - probability) * LEARNING_RATE >> 12
        for slot, (counter, sign) in enumerate(contexts):
            if sign != 0:
                self.weights[slot] += (logits[slot] * error + 8192) >> 14
                counter.update(decision if sign > 0 else not decision)
        return decision


def _counters(number: int) -> list[Counter]:
    return [Counter() for _ in range(number)]


def _mirrored(counters: Sequence[Counter], pattern: int) -> tuple[Counter, int]:
    """A pattern of signs shares the counter of its negative; the pattern without signs is silent."""
    return counters[abs(pattern)], (pattern > 0) - (pattern < 0)


def kernel_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Filters, channels, rows and columns of a tensor of any rank."""
    if len(shape) < 2:
        return 1, math.prod(shape), 1, 1
    filters, channels, *kernel = shape
    return filters, channels, math.prod(kernel[:-1]), math.prod(kernel[-1:])


def decode_trits(data: bytes, shape: Sequence[int]) -> npt.NDArray[np.int8]:
    """The trits of one tensor.

    Args:
        data: its coded section.
        shape: of the tensor.

    Returns:
        int8 in {-1, 0, 1}, of the given shape.

    Raises:
        ValueError: the section is too short or too long.
    """
    filters, channels, rows, columns = kernel_shape(shape)
    trits = np.zeros((filters, channels, rows, columns), np.int8)
    if trits.size == 0:
        if data:
            raise ValueError("bytes are left after the coded trits")
        return trits.reshape(shape)

    decoder = RangeDecoder(data)
    zero_mixer, sign_mixer = Mixer(5, ZERO_WEIGHT), Mixer(6, SIGN_WEIGHT)
    zero_flags = _counters(POSITIONS * 8)
    zero_count = _counters(POSITIONS * COUNTS)
    zero_channel = _counters(channels)
    zero_signs = _counters(81)
    sign_near, sign_far, sign_last, sign_wide = _counters(41), _counters(41), _counters(41), _counters(122)
    sign_channel = _counters(channels)
    sign_position = _counters(POSITIONS)

    is_matrix = rows * columns == 1
    for f in range(filters):
        zero_filter = Counter()
        nonzeros = last = 0
        for c in range(channels):
            if not is_matrix:
                nonzeros = last = 0
            # The plane in which neighbours are looked for, and the place of this kernel's first trit in it.
            plane = trits[:, :, 0, 0] if is_matrix else trits[f, c]
            top, start = (f, c) if is_matrix else (0, 0)
            for k in range(rows * columns):
                y, x = top + k // columns, start + k % columns
                position = k % POSITIONS
                left, left2 = _at(plane, y, x - 1), _at(plane, y, x - 2)
                up, up2 = _at(plane, y - 1, x), _at(plane, y - 2, x)
                up_left, up_right = _at(plane, y - 1, x - 1), _at(plane, y - 1, x + 1)

                flags = 4 * (left != 0) + 2 * (up != 0) + (up_right != 0)
                near = 9 * left + 3 * up + up_right
                is_nonzero = zero_mixer.decide(
                    decoder,
                    [
                        (zero_flags[8 * position + flags], 1),
                        (zero_count[COUNTS * position + nonzeros], 1),
                        (zero_channel[c], 1),
                        (zero_filter, 1),
                        (zero_signs[3 * near + up_left + 40], 1),
                    ],
                )
                if not is_nonzero:
                    continue
                is_negative = sign_mixer.decide(
                    decoder,
                    [
                        _mirrored(sign_near, 3 * near + up_left),
                        _mirrored(sign_far, 27 * left + 9 * up + 3 * left2 + up2),
                        _mirrored(sign_last, 27 * last + near),
                        _mirrored(sign_wide, 9 * near + 3 * up_left + up2),
                        (sign_channel[c], 1),
                        (sign_position[position], 1),
                    ],
                )
                plane[y, x] = last = -1 if is_negative else 1
                nonzeros = min(nonzeros + 1, COUNTS - 1)
    decoder.finish()
    return trits.reshape(shape)


def _at(plane: npt.NDArray[np.int8], y: int, x: int) -> int:
    """A trit of the plane; zero outside of it and where nothing has been decoded yet."""
    inside = 0 <= y < plane.shape[0] and 0 <= x < plane.shape[1]
    return int(plane[y, x]) if inside else 0
