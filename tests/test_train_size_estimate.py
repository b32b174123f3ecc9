"""The estimate of the file's size counts what conversion stores."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from sterna.config import TernaryConfig
from sterna.conversion import convert
from sterna.models import build_model
from sterna.preparation import LayerStatistics, prepare, set_phase, update_masks
from sterna.ternary_model import TernaryTensor
from sterna.train.size_estimate import expected_bytes, float_bytes_of


@pytest.mark.parametrize("float_dtype", ["float16", "float32"])
@pytest.mark.parametrize("group", ["filter", "layer"])
@pytest.mark.parametrize("name", ["digits_cnn", "cifar_resnet20"])
def test_float_bytes_are_those_of_the_converted_model(
    name: str, group: Literal["filter", "layer"], float_dtype: Literal["float16", "float32"]
) -> None:
    torch.manual_seed(0)
    model = prepare(build_model(name), TernaryConfig(group=group))
    estimate = float_bytes_of(model, float_dtype)
    update_masks(model, 0.7)
    set_phase(model, "ternary")
    arrays = [
        value.scale if isinstance(value, TernaryTensor) else value
        for value in convert(model, float_dtype=float_dtype).tensors.values()
    ]
    itemsize = np.dtype(float_dtype).itemsize
    assert estimate == sum(array.size * itemsize for array in arrays if array is not None)


def test_layers_in_int8_count_a_byte_a_weight_and_a_scale_a_filter() -> None:
    torch.manual_seed(0)
    model = prepare(build_model("cifar_resnet20"), TernaryConfig())
    float16 = float_bytes_of(model, "float16")
    assert float_bytes_of(model, "float16", ["conv1"]) == float16 - 16 * 27 + 16 * 2


def test_trits_count_by_their_entropy() -> None:
    def layer(weights: int, bits: float) -> LayerStatistics:
        return LayerStatistics("x", weights, 0.7, 0.9, 0.0, 0.0, bits)

    assert expected_bytes([layer(800, 1.0), layer(1600, 0.5)], 11) == 100 + 100 + 11
