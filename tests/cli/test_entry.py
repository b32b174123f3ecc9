"""Help, exit codes, and errors in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sterna
from cli.command import ENVIRONMENT, command, is_one_line_error, sterna_process
from sterna.cli import info, main
from sterna.cli.text import in_bytes, printable
from sterna.errors import SternaError

COMMANDS = ("compress", "evaluate", "run", "inspect", "transcode", "export", "benchmark", "info")


def test_help_lists_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f" {name} " in text for name in COMMANDS)
    assert "Exit codes: 0 done; 2 a mistake" in text
    assert "--install-completion" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_examples_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"  sterna {name}" in text.split("Examples:")[1]
    assert "--json" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sterna {sterna.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["info", "--frobnicate"], ["compress"], ["inspect"], ["evaluate", "x", "--split", "best"],
     ["evaluate", "x", "--batch-size", "0"], ["compress", "x", "--threads", "none"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: sterna" in captured.err


@pytest.fixture
def failing_info(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run ``sterna info`` with an exception inside."""

    def run(error: BaseException) -> int:
        def fail() -> dict[str, object]:
            raise error

        monkeypatch.setattr(info, "collect", fail)
        return main(["info"])

    return run


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (SternaError("a file is bad"), 2, "sterna: error: a file is bad\n"),
        (SternaError("two\nlines \x1b[31m"), 2, "sterna: error: two lines \\x1b[31m\n"),
        (OSError(errno.ENOSPC, "No space left", "run/x"), 2, "sterna: error: No space left: 'run/x'\n"),
        (OSError(errno.EACCES, "Permission denied", "x"), 2, "sterna: error: Permission denied: 'x'\n"),
        (KeyboardInterrupt(), 130, "sterna: interrupted\n"),
        (KeyboardInterrupt("(go on)"), 130, "sterna: interrupted (go on)\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            2,
            "sterna: error: this needs the package 'torch': install it with  pip install 'sterna[train]'\n",
        ),
    ],
)
def test_what_is_not_our_defect_is_one_line(
    failing_info: Callable[[BaseException], int],
    error: BaseException,
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing_info(error) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", text)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a defect"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        ModuleNotFoundError("No module named 'sterna.nothing'", name="sterna.nothing"),
    ],
)
def test_a_defect_keeps_its_traceback(failing_info: Callable[[BaseException], int], error: Exception) -> None:
    with pytest.raises(type(error)):
        failing_info(error)


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("info"), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [["info"], ["info", "--json"]], ids=" ".join)
def test_a_full_disk_under_the_output_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        result = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 2
    assert is_one_line_error(result.stderr)


def test_python_dash_m_sterna_is_the_command(tmp_path: Path) -> None:
    result = sterna_process("--version", folder=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"sterna {sterna.__version__}\n")


def test_control_characters_of_a_stranger_never_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\rc\x9b\u202ed\ne é") == "a\\x1b[2Jb\\rc\\x9b\\u202ed e é"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1,024 B (1.0 KiB)"), (38912, "38,912 B (38.0 KiB)"),
     (1 << 20, "1,048,576 B (1.0 MiB)"), (5 << 40, "5,497,558,138,880 B (5120.0 GiB)")],
)  # fmt: skip
def test_sizes_are_given_in_bytes_and_in_a_readable_unit(count: int, text: str) -> None:
    assert in_bytes(count) == text


def test_the_interpreter_is_left_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    hook = sys.excepthook
    main(["info", "--json"])
    capsys.readouterr()
    assert sys.excepthook is hook
