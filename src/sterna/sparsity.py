"""Where the zeros go: masks for a layer and over all layers, and the ramp that brings them in.

``sparsity`` is always the fraction of zeros, ``1 - density``. All functions are deterministic: equal weights
give equal masks on every process.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sterna.errors import ConfigError
from sterna.ternary import kept_count, optimal_keep, top_k_mask


def cubic_sparsity(progress: float, initial: float, final: float) -> float:
    """Zeros on a cubic ramp: ``s = initial r^3 + final (1 - r^3)``, ``r = 1 - progress`` (arXiv 1710.01878).

    Args:
        progress: position on the ramp; values outside ``[0, 1]`` are clamped to it.
        initial: sparsity at progress 0.
        final: sparsity at progress 1.
    """
    remaining = 1.0 - min(1.0, max(0.0, progress))
    return initial * remaining**3 + final * (1.0 - remaining**3)


def layer_masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """In every layer, mask the smallest magnitudes: the same fraction of zeros everywhere, exact to one weight.

    Args:
        weights: latent weights by layer name, any shapes.
        sparsity: fraction of zeros in ``[0, 1)``.

    Returns:
        bool masks by layer name, in the shapes of the weights; true survives.

    Raises:
        ConfigError: a sparsity outside ``[0, 1)``.
    """
    return {
        name: top_k_mask(weight.detach().abs(), kept_count(weight.numel(), sparsity))
        for name, weight in weights.items()
    }


def global_masks(
    weights: Mapping[str, Tensor], sparsity: float, importance: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """One threshold ``T`` for all layers: a weight survives if ``i |w| / rms(w) > T``, ``i`` its layer's importance.

    Layers with heavy tails keep more zeros, layers whose weights are alike keep fewer; the total is exact to one
    weight. The division makes layers of different scale comparable.

    Args:
        weights: latent weights by layer name, any shapes.
        sparsity: fraction of zeros over all layers together, in ``[0, 1)``.
        importance: positive factors by layer name; 1 where there is none.

    Returns:
        bool masks by layer name; true survives. A layer always keeps its largest weight.

    Raises:
        ConfigError: a sparsity outside ``[0, 1)``, or no layers.
    """
    if not weights:
        raise ConfigError("global masks need at least one layer, got none")
    magnitudes = []
    importance = importance if importance is not None else {}
    for name, weight in weights.items():
        magnitude = weight.detach().abs().flatten()
        rms = magnitude.square().mean().sqrt().clamp(min=torch.finfo(magnitude.dtype).tiny)
        magnitudes.append(magnitude.div_(rms / importance.get(name, 1.0)))
    sizes = [magnitude.numel() for magnitude in magnitudes]
    flat_mask = top_k_mask(torch.cat(magnitudes), kept_count(sum(sizes), sparsity))
    masks = {}
    for (name, weight), mask, magnitude in zip(weights.items(), torch.split(flat_mask, sizes), magnitudes, strict=True):
        if not mask.any():
            mask[magnitude.argmax()] = True
        masks[name] = mask.reshape(weight.shape)
    return masks


def optimal_masks(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In every layer, the mask of the exact least-squares optimum (:func:`sterna.ternary.optimal_keep`).

    Args:
        weights: latent weights by layer name, any shapes.

    Returns:
        bool masks by layer name; true survives.
    """
    return {
        name: top_k_mask(weight.detach().abs(), optimal_keep(weight.detach().abs())) for name, weight in weights.items()
    }
