"""Change what describes a file and leave its tensors as they are, byte for byte."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sterna.container.layout import CHECKSUM, PREFIX, SECTION, Section
from sterna.container.reader import SternaFile
from sterna.container.writer import describing_sections, end_section

if TYPE_CHECKING:
    from sterna.graph import Graph


def with_description(file: SternaFile, metadata: Mapping[str, Any], graphs: Sequence[Graph]) -> bytes:
    """The bytes of a file with other metadata and graphs; all other sections stay as they are.

    Raises:
        SternaError: the metadata or the graphs cannot be stored, or name tensors that the file does not have.
    """
    data = file.data
    parts = [data[: PREFIX.size].tobytes()]
    for kind, offset, size, *_ in file.sections:
        if kind in (Section.METADATA, Section.GRAPH, Section.END):
            continue
        parts.append(data[offset - SECTION.size : offset + size + CHECKSUM.size].tobytes())
        if kind == Section.TENSORS:
            parts += describing_sections(metadata, graphs, list(file.entries))
    whole = b"".join(parts)
    return whole + end_section(zlib.crc32(whole))
