"""From a float32 ONNX model to one that computes in int8, by the static quantization of ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sterna.errors import MissingDependencyError, SternaError


def quantize(model: Any, images: Iterable[npt.NDArray[np.float32]]) -> Any:
    """Put ``QuantizeLinear`` and ``DequantizeLinear`` around what can be computed in int8.

    Weights are signed and symmetric, with a scale for each filter; activations are unsigned 8-bit numbers, whose range
    is the smallest and largest value on the given images.

    Args:
        model: ``onnx.ModelProto`` with one input.
        images: arrays for that input.

    Returns:
        another ``onnx.ModelProto``.

    Raises:
        SternaError: there are no images.
        MissingDependencyError: ``onnxruntime`` is not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"int8 needs the package '{error.name}': install it with  pip install onnxruntime"
        ) from error
    name = model.graph.input[0].name
    batches = [{name: np.ascontiguousarray(image, np.float32)} for image in images]
    if not batches:
        raise SternaError("int8 needs at least one array of images to calibrate with")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        quantized = onnx.load(target)
    onnx.checker.check_model(quantized)
    return quantized


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice about preprocessing, which has been done, off the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
