"""Pruning Ternary Quantization: prune, normalise, take signs (after arXiv 2107.10998; see :mod:`sterna.ternary`)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sterna import ternary
from sterna.config import TernaryConfig

Phase = Literal["dense", "pruned", "ternary"]
PHASES: tuple[Phase, ...] = ("dense", "pruned", "ternary")


class _PTQFunction(torch.autograd.Function):
    """Forward by :func:`sterna.ternary.project`, backward by :func:`sterna.ternary.latent_gradient`.

    Nothing of the forward pass is kept but its inputs, so that training needs no memory beyond the ternary
    weight itself; plain straight-through needs not even those.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, learned_scale: Tensor | None, *options: Any) -> Tensor:
        # With ctx as an argument, not in setup_context: torch.compile (2.14) passes it in any case without gradients.
        group, scale, gradient, pull, sharpness = options
        ctx.options = options
        needs_inputs = gradient != "straight-through" or pull > 0.0 or sharpness > 0.0 or learned_scale is not None
        ctx.save_for_backward(*((weight, mask, learned_scale) if needs_inputs else (None, None, None)))
        survivors = ternary.grouped(ternary.survivors_of(weight, mask), group)
        signs = torch.sign(survivors)
        if learned_scale is not None:
            return signs.mul_(learned_scale.reshape(-1, 1)).reshape(weight.shape)
        alpha = ternary.length(survivors, signs, scale) / ternary.root_nonzeros(signs)
        return signs.mul_(alpha).reshape(weight.shape)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        weight, mask, learned_scale = ctx.saved_tensors
        group, scale, gradient, pull, sharpness = ctx.options
        if weight is None:
            return upstream, None, None, None, None, None, None, None
        rows = ternary.grouped(upstream, group)
        weight_rows, mask_rows = ternary.grouped(weight, group), ternary.grouped(mask, group)
        learned_length = learned_gradient = None
        if learned_scale is not None:
            signs = ternary.trits(weight_rows, mask_rows)
            learned_length = learned_scale.reshape(-1, 1) * ternary.root_nonzeros(signs)
            learned_gradient = (rows * signs).sum(1)
        latent = ternary.latent_gradient(
            rows,
            weight_rows,
            mask_rows,
            scale=scale,
            gradient=gradient,
            learned_length=learned_length,
            pull=pull,
            sharpness=sharpness,
        )
        return latent.reshape(upstream.shape), None, learned_gradient, None, None, None, None, None


def ptq(
    weight: Tensor,
    mask: Tensor,
    *,
    group: ternary.Group = "filter",
    scale: ternary.ScaleMode = "least-squares",
    gradient: ternary.GradientMode = "straight-through",
    learned_scale: Tensor | None = None,
    pull: float = 0.0,
    sharpness: float = 0.0,
) -> Tensor:
    """Ternary image of a latent weight, differentiable by the chosen estimator.

    Forward ``y = alpha * sign(m * w)`` with ``alpha`` from :func:`sterna.ternary.project`, or ``learned_scale``.
    Gradients: :func:`sterna.ternary.latent_gradient` for ``weight``; ``dL/dscale = <g, t>`` for ``learned_scale``.

    Args:
        weight: latent weights, ``(out_channels, ...)``.
        mask: bool, the same shape; false entries become zero.
        group: weights that share one scale.
        scale: how the scale follows from the weights.
        gradient: variant of the straight-through estimator.
        learned_scale: ``(groups,)``; only for ``scale="learned"``.
        pull: strength of the pull of latent weights to their ternary image.
        sharpness: of the sigmoid-shaped gradient factor; 0 leaves it out.

    Returns:
        the ternary weight, the shape and dtype of ``weight``.
    """
    result: Tensor = _PTQFunction.apply(weight, mask, learned_scale, group, scale, gradient, pull, sharpness)
    return result


