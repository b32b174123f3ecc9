"""The errors that Sterna raises on purpose.

Everything that a user or a file can do wrong is a :class:`SternaError`: its text is one line that says
what was got, what is allowed, and where. The command line prints that line and exits with code 2; any
other exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class SternaError(Exception):
    """Base class: the user's mistake or a bad file, never a defect of Sterna."""


class ConfigError(SternaError, ValueError):
    """A recipe, an override or an argument has an unknown name, a wrong type or an impossible value."""


class DataError(SternaError):
    """Data or weights are missing, unreadable, or not what their name promises."""


class FormatError(SternaError):
    """A ``.sterna`` file is not one, is damaged, or breaks a limit of the format.

    Attributes:
        cause: short stable identifier of the broken rule (for example ``"checksum"``).
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class NotTernaryError(SternaError):
    """A model was asked for its trits before its weights are ternary."""


class MissingDependencyError(SternaError, ImportError):
    """A feature needs an extra that is not installed."""


class CheckpointError(SternaError):
    """A run folder holds no checkpoint that can be continued, or one of another recipe."""
