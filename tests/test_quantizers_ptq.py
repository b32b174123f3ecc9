"""The PTQ function and its parametrization."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sterna import ternary
from sterna.config import TernaryConfig
from sterna.quantizers.ptq import PTQ, ptq

SHAPE = (6, 4, 3, 3)


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(SHAPE, generator=generator)
    return weight, ternary.top_k_mask(weight.abs(), 60)


@pytest.mark.parametrize("group", ["filter", "layer"])
@pytest.mark.parametrize("scale", ["unit", "norm", "least-squares"])
def test_forward_is_scale_times_trits(group: ternary.Group, scale: ternary.ScaleMode) -> None:
    weight, mask = example()
    signs, alpha = ternary.project(weight, mask, group, scale)
    assert torch.equal(ptq(weight, mask, group=group, scale=scale), signs * alpha.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("gradient", ["straight-through", "scaled", "sphere-masked", "sphere"])
@pytest.mark.parametrize("scale", ["unit", "norm", "least-squares", "learned"])
@pytest.mark.parametrize("group", ["filter", "layer"])
def test_backward_is_the_documented_gradient(
    group: ternary.Group, scale: ternary.ScaleMode, gradient: ternary.GradientMode
) -> None:
    weight, mask = example()
    weight.requires_grad_()
    groups = SHAPE[0] if group == "filter" else 1
    learned = (torch.rand(groups) + 0.1).requires_grad_() if scale == "learned" else None
    upstream = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    ptq(weight, mask, group=group, scale=scale, gradient=gradient, learned_scale=learned).backward(upstream)

    rows = ternary.grouped(weight.detach() * mask, group)
    root_k = ternary.root_nonzeros(torch.sign(rows))
    expected = ternary.latent_gradient(
        ternary.grouped(upstream, group),
        ternary.grouped(weight.detach(), group),
        ternary.grouped(mask, group),
        scale=scale,
        gradient=gradient,
        learned_length=learned.detach().reshape(-1, 1) * root_k if learned is not None else None,
    )
    assert weight.grad is not None
    assert torch.allclose(weight.grad, expected.reshape(SHAPE))
    if learned is not None:
        assert learned.grad is not None
        assert torch.allclose(learned.grad, (ternary.grouped(upstream, group) * torch.sign(rows)).sum(1), atol=1e-6)


def test_the_gradient_of_a_learned_scale_equals_finite_differences() -> None:
    weight, mask = example()
    scale = torch.full((SHAPE[0],), 0.5, dtype=torch.float64, requires_grad=True)

    def loss(values: Tensor) -> Tensor:
        return ptq(weight.double(), mask, scale="learned", learned_scale=values).sin().sum()

    assert torch.autograd.gradcheck(loss, (scale,))


class TestParametrization:
    def test_the_mask_is_the_one_set_and_moves_with_the_weights(self) -> None:
        weight, mask = example()
        module = PTQ(weight, TernaryConfig())
        module.set_mask(weight, mask)
        assert torch.equal(module.mask(weight), mask)
        assert torch.equal(module.mask(weight * 0), torch.zeros_like(mask))

    def test_a_weight_changes_its_sign_by_way_of_zero(self) -> None:
        weight, mask = example()
        module = PTQ(weight, TernaryConfig())
        module.set_mask(weight, mask)
        module.set_phase("ternary", weight)
        place = tuple(mask.nonzero()[0].tolist())
        passed = []
        for factor in torch.linspace(1.0, -1.0, 41):
            moved = weight.clone()
            moved[place] *= factor
            passed.append(int(module(moved)[place].sign() * weight[place].sign()))
        assert passed == sorted(passed, reverse=True)
        assert set(passed) == {1, 0, -1}

    def test_dense_leaves_the_weight_and_pruned_masks_it(self) -> None:
        weight, mask = example()
        module = PTQ(weight, TernaryConfig())
        module.set_mask(weight, mask)
        assert module(weight) is weight
        module.set_phase("pruned", weight)
        assert torch.equal(module(weight), weight * mask)

    def test_with_unit_scale_every_phase_has_filters_of_length_one(self) -> None:
        weight, mask = example()
        module = PTQ(weight, TernaryConfig(scale="unit"))
        module.set_mask(weight, mask)
        for phase in ("dense", "pruned", "ternary"):
            module.set_phase(phase, weight)
            lengths = module(weight).flatten(1).norm(dim=1)
            assert torch.allclose(lengths, torch.ones(SHAPE[0])), phase

    def test_a_learned_scale_starts_at_its_least_squares_value(self) -> None:
        weight, mask = example()
        module = PTQ(weight, TernaryConfig(scale="learned"))
        module.set_mask(weight, mask)
        module.set_phase("ternary", weight)
        assert torch.equal(module(weight), ptq(weight, mask, scale="least-squares"))

    def test_ternary_parts_are_what_forward_computes(self) -> None:
        weight, mask = example()
        for scale in ("unit", "norm", "least-squares", "learned"):
            module = PTQ(weight, TernaryConfig(scale=scale))
            module.set_mask(weight, mask)
            module.set_phase("ternary", weight)
            signs, alpha = module.ternary_parts(weight)
            assert signs.dtype == torch.int8
            assert torch.equal(module(weight), signs * alpha.reshape(-1, 1, 1, 1))

    def test_the_phase_and_mask_follow_the_state_dict_and_deepcopy(self) -> None:
        weight, mask = example()
        module = PTQ(weight, TernaryConfig())
        module.set_mask(weight, mask)
        module.set_phase("ternary", weight)
        other = PTQ(weight, TernaryConfig())
        other.load_state_dict(module.state_dict())
        for twin in (other, copy.deepcopy(module)):
            assert twin.current_phase == "ternary"
            assert torch.equal(twin(weight), module(weight))

    def test_all_its_state_is_in_buffers(self) -> None:
        module = PTQ(example()[0], TernaryConfig())
        assert set(module.state_dict()) == {"threshold", "phase"}
        assert not list(module.parameters())
        assert isinstance(module, nn.Module)
