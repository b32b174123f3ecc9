"""The maths: thresholds, projection, scales, cosines and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sterna import ternary
from sterna.errors import ConfigError


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_mask(*shape: int, density: float = 0.4, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < density


class TestTopKMask:
    @given(
        values=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=60),
        data=st.data(),
    )
    @settings(deadline=None)
    def test_it_keeps_exactly_the_asked_number_and_no_smaller_one_before_a_larger_one(
        self, values: list[float], data: st.DataObject
    ) -> None:
        keep = data.draw(st.integers(0, len(values)))
        magnitude = torch.tensor(values)
        mask = ternary.top_k_mask(magnitude, keep)
        assert int(mask.sum()) == keep
        if 0 < keep < len(values):
            assert magnitude[mask].min() >= magnitude[~mask].max()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("keep", [1, 7, 5_000, 99_999])
    def test_selection_agrees_with_sorting(self, dtype: torch.dtype, keep: int) -> None:
        magnitude = gaussian(100_000).abs().to(dtype)
        mask = ternary.top_k_mask(magnitude, keep)
        assert torch.equal(magnitude[mask].sort(descending=True).values, magnitude.sort(descending=True).values[:keep])

    def test_among_equals_the_first_in_memory_order_win(self) -> None:
        mask = ternary.top_k_mask(torch.ones(2, 3), 4)
        assert mask.tolist() == [[True, True, True], [True, False, False]]

    @pytest.mark.parametrize("keep", [-1, 7])
    def test_an_impossible_count_is_refused(self, keep: int) -> None:
        with pytest.raises(ConfigError, match=f"between 0 and 6, got {keep}"):
            ternary.top_k_mask(torch.ones(6), keep)

    @pytest.mark.parametrize("sparsity", [-0.1, 1.0, math.nan])
    def test_an_impossible_sparsity_is_refused(self, sparsity: float) -> None:
        with pytest.raises(ConfigError, match="sparsity must be at least 0 and below 1"):
            ternary.kept_count(10, sparsity)


class TestOptimalThreshold:
    @given(st.integers(0, 10_000), st.integers(1, 40))
    @settings(max_examples=50, deadline=None)
    def test_no_ternary_vector_is_closer(self, seed: int, size: int) -> None:
        # Brute force over all k: for each, the best scale is the mean of the k largest magnitudes.
        ordered = np.sort(np.abs(np.random.default_rng(seed).normal(size=size)))[::-1]
        errors = [
            np.sum((ordered[:k] - ordered[:k].mean()) ** 2) + np.sum(ordered[k:] ** 2) for k in range(1, size + 1)
        ]
        assert ternary.optimal_keep(torch.from_numpy(ordered.copy())) == int(np.argmin(errors)) + 1

    def test_at_the_optimum_the_threshold_is_half_the_scale(self) -> None:
        weight = gaussian(400_000).abs()
        keep = ternary.optimal_keep(weight)
        kept = weight.sort(descending=True).values[:keep]
        assert float(kept.min() / kept.mean()) == pytest.approx(0.5, abs=1e-3)

    def test_gaussian_weights_have_the_closed_form(self) -> None:
        # docs: threshold 0.612 sigma, 54.1 % nonzeros, cosine 0.900, gap 2 (1 - cos) = 0.200
        weight = gaussian(1, 1_000_000)
        keep = ternary.optimal_keep(weight.abs())
        mask = ternary.top_k_mask(weight.abs(), keep)
        cosine = float(ternary.cosine(weight, ternary.trits(weight, mask)))
        assert keep / weight.numel() == pytest.approx(0.541, abs=0.003)
        assert float(weight.abs()[mask].min()) == pytest.approx(0.612, abs=0.005)
        assert cosine == pytest.approx(0.900, abs=0.001)
        assert 2 * (1 - cosine) == pytest.approx(0.200, abs=0.002)


@pytest.mark.parametrize(
    ("sparsity", "threshold", "dense_cosine", "pruned_cosine", "gap"),
    [
        (0.30, 0.385, 0.885, 0.892, 0.216),
        (0.46, 0.612, 0.900, 0.926, 0.149),
        (0.60, 0.842, 0.885, 0.949, 0.103),
        (0.70, 1.036, 0.851, 0.962, 0.076),
        (0.80, 1.282, 0.785, 0.974, 0.053),
        (0.90, 1.645, 0.652, 0.984, 0.032),
        (0.95, 1.960, 0.523, 0.990, 0.021),
    ],
)
def test_pruning_first_raises_the_cosine_as_the_closed_form_says(
    sparsity: float, threshold: float, dense_cosine: float, pruned_cosine: float, gap: float
) -> None:
    weight = gaussian(1, 1_000_000)
    mask = ternary.top_k_mask(weight.abs(), ternary.kept_count(weight.numel(), sparsity))
    signs = ternary.trits(weight, mask)
    assert ternary.gaussian_threshold(sparsity) == pytest.approx(threshold, abs=2e-3)
    assert float(weight.abs()[mask].min()) == pytest.approx(threshold, abs=5e-3)
    assert float(ternary.cosine(weight, signs)) == pytest.approx(dense_cosine, abs=2e-3)
    cosine = float(ternary.cosine(weight * mask, signs))
    assert cosine == pytest.approx(pruned_cosine, abs=1.5e-3)
    assert 2 * (1 - cosine) == pytest.approx(gap, abs=2e-3)


class TestProjection:
    def test_the_unit_projection_has_length_one_in_every_filter(self) -> None:
        weight, mask = gaussian(5, 4, 3, 3), random_mask(5, 4, 3, 3)
        signs, alpha = ternary.project(weight, mask, "filter", "unit")
        lengths = ternary.grouped(signs * alpha.reshape(-1, 1, 1, 1), "filter").norm(dim=1)
        assert torch.allclose(lengths, torch.ones(5, dtype=torch.float64))

    def test_the_norm_scale_keeps_the_length_of_the_survivors(self) -> None:
        weight, mask = gaussian(5, 12), random_mask(5, 12)
        signs, alpha = ternary.project(weight, mask, "filter", "norm")
        assert torch.allclose((signs * alpha[:, None]).norm(dim=1), (weight * mask).norm(dim=1))

    def test_the_least_squares_scale_is_the_mean_survivor_and_norm_times_cosine(self) -> None:
        weight, mask = gaussian(5, 12), random_mask(5, 12)
        signs, alpha = ternary.project(weight, mask, "filter", "least-squares")
        norm_alpha = ternary.project(weight, mask, "filter", "norm")[1]
        expected = torch.stack([row[keep].abs().mean() for row, keep in zip(weight, mask, strict=True)])
        assert torch.allclose(alpha, expected)
        assert torch.allclose(alpha, norm_alpha * ternary.cosine(weight * mask, signs))

    @given(factor=st.floats(0.5, 2.0).filter(lambda f: abs(f - 1) > 0.01))
    @settings(max_examples=20, deadline=None)
    def test_no_other_scale_is_closer_than_least_squares(self, factor: float) -> None:
        weight, mask = gaussian(1, 30), random_mask(1, 30)
        signs, alpha = ternary.project(weight, mask, "layer", "least-squares")
        survivors = weight * mask
        assert (survivors - alpha * signs).norm() < (survivors - factor * alpha * signs).norm()

    def test_a_layer_group_has_one_scale(self) -> None:
        assert ternary.project(gaussian(5, 12), random_mask(5, 12), "layer", "norm")[1].shape == (1,)

    def test_an_empty_group_becomes_zeros_without_a_nan(self) -> None:
        weight = gaussian(2, 6)
        mask = torch.tensor([[True] * 6, [False] * 6])
        for mode in ("unit", "norm", "least-squares"):
            signs, alpha = ternary.project(weight, mask, "filter", mode)
            assert torch.isfinite(alpha).all()
            assert not signs[1].any()

    def test_the_learned_scale_is_not_computed_here(self) -> None:
        with pytest.raises(ConfigError, match="got 'learned'"):
            ternary.length(gaussian(1, 2), gaussian(1, 2), "learned")


def surrogate(
    weight: Tensor, mask: Tensor, scale: str, signs: Tensor, root_k: Tensor, learned: Tensor | None = None
) -> Tensor:
    """The smooth function that the sphere estimator differentiates, written without the formulas of the source.

    ``a(v) * (t_hat + u(v) - u(v0))``: equal to the ternary weight at ``v0``, and its slope is that of ``u``.
    """
    survivors = weight * mask
    unit = survivors / survivors.norm(dim=1, keepdim=True)
    direction = signs / root_k + unit - unit.detach()
    if scale == "unit":
        return direction
    if scale == "norm":
        return survivors.norm(dim=1, keepdim=True) * direction
    if scale == "least-squares":
        return (survivors * signs).sum(1, keepdim=True) / root_k * direction
    assert learned is not None
    return learned[:, None] * root_k * direction


class TestGradients:
    @pytest.mark.parametrize("scale", ["unit", "norm", "least-squares", "learned"])
    def test_the_masked_sphere_gradient_equals_autograd_of_the_surrogate(self, scale: str) -> None:
        weight, mask, upstream = gaussian(4, 15).requires_grad_(), random_mask(4, 15), gaussian(4, 15, seed=2)
        signs = torch.sign(weight.detach() * mask)
        root_k = signs.abs().sum(1, keepdim=True).sqrt()
        learned = torch.rand(4, dtype=torch.float64) + 0.5 if scale == "learned" else None
        (expected,) = torch.autograd.grad(
            (surrogate(weight, mask, scale, signs, root_k, learned) * upstream).sum(), weight
        )
        got = ternary.latent_gradient(
            upstream,
            weight.detach(),
            mask,
            scale=scale,  # type: ignore[arg-type]
            gradient="sphere-masked",
            learned_length=learned[:, None] * root_k if learned is not None else None,
        )
        assert torch.allclose(got, expected, atol=1e-12)

    @pytest.mark.parametrize("scale", ["unit", "norm", "least-squares"])
    def test_the_masked_sphere_gradient_equals_finite_differences(self, scale: str) -> None:
        weight, mask, upstream = gaussian(1, 9), random_mask(1, 9), gaussian(1, 9, seed=2)
        signs = torch.sign(weight * mask)
        root_k = signs.abs().sum(1, keepdim=True).sqrt()
        unit_here = (weight * mask) / (weight * mask).norm()

        def loss(at: Tensor) -> float:
            survivors = at * mask
            direction = signs / root_k + survivors / survivors.norm() - unit_here
            a = {
                "unit": torch.ones((), dtype=torch.float64),
                "norm": survivors.norm(),
                "least-squares": (survivors * signs).sum() / root_k.squeeze(),
            }[scale]
            return float((a * direction * upstream).sum())

        step = 1e-6
        expected = torch.zeros_like(weight)
        for i in range(9):
            shift = torch.zeros_like(weight)
            shift[0, i] = step
            expected[0, i] = (loss(weight + shift) - loss(weight - shift)) / (2 * step)
        got = ternary.latent_gradient(upstream, weight, mask, scale=scale, gradient="sphere-masked")  # type: ignore[arg-type]
        assert torch.allclose(got, expected, atol=1e-8)

    def test_the_open_sphere_gradient_differs_only_on_pruned_weights_and_reaches_them(self) -> None:
        weight, mask, upstream = gaussian(3, 20), random_mask(3, 20), gaussian(3, 20, seed=2)
        masked, open_ = (
            ternary.latent_gradient(upstream, weight, mask, scale="norm", gradient=variant)
            for variant in ("sphere-masked", "sphere")
        )
        assert torch.equal(masked[mask], open_[mask])
        assert not masked[~mask].any()
        assert torch.allclose(open_[~mask], upstream[~mask])

    def test_the_unit_sphere_gradient_is_orthogonal_to_the_survivors(self) -> None:
        weight, mask = gaussian(3, 20), random_mask(3, 20)
        got = ternary.latent_gradient(gaussian(3, 20, seed=2), weight, mask, scale="unit", gradient="sphere-masked")
        assert torch.allclose((got * weight).sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-12)

    def test_straight_through_returns_the_upstream_gradient_itself(self) -> None:
        upstream = gaussian(3, 20, seed=2)
        got = ternary.latent_gradient(
            upstream, gaussian(3, 20), random_mask(3, 20), scale="unit", gradient="straight-through"
        )
        assert got is upstream

    def test_scaled_divides_by_the_root_of_the_nonzeros(self) -> None:
        weight, mask, upstream = gaussian(3, 20), random_mask(3, 20), gaussian(3, 20, seed=2)
        got = ternary.latent_gradient(upstream, weight, mask, scale="unit", gradient="scaled")
        assert torch.allclose(got, upstream / mask.sum(1, keepdim=True).double().sqrt())

    def test_the_pull_is_the_gradient_of_half_the_squared_gap_on_the_sphere(self) -> None:
        weight, mask = gaussian(2, 10), random_mask(2, 10)
        survivors = weight * mask
        unit = (survivors / survivors.norm(dim=1, keepdim=True)).requires_grad_()
        target = torch.sign(survivors) / mask.sum(1, keepdim=True).double().sqrt()
        (expected,) = torch.autograd.grad(0.5 * (unit - target).square().sum(), unit)
        got = ternary.latent_gradient(
            torch.zeros_like(weight), weight, mask, scale="unit", gradient="straight-through", pull=0.3
        )
        assert torch.allclose(got, 0.3 * expected)

    def test_the_sigmoid_factor_is_the_slope_of_the_soft_step_with_mean_one(self) -> None:
        weight, mask, sharpness = gaussian(2, 50), random_mask(2, 50), 3.0
        survivors = weight * mask
        rms = survivors.square().sum(1, keepdim=True).div(mask.sum(1, keepdim=True)).sqrt()
        x = (weight / rms).requires_grad_()
        soft = 0.5 * (torch.tanh(sharpness * (x - 0.5)) + torch.tanh(sharpness * (x + 0.5)))
        (slope,) = torch.autograd.grad(soft.sum(), x)
        got = ternary.sigmoid_factor(weight, survivors, torch.sign(survivors), sharpness)
        assert torch.allclose(got, slope / slope.mean(1, keepdim=True))
        assert torch.allclose(got.mean(1), torch.ones(2, dtype=torch.float64))


class TestEntropy:
    @pytest.mark.parametrize(("zeros", "bits"), [(0.5, 1.5), (0.6, 1.371), (0.7, 1.181), (0.8, 0.922), (0.9, 0.569)])
    def test_balanced_signs_have_the_closed_form(self, zeros: float, bits: float) -> None:
        half = round((1 - zeros) * 500)
        values = torch.tensor([1] * half + [-1] * half + [0] * (1000 - 2 * half), dtype=torch.int8)
        assert ternary.trit_entropy(values) == pytest.approx(bits, abs=5e-4)

    def test_constant_trits_cost_nothing(self) -> None:
        assert ternary.trit_entropy(torch.zeros(7, dtype=torch.int8)) == 0.0
