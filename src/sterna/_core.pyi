"""Native code of Sterna."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_WEIGHTS: int
"""Largest number of weights in one tensor."""

MAX_WEIGHTS_PER_BYTE: int
"""No coded byte stands for more weights than this; bounds what a small file can make a reader allocate."""

def encode_trits(trits: npt.NDArray[np.int8]) -> bytes:
    """Code an int8 array of -1, 0 and 1; decode_trits gives it back."""

def decode_trits(data: bytes, shape: Sequence[int]) -> npt.NDArray[np.int8]:
    """The int8 array that encode_trits was given; ValueError where the bytes do not code one."""
