"""Latency, load time and memory of Sterna beside other engines."""

from sterna.benchmarking.comparison import Report, Row, benchmark
from sterna.benchmarking.layers import LayerRow, profile_layers

__all__ = ["LayerRow", "Report", "Row", "benchmark", "profile_layers"]
