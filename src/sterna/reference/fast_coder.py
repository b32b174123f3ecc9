"""Coder ``fast`` in plain Python, laid out like that section of ``docs/format.md``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sterna.reference.mixing import ONE, Counter, RangeDecoder
from sterna.reference.small_coder import kernel_shape

LANES = 4
MIN_STATE = 1 << 16
FIRST_ROW = 27


class _Frequencies:
    """Decodes tables of frequencies."""

    def __init__(self, data: bytes) -> None:
        self.decoder = RangeDecoder(data)
        self.used = Counter()
        self.zero = [Counter(), Counter()]
        self.length = [Counter() for _ in range(16)]
        self.was_zero = False

    def decide(self, counter: Counter) -> bool:
        decision = self.decoder.decide(min(max(counter.probability, 16), ONE - 16))
        counter.update(decision)
        return decision

    def frequency(self, precision: int) -> int:
        self.was_zero = self.decide(self.zero[self.was_zero])
        if self.was_zero:
            return 0
        bits = 0
        while bits < precision and self.decide(self.length[bits]):
            bits += 1
        value = 1
        for _ in range(bits):
            value = 2 * value + self.decoder.decide(ONE // 2)
        return value

    def table(self, symbols: int, precision: int) -> list[int]:
        """The symbol of each slot; no slots of a table that is not used."""
        if not self.decide(self.used):
            return []
        return [symbol for symbol in range(symbols) for _ in range(self.frequency(precision))]


def decode_fast(data: bytes, shape: Sequence[int]) -> npt.NDArray[np.int8]:
    """The trits of one tensor.

    Args:
        data: its code.
        shape: of the tensor.

    Returns:
        int8 in {-1, 0, 1}, of the given shape.

    Raises:
        ValueError: the code is damaged.
    """
    weights = math.prod(shape)
    if weights == 0:
        if data:
            raise ValueError("bytes are left after the code")
        return np.zeros(shape, np.int8)

    # Symbols
    _, _, rows, columns = kernel_shape(shape)
    by_row = columns == 3 and rows > 1
    group, precision, contexts, unit = (3, 12, 28, rows) if by_row else (5, 14, 4, 1)
    symbols = -(-weights // group)
    lane_symbols = -(-symbols // unit // LANES) * unit

    # Tables
    head = data[0] | data[1] << 8
    position = 2 + head // 2
    coded = _Frequencies(data[2:position])
    tables = [coded.table(3**group, precision) for _ in range(1 if head & 1 else contexts)]
    coded.decoder.finish()

    # States and words
    states = [int.from_bytes(data[position + 4 * lane : position + 4 * lane + 4], "little") for lane in range(LANES)]
    position += 4 * LANES
    decoded = [0] * symbols
    for step in range(lane_symbols):
        for lane in range(LANES):
            at = lane * lane_symbols + step
            if at >= symbols:
                continue
            before = decoded[at - 1] if step else 0
            if head & 1:
                context = 0
            elif by_row:
                context = FIRST_ROW if step % rows == 0 else before
            else:
                context = min(nonzeros(before), 3) if step else 0
            table = tables[context]
            slot = states[lane] & (1 << precision) - 1
            symbol = decoded[at] = table[slot]
            start, frequency = table.index(symbol), table.count(symbol)
            states[lane] = frequency * (states[lane] >> precision) + slot - start
            if states[lane] < MIN_STATE:
                states[lane] = states[lane] << 16 | int.from_bytes(data[position : position + 2], "little")
                position += 2
    if position != len(data) or states != [MIN_STATE] * LANES:
        raise ValueError("the code does not end where it must")
    trits = [symbol // 3**k % 3 - 1 for symbol in decoded for k in range(group)]
    return np.array(trits[:weights], np.int8).reshape(shape)


def nonzeros(symbol: int) -> int:
    """Nonzero trits of a symbol of five."""
    return sum(symbol // 3**k % 3 != 1 for k in range(5))