class PTQ(nn.Module):
    """Parametrization of a ``weight`` by :func:`ptq`, in three phases.

    ``dense``: ``y = w``. ``pruned``: ``y = m * w``. ``ternary``: ``y = ptq(w, m)``. With the scale ``unit`` the first
    two are on the unit sphere too (``w / ||w||`` and ``u``), so that entering the next phase changes direction only.

    The mask follows the latent weights in every pass, ``m = |w| > threshold``, so that a weight on its way from one
    sign to the other passes through zero; a fixed mask would let it jump by twice the scale. The threshold and the
    phase are buffers: they follow ``state_dict``, ``deepcopy`` and distributed training.

    Args:
        weight: the latent weight as it is when the parametrization is made.
        config: options of the method.
        scale: overrides ``config.scale`` (a layer without batch norm cannot be on the unit sphere).
        importance: of the layer where one threshold serves all (:func:`sterna.sparsity.global_masks`).
    """

    threshold: Tensor
    phase: Tensor

    def __init__(
        self,
        weight: Tensor,
        config: TernaryConfig,
        scale: ternary.ScaleMode | None = None,
        importance: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.importance = importance
        self.group: ternary.Group = config.group
        self.scale: ternary.ScaleMode = scale if scale is not None else config.scale
        self.register_buffer("threshold", weight.new_zeros(()))
        self.register_buffer("phase", torch.zeros((), dtype=torch.int8))
        # A Python copy of the phase: reading the buffer in forward would break torch.compile's graph.
        self._phase: Phase = "dense"
        if self.scale == "learned":
            groups = weight.shape[0] if config.group == "filter" else 1
            self.learned_scale = nn.Parameter(weight.new_ones(groups))
        else:
            self.register_parameter("learned_scale", None)

    @property
    def current_phase(self) -> Phase:
        """The phase that the next forward pass uses."""
        return self._phase

    def mask(self, weight: Tensor) -> Tensor:
        """Which weights survive: bool, ``|w| > threshold``."""
        return weight.detach().abs() > self.threshold

    @torch.no_grad()
    def set_mask(self, weight: Tensor, mask: Tensor) -> None:
        """Set the threshold to the largest magnitude outside ``mask``, so that exactly those larger survive.

        Args:
            weight: latent weights.
            mask: bool, the same shape, of the largest magnitudes; equals of a weight outside it become zero too.
        """
        outside = weight.abs().masked_select(~mask)
        self.threshold.copy_(outside.max() if outside.numel() else outside.new_zeros(()))

    def set_phase(self, phase: Phase, weight: Tensor) -> None:
        """Enter a phase; entering ``ternary`` sets a learned scale to its least-squares value for ``weight``."""
        if phase == "ternary" and self._phase != "ternary" and self.learned_scale is not None:
            with torch.no_grad():
                self.learned_scale.copy_(ternary.project(weight, self.mask(weight), self.group, "least-squares")[1])
        self._phase = phase
        self.phase.fill_(PHASES.index(phase))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer computes with, in the shape of ``weight``."""
        if self._phase == "ternary":
            return ptq(
                weight,
                self.mask(weight),
                group=self.group,
                scale=self.scale,
                gradient=self.config.gradient,
                learned_scale=self.learned_scale,
                pull=self.config.pull,
                sharpness=self.config.sharpness,
            )
        survivors = weight if self._phase == "dense" else ternary.survivors_of(weight, self.mask(weight))
        if self.scale != "unit":
            return survivors
        rows = ternary.grouped(survivors, self.group)
        return (rows / ternary.vector_length(rows).clamp(min=1e-12)).reshape(weight.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning to ``weight`` sets the latent weight."""
        return weight

    def ternary_parts(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Trits (int8, in the shape of the latent ``weight``) and scale ``(groups,)`` of the ternary phase."""
        mode = "least-squares" if self.scale == "learned" else self.scale
        signs, alpha = ternary.project(weight.detach(), self.mask(weight), self.group, mode)
        if self.learned_scale is not None:
            alpha = self.learned_scale.detach()
        return signs.to(torch.int8), alpha

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._phase = PHASES[int(self.phase)]
