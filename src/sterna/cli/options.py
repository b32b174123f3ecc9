"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Activations(StrEnum):
    """Types of activations in the native engine."""

    float32 = "float32"
    int8 = "int8"


Json = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to stdout; everything else goes to stderr.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Processor threads; by default 1 for the native engine, and what PyTorch decides for itself.",
    ),
]
ActivationType = Annotated[
    Activations,
    typer.Option(
        "--activations", help="Native engine: exact float32, or 8 bits with the ranges of `sterna calibrate`."
    ),
]


def use_threads(threads: int | None) -> None:
    """Give PyTorch this many threads, or leave it alone."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
