"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real data sets and weights; the test is skipped where it is absent."""
    root = Path(os.environ.get("STERNA_DATA", REPOSITORY / ".data"))
    if not (root / ".complete").exists():
        pytest.skip(f"needs real data in {root} (set STERNA_DATA, or run 'make data')")
    return root
