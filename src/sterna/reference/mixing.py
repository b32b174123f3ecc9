"""Range decoder, counters and mixers in plain Python: "Range coder" and "Probabilities" of ``docs/format.md``."""

from __future__ import annotations

from collections.abc import Sequence

ONE = 1 << 16  # a probability of one
MIN_RANGE = 1 << 24
MAX_LOGIT = 2047

SQUASH_KNOTS = (
    *(22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768),
    *(40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514),
)

COUNTER_LIMIT = 255


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
            raise ValueError("the code ends too early")
        if self.position < len(self.data):
            raise ValueError("bytes are left after the code")


class Counter:
    """Probability that a decision is true, learned from the decisions seen in one context."""

    def __init__(self) -> None:
        self.probability = 32768
        self.seen = 0

    def logit(self) -> int:
        """What it knows, held back as long as it has seen little."""
        return STRETCH[self.probability >> 4] * (256 * self.seen // (self.seen + 2)) >> 8

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
        logits = [sign * counter.logit() for counter, sign in contexts]
        mixed = sum(weight * logit for weight, logit in zip(self.weights, logits, strict=True)) >> 16
        probability = squash(mixed)
        decision = decoder.decide(probability)
        error = ((ONE if decision else 0) - probability) >> 4
        for slot, (counter, sign) in enumerate(contexts):
            if sign != 0:
                moved = self.weights[slot] + ((logits[slot] * error + 8192) >> 14)
                self.weights[slot] = (moved + 2**31) % 2**32 - 2**31
                counter.update(decision if sign > 0 else not decision)
        return decision
