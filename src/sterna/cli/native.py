"""The native engine as commands use it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def native_batch_size(preprocessing: Mapping[str, Any]) -> int | None:
    """Images at a time: what fits into caches is as fast as more, and prepared sooner; nothing for detectors."""
    if "input_shape" not in preprocessing:
        return None
    values: int = math.prod(preprocessing["input_shape"])
    return min(32, max(1, 100_000 // values))
