"""The ``.sterna`` file: ``docs/format.md`` specifies every byte."""

from sterna.container.files import synchronize_folder, write_whole
from sterna.container.reader import SternaFile, decode, read
from sterna.container.rewriting import with_description
from sterna.container.writer import Coder, coded_bytes, encode, save

__all__ = [
    "Coder",
    "SternaFile",
    "coded_bytes",
    "decode",
    "encode",
    "read",
    "save",
    "synchronize_folder",
    "with_description",
    "write_whole",
]
