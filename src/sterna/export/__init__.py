"""Writing networks for other runtimes."""

from sterna.export.onnx import export_onnx, onnx_model

__all__ = ["export_onnx", "onnx_model"]
