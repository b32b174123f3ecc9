"""From a trained module to plain data, and back into a module."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from sterna.config import TernaryConfig
from sterna.conversion import convert, plain_state
from sterna.errors import ConfigError, DataError, NotTernaryError
from sterna.loading import fill
from sterna.preparation import layer_signs, prepare, set_phase, update_masks
from sterna.ternary_model import Int8Tensor, TernaryTensor

IMAGES = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(5))


def net(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        norm(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=2),
        norm(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def trained(config: TernaryConfig | None = None, norm: type[nn.Module] = nn.BatchNorm2d, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = net(norm)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            module.running_mean = torch.randn(module.weight.shape)
            module.running_var = torch.rand(module.weight.shape) + 0.3
            module.weight.data = torch.randn(module.weight.shape)
            module.bias.data = torch.randn(module.bias.shape)
    prepare(model, config)
    update_masks(model, 0.6)
    set_phase(model, "ternary")
    return model.eval()


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
@pytest.mark.parametrize("group", ["filter", "layer"])
@pytest.mark.parametrize("scale", ["unit", "norm", "least-squares", "learned"])
def test_the_converted_model_computes_what_the_trained_one_did(scale: str, group: str, norm: type[nn.Module]) -> None:
    model = trained(TernaryConfig(scale=scale, group=group), norm)  # type: ignore[arg-type]
    filled = fill(net(norm), convert(model, float_dtype="float32"))
    with torch.no_grad():
        expected = model(IMAGES)
    # float32 sums of at most 108 terms in another order and another scale
    assert torch.allclose(filled(IMAGES), expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-5)


def test_the_trits_are_those_of_training() -> None:
    model = trained()
    stored = convert(model)
    for name, signs in layer_signs(model).items():
        tensor = stored.tensors[f"{name}.weight"]
        assert isinstance(tensor, TernaryTensor)
        assert np.array_equal(tensor.trits, signs.numpy())


def test_scales_go_into_the_batch_norm_where_one_follows() -> None:
    stored = convert(trained()).ternary()
    assert stored["3.weight"].scale is None
    assert stored["6.weight"].scale is not None
    assert stored["9.weight"].scale is not None
    assert stored["6.weight"].scale.shape == (12,)


def test_a_batch_norm_takes_two_vectors() -> None:
    names = set(convert(trained()).tensors)
    assert {"1.weight", "1.bias", "4.weight", "4.bias"} <= names
    assert not any("running" in name or "num_batches" in name or "parametrizations" in name for name in names)


def test_conversion_leaves_the_model_as_it_was() -> None:
    model = trained()
    before = copy.deepcopy(model.state_dict())
    convert(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_float16_is_the_default_and_costs_at_most_its_rounding() -> None:
    model = trained()
    half, single = convert(model), convert(model, float_dtype="float32")
    for name, tensor in half.tensors.items():
        if isinstance(tensor, np.ndarray) and tensor.dtype.kind == "f":
            assert tensor.dtype == np.float16, name
            assert np.allclose(tensor, single.tensors[name], rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize("factor", [1e6, 1e-8])
def test_what_float16_cannot_hold_stays_float32(factor: float) -> None:
    model = trained()
    with torch.no_grad():
        model[9].bias.mul_(factor)
    stored = convert(model).tensors["9.bias"]
    assert isinstance(stored, np.ndarray)
    assert stored.dtype == np.float32
    assert np.array_equal(stored, model[9].bias.detach().numpy())


@pytest.mark.parametrize("float_dtype", ["float16", "float32"])
def test_int8_weights_differ_by_at_most_half_a_step(float_dtype: Literal["float16", "float32"]) -> None:
    model = trained()
    with torch.no_grad():
        model[0].weight[1] = 0
    exact = model[0].weight.detach().numpy()
    stored = convert(model, float_dtype=float_dtype, int8=["0"]).tensors["0.weight"]
    assert isinstance(stored, Int8Tensor)
    assert stored.scale.dtype == float_dtype
    assert np.abs(stored.values[[0, 2, 3]]).max(axis=(1, 2, 3)).tolist() == [127] * 3
    steps = stored.scale.astype(np.float32).reshape(-1, 1, 1, 1)
    # A rounded scale may leave the largest weight a little beyond 127 steps.
    assert (np.abs(stored.dequantize() - exact) <= 0.5 * steps + 2**-11 * np.abs(exact)).all()
    assert not stored.values[1].any()


def test_int8_weights_are_loaded_as_their_values() -> None:
    stored = convert(trained(), int8=["*"])
    loaded = fill(net(), stored)
    weight = stored.tensors["0.weight"]
    assert isinstance(weight, Int8Tensor)
    assert np.array_equal(loaded.state_dict()["0.weight"].numpy(), weight.dequantize())


class TestRefusals:
    def test_a_pattern_of_int8_that_matches_no_layer_in_floating_point(self) -> None:
        with pytest.raises(ConfigError, match=r"storage\.int8: pattern '3' matches no layer .*; there are '0'"):
            convert(trained(), int8=["3"])

    def test_a_model_that_was_never_prepared(self) -> None:
        with pytest.raises(NotTernaryError, match=r"call sterna\.prepare"):
            convert(net())

    @pytest.mark.parametrize("phase", ["dense", "pruned"])
    def test_a_model_that_is_not_ternary_yet(self, phase: str) -> None:
        model = trained()
        set_phase(model, phase)  # type: ignore[arg-type]
        with pytest.raises(NotTernaryError, match=rf"not ternary yet: layer '3' is in phase '{phase}' \(3 of 3"):
            convert(model)

    def test_a_file_of_another_architecture(self) -> None:
        stored = convert(trained())
        with pytest.raises(DataError, match=r"misses '2\.bias'|misses '2\.weight'|no place for"):
            fill(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 2)), stored)

    def test_a_file_of_another_width(self) -> None:
        other = net()
        other[9] = nn.Linear(12, 7)
        with pytest.raises(DataError, match=r"'9\.(weight|bias)' has shape \(7(, 12|,)\) in the model"):
            fill(other, convert(trained()))


def test_plain_state_has_the_names_of_the_unprepared_model() -> None:
    assert set(plain_state(trained())) == set(net().state_dict())
