"""What each step does follows from its number alone."""

from __future__ import annotations

import math

import pytest
from digits_runs import digits_recipe
from hypothesis import given
from hypothesis import strategies as st

from sterna.config import Recipe
from sterna.train.schedule import Schedule


def make(
    dense: float = 1.0,
    prune: float = 1.0,
    ramp: float = 2.0,
    freeze: float = 1.0,
    *,
    epochs: int = 6,
    steps: int = 10,
    interval: int = 4,
    warmup: float = 0.5,
) -> Schedule:
    recipe = digits_recipe(
        schedule={
            "dense_epochs": dense,
            "prune_epochs": prune,
            "ramp_epochs": ramp,
            "freeze_epochs": freeze,
            "initial_sparsity": 0.3,
            "mask_interval": interval,
        },
        optimizer={"warmup_epochs": warmup},
        ternary={"sparsity": 0.8},
        train={"epochs": epochs},
    )
    return Schedule(recipe, steps)


def test_phases_follow_each_other_at_their_epochs() -> None:
    schedule = make()
    phases = [schedule.at(step).phase for step in range(schedule.total_steps)]
    assert phases == ["dense"] * 10 + ["pruned"] * 10 + ["ternary"] * 40


def test_zeros_ramp_from_the_initial_to_the_final_fraction() -> None:
    schedule = make()
    zeros = [schedule.at(step).sparsity for step in range(schedule.total_steps)]
    assert zeros[:10] == [0.0] * 10
    assert zeros[10] == pytest.approx(0.3)
    # The closed form of the cubic ramp at its middle: 0.8 + (0.3 - 0.8) / 8.
    assert zeros[20] == pytest.approx(0.8 - 0.5 / 8)
    assert zeros[30:] == [0.8] * 30
    assert zeros[10:] == sorted(zeros[10:])


def test_masks_change_at_the_interval_and_at_the_end_of_the_ramp_and_then_stay() -> None:
    schedule = make()
    updates = [step for step in range(schedule.total_steps) if schedule.at(step).updates_masks]
    assert updates == [10, 14, 18, 22, 26, 30, 34, 38, 42, 46]
    assert 30 in [step for step in range(60) if make(interval=7).at(step).updates_masks]


def test_a_ramp_up_to_the_freeze_still_ends_at_the_final_fraction() -> None:
    schedule = make(dense=0.0, prune=0.0, ramp=5.0, freeze=1.0, interval=50)
    updates = [step for step in range(schedule.total_steps) if schedule.at(step).updates_masks]
    assert updates == [0, 50]
    assert schedule.at(50).sparsity == 0.8


def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine_to_zero() -> None:
    schedule = make()
    factors = [schedule.at(step).learning_rate_factor for step in range(schedule.total_steps)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1.0
    assert factors[5 + 11] == pytest.approx(0.5 * (1 + math.cos(math.pi * 11 / 55)))
    assert 0.0 < factors[-1] < 1e-3


def test_a_warm_up_longer_than_the_run_does_not_fall() -> None:
    schedule = make(warmup=100.0)
    factors = [schedule.at(step).learning_rate_factor for step in range(schedule.total_steps)]
    assert factors == sorted(factors)
    assert factors[-1] == 1.0


quarters = st.integers(0, 12).map(lambda quarter: quarter / 4)


@given(
    dense=quarters, prune=quarters, ramp=quarters, freeze=quarters, steps=st.integers(1, 23), interval=st.integers(1, 9)
)
def test_every_valid_recipe_ends_ternary_at_its_sparsity(
    dense: float, prune: float, ramp: float, freeze: float, steps: int, interval: int
) -> None:
    epochs = max(1, math.ceil(dense + max(ramp, prune) + freeze))
    schedule = make(dense, prune, ramp, freeze, epochs=epochs, steps=steps, interval=interval)
    plans = [schedule.at(step) for step in range(schedule.total_steps)]
    assert plans[-1].phase == "ternary"
    assert [plan for plan in plans if plan.updates_masks][-1].sparsity == 0.8
    assert schedule.is_settled(schedule.total_steps)
    first_ternary = next(step for step, plan in enumerate(plans) if plan.phase == "ternary")
    assert any(plan.updates_masks for plan in plans[: first_ternary + 1])
    # No mask changes while frozen, but for the end of a ramp that runs into the freeze.
    frozen = [step for step, plan in enumerate(plans) if plan.updates_masks and step >= schedule.freeze_start]
    assert frozen in ([], [schedule.ramp_end])


def test_a_recipe_that_does_not_fit_its_epochs_never_gets_here() -> None:
    with pytest.raises(ValueError, match="schedule needs 7 epochs"):
        make(ramp=5.0)


def test_the_plan_is_the_same_after_resuming() -> None:
    recipe: Recipe = digits_recipe()
    once, again = Schedule(recipe, 20), Schedule(recipe, 20)
    assert [once.at(step) for step in range(37, 60)] == [again.at(step) for step in range(37, 60)]
