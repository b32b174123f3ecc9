"""Importing Sterna does no work and needs NumPy alone; names that need more say what to install."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import REPOSITORY

import sterna

# What `pip install sterna` does not bring. Meta-path finders are asked before the environment, so the packages are
# as good as not installed.
_ONLY_NUMPY = """
import sys

class Absent:
    names = {"torch", "torchvision", "torchmetrics", "accelerate", "pydantic", "yaml", "typer", "rich", "click", "PIL",
             "safetensors", "sklearn", "timm", "onnx"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Absent())
"""


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that finds this Sterna, and treats warnings as errors."""
    source = Path(sterna.__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def output_with_numpy_alone(code: str, *arguments: str) -> str:
    result = run_python(_ONLY_NUMPY + textwrap.dedent(code), *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_needs_numpy_alone() -> None:
    assert output_with_numpy_alone("import sterna; print(sterna.__version__)") == sterna.__version__


def test_import_loads_only_numpy_and_the_ground_floor() -> None:
    code = """
        import sys
        import numpy
        before = set(sys.modules)
        import sterna
        print(*sorted(set(sys.modules) - before))
    """
    loaded = run_python(code).stdout.split()
    assert [name for name in loaded if name.startswith("sterna")] == ["sterna", "sterna.errors", "sterna.ternary_model"]
    assert not [name for name in loaded if name.split(".")[0] in ("torch", "pydantic", "yaml", "typer", "rich")]


def test_import_takes_under_a_fifth_of_a_second_beyond_numpy() -> None:
    code = """
        import time
        import numpy
        start = time.perf_counter()
        import sterna
        print(time.perf_counter() - start)
    """
    # The smallest of several: the others measure what else the machine was doing.
    assert min(float(run_python(code).stdout) for _ in range(3)) < 0.2


def test_all_public_names_resolve() -> None:
    for name in sterna.__all__:
        assert getattr(sterna, name) is not None


def test_public_names_are_these() -> None:
    assert sterna.__all__ == sorted(sterna.__all__)
    assert set(sterna.__all__) == {
        "CheckpointError", "ConfigError", "DataError", "FormatError", "InferenceSession", "Int8Tensor",
        "MissingDependencyError", "NotTernaryError", "Recipe", "SternaError", "SternaFile", "TernaryConfig",
        "TernaryModel", "TernaryTensor",
        "calibrate", "calibrate_detector", "capture", "capture_detector", "compress", "convert", "export_onnx",
        "inspect", "instruction_sets", "load", "prepare", "save",
    }  # fmt: skip


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = sterna.quantise


def test_the_version_is_that_of_the_package() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    assert f'version = "{sterna.__version__}"' in text
    assert f"version: {sterna.__version__}" in (REPOSITORY / "CITATION.cff").read_text()


@pytest.mark.parametrize(
    ("name", "package"), [("prepare", "torch"), ("load", "torch"), ("convert", "torch"), ("TernaryConfig", "pydantic")]
)
def test_a_name_that_needs_more_says_what_to_install(name: str, package: str) -> None:
    code = f"""
        import sterna
        try:
            sterna.{name}
        except sterna.MissingDependencyError as error:
            print(error)
    """
    message = output_with_numpy_alone(code)
    assert message == f"sterna.{name} needs the package '{package}': install it with  pip install 'sterna[train]'"


def test_a_file_is_written_inspected_and_read_with_numpy_alone(tmp_path: Path) -> None:
    code = """
        import sys
        import numpy as np
        import sterna
        from sterna.container import read
        trits = np.arange(120, dtype=np.int8).reshape(10, 12) % 3 - 1
        model = sterna.TernaryModel({"weight": sterna.TernaryTensor(trits), "bias": np.ones(10, np.float16)})
        written = sterna.save(model, sys.argv[1])
        assert np.array_equal(read(sys.argv[1]).tensors["weight"].trits, trits)
        print(written == sterna.inspect(sys.argv[1]).file_bytes, "torch" in sys.modules)
    """
    assert output_with_numpy_alone(code, str(tmp_path / "m.sterna")) == "True False"


def test_the_command_without_its_extra_is_one_line() -> None:
    result = run_python(_ONLY_NUMPY + "from sterna.cli import main; sys.exit(main(['--help']))")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("sterna: error: this needs the package '")
    assert result.stderr.endswith("': install it with  pip install 'sterna[cli]'\n")
    assert result.stderr.count("\n") == 1


def test_compress_without_pytorch_is_one_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\nmodel: {name: digits_cnn}\ndata: {name: digits}\n")
    without_torch = _ONLY_NUMPY.replace('"pydantic", "yaml", "typer", "rich", "click", ', "")
    result = run_python(
        without_torch + "from sterna.cli import main; sys.exit(main(sys.argv[1:]))", "compress", str(recipe)
    )
    assert result.returncode == 2
    assert result.stderr.endswith("': install it with  pip install 'sterna[train]'\n")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("runs*"))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
@pytest.mark.parametrize("arguments", ["['--help']", "['compress', '--help']", "['info', '--json']"])
def test_help_and_info_do_not_load_pytorch(arguments: str) -> None:
    code = f"""
        import sys
        from sterna.cli import main
        code = main({arguments})
        sys.exit(code if code else "torch" in sys.modules)
    """
    assert run_python(code).returncode == 0
