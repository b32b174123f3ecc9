"""Precision of a run: what the device is made for, and what it was before a resumption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from digits_runs import digits_recipe, sha256
from test_train_run import stop_run

from sterna.inspection import inspect
from sterna.train import precision
from sterna.train.precision import computes_in_bfloat16, with_precision
from sterna.train.run import compress

AUTO = digits_recipe(train={"precision": "auto"})


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
        ({}, False),
    ],
)
def test_a_cpu_computes_in_bfloat16_if_it_has_instructions_for_it(
    capabilities: dict[str, object], expected: bool
) -> None:
    assert computes_in_bfloat16(torch.device("cpu"), capabilities) is expected


def test_this_cpu_can_be_asked() -> None:
    assert isinstance(computes_in_bfloat16(torch.device("cpu")), bool)


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_follows_the_device(native: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda _device: native)
    assert with_precision(AUTO).train.precision == expected


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_what_a_recipe_says_stays(chosen: str) -> None:
    recipe = digits_recipe(train={"precision": chosen})
    assert with_precision(recipe, {"train": {"precision": "float32"}}) is recipe


def test_the_file_tells_the_precision_that_was_used(tmp_path: Path) -> None:
    result = compress(AUTO, tmp_path, progress=False)
    used = with_precision(AUTO).train.precision
    assert inspect(result.path).metadata["recipe"]["train"]["precision"] == used
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["train"]["precision"] == used


def test_a_run_goes_on_in_the_precision_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda _device: False)
    whole = compress(AUTO, tmp_path / "whole", progress=False)
    stop_run(AUTO, tmp_path / "stopped", 25, monkeypatch)
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda _device: True)
    resumed = compress(AUTO, tmp_path / "stopped", resume=True, progress=False)
    assert sha256(resumed.path) == sha256(whole.path)
