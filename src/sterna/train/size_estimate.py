"""How large the file would be if training ended now: an estimate that costs no encoding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from sterna.conversion import int8_weights, plain_state
from sterna.folding import batch_norm_pairs, is_batch_norm
from sterna.preparation import LayerStatistics, ternary_layers

_FLOAT_BYTES = {"float16": 2, "float32": 4}


def expected_bytes(statistics: Iterable[LayerStatistics], float_bytes: int) -> int:
    """Zero-order entropy of the trits, ``sum(weights * bits) / 8``, plus everything that is not ternary.

    Args:
        statistics: of all ternary layers.
        float_bytes: from :func:`float_bytes_of`.
    """
    bits = sum(layer.weights * layer.entropy_bits_per_weight for layer in statistics)
    return round(bits / 8) + float_bytes


def float_bytes_of(model: nn.Module, float_dtype: str, int8: Sequence[str] = ()) -> int:
    """Bytes of a prepared model's tensors that are not trits, as :func:`sterna.convert` stores them, not compressed.

    Every batch norm counts as two vectors; a ternary layer has scales of its own only where no batch norm holds them.

    Args:
        model: prepared.
        float_dtype: of what stays in floating point.
        int8: patterns of layers that are kept in int8.
    """
    quantized = int8_weights(model, int8)
    layers = ternary_layers(model)
    norms = {name: module for name, module in model.named_modules() if is_batch_norm(module)}
    folded = batch_norm_pairs(model)
    count = bytes_of_int8 = 0
    for name, value in plain_state(model).items():
        owner, _, leaf = name.rpartition(".")
        if owner in norms:
            count += value.numel() if leaf in ("weight", "bias") else 0
        elif owner in layers and leaf == "weight":
            groups = value.shape[0] if layers[owner].group == "filter" else 1
            count += 0 if owner in folded else groups
        elif name in quantized:
            bytes_of_int8 += value.numel()
            count += value.shape[0]
        elif leaf != "num_batches_tracked":
            count += value.numel()
    return count * _FLOAT_BYTES[float_dtype] + bytes_of_int8
