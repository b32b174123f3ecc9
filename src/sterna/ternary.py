"""The maths of sparse ternary weights as pure tensor functions.

Notation, used in all docstrings. A weight tensor is cut into groups (a filter, or the whole layer); one group
is a vector ``w`` of ``n`` latent weights with a mask ``m`` in {0, 1}. Then

    v = m * w                 the surviving weights
    u = v / ||v||             the same on the unit sphere
    t = sign(v)               the trits, in {-1, 0, 1}
    k = number of nonzeros of t
    t_hat = t / sqrt(k)       the L2-projected ternary vector, also on the unit sphere

and the ternary weight is ``a * t_hat`` with a length ``a`` that the scale mode decides (:func:`length`). The scale
of the trits is ``alpha = a / sqrt(k)``.

This is a re-implementation of *Pruning Ternary Quantization* (PTQ, arXiv 2107.10998) and ideas of *Hyperspherical
Quantization* (HQ, arXiv 2212.12653) from their abstracts; every choice that those leave open is an option.
Layouts: a weight is ``(out_channels, in_channels, ...)``; grouped tensors are ``(groups, group_size)``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sterna.errors import ConfigError

Group = Literal["filter", "layer"]
ScaleMode = Literal["unit", "norm", "least-squares", "learned"]
GradientMode = Literal["straight-through", "scaled", "sphere-masked", "sphere"]


def grouped(weight: Tensor, group: Group) -> Tensor:
    """View a weight as ``(groups, group_size)``: one row a filter, or one row for the whole layer."""
    return weight.reshape(weight.shape[0], -1) if group == "filter" else weight.reshape(1, -1)


def kept_count(total: int, sparsity: float) -> int:
    """Number of weights that survive: ``round((1 - sparsity) * total)``, at least one.

    Raises:
        ConfigError: a sparsity outside ``[0, 1)``.
    """
    if not 0.0 <= sparsity < 1.0:
        raise ConfigError(f"sparsity must be at least 0 and below 1, got {sparsity}")
    return max(1, round((1.0 - sparsity) * total))


def top_k_mask(magnitude: Tensor, keep: int) -> Tensor:
    """Mask of exactly the ``keep`` largest magnitudes; among equals the first in memory order win.

    The count is exact, not a sampled quantile: the k-th value is found by selection, which is linear in time.

    Args:
        magnitude: non-negative, any shape.
        keep: ``0 <= keep <= magnitude.numel()``.

    Returns:
        bool mask in the shape of ``magnitude`` with ``keep`` true entries.

    Raises:
        ConfigError: ``keep`` out of range.
    """
    flat = magnitude.reshape(-1)
    if not 0 <= keep <= flat.numel():
        raise ConfigError(f"keep must be between 0 and {flat.numel()}, got {keep}")
    if keep == flat.numel():
        return torch.ones_like(magnitude, dtype=torch.bool)
    if keep == 0:
        return torch.zeros_like(magnitude, dtype=torch.bool)
    boundary = _kth_largest(flat, keep)
    mask = flat > boundary
    missing = keep - int(mask.sum())
    mask[(flat == boundary).nonzero().flatten()[:missing]] = True
    return mask.reshape(magnitude.shape)


def _kth_largest(flat: Tensor, k: int) -> Tensor:
    """The k-th largest of non-negative values, by one radix step and selection in the bin that holds it.

    Non-negative float32 are ordered like their bits read as integers, so counting the top 15 bits finds the bin. Five
    times faster than selection over everything, which matters for masks over ten million weights.
    """
    if flat.dtype != torch.float32:
        return flat.kthvalue(flat.numel() - k + 1).values
    bins = flat.view(torch.int32) >> 16
    above = torch.bincount(bins, minlength=1 << 15).flip(0).cumsum(0)
    position = int(torch.searchsorted(above, k))
    rank = k - (int(above[position - 1]) if position else 0)
    candidates = flat[bins == (1 << 15) - 1 - position]
    return candidates.kthvalue(candidates.numel() - rank + 1).values


def optimal_keep(magnitude: Tensor) -> int:
    """Number of weights that the least-squares optimal ternary vector keeps.

    ``min over a, t of ||w - a t||^2 = ||w||^2 (1 - cos^2(w, t))``, so the best ``t`` keeps the ``k`` largest
    magnitudes that maximise ``(sum of the k largest)^2 / k``; at the optimum the threshold is half the scale.
    This is the exact optimum that TWN (arXiv 1605.04711) approximates by 0.7 times the mean magnitude.

    Args:
        magnitude: ``|w|``, any shape, at least one entry.

    Returns:
        ``k``, at least one.
    """
    ordered = magnitude.reshape(-1).double().sort(descending=True).values
    counts = torch.arange(1, ordered.numel() + 1, dtype=torch.float64, device=ordered.device)
    return int((ordered.cumsum(0).square() / counts).argmax()) + 1


def gaussian_threshold(sparsity: float) -> float:
    """Threshold in standard deviations that zeroes this fraction of Gaussian weights: ``sqrt(2) erfinv(sparsity)``.

    Raises:
        ConfigError: a sparsity outside ``[0, 1)``.
    """
    if not 0.0 <= sparsity < 1.0:
        raise ConfigError(f"sparsity must be at least 0 and below 1, got {sparsity}")
    return math.sqrt(2.0) * float(torch.erfinv(torch.tensor(sparsity, dtype=torch.float64)))


def survivors_of(weight: Tensor, mask: Tensor) -> Tensor:
    """``v = m * w``: the weight where the bool mask is true, zero elsewhere.

    The mask is read as int8 and converted first: several times faster than multiplying by a bool tensor.
    """
    return weight * mask.view(torch.int8).to(weight.dtype)


def trits(weight: Tensor, mask: Tensor) -> Tensor:
    """``t = sign(m * w)`` in the dtype of the weight. Shapes: both as the weight."""
    return torch.sign(survivors_of(weight, mask))


def root_nonzeros(trits_grouped: Tensor) -> Tensor:
    """``sqrt(k) = ||t||`` of each group, ``(groups, 1)``, at least one so that an empty group stays finite."""
    return vector_length(trits_grouped).clamp_(min=1.0)


def vector_length(rows: Tensor) -> Tensor:
    """Euclidean length of each row, ``(groups, 1)``."""
    result: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return result


def length(survivors: Tensor, trits_grouped: Tensor, mode: ScaleMode) -> Tensor:
    """Length ``a`` of the ternary weight ``a * t / sqrt(k)`` of each group.

    ======================  =====================================  ==================================================
    mode                    a                                      meaning
    ======================  =====================================  ==================================================
    ``unit``                ``1``                                  pure L2 projection; for layers with a batch norm
    ``norm``                ``||v||``                              keeps the length of the surviving weights
    ``least-squares``       ``sum |v| / sqrt(k)``                  minimises ``||v - a t_hat||``: ``||v|| cos(v, t)``
    ======================  =====================================  ==================================================

    ``learned`` has a parameter of its own and is not computed here.

    Args:
        survivors: ``v``, ``(groups, group_size)``.
        trits_grouped: ``t``, the same shape.
        mode: one of the three above.

    Returns:
        ``(groups, 1)``.

    Raises:
        ConfigError: another mode.
    """
    if mode == "unit":
        return torch.ones_like(survivors[:, :1])
    if mode == "norm":
        return vector_length(survivors)
    if mode == "least-squares":
        total: Tensor = torch.linalg.vector_norm(survivors, ord=1, dim=1, keepdim=True)
        return total / root_nonzeros(trits_grouped)
    raise ConfigError(f"scale must be unit, norm or least-squares here, got {mode!r}")


def project(weight: Tensor, mask: Tensor, group: Group = "filter", scale: ScaleMode = "unit") -> tuple[Tensor, Tensor]:
    """Trits and scale of a weight: the ternary weight is ``scale * trits``.

    Args:
        weight: ``(out_channels, ...)``.
        mask: bool, the same shape.
        group: what shares one scale.
        scale: ``unit``, ``norm`` or ``least-squares``.

    Returns:
        trits in the shape of the weight, and ``alpha = a / sqrt(k)`` of shape ``(groups,)``.
    """
    survivors = grouped(survivors_of(weight, mask), group)
    signs = torch.sign(survivors)
    alpha = length(survivors, signs, scale) / root_nonzeros(signs)
    return signs.reshape(weight.shape), alpha.flatten()


def cosine(weight: Tensor, ternary: Tensor, group: Group = "filter") -> Tensor:
    """Cosine between weights and their ternary image, ``<w, t> / (||w|| ||t||)``, one a group.

    On the unit sphere the gap that a straight-through estimator ignores is ``||u - t_hat||^2 = 2 (1 - cos)``.

    Args:
        weight: latent (or surviving) weights, ``(out_channels, ...)``.
        ternary: their ternary image, scaled or not, the same shape.
        group: what is compared at once.

    Returns:
        ``(groups,)``; zero where a group has no nonzero.
    """
    weight_rows, ternary_rows = grouped(weight, group), grouped(ternary, group)
    lengths = (vector_length(weight_rows) * vector_length(ternary_rows)).squeeze(1)
    return (weight_rows * ternary_rows).sum(1) / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)


def sigmoid_factor(weight: Tensor, survivors: Tensor, trits_grouped: Tensor, sharpness: float) -> Tensor:
    """Gradient factor shaped like the derivative of a soft ternary step, with mean one in each group.

    ``q(x) = (tanh b(x - 1/2) + tanh b(x + 1/2)) / 2`` has ``q'(x) = (b/2) (sech^2 b(x - 1/2) + sech^2 b(x + 1/2))``,
    with ``x = w sqrt(k) / ||v||``, that is in units of the root mean square of the survivors. A stand-in for the
    re-scaled gradient of *Hyperspherical Loss-Aware Ternary Quantization* (arXiv 2212.12649), whose formula is not
    public; ours.

    Args:
        weight: latent weights, ``(groups, group_size)``.
        survivors: ``v``, the same shape.
        trits_grouped: ``t``, the same shape.
        sharpness: ``b > 0``.

    Returns:
        the factor, the same shape.
    """
    rms = vector_length(survivors) / root_nonzeros(trits_grouped)
    x = weight / rms.clamp(min=torch.finfo(weight.dtype).tiny)
    slope = torch.cosh(sharpness * (x - 0.5)).pow(-2) + torch.cosh(sharpness * (x + 0.5)).pow(-2)
    factor: Tensor = slope / slope.mean(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return factor


def latent_gradient(
    upstream: Tensor,
    weight: Tensor,
    mask: Tensor,
    *,
    scale: ScaleMode,
    gradient: GradientMode,
    learned_length: Tensor | None = None,
    pull: float = 0.0,
    sharpness: float = 0.0,
) -> Tensor:
    """Gradient of the loss with respect to the latent weights, for ``y = a t_hat`` and ``g = dL/dy``.

    With ``P = I - u u^T``, the projection that differentiates ``u = v / ||v||`` exactly, and the straight-through
    estimator only between ``u`` and ``t_hat``:

    =====================  ==============================================================================
    gradient               dL/dw
    =====================  ==============================================================================
    ``straight-through``   G0: ``g``
    ``scaled``             G1: ``g / sqrt(k)``
    ``sphere``             G3: ``(a / ||v||) P g + (dL/da) (da/dv)``; a pruned weight keeps its gradient and may return
    ``sphere-masked``      G2: ``m`` times G3; a pruned weight never returns
    =====================  ==============================================================================

    where ``dL/da = <t_hat, g>`` and ``da/dv`` is ``0`` (unit, learned), ``u`` (norm) or ``t_hat`` (least-squares).
    G4 adds to any of them ``pull * (u - t_hat)``, or multiplies it by :func:`sigmoid_factor`.

    Args:
        upstream: ``g``, ``(groups, group_size)``.
        weight: latent ``w``, the same shape.
        mask: ``m``, bool, the same shape.
        scale: decides ``a``.
        gradient: the variant.
        learned_length: ``a`` of shape ``(groups, 1)``; only for ``scale="learned"``.
        pull: strength of the pull to the ternary image.
        sharpness: of the sigmoid-shaped factor; 0 leaves it out.

    Returns:
        ``dL/dw``, the same shape.
    """
    if gradient == "straight-through" and pull == 0.0 and sharpness == 0.0:
        return upstream
    survivors = survivors_of(weight, mask)
    signs = torch.sign(survivors)
    root_k = root_nonzeros(signs)
    norm = vector_length(survivors).clamp(min=torch.finfo(weight.dtype).tiny)
    unit, unit_ternary = survivors / norm, signs / root_k
    if gradient == "straight-through":
        result = upstream
    elif gradient == "scaled":
        result = upstream / root_k
    else:
        a = learned_length if learned_length is not None else length(survivors, signs, scale)
        result = (upstream - unit * (unit * upstream).sum(1, keepdim=True)) * (a / norm)
        if scale in ("norm", "least-squares"):
            along = (unit_ternary * upstream).sum(1, keepdim=True)
            result = result + along * (unit if scale == "norm" else unit_ternary)
        if gradient == "sphere-masked":
            result = survivors_of(result, mask)
    if sharpness > 0.0:
        result = result * sigmoid_factor(weight, survivors, signs, sharpness)
    if pull > 0.0:
        result = result + pull * (unit - unit_ternary)
    return result


def trit_entropy(trits_any: Tensor) -> float:
    """Zero-order entropy of trits in bits a weight: ``-sum p log2 p`` over the frequencies of -1, 0 and 1."""
    total = trits_any.numel()
    counts = [int((trits_any == value).sum()) for value in (-1, 0, 1)]
    return -sum(c / total * math.log2(c / total) for c in counts if c) if total else 0.0
