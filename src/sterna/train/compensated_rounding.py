"""Rounding of one layer to scaled trits with the least error in its outputs, in closed form.

A layer multiplies inputs ``x`` of ``k`` values by a weight ``W``, ``(rows, k)``. From inputs of the network as it is by
now, ``X`` of shape ``(k, n)``, and from outputs ``Y`` that the layer should give (those of the uncompressed network),

    E(Q) = sum_r c_r (||Y_r - Q_r X||^2 / n + d ||Q_r - W_r||^2)

is the error of a row-wise scaled ternary ``Q = a t``, with weights ``c_r`` of the rows and a damping ``d``. With

    H = X X^T / n + d I,    V = W + (Y X^T / n - W X X^T / n) H^-1

it is ``sum_r c_r (Q_r - V_r) H (Q_r - V_r)^T`` and a constant, so that ``V`` is the best weight in floating point and
``H`` all that matters of the inputs. ``Q`` is found in two stages, each from column to column in the order of falling
``H_jj``:

1. *Second-order rounding*: a column is rounded, and its error is put on the columns to come, whose best answer to it is
   known from the Cholesky factor of ``H^-1`` (OBQ, arXiv 2208.11580, in the order and the form of GPTQ, arXiv
   2210.17323).
2. *Coordinate descent*: each trit is chosen anew, all others given (arXiv 2309.01885); between two sweeps the scales
   are fitted by least squares, ``a = (t H V^T) / (t H t^T)``.

A trit of the conditional optimum ``u`` is nonzero if that saves more than a price: ``c a (2 |u| - a) s > price``, where
``s`` is the curvature of the column. One price for the whole layer puts the zeros where they do the least harm; it is
the one at which the wanted number of trits is nonzero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sterna.errors import SternaError
from sterna.ternary import Group, top_k_mask

_BLOCK = 128
_TINY = 1e-12


@dataclass(frozen=True)
class Moments:
    """What is known of the inputs and the wanted outputs of a layer.

    Args:
        inputs: ``X X^T / n``, ``(k, k)``, symmetric; of centred inputs where the layer has a free bias.
        outputs: ``Y X^T / n``, ``(rows, k)``.
    """

    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class Rounded:
    """A layer in scaled trits.

    Args:
        trits: ``t`` in {-1, 0, 1}, ``(rows, k)``.
        scales: ``a > 0``, ``(rows,)``; all equal if the layer has one scale.
        margins: ``(rows, k)``: the conditional optimum ``|u|`` of each weight, divided by the size from which on it
            would be nonzero; above 1 where a trit is nonzero, below it where it is zero.
        error: ``E(Q)`` without its constant.
    """

    trits: Tensor
    scales: Tensor
    margins: Tensor
    error: float


def damped(inputs: Tensor, damping: float) -> Tensor:
    """``H = X X^T / n + d I`` with ``d = damping * mean(diag(X X^T / n))``, ``(k, k)``; never singular."""
    diagonal = inputs.diagonal().mean().clamp(min=_TINY)
    return inputs + damping * diagonal * torch.eye(inputs.shape[0], dtype=inputs.dtype, device=inputs.device)


def inverse_factor(curvature: Tensor) -> Tensor:
    """The upper Cholesky factor ``U`` of ``H^-1 = U^T U``, ``(k, k)``.

    With rows and columns backwards ``H`` is ``R R^T`` for an upper triangle ``R``, so that ``U = R^-1``: half of the
    operations that inverting ``H`` and factoring the inverse would take.
    """
    return _invert_triangle(torch.linalg.cholesky(curvature.flip(0, 1)).flip(0, 1))


def _invert_triangle(triangle: Tensor) -> Tensor:
    """Inverse of an upper triangle, by halves: nearly all of it is matrix products."""
    size = len(triangle)
    if size <= _BLOCK:
        identity = torch.eye(size, dtype=triangle.dtype, device=triangle.device)
        solved: Tensor = torch.linalg.solve_triangular(triangle, identity, upper=True)
        return solved
    half = size // 2
    first, last = _invert_triangle(triangle[:half, :half]), _invert_triangle(triangle[half:, half:])
    inverse = torch.zeros_like(triangle)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[:half, half:] = -first @ (triangle[:half, half:] @ last)
    return inverse


def best_weight(weight: Tensor, moments: Moments, factor: Tensor) -> Tensor:
    """``V = W + (Y X^T / n - W X X^T / n) H^-1``, the ridge regression towards ``W``; ``(rows, k)``.

    Args:
        weight: ``W``, ``(rows, k)``.
        moments: of the layer.
        factor: ``U`` of :func:`inverse_factor` for ``H``.
    """
    missing = moments.outputs - weight @ moments.inputs
    return weight + (missing @ factor.T) @ factor


def weighted_error(difference: Tensor, curvature: Tensor, row_weights: Tensor | None = None) -> Tensor:
    """``sum_r c_r D_r H D_r^T`` of differences ``D``, ``(rows, k)``; a scalar."""
    errors = ((difference @ curvature) * difference).sum(1)
    return (errors if row_weights is None else errors * row_weights).sum()


def round_layer(
    weight: Tensor,
    moments: Moments,
    keep: int,
    *,
    damping: float,
    sweeps: int,
    row_weights: Tensor | None = None,
    group: Group = "filter",
) -> Rounded:
    """Scaled trits of a layer with a small error in its outputs.

    Args:
        weight: ``W``, ``(rows, k)``.
        moments: of the layer, in float64.
        keep: number of nonzero trits, ``1 <= keep <= rows * k``.
        damping: ``d`` as a fraction of the mean of the diagonal of ``X X^T / n``; positive.
        sweeps: of coordinate descent.
        row_weights: ``c``, ``(rows,)``, positive; nothing means 1.
        group: whether each row has a scale of its own, or all have one.

    Returns:
        exactly ``keep`` nonzero trits, and everything in float32.

    Raises:
        SternaError: the moments are not finite, so that nothing can be solved.
        ValueError: ``keep`` out of range.
    """
    rows, columns = weight.shape
    if not 1 <= keep <= rows * columns:
        raise ValueError(f"keep (={keep}) must be between 1 and {rows * columns}")
    if not (bool(moments.inputs.isfinite().all()) and bool(moments.outputs.isfinite().all())):
        raise SternaError("the inputs of a layer are not finite")
    order = moments.inputs.diagonal().argsort(descending=True, stable=True)
    ordered = Moments(moments.inputs[order][:, order], moments.outputs[:, order])
    curvature = damped(ordered.inputs, damping)
    factor = inverse_factor(curvature)
    ideal = best_weight(weight.double()[:, order], ordered, factor)
    importance = row_weights.float() if row_weights is not None else weight.new_ones(rows)
    typical = importance.mean().clamp(min=_TINY)
    importance = (importance / typical).clamp(min=_TINY)

    problem = _Problem(ideal.float(), curvature.float(), importance, keep, group)
    scales = problem.initial_scales()
    quantized = problem.compensate(factor.float(), scales)
    scales = problem.fit_scales(quantized.sign(), scales)
    for _ in range(sweeps):
        trits = problem.sweep(quantized.sign(), scales)
        scales = problem.fit_scales(trits, scales)
        quantized = trits * scales[:, None]
    trits, margins = problem.settle(quantized.sign(), scales)
    scales = problem.fit_scales(trits, scales)
    error = weighted_error(trits * scales[:, None] - problem.ideal, problem.curvature, importance)
    back = order.argsort()
    return Rounded(trits[:, back], scales, margins[:, back], float(error * typical))


@dataclass(frozen=True)
class _Problem:
    """Everything that stays the same while trits and scales of a layer are sought; columns are in working order."""

    ideal: Tensor
    curvature: Tensor
    importance: Tensor
    keep: int
    group: Group

    def initial_scales(self) -> Tensor:
        """Mean magnitude of the weights that plain rounding would keep, row by row."""
        magnitude = self.ideal.abs()
        mask = top_k_mask(magnitude * self.importance.sqrt()[:, None], self.keep)
        kept = (magnitude * mask).sum(1)
        counts = mask.sum(1)
        if self.group == "layer":
            return (kept.sum() / counts.sum()).expand(len(kept)).clone()
        # A row that keeps nothing gets the scale of its largest weight.
        return torch.where(counts > 0, kept / counts.clamp(min=1), magnitude.amax(1)).clamp(min=_TINY)

    def compensate(self, factor: Tensor, scales: Tensor) -> Tensor:
        """Second-order rounding; ``factor`` is ``U``. Returns ``Q``."""
        rest = self.ideal.clone()
        quantized = torch.zeros_like(rest)
        columns = rest.shape[1]
        remaining = self.keep
        stiffness = factor.diagonal().square().reciprocal()
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            price = self._price(self._savings(rest[:, start:], scales, stiffness[start:]), remaining)
            errors = torch.zeros_like(rest[:, start:stop])
            for j in range(start, stop):
                column = rest[:, j]
                nonzero = self._savings(column[:, None], scales, stiffness[j : j + 1])[:, 0] > price
                rounded = column.sign() * scales * nonzero
                quantized[:, j] = rounded
                error = (column - rounded) / factor[j, j]
                errors[:, j - start] = error
                if j + 1 < stop:
                    rest[:, j + 1 : stop].addr_(error, factor[j, j + 1 : stop], alpha=-1.0)
            rest[:, stop:] -= errors @ factor[start:stop, stop:]
            remaining = max(0, remaining - int(quantized[:, start:stop].count_nonzero()))
        return quantized

    def sweep(self, trits: Tensor, scales: Tensor) -> Tensor:
        """Choose each trit anew, all others given, at the price of the present state."""
        trits = trits.clone()
        scale_column = scales[:, None]
        difference = self.ideal - trits * scale_column
        stiffness = self.curvature.diagonal()
        slopes = difference @ self.curvature
        price = self._price(self._savings(trits * scale_column + slopes / stiffness, scales, stiffness), self.keep)
        columns = trits.shape[1]
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            slope = difference @ self.curvature[:, start:stop]
            for j in range(start, stop):
                now = trits[:, j] * scales
                optimum = now + slope[:, j - start] / stiffness[j]
                nonzero = self._savings(optimum[:, None], scales, stiffness[j : j + 1])[:, 0] > price
                trit = optimum.sign() * nonzero
                change = trit * scales - now
                trits[:, j] = trit
                difference[:, j] -= change
                slope[:, j - start :].addr_(change, self.curvature[j, j:stop], alpha=-1.0)
        return trits

    def settle(self, trits: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Give the layer its exact number of nonzero trits; returns trits and margins.

        Only the trits that are nearest to their border change, to the better as far as there is one.
        """
        scale_column = scales[:, None]
        stiffness = self.curvature.diagonal()
        optimum = trits * scale_column + ((self.ideal - trits * scale_column) @ self.curvature) / stiffness
        savings = self._savings(optimum, scales, stiffness)
        excess = int(trits.count_nonzero()) - self.keep
        if excess > 0:
            candidates = torch.where(trits != 0, savings, torch.inf).flatten()
            trits.view(-1)[candidates.topk(excess, largest=False).indices] = 0.0
        elif excess < 0:
            candidates = torch.where(trits == 0, savings, -torch.inf).flatten()
            chosen = candidates.topk(-excess).indices
            signs = torch.where(optimum < 0, -1.0, 1.0).flatten()
            trits.view(-1)[chosen] = signs[chosen]
        price = self._price(savings, self.keep)
        border = 0.5 * (scale_column + price / (self.importance[:, None] * scale_column * stiffness))
        margins = optimum.abs() / border.clamp(min=_TINY)
        margins = torch.where(trits != 0, margins.clamp(min=1.0), margins.clamp(max=1.0))
        return trits, margins

    def fit_scales(self, trits: Tensor, before: Tensor) -> Tensor:
        """Least squares for given trits; a row without a nonzero trit keeps the scale it had."""
        product = trits @ self.curvature
        above, below = (product * self.ideal).sum(1), (product * trits).sum(1)
        if self.group == "layer":
            above = (above * self.importance).sum().expand(len(before))
            below = (below * self.importance).sum().expand(len(before))
        fitted = above / below.clamp(min=_TINY)
        return torch.where((below > _TINY) & (fitted > 0), fitted, before)

    def _savings(self, optimum: Tensor, scales: Tensor, stiffness: Tensor) -> Tensor:
        """How much less error a nonzero trit makes than a zero, ``c a (2 |u| - a) s``."""
        factor = (self.importance * scales)[:, None]
        return factor * (2.0 * optimum.abs() - scales[:, None]) * stiffness

    @staticmethod
    def _price(savings: Tensor, keep: int) -> float:
        """What exactly ``keep`` savings exceed, if no two are equal; half way between two, so no rounding decides."""
        flat = savings.flatten()
        if keep <= 0:
            return float("inf")
        if keep >= flat.numel():
            return float("-inf")
        rank = flat.numel() - keep
        # Of the two, only the first needs a selection.
        below = flat.kthvalue(rank).values
        above = flat[flat > below]
        return float(0.5 * (below + above.min())) if above.numel() else float(below)
