from __future__ import annotations

from pathlib import Path

import pytest

from sterna.data.paths import data_root, resolve_data_path
from sterna.errors import DataError


@pytest.fixture(autouse=True)
def _empty_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("STERNA_DATA", str(tmp_path / "root"))


def test_a_path_that_exists_as_given_wins(tmp_path: Path) -> None:
    (tmp_path / "root" / "weights").mkdir(parents=True)
    Path("weights").mkdir()
    assert resolve_data_path("weights") == Path("weights")


def test_another_relative_path_is_found_below_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "root" / "weights").mkdir(parents=True)
    assert resolve_data_path("weights") == tmp_path / "root" / "weights"


def test_an_absolute_path_is_never_looked_up_below_the_data_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist$"):
        resolve_data_path(tmp_path / "nothing")


def test_the_error_names_both_places(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        resolve_data_path("nothing")
    assert str(tmp_path / "here" / "nothing") in str(caught.value)
    assert str(tmp_path / "root" / "nothing") in str(caught.value)


def test_the_data_root_is_dot_data_where_the_variable_is_unset_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STERNA_DATA", "")
    assert data_root() == Path(".data")
    monkeypatch.delenv("STERNA_DATA")
    assert data_root() == Path(".data")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_data_path("~/here") == tmp_path / "here"
