"""Sterna: sparse ternary vision models. Small files, fast inference, kept accuracy.

Importing this package needs NumPy alone and does no work; names that need PyTorch are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sterna.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FormatError,
    MissingDependencyError,
    NotTernaryError,
    SternaError,
)
from sterna.ternary_model import Int8Tensor, TernaryModel, TernaryTensor

if TYPE_CHECKING:
    from sterna.calibration import calibrate
    from sterna.capturing import capture, capture_detector
    from sterna.config import Recipe, TernaryConfig
    from sterna.container import SternaFile, save
    from sterna.conversion import convert
    from sterna.detector_calibration import calibrate_detector
    from sterna.export.onnx import export_onnx
    from sterna.inspection import inspect
    from sterna.loading import load
    from sterna.preparation import prepare
    from sterna.session import InferenceSession, instruction_sets
    from sterna.train.run import compress

__version__ = "0.1.0"

_LAZY = {
    "InferenceSession": "sterna.session",
    "Recipe": "sterna.config",
    "SternaFile": "sterna.container",
    "TernaryConfig": "sterna.config",
    "calibrate": "sterna.calibration",
    "calibrate_detector": "sterna.detector_calibration",
    "capture": "sterna.capturing",
    "capture_detector": "sterna.capturing",
    "compress": "sterna.train.run",
    "convert": "sterna.conversion",
    "export_onnx": "sterna.export.onnx",
    "inspect": "sterna.inspection",
    "instruction_sets": "sterna.session",
    "load": "sterna.loading",
    "prepare": "sterna.preparation",
    "save": "sterna.container",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FormatError",
    "InferenceSession",
    "Int8Tensor",
    "MissingDependencyError",
    "NotTernaryError",
    "Recipe",
    "SternaError",
    "SternaFile",
    "TernaryConfig",
    "TernaryModel",
    "TernaryTensor",
    "calibrate",
    "calibrate_detector",
    "capture",
    "capture_detector",
    "compress",
    "convert",
    "export_onnx",
    "inspect",
    "instruction_sets",
    "load",
    "prepare",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sterna' has no attribute {name!r}")
    try:
        value = getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == "sterna":
            raise
        raise MissingDependencyError(
            f"sterna.{name} needs the package '{error.name}': install it with  pip install 'sterna[train]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
