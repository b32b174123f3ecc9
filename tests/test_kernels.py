"""The engine agrees with plain loops on every instruction set, tested without Python between."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_kernels_agree_with_the_reference_on_every_instruction_set(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None or shutil.which("c++") is None:
        pytest.skip("needs cmake and a C++ compiler")
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": "1"}
    subprocess.run([cmake, "--preset", "release", "-B", tmp_path], cwd=REPOSITORY, check=True, env=environment)
    subprocess.run([cmake, "--build", tmp_path, "--target", "kernels_test"], check=True, env=environment)
    tested = subprocess.run([tmp_path / "kernels_test"], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout
