"""The configuration refuses what cannot work, at birth, and does not change afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sterna.config import (
    DataConfig,
    DistillationConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    TernaryConfig,
    TrainConfig,
)

MODEL, DATA = ModelConfig(name="digits_cnn"), DataConfig(name="digits")


def test_a_recipe_needs_only_a_name_a_model_and_data() -> None:
    recipe = Recipe(name="r", model=MODEL, data=DATA)
    assert (recipe.seed, recipe.distillation) == (0, None)
    assert recipe.ternary == TernaryConfig()


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TernaryConfig().sparsity = 0.5


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (TernaryConfig, {"sparsity": 1.0}),
        (TernaryConfig, {"sparsity": -0.1}),
        (TernaryConfig, {"sparsity": float("nan")}),
        (TernaryConfig, {"sparsity": "0.5"}),
        (TernaryConfig, {"gradient": "fancy"}),
        (TernaryConfig, {"pull": float("inf")}),
        (TernaryConfig, {"include": "*"}),
        (ScheduleConfig, {"ramp_epochs": -1.0}),
        (ScheduleConfig, {"mask_interval": 0}),
        (OptimizerConfig, {"learning_rate": 0.0}),
        (OptimizerConfig, {"momentum": 1.0}),
        (OptimizerConfig, {"betas": (0.9,)}),
        (OptimizerConfig, {"nesterov": 1}),
        (DistillationConfig, {"weight": 1.5}),
        (DistillationConfig, {"temperature": 0.0}),
        (TrainConfig, {"epochs": 0}),
        (TrainConfig, {"epochs": 1.5}),
        (TrainConfig, {"epochs": True}),
        (TrainConfig, {"ema_decay": 1.0}),
        (DataConfig, {"name": "imagenet"}),
        (DataConfig, {"name": "digits", "std": (0.0,)}),
        (DataConfig, {"name": "digits", "colour": "red"}),
    ],
)
def test_impossible_values_are_refused(section: type[Any], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section(**values)


@pytest.mark.parametrize("name", ["", "../escape", "a/b", ".hidden", "with space", "line\n"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Recipe(name=name, model=MODEL, data=DATA)


@pytest.mark.parametrize(
    ("epochs", "schedule", "fits"),
    [
        (4, ScheduleConfig(ramp_epochs=3.0, freeze_epochs=1.0), True),
        (3, ScheduleConfig(ramp_epochs=3.0, freeze_epochs=1.0), False),
        (6, ScheduleConfig(dense_epochs=2.0, ramp_epochs=3.0, freeze_epochs=1.0), True),
        (6, ScheduleConfig(dense_epochs=2.5, ramp_epochs=3.0, freeze_epochs=1.0), False),
        (6, ScheduleConfig(prune_epochs=5.5, ramp_epochs=3.0, freeze_epochs=1.0), False),
    ],
)
def test_the_phases_must_fit_into_the_epochs(epochs: int, schedule: ScheduleConfig, fits: bool) -> None:
    def make() -> Recipe:
        return Recipe(name="r", model=MODEL, data=DATA, schedule=schedule, train=TrainConfig(epochs=epochs))

    if fits:
        assert make().train.epochs == epochs
    else:
        with pytest.raises(ValidationError, match=rf"train\.epochs is {epochs}"):
            make()
