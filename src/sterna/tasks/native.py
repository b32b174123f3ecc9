"""What is measured of the native engine beside its accuracy: its speed, and how often it differs from PyTorch."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch import Tensor, nn


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
