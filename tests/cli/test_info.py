"""``sterna info``."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

import pytest

import sterna
from sterna.cli import main
from sterna.cli.packages import DISTRIBUTIONS, EXTRAS
from sterna.data.paths import DATA_VARIABLE, data_root
from sterna.session import instruction_sets


def test_json_holds_machine_versions_and_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert main(["info", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sterna"] == sterna.__version__
    assert report["python"] == platform.python_version()
    assert report["processor"]["name"]
    assert 1 <= report["processor"]["cores_usable"] <= report["processor"]["cores"]
    assert report["memory_bytes"] > 1 << 26
    assert report["packages"]["numpy"]["version"] == metadata.version("numpy")
    assert report["data"] == {"path": str(tmp_path), "from_environment": True, "exists": True}


def test_instruction_sets_are_those_of_the_processor(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("needs /proc/cpuinfo")
    main(["info", "--json"])
    sets = json.loads(capsys.readouterr().out)["processor"]["instruction_sets"]
    words = Path("/proc/cpuinfo").read_text().split()
    assert sets
    assert all(name in words for name in sets)
    assert ("avx2" in sets) == ("avx2" in words)


def test_kernels_are_listed_the_best_last(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "--json"])
    kernels = json.loads(capsys.readouterr().out)["processor"]["kernels"]
    assert kernels[0] == "scalar"
    assert kernels == instruction_sets()


def test_amx_is_usable_exactly_where_it_has_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "--json"])
    processor = json.loads(capsys.readouterr().out)["processor"]
    assert processor["amx"] in ("absent", "refused by the operating system", "wrong products when tried", "usable")
    assert (processor["amx"] == "usable") == ("amx" in processor["kernels"])


def test_the_table_says_why_the_amx_of_the_processor_is_not_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sterna.cli.info.processor", lambda: ("a processor", frozenset({"avx2", "amx_int8"})))
    monkeypatch.setattr("sterna.session.amx_state", lambda: "refused by the operating system")
    main(["info"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("AMX "))
    assert "refused by the operating system" in line


def test_the_default_data_folder_is_the_one_that_data_are_read_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    main(["info", "--json"])
    assert json.loads(capsys.readouterr().out)["data"]["path"] == str(data_root())


def test_the_table_says_what_is_missing_and_what_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    main(["info"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("torch "))
    assert line.split(maxsplit=1)[1].strip().split("  ")[0] == "not installed"
    assert "pip install 'sterna[train]'" in line


def test_extras_are_those_of_the_package() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for module, extra in EXTRAS.items():
        section = text.split(f"\n{extra} = [")[1].split("]\n")[0]
        assert f'"{DISTRIBUTIONS.get(module, module)}>=' in section
