"""Write a file anew, with another coder or other floating-point types, so that it stands for the same numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sterna.container import Coder, SternaFile, read, save
from sterna.container.layout import Progress
from sterna.errors import SternaError
from sterna.ternary_model import Int8Tensor, Tensor, TernaryModel, TernaryTensor


@dataclass(frozen=True)
class Transcoded:
    """What came of it.

    Args:
        source_bytes: size of the old file.
        file_bytes: size of the new one.
        kept_float32: names of tensors that stayed in float32, since float16 cannot hold all of their numbers.
    """

    source_bytes: int
    file_bytes: int
    kept_float32: tuple[str, ...]


def transcode(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    coder: Coder = "small",
    float_dtype: Literal["keep", "float16", "float32"] = "keep",
    progress: Progress | None = None,
) -> Transcoded:
    """Write a file anew; every trit and every number stays what it is, and the new file is read back to prove it.

    Args:
        source: the old file.
        target: the new one, which may be the old one: it is replaced in one step.
        coder: of the trits.
        float_dtype: of arrays and scales; ``float16`` is given to those that it holds exactly.
        progress: called with the elements written so far and all elements.

    Raises:
        FormatError: the source is not a ``.sterna`` file, is damaged, or breaks a limit.
        SternaError: a file cannot be read or written.
    """
    file = SternaFile.open(source, whole_checksum=True)
    source_bytes = file.data.size
    model = file.read()
    tensors = {name: _with_floats(tensor, float_dtype) for name, tensor in model.tensors.items()}
    kept = tuple(name for name, tensor in tensors.items() if _float_type(tensor) == np.float32)
    changed = TernaryModel(tensors, model.metadata, model.graphs)
    # Read back before it takes the place of anything: the target may be the source.
    unproven = Path(f"{os.fspath(target)}.transcoded")
    try:
        file_bytes = save(changed, unproven, coder=coder, progress=progress)
        if not _equal(changed, read(unproven)):
            raise SternaError(f"{target} would not read back as what is written: nothing was changed; report this")
        unproven.replace(target)
    except OSError as error:
        raise SternaError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        unproven.unlink(missing_ok=True)
    return Transcoded(source_bytes, file_bytes, kept if float_dtype == "float16" else ())


def _with_floats(tensor: Tensor, float_dtype: str) -> Tensor:
    if isinstance(tensor, TernaryTensor):
        return TernaryTensor(tensor.trits, None if tensor.scale is None else _cast(tensor.scale, float_dtype))
    if isinstance(tensor, Int8Tensor):
        return Int8Tensor(tensor.values, _cast(tensor.scale, float_dtype))
    return _cast(tensor, float_dtype)


def _cast(array: npt.NDArray[Any], float_dtype: str) -> npt.NDArray[Any]:
    if float_dtype == "float32" and array.dtype == np.float16:
        return array.astype(np.float32)
    if float_dtype == "float16" and array.dtype == np.float32:
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        # Bytes tell -0 from 0, and one NaN from another.
        return half if half.astype(np.float32).tobytes() == array.tobytes() else array
    return array


def _float_type(tensor: Tensor) -> np.dtype[Any] | None:
    array = tensor if isinstance(tensor, np.ndarray) else tensor.scale
    return None if array is None else array.dtype


def _equal(left: TernaryModel, right: TernaryModel) -> bool:
    if list(left.tensors) != list(right.tensors) or left.graphs != right.graphs:
        return False
    return all(
        [part.tobytes() for part in _parts(left.tensors[name])] == [part.tobytes() for part in _parts(tensor)]
        for name, tensor in right.tensors.items()
    )


def _parts(tensor: Tensor) -> list[npt.NDArray[Any]]:
    if isinstance(tensor, TernaryTensor):
        return [tensor.trits] if tensor.scale is None else [tensor.trits, tensor.scale]
    return [tensor.values, tensor.scale] if isinstance(tensor, Int8Tensor) else [tensor]
