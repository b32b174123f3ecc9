"""Where data sets and weights are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from sterna.errors import DataError

DATA_VARIABLE = "STERNA_DATA"
DEFAULT_DATA_ROOT = ".data"


def data_root() -> Path:
    """The folder that holds data sets and weights: ``$STERNA_DATA``, or ``.data`` in the current folder."""
    return Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA_ROOT)


def resolve_data_path(path: str | os.PathLike[str]) -> Path:
    """Find a file or folder as given, or else under the data root.

    Args:
        path: absolute, or relative to the current folder or to :func:`data_root`; ``~`` is the home folder.

    Returns:
        The first of the two places that exists.

    Raises:
        DataError: neither exists; the text names both.
    """
    given = Path(path).expanduser()
    if given.exists():
        return given
    if given.is_absolute():
        raise DataError(f"'{given}' does not exist")
    below_root = data_root() / given
    if below_root.exists():
        return below_root
    raise DataError(f"'{path}' does not exist, neither as '{given.absolute()}' nor as '{below_root.absolute()}'")
