"""Precision of the passes of a run: bfloat16 where the device computes in it, float32 where that would be emulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sterna.config import Recipe

# Instructions that multiply bfloat16, as torch names them (x86-64 and 64-bit ARM).
_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def computes_in_bfloat16(device: torch.device, capabilities: Mapping[str, object] | None = None) -> bool:
    """Whether a device multiplies bfloat16 by instructions of its own.

    A CPU that does not takes ten times as long in bfloat16 as in float32, so that it is never meant.

    Args:
        device: to train on.
        capabilities: of the CPU; nothing means those that torch finds.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if capabilities is None:
        capabilities = _cpu_capabilities()
    return any(bool(capabilities.get(name)) for name in _CPU_INSTRUCTIONS)


def with_precision(recipe: Recipe, begun: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe whose ``train.precision`` is no longer ``auto``, so that what was done is on record.

    Args:
        recipe: as its user wrote it.
        begun: the recipe of the checkpoint that the run goes on from, as JSON values: its precision stays.
    """
    if recipe.train.precision != "auto":
        return recipe
    chosen = begun.get("train", {}).get("precision") if begun is not None else None
    if chosen is None:
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        chosen = "bfloat16" if computes_in_bfloat16(device) else "float32"
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": chosen})})


def _cpu_capabilities() -> Mapping[str, object]:
    """Those that torch tells; older versions tell of one instruction set alone, and in private."""
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    return {"avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
