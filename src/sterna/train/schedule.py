"""What each training step does, as a pure function of its number.

Nothing is counted while training runs: phase, zeros and learning rate follow from the step alone, so that a
resumed run does what the uninterrupted one would have done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sterna.config import Recipe
from sterna.quantizers.ptq import Phase
from sterna.sparsity import cubic_sparsity


@dataclass(frozen=True)
class StepPlan:
    """What holds for one step.

    Args:
        phase: of the ternary layers in its forward pass.
        sparsity: fraction of zeros that the ramp asks for at this step.
        updates_masks: whether the masks are chosen anew before the forward pass.
        weighs: whether the final sparsity is found anew from a target size, before the masks are chosen.
        learning_rate_factor: multiplies ``optimizer.learning_rate``.
    """

    phase: Phase
    sparsity: float
    updates_masks: bool
    weighs: bool
    learning_rate_factor: float


class Schedule:
    """The plan of a whole run.

    Steps are counted from 0. Epochs of the recipe become steps by rounding, with the last step always ternary and
    at the final sparsity, so that every valid recipe ends with a model that can be converted.

    Learning rate: ``(k + 1) / w`` in a warm-up of ``w`` steps, then ``(1 + cos(pi (k - w) / (n - w))) / 2`` (arXiv
    1608.03983, one cycle). Zeros: :func:`sterna.sparsity.cubic_sparsity` over the ramp.

    Args:
        recipe: its ``schedule``, ``optimizer.warmup_epochs``, ``ternary.sparsity`` and ``train.epochs``.
        steps_per_epoch: batches in an epoch.

    Attributes:
        total_steps: steps of the run.
        steps_per_epoch: batches in an epoch.
        dense_steps: the first step that is not dense.
        ternary_start: the first step of the ternary phase.
        ramp_end: the step at which the masks get their final sparsity.
        freeze_start: from here on the masks no longer change.
        final_sparsity: fraction of zeros at the end; a run with a target size changes it.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        schedule, epochs = recipe.schedule, recipe.train.epochs
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = epochs * steps_per_epoch
        last = self.total_steps - 1
        ramp_start_epoch = schedule.dense_epochs
        self.dense_steps = min(round(ramp_start_epoch * steps_per_epoch), last)
        self.ternary_start = min(round((ramp_start_epoch + schedule.prune_epochs) * steps_per_epoch), last)
        self.ramp_end = min(round((ramp_start_epoch + schedule.ramp_epochs) * steps_per_epoch), last)
        self.freeze_start = round((epochs - schedule.freeze_epochs) * steps_per_epoch)
        self._initial_sparsity = schedule.initial_sparsity
        self.final_sparsity = recipe.ternary.sparsity if recipe.ternary is not None else 0.0
        if recipe.ternary is None:
            self.dense_steps = self.ternary_start = self.ramp_end = self.freeze_start = self.total_steps
        self._mask_interval = schedule.mask_interval
        self._warmup_steps = round(recipe.optimizer.warmup_epochs * steps_per_epoch)

    def at(self, step: int) -> StepPlan:
        """The plan of a step in ``0 .. total_steps - 1``."""
        updates = self._updates_masks(step)
        return StepPlan(
            self.phase(step),
            self.sparsity(step),
            updates,
            updates and self._weighs(step),
            self._learning_rate_factor(step),
        )

    def phase(self, step: int) -> Phase:
        """The phase of a step."""
        if step < self.dense_steps:
            return "dense"
        return "pruned" if step < self.ternary_start else "ternary"

    def is_settled(self, step: int) -> bool:
        """Whether a model after ``step`` steps is ternary and at the final sparsity, if it is to become so."""
        return self.dense_steps == self.total_steps or step > max(self.ternary_start, self.ramp_end)

    def sparsity(self, step: int) -> float:
        """The fraction of zeros that the ramp asks for at a step."""
        if step < self.dense_steps:
            return 0.0
        if step >= self.ramp_end:
            return self.final_sparsity
        progress = (step - self.dense_steps) / (self.ramp_end - self.dense_steps)
        return cubic_sparsity(progress, min(self._initial_sparsity, self.final_sparsity), self.final_sparsity)

    def _updates_masks(self, step: int) -> bool:
        if step == self.ramp_end:
            return True
        if step < self.dense_steps or step >= self.freeze_start:
            return False
        return (step - self.dense_steps) % self._mask_interval == 0

    def _weighs(self, step: int) -> bool:
        """At the first masks, the full ones and the last ones, and at the first of each epoch."""
        if step in (self.dense_steps, self.ramp_end):
            return True
        previous = step - self._mask_interval
        is_last = step + self._mask_interval >= max(self.freeze_start, self.ramp_end + 1)
        return is_last or step // self.steps_per_epoch != previous // self.steps_per_epoch

    def _learning_rate_factor(self, step: int) -> float:
        warmup = min(self._warmup_steps, self.total_steps)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (self.total_steps - warmup)))
