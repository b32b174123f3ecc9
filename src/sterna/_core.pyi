"""Native code of Sterna."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

VERSION: int
"""Of the file format."""

MAX_TEXT_BYTES: int
MAX_GRAPH_BYTES: int
MAX_TENSORS: int
MAX_NAME_BYTES: int
MAX_AXES: int
MAX_ELEMENTS: int
MAX_TOTAL_ELEMENTS: int
MAX_TRITS_PER_BYTE: int
MAX_BYTES_PER_BYTE: int
SLACK_BYTES: int
NUMBERS_PER_CHUNK: int
TEXT_PRIMER: str

class Fault(ValueError):  # noqa: N818
    """A rule of the format that a file broke, as text: ``cause: what is wrong (at offset N): got X, allowed Y``."""

def encode_trits(trits: npt.NDArray[np.int8], coder: int) -> bytes:
    """Code an int8 array of -1, 0 and 1 with the coder of this number; decode_trits gives it back."""

def decode_trits(data: npt.NDArray[np.uint8], trits: npt.NDArray[np.int8], coder: int) -> None:
    """Fill an int8 array from the code of one of its shape; ValueError where the bytes are no such code."""

def encode_text(text: bytes) -> bytes:
    """Code text for the table of tensors, the metadata or the graph."""

def encode_numbers(numbers: npt.NDArray[np.uint8], width: int) -> bytes:
    """Code numbers of ``width`` bytes each, given as their bytes."""

class Reader:
    """The parts of a file; a rule that is broken raises Fault."""

    def __init__(self, data: npt.NDArray[np.uint8], whole_checksum: bool) -> None: ...
    def metadata(self) -> bytes: ...
    def graph(self) -> bytes: ...
    def tensors(self) -> list[tuple[bytes, int, int, tuple[int, ...]]]:
        """(name in UTF-8, kind, scale kind, shape) of each tensor."""

    def sections(self) -> list[tuple[int, int, int, int, int]]:
        """(kind, offset of the payload, its bytes, first chunk or array, their number) of each section."""

    def trit_chunks(self) -> list[tuple[int, int, int, int, int]]:
        """(tensor, coder, bytes, first element, elements) of each chunk of trits."""

    def arrays(self) -> list[tuple[int, int, bool, int, int]]:
        """(tensor, section, whether it is a scale, bytes of an element, elements) of each array."""

    def read_trits(self, chunk: int, trits: npt.NDArray[np.int8]) -> None:
        """Fill the chunk's part of a whole tensor, given flat."""

    def read_arrays(self, section: int, outputs: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Fill the bytes of all arrays of a section."""

MAX_THREADS: int

def isas() -> list[str]:
    """Instruction sets of this processor for which there are kernels, the best one last."""

def amx_state() -> str:
    """Whether this process can use AMX, in words; "usable" if it can."""

class Engine:
    """A graph of a file that is ready to run; ValueError says what does not fit."""

    def __init__(
        self,
        data: npt.NDArray[np.uint8],
        graph: str,
        isa: str,
        int8_activations: bool,
        is_tuned: bool,
        threads: int,
        ranges: Sequence[tuple[float, float]],
        outputs: Sequence[int],
    ) -> None: ...
    def inputs(self) -> list[tuple[str, list[int]]]: ...
    def outputs(self) -> list[str]: ...
    def output_shapes(self, inputs: Sequence[Sequence[int]]) -> list[list[int]]: ...
    def run(
        self, inputs: Sequence[npt.NDArray[np.float32]], outputs: Sequence[npt.NDArray[np.float32]], is_timed: bool
    ) -> list[float]: ...
    def steps(self, inputs: Sequence[Sequence[int]]) -> list[tuple[int | None, str, int]]: ...
    def arena_bytes(self, inputs: Sequence[Sequence[int]]) -> int: ...
    def computed_values(self, inputs: Sequence[Sequence[int]]) -> list[int]: ...
