"""The native engine in the place of a PyTorch module, so that a task judges both by the same code."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sterna.session import InferenceSession


class NativeNetwork(nn.Module):
    """A session that is called as a module.

    Args:
        session: with one input and one output.
    """

    def __init__(self, session: InferenceSession) -> None:
        super().__init__()
        self._session = session

    def forward(self, images: Tensor) -> Tensor:
        """The session's output for a batch, in float32.

        Raises:
            DataError: the session does not take it.
        """
        return torch.from_numpy(np.asarray(self._session.run(images.numpy())))


class Compared(nn.Module):
    """A network that is asked beside another one.

    Args:
        network: whose answers are given, logits ``(n, classes)``.
        reference: that they are compared with.

    Attributes:
        different: images of which the two named different classes so far.
    """

    def __init__(self, network: nn.Module, reference: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.reference = reference
        self.different = 0

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits."""
        logits: Tensor = self.network(images)
        self.different += int((logits.argmax(1) != self.reference(images).argmax(1)).sum())
        return logits


class Stopwatch:
    """Times each forward pass of a module, without the reading of images.

    Args:
        network: to be timed from now on.
    """

    def __init__(self, network: nn.Module) -> None:
        self._start = 0.0
        self._rates: list[tuple[int, float]] = []
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    @property
    def images_per_second(self) -> float | None:
        """Median over the passes of the largest batches: the first one prepares memory and kernels."""
        largest = max((images for images, _ in self._rates), default=0)
        rates = [images / seconds for images, seconds in self._rates if images == largest and seconds > 0.0]
        return float(np.median(rates)) if rates else None

    def _begin(self, network: nn.Module, arguments: Any) -> None:
        del network, arguments
        self._start = time.perf_counter()

    def _end(self, network: nn.Module, arguments: Any, output: Any) -> None:
        del network, output
        self._rates.append((len(arguments[0]), time.perf_counter() - self._start))
