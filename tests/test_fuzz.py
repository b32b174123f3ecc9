"""The fuzz targets hold under sanitizers, driven by their fixed generator."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_readers_and_coders_pass_their_stress_tests_under_sanitizers(tmp_path: Path) -> None:
    cmake, compiler = shutil.which("cmake"), shutil.which("c++")
    if cmake is None or compiler is None:
        pytest.skip("needs cmake and a C++ compiler")
    probe = tmp_path / "probe.cc"
    probe.write_text("int main() {}\n")
    linked = subprocess.run([compiler, "-fsanitize=address,undefined", probe, "-o", tmp_path / "probe"], check=False)
    if linked.returncode != 0:
        pytest.skip("the C++ compiler has no sanitizers")
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": "1"}
    subprocess.run([cmake, "--preset", "asan", "-B", tmp_path], cwd=REPOSITORY, check=True, env=environment)
    subprocess.run([cmake, "--build", tmp_path], cwd=REPOSITORY, check=True, env=environment)
    golden = sorted((REPOSITORY / "tests" / "golden").rglob("*.sterna"))
    subprocess.run([tmp_path / "trit_coder_stress", "500"], check=True)
    subprocess.run([tmp_path / "byte_coder_stress", "200"], check=True)
    subprocess.run([tmp_path / "reader_stress", "1000", "1", *golden], check=True)
    subprocess.run([tmp_path / "graph_stress", "5000"], check=True)
    subprocess.run([tmp_path / "kernels_test", "1", "5", "200"], check=True)
