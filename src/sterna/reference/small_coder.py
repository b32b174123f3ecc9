"""Coder ``small`` in plain Python, laid out like that section of ``docs/format.md``.

Hundreds of times slower than the native decoder, and meant to be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sterna.reference.mixing import Counter, Mixer, RangeDecoder

ZERO_WEIGHT = 15729  # 0.24 in 1/65536
SIGN_WEIGHT = 18350  # 0.28
POSITIONS = 32
COUNTS = 10


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


def decode_small(data: bytes, shape: Sequence[int]) -> npt.NDArray[np.int8]:
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
            raise ValueError("bytes are left after the code")
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
