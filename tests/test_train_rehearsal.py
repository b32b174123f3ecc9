"""What a run will need, by a few of its steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from digits_runs import STEPS_PER_EPOCH, digits_recipe

from sterna.config import bytes_of
from sterna.errors import ConfigError, DataError
from sterna.inspection import inspect
from sterna.train.rehearsal import rehearse
from sterna.train.run import compress


def test_it_counts_what_the_run_will_do() -> None:
    result = rehearse(digits_recipe(data={"validation_size": 100}), steps=5)
    assert (result.train_images, result.validation_images, result.test_images) == (1197, 100, 500)
    assert result.total_steps == 3 * (1197 // 64)
    assert result.seconds >= result.total_steps / result.steps_per_second
    assert result.sparsity == 0.7
    assert result.peak_bytes > 10_000_000


def test_the_size_it_tells_is_near_that_of_the_run(tmp_path: Path) -> None:
    recipe = digits_recipe()
    told = rehearse(recipe, steps=4).file_bytes
    made = inspect(compress(recipe, tmp_path, progress=False).path).file_bytes
    assert told == pytest.approx(made, rel=0.1)


def test_a_target_size_tells_the_zeros_that_it_needs() -> None:
    result = rehearse(digits_recipe(ternary={"target_size": "8KB"}), steps=4)
    assert result.file_bytes is not None
    assert abs(result.file_bytes / bytes_of("8KB") - 1.0) <= 0.02
    assert 0.6 < result.sparsity < 0.95


def test_a_run_in_floating_point_has_no_file_of_trits() -> None:
    assert rehearse(digits_recipe(ternary=None), steps=4).file_bytes is None


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rehearse(digits_recipe(), steps=4)
    assert list(tmp_path.iterdir()) == []


def test_what_the_run_would_refuse_is_refused() -> None:
    with pytest.raises(DataError, match="nowhere"):
        rehearse(digits_recipe(model={"weights": "nowhere.safetensors"}))
    with pytest.raises(ConfigError, match=r"target_size: got 100 bytes, allowed are"):
        rehearse(digits_recipe(ternary={"target_size": "100B"}))


def test_steps_per_epoch_are_those_of_the_run() -> None:
    assert rehearse(digits_recipe(), steps=4).total_steps == 3 * STEPS_PER_EPOCH
