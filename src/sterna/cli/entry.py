"""What happens around a command: exit codes and one-line errors.

0: done. 2: the user's mistake, a bad file, a full disk. 130: Ctrl-C. 1: a defect of ours, with its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence

from sterna.cli.packages import EXTRAS
from sterna.cli.text import printable
from sterna.errors import SternaError

USER_ERROR = 2
INTERRUPTED = 130
OUTPUT_CLOSED = 141

# Conditions of the user's machine, not defects: worth a line, not a traceback.
_ENVIRONMENT_ERRORS = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
        errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EMFILE, errno.ENOMEM,
    }
)  # fmt: skip
# What the standard library calls a full disk, as ENOENT; importing PyTorch asks it for a temporary folder.
_NO_TEMPORARY_FOLDER = "No usable temporary directory"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the name of the program; nothing means those of the process.

    Returns:
        The exit code. A defect of Sterna raises instead.
    """
    try:
        from sterna.cli.app import Stopped, app
    except ModuleNotFoundError as error:
        return _report(_missing(error))
    except KeyboardInterrupt:
        return _report("interrupted", INTERRUPTED)
    try:
        try:
            app(list(sys.argv[1:] if arguments is None else arguments), prog_name="sterna")
        except SystemExit as stop:
            # Typer ends every command with this, usage errors (code 2) included.
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        else:
            code = 0
        sys.stdout.flush()
    except Stopped as stop:
        if stop.output_closed:
            _drop_output()
            return OUTPUT_CLOSED
        return _report(" ".join(["interrupted", *stop.hints]), INTERRUPTED)
    except KeyboardInterrupt:
        return _report("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        return OUTPUT_CLOSED
    except SternaError as error:
        return _report(f"error: {error}")
    except ModuleNotFoundError as error:
        return _report(_missing(error))
    except OSError as error:
        if error.errno not in _ENVIRONMENT_ERRORS and not str(error.strerror).startswith(_NO_TEMPORARY_FOLDER):
            raise
        _drop_output()
        where = f": '{error.filename}'" if error.filename else ""
        return _report(f"error: {error.strerror}{where}")
    return code


def _missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        raise error
    return f"error: this needs the package '{package}': install it with  pip install 'sterna[{EXTRAS[package]}]'"


def _report(text: str, code: int = USER_ERROR) -> int:
    # If nobody is listening, or there is no room for it, the exit code still says it.
    with contextlib.suppress(OSError):
        print(f"sterna: {printable(text)}", file=sys.stderr, flush=True)
    return code


def _drop_output() -> None:
    """Forget output that cannot be written, or the interpreter would complain about it once more when it ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nothing, stream.fileno())
    os.close(nothing)
