"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_there_is_an_example() -> None:
    assert BLOCKS


def test_the_examples_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for code in BLOCKS:
        exec(compile(code, "README.md", "exec"), names)
    assert re.search(r"80% zeros, \d+ bytes\n\(1, 10\)", capsys.readouterr().out)


def test_every_recipe_and_document_it_names_exists() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(((?!http)[^)#]+)\)", text) + re.findall(r"recipes/\w+\.yaml", text)
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []
