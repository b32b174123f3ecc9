"""From a file back to a module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sterna
from sterna.errors import DataError
from sterna.models import build_model
from sterna.preparation import prepare, set_phase, update_masks

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def stored(metadata: dict[str, object] | None = None) -> sterna.TernaryModel:
    torch.manual_seed(0)
    model = prepare(build_model("digits_cnn", {}))
    update_masks(model, 0.7)
    set_phase(model, "ternary")
    return sterna.convert(model, metadata=metadata)


def test_a_model_that_has_a_name_is_built_and_filled(tmp_path: Path) -> None:
    model = stored({"model": {"name": "digits_cnn", "arguments": {}}})
    sterna.save(model, tmp_path / "a.sterna")
    loaded = sterna.load(tmp_path / "a.sterna")
    expected = sterna.loading.fill(build_model("digits_cnn", {}), model)  # type: ignore[attr-defined]
    assert not loaded.training
    assert torch.equal(loaded(IMAGES), expected(IMAGES))


def test_any_module_of_the_same_architecture_can_be_filled(tmp_path: Path) -> None:
    sterna.save(stored(), tmp_path / "a.sterna")
    own = build_model("digits_cnn", {})
    assert sterna.load(tmp_path / "a.sterna", model=own) is own


def test_a_file_without_a_name_needs_a_module(tmp_path: Path) -> None:
    sterna.save(stored(), tmp_path / "a.sterna")
    with pytest.raises(
        DataError, match=r"does not name a model that Sterna can build: give one with load\(path, model"
    ):
        sterna.load(tmp_path / "a.sterna")


def test_a_module_of_another_architecture_is_refused_with_the_path(tmp_path: Path) -> None:
    sterna.save(stored(), tmp_path / "a.sterna")
    with pytest.raises(DataError, match=r"a\.sterna: the model does not fit the file"):
        sterna.load(tmp_path / "a.sterna", model=torch.nn.Linear(2, 2))


def test_saving_and_loading_change_no_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = prepare(build_model("digits_cnn", {}))
    update_masks(model, 0.7)
    set_phase(model, "ternary")
    first = sterna.save(model, tmp_path / "a.sterna")
    again = sterna.save(sterna.container.read(tmp_path / "a.sterna"), tmp_path / "b.sterna")  # type: ignore[attr-defined]
    assert first == again
    assert (tmp_path / "a.sterna").read_bytes() == (tmp_path / "b.sterna").read_bytes()


def test_arguments_that_are_no_mapping_are_refused(tmp_path: Path) -> None:
    model = stored()
    changed = type(model)(model.tensors, {**model.metadata, "model": {"name": "digits_cnn", "arguments": 3}})
    sterna.save(changed, tmp_path / "a.sterna")
    with pytest.raises(DataError, match="arguments of the model must be a mapping, got int"):
        sterna.load(tmp_path / "a.sterna")


def test_loading_shows_a_bar_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take anything for a terminal
    sterna.save(stored(), tmp_path / "a.sterna")
    sterna.load(tmp_path / "a.sterna", model=build_model("digits_cnn", {}))
    assert capsys.readouterr().err == ""
    sterna.load(tmp_path / "a.sterna", model=build_model("digits_cnn", {}), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "load" in captured.err


def test_a_function_is_told_of_the_progress(tmp_path: Path) -> None:
    sterna.save(stored(), tmp_path / "a.sterna")
    told: list[tuple[int, int]] = []
    sterna.load(
        tmp_path / "a.sterna",
        model=build_model("digits_cnn", {}),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1] > 0
