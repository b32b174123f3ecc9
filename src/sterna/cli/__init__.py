"""The command line: thin commands, each in its own file; :func:`main` is the entry point."""

from sterna.cli.entry import main

__all__ = ["main"]
