"""The operators of a graph in NumPy, one function each, as ``docs/format.md``, Graph, defines them.

Images are ``(N, C, H, W)``, matrices ``(N, F)``; the result has the type of the input. Where the order of additions
matters in float32, it is that of the engine: a window's rows first, then its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from sterna.graph import Attribute

Array = npt.NDArray[Any]
Attributes = Mapping[str, Attribute]


def _pair(attributes: Attributes, name: str) -> tuple[int, int]:
    return int(attributes[f"{name}_height"]), int(attributes[f"{name}_width"])


def _pads(attributes: Attributes) -> tuple[tuple[int, int], tuple[int, int]]:
    top, left, bottom, right = (int(attributes[f"pad_{side}"]) for side in ("top", "left", "bottom", "right"))
    return (top, bottom), (left, right)


def _windows(x: Array, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """``(N, C, rows, columns, kernel rows, kernel columns)`` of an image that is padded already."""
    reach = tuple(step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True))
    view = sliding_window_view(x, reach, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def conv2d(x: Array, weight: Array, attributes: Attributes) -> Array:
    """Sums of products, without a bias; exact for whole numbers below 2^53 in float64."""
    groups = int(attributes["groups"])
    padded = np.pad(x, ((0, 0), (0, 0), *_pads(attributes)))
    windows = _windows(padded, weight.shape[2:], _pair(attributes, "stride"), _pair(attributes, "dilation"))
    n, channels, height, width = windows.shape[:4]
    inside = channels // groups
    # One product of matrices for each image and group: pixels by taps, and taps by filters.
    pixels: Array = windows.reshape(n, groups, inside, height, width, -1).transpose(0, 1, 3, 4, 2, 5)
    taps = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
    sums: Array = pixels.reshape(n, groups, height * width, -1) @ taps
    return sums.transpose(0, 1, 3, 2).reshape(n, weight.shape[0], height, width)


def conv_transpose2d(x: Array, weight: Array, attributes: Attributes) -> Array:
    """Each pixel adds the kernel times itself to the output; without a bias."""
    (down, across), ((top, bottom), (left, right)) = _pair(attributes, "stride"), _pads(attributes)
    n, _, height, width = x.shape
    rows, columns = weight.shape[2:]
    whole = np.zeros((n, weight.shape[1], (height - 1) * down + rows, (width - 1) * across + columns), x.dtype)
    for k in range(rows):
        for j in range(columns):
            part = np.einsum("nchw,co->nohw", x, weight[:, :, k, j])
            whole[:, :, k : k + (height - 1) * down + 1 : down, j : j + (width - 1) * across + 1 : across] += part
    return whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]


def linear(x: Array, weight: Array) -> Array:
    """``x weight^T``, without a bias."""
    product: Array = x @ weight.T
    return product


def by_channel(vector: Array, rank: int) -> Array:
    """A vector of one number for each channel or column, to go with values of some rank."""
    return vector.reshape((1, -1) + (1,) * (rank - 2))


def _hardsigmoid(x: Array) -> Array:
    # A product with the nearest float to 1/6, not a division: it is what fast kernels do.
    share: Array = np.minimum(np.maximum(x + x.dtype.type(3), 0), 6) * x.dtype.type(1 / 6)
    return share


def _sigmoid(x: Array) -> Array:
    # exp overflows to infinity in float32, whose reciprocal is the right 0.
    with np.errstate(over="ignore"):
        share: Array = 1 / (1 + np.exp(-x))
    return share


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda x: x * _hardsigmoid(x),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
}


def _pooled_size(size: int, pads: tuple[int, int], reach: int, stride: int, ceil_mode: bool) -> int:
    room = size + sum(pads) - reach
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    # A last kernel that would lie outside the image and the padding before it is left out.
    return count - 1 if (count - 1) * stride >= size + pads[0] else count


def _pool_windows(x: Array, attributes: Attributes, in_pads: Any, beyond: Any) -> Array:
    """Windows of an image with some value in the pads, and another one where windows reach beyond them."""
    kernel, stride, own = _pair(attributes, "kernel"), _pair(attributes, "stride"), _pads(attributes)
    dilation = _pair(attributes, "dilation") if "dilation_height" in attributes else (1, 1)
    padded = np.pad(x, ((0, 0), (0, 0), *own), constant_values=in_pads)
    sizes, more = [], []
    for axis in (0, 1):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        size = _pooled_size(x.shape[2 + axis], own[axis], reach, stride[axis], bool(attributes["ceil_mode"]))
        sizes.append(size)
        more.append((0, max(0, (size - 1) * stride[axis] + reach - padded.shape[2 + axis])))
    padded = np.pad(padded, ((0, 0), (0, 0), *more), constant_values=beyond)
    return _windows(padded, kernel, stride, dilation)[:, :, : sizes[0], : sizes[1]]


def max_pool2d(x: Array, attributes: Attributes) -> Array:
    """The largest of each window, of levels as of real numbers."""
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    largest: Array = _pool_windows(x, attributes, lowest, lowest).max(axis=(4, 5))
    return largest


def avg_pool2d(x: Array, attributes: Attributes) -> Array:
    """The mean of each window."""
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    counts = _pool_windows(ones, attributes, attributes["count_include_pad"], 0).sum(axis=(4, 5))
    mean: Array = _sum_in_order(_pool_windows(x, attributes, 0, 0)) / counts
    return mean


def _sum_in_order(windows: Array) -> Array:
    """Rows of windows one after the other, then their columns."""
    columns: Array = np.zeros_like(windows[..., 0, :])
    for row in range(windows.shape[-2]):
        columns = columns + windows[..., row, :]
    total: Array = np.zeros_like(columns[..., 0])
    for column in range(columns.shape[-1]):
        total = total + columns[..., column]
    return total


def _adaptive(x: Array, attributes: Attributes, pool: Callable[[Array], Array]) -> Array:
    height, width = int(attributes["height"]), int(attributes["width"])
    rows = [(i * x.shape[2] // height, -(-(i + 1) * x.shape[2] // height)) for i in range(height)]
    columns = [(j * x.shape[3] // width, -(-(j + 1) * x.shape[3] // width)) for j in range(width)]
    cells = [[pool(x[:, :, top:bottom, left:right]) for left, right in columns] for top, bottom in rows]
    return np.stack([np.stack(line, axis=-1) for line in cells], axis=-2)


def adaptive_avg_pool2d(x: Array, attributes: Attributes) -> Array:
    """The mean of each cell."""
    return _adaptive(x, attributes, lambda cell: _sum_in_order(cell) / x.dtype.type(cell.shape[2] * cell.shape[3]))


def adaptive_max_pool2d(x: Array, attributes: Attributes) -> Array:
    """The largest of each cell, of levels as of real numbers."""
    return _adaptive(x, attributes, lambda cell: cell.max(axis=(2, 3)))


def flatten(x: Array) -> Array:
    """``(N, C, H, W)`` to ``(N, C H W)``."""
    return x.reshape(x.shape[0], -1)


def pad(x: Array, attributes: Attributes) -> Array:
    """Zeros around an image, and channels of zeros before and after its own."""
    channels = (int(attributes["channels_before"]), int(attributes["channels_after"]))
    return np.pad(x, ((0, 0), channels, *_pads(attributes)))


def resize_nearest(x: Array, height: int, width: int) -> Array:
    """Row ``i`` is row ``floor(i H / height)``."""
    rows = np.arange(height) * x.shape[2] // height
    columns = np.arange(width) * x.shape[3] // width
    resized: Array = x[:, :, rows][..., columns]
    return resized


def resize_bilinear(x: Array, height: int, width: int, align_corners: bool) -> Array:
    """Between the two nearest rows, and then between the two nearest columns."""
    return _between(_between(x, 2, height, align_corners), 3, width, align_corners)


def _between(x: Array, axis: int, size: int, align_corners: bool) -> Array:
    real, old = x.dtype.type, x.shape[axis]
    at = np.arange(size).astype(x.dtype)
    if align_corners:
        place = at * (real(old - 1) / real(size - 1)) if size > 1 else at
    else:
        place = np.maximum((at + real(0.5)) * (real(old) / real(size)) - real(0.5), 0)
    low = np.minimum(place.astype(np.int64), old - 1)
    high = np.minimum(low + 1, old - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    fraction = (place - low.astype(x.dtype)).reshape(shape)
    between: Array = np.take(x, low, axis) * (1 - fraction) + np.take(x, high, axis) * fraction
    return between


def softmax(x: Array) -> Array:
    """Shares of ``exp(x)`` over the channels of an image or the columns of a matrix."""
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares
