"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to stdout; everything else goes to stderr.")
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="Processor threads for PyTorch; by default it decides."),
]


def use_threads(threads: int | None) -> None:
    """Give PyTorch this many threads, or leave it alone."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
