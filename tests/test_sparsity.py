"""Masks and the ramp of zeros."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sterna.errors import ConfigError
from sterna.sparsity import cubic_sparsity, global_masks, layer_masks, optimal_masks


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "narrow": 0.01 * torch.randn(8, 4, 3, 3, generator=generator),
        "wide": 5.0 * torch.randn(16, 8, 3, 3, generator=generator),
        "head": torch.randn(10, 16, generator=generator),
    }


class TestRamp:
    def test_it_goes_from_the_initial_to_the_final_sparsity(self) -> None:
        assert cubic_sparsity(0.0, 0.3, 0.9) == pytest.approx(0.3)
        assert cubic_sparsity(0.5, 0.3, 0.9) == pytest.approx(0.9 - 0.6 / 8)
        assert cubic_sparsity(1.0, 0.3, 0.9) == 0.9

    @given(st.floats(-2, 3), st.floats(-2, 3))
    def test_it_never_falls_and_is_flat_outside(self, a: float, b: float) -> None:
        low, high = sorted((a, b))
        assert 0.3 <= cubic_sparsity(low, 0.3, 0.9) <= cubic_sparsity(high, 0.3, 0.9) + 1e-12 <= 0.9 + 2e-12


@given(sparsity=st.floats(0.0, 0.99), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_layer_masks_have_the_exact_count_in_every_layer(sparsity: float, seed: int) -> None:
    tensors = weights(seed)
    for name, mask in layer_masks(tensors, sparsity).items():
        assert mask.shape == tensors[name].shape
        assert int(mask.sum()) == max(1, round((1 - sparsity) * mask.numel()))


@given(sparsity=st.floats(0.0, 0.9), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_global_masks_have_the_exact_count_over_all_layers(sparsity: float, seed: int) -> None:
    tensors = weights(seed)
    total = sum(tensor.numel() for tensor in tensors.values())
    masks = global_masks(tensors, sparsity)
    assert sum(int(mask.sum()) for mask in masks.values()) == round((1 - sparsity) * total)


def test_global_masks_ignore_the_scale_of_a_layer() -> None:
    tensors = weights()
    scaled = {name: tensor * factor for (name, tensor), factor in zip(tensors.items(), (100.0, 0.25, 8.0), strict=True)}
    plain, other = global_masks(tensors, 0.7), global_masks(scaled, 0.7)
    assert all(torch.equal(plain[name], other[name]) for name in tensors)


def test_global_masks_keep_more_zeros_where_tails_are_heavy() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(4000, generator=generator) + 1.0
    heavy = torch.randn(4000, generator=generator) ** 3
    masks = global_masks({"flat": flat, "heavy": heavy}, 0.5)
    assert masks["flat"].sum() > masks["heavy"].sum()


@given(sparsity=st.floats(0.3, 0.9), factor=st.floats(1.1, 5.0), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_an_important_layer_keeps_weights_that_others_lose_and_the_count_over_all_stays(
    sparsity: float, factor: float, seed: int
) -> None:
    tensors = weights(seed)
    plain, masks = global_masks(tensors, sparsity), global_masks(tensors, sparsity, {"head": factor})
    assert (plain["head"] <= masks["head"]).all()
    assert all((masks[name] <= plain[name]).all() for name in ("narrow", "wide"))
    assert sum(mask.sum() for mask in masks.values()) == sum(mask.sum() for mask in plain.values())


def test_importance_multiplies_the_normalised_magnitudes() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {"a": torch.randn(1000, generator=generator), "b": torch.randn(1000, generator=generator)}
    masks = global_masks(tensors, 0.8, {"a": 2.0})
    relative = {name: tensor.abs() / tensor.square().mean().sqrt() for name, tensor in tensors.items()}
    border = {name: float(relative[name][~mask].max()) for name, mask in masks.items()}
    assert border["b"] == pytest.approx(2.0 * border["a"], rel=0.01)


def test_a_layer_never_loses_its_last_weight() -> None:
    even = torch.full((100,), 1.0)
    even[3] = 1.01
    masks = global_masks({"even": even, "spiky": torch.randn(10_000, generator=torch.Generator().manual_seed(0))}, 0.9)
    assert masks["even"].nonzero().flatten().tolist() == [3]


def test_weights_that_are_all_zero_do_not_give_a_nan() -> None:
    masks = global_masks({"zero": torch.zeros(10), "other": torch.ones(10)}, 0.5)
    assert int(masks["other"].sum()) == 10


def test_optimal_masks_keep_half_of_gaussian_weights() -> None:
    mask = optimal_masks({"layer": torch.randn(200_000, generator=torch.Generator().manual_seed(0))})["layer"]
    assert float(mask.float().mean()) == pytest.approx(0.541, abs=0.01)


def test_global_masks_of_no_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one layer"):
        global_masks({}, 0.5)
