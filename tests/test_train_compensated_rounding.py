"""Scaled trits of one layer with a small error in its outputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sterna.errors import SternaError
from sterna.ternary import project, top_k_mask
from sterna.train.compensated_rounding import (
    Moments,
    Rounded,
    best_weight,
    damped,
    inverse_factor,
    round_layer,
    weighted_error,
)

DAMPING = 1e-3


def layer(seed: int, rows: int = 12, columns: int = 24) -> tuple[Tensor, Moments]:
    """A weight, and the moments of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = mixing @ torch.randn(columns, 200, generator=generator, dtype=torch.float64)
    weight = torch.randn(rows, columns, generator=generator)
    products = inputs @ inputs.T / 200
    return weight, Moments(products, weight.double() @ products)


def error_of(ternary: Tensor, weight: Tensor, moments: Moments) -> float:
    return float(weighted_error((ternary - weight).double(), moments.inputs))


def solve(weight: Tensor, moments: Moments, keep: int, **options: object) -> Rounded:
    return round_layer(weight, moments, keep, **{"damping": DAMPING, "sweeps": 4, **options})  # type: ignore[arg-type]


class TestRounding:
    @given(st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 0.8, 0.9]))
    @settings(max_examples=30, deadline=None)
    def test_outputs_are_nearer_than_with_plain_rounding(self, seed: int, sparsity: float) -> None:
        weight, moments = layer(seed)
        keep = round((1 - sparsity) * weight.numel())
        trits, scale = project(weight, top_k_mask(weight.abs(), keep), scale="least-squares")
        plain = error_of(trits * scale[:, None], weight, moments)
        rounded = solve(weight, moments, keep)
        assert error_of(rounded.trits * rounded.scales[:, None], weight, moments) < plain

    @given(st.integers(0, 10_000), st.integers(1, 288), st.sampled_from(["filter", "layer"]))
    @settings(max_examples=30, deadline=None)
    def test_exactly_so_many_trits_are_nonzero_and_margins_tell_which(self, seed: int, keep: int, group: str) -> None:
        weight, moments = layer(seed)
        rounded = solve(weight, moments, keep, group=group)
        nonzero = rounded.trits != 0
        assert int(nonzero.sum()) == keep
        assert set(rounded.trits.unique().tolist()) <= {-1.0, 0.0, 1.0}
        assert bool((rounded.margins[nonzero] >= 1.0).all())
        assert bool((rounded.margins[~nonzero] <= 1.0).all())
        assert bool((rounded.scales > 0).all())

    def test_a_layer_can_have_one_scale(self) -> None:
        weight, moments = layer(0)
        assert len(solve(weight, moments, 144, group="layer").scales.unique()) == 1
        assert len(solve(weight, moments, 144, group="filter").scales.unique()) == 12

    def test_choosing_trits_anew_lessens_the_error(self) -> None:
        weight, moments = layer(1, rows=32, columns=200)
        errors = [solve(weight, moments, 3200, sweeps=sweeps).error for sweeps in (0, 1, 4)]
        assert errors[2] < errors[1] < errors[0]

    def test_the_error_is_the_weighted_one(self) -> None:
        weight, moments = layer(2)
        row_weights = torch.linspace(0.5, 20.0, 12)
        rounded = solve(weight, moments, 100, row_weights=row_weights)
        difference = (rounded.trits * rounded.scales[:, None]).double() - weight.double()
        expected = weighted_error(difference, damped(moments.inputs, DAMPING), row_weights.double())
        assert rounded.error == pytest.approx(float(expected), rel=1e-3)

    def test_zeros_go_where_rows_count_little(self) -> None:
        weight, moments = layer(3)
        row_weights = torch.ones(12)
        row_weights[:6] = 100.0
        counts = solve(weight, moments, 100, row_weights=row_weights).trits.abs().sum(1)
        assert counts[:6].sum() > 2 * counts[6:].sum()

    def test_scaled_trits_stay_what_they_are(self) -> None:
        weight, moments = layer(4)
        trits = weight.sign() * top_k_mask(weight.abs(), 150)
        scales = torch.linspace(0.5, 1.5, 12)
        ternary = trits * scales[:, None]
        rounded = solve(ternary, Moments(moments.inputs, ternary.double() @ moments.inputs), 150, sweeps=8)
        torch.testing.assert_close(rounded.trits, trits)
        torch.testing.assert_close(rounded.scales, scales, rtol=1e-4, atol=0.0)

    def test_equal_inputs_give_equal_trits(self) -> None:
        weight, moments = layer(5)
        first, second = solve(weight, moments, 90), solve(weight, moments, 90)
        assert torch.equal(first.trits, second.trits)
        assert torch.equal(first.scales, second.scales)
        assert torch.equal(first.margins, second.margins)

    def test_inputs_that_never_occur_do_no_harm(self) -> None:
        weight, moments = layer(6)
        moments.inputs[:5] = 0.0
        moments.inputs[:, :5] = 0.0
        moments.outputs[:, :5] = 0.0
        rounded = solve(weight, moments, 90)
        assert bool(rounded.scales.isfinite().all())


def factor_of(moments: Moments, damping: float) -> Tensor:
    return inverse_factor(damped(moments.inputs, damping))


@pytest.mark.parametrize("size", [1, 2, 127, 129, 400])
def test_the_factor_of_the_inverse_is_an_upper_triangle_whose_square_undoes_the_matrix(size: int) -> None:
    inputs = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    matrix = damped(inputs @ inputs.T, 0.01)
    factor = inverse_factor(matrix)
    assert torch.equal(factor, factor.triu())
    assert bool((factor.diagonal() > 0).all())
    torch.testing.assert_close(factor.T @ factor @ matrix, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-9)


class TestBestWeight:
    def test_is_the_regression_towards_the_weight(self) -> None:
        weight, moments = layer(7)
        target = weight.double() + 0.3 * torch.randn(12, 24, generator=torch.Generator().manual_seed(1)).double()
        found = best_weight(weight.double(), Moments(moments.inputs, target @ moments.inputs), factor_of(moments, 1e-9))
        torch.testing.assert_close(found, target, rtol=1e-4, atol=1e-4)

    def test_with_strong_damping_is_the_weight(self) -> None:
        weight, moments = layer(7)
        found = best_weight(weight.double(), Moments(moments.inputs, 2.0 * moments.outputs), factor_of(moments, 1e9))
        torch.testing.assert_close(found, weight.double(), rtol=1e-3, atol=1e-3)


class TestWrongUse:
    @pytest.mark.parametrize("keep", [0, 289])
    def test_an_impossible_number_of_nonzero_trits_is_refused(self, keep: int) -> None:
        weight, moments = layer(0)
        with pytest.raises(ValueError, match=r"keep \(=\d+\) must be between 1 and 288"):
            solve(weight, moments, keep)

    def test_inputs_that_are_not_finite_are_refused(self) -> None:
        weight, moments = layer(0)
        moments.inputs[3, 3] = float("nan")
        with pytest.raises(SternaError, match="not finite"):
            solve(weight, moments, 10)
