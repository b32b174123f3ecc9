"""Choosing layers, attaching parametrizations, steering phases and masks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sterna.config import TernaryConfig
from sterna.conversion import convert
from sterna.errors import ConfigError, NotTernaryError
from sterna.preparation import (
    is_depthwise,
    latent_parameters,
    latent_weights,
    layer_signs,
    layer_statistics,
    prepare,
    scale_thresholds,
    scaled_thresholds,
    select_layers,
    set_phase,
    ternary_layers,
    update_masks,
)
from sterna.ternary_model import Int8Tensor, TernaryTensor


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def ternary_net(config: TernaryConfig | None = None, sparsity: float = 0.6) -> nn.Module:
    model = prepare(small_net(), config)
    update_masks(model, sparsity)
    set_phase(model, "ternary")
    return model


IMAGES = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(5))


class TestSelection:
    def test_by_default_all_but_the_first_convolution(self) -> None:
        assert select_layers(small_net(), TernaryConfig()) == ["3", "8"]

    def test_the_first_convolution_on_request(self) -> None:
        assert select_layers(small_net(), TernaryConfig(first_convolution="ternary")) == ["0", "3", "8"]

    def test_patterns_include_and_exclude(self) -> None:
        assert select_layers(small_net(), TernaryConfig(exclude=("8",))) == ["3"]
        assert select_layers(small_net(), TernaryConfig(include=("[38]",), exclude=("3",))) == ["8"]

    def test_a_pattern_that_matches_nothing_is_refused_with_the_layers_there_are(self) -> None:
        with pytest.raises(ConfigError, match=r"ternary\.exclude: pattern 'fc' matches no .* 3 layers: '0', '3', '8'"):
            select_layers(small_net(), TernaryConfig(exclude=("fc",)))

    def test_selecting_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no layer is selected"):
            select_layers(small_net(), TernaryConfig(exclude=("*",)))


class TestPrepare:
    def test_it_changes_nothing_before_the_first_phase(self) -> None:
        model = small_net().eval()
        before = model(IMAGES)
        assert prepare(model) is model
        assert torch.equal(model(IMAGES), before)

    def test_twice_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="prepared already"):
            prepare(prepare(small_net()))

    def test_unit_scale_is_for_layers_with_a_batch_norm_only(self) -> None:
        layers = ternary_layers(prepare(small_net(), TernaryConfig(scale="unit")))
        assert {name: layer.scale for name, layer in layers.items()} == {"3": "unit", "8": "norm"}

    def test_latent_parameters_are_the_weights_that_were_there(self) -> None:
        model = small_net()
        weight = model[3].weight
        prepare(model)
        assert latent_weights(model)["3"] is weight
        assert len(latent_parameters(model)) == 2

    def test_an_unprepared_model_has_no_masks_to_update(self) -> None:
        with pytest.raises(NotTernaryError, match=r"sterna\.prepare"):
            update_masks(small_net(), 0.5)


class TestPhases:
    def test_ternary_weights_take_three_values_in_each_filter(self) -> None:
        model = ternary_net()
        for filter_weights in model[3].weight.flatten(1):
            assert len(set(filter_weights.abs().tolist())) <= 2

    @pytest.mark.parametrize("allocation", ["layer", "global"])
    def test_the_zeros_are_as_many_as_asked(self, allocation: str) -> None:
        model = ternary_net(TernaryConfig(allocation=allocation), sparsity=0.75)  # type: ignore[arg-type]
        signs = torch.cat([sign.flatten() for sign in layer_signs(model).values()])
        assert int((signs == 0).sum()) == round(0.75 * signs.numel())

    def test_an_important_layer_keeps_more_of_its_weights(self) -> None:
        plain = {row.name: row.sparsity for row in layer_statistics(ternary_net(sparsity=0.8))}
        model = ternary_net(TernaryConfig(importance={"*": 1.5, "8": 3.0}), sparsity=0.8)
        rows = {row.name: row.sparsity for row in layer_statistics(model)}
        assert rows["8"] < plain["8"]
        assert rows["3"] > plain["3"]

    def test_of_several_patterns_the_last_one_that_matches_counts(self) -> None:
        layers = ternary_layers(prepare(small_net(), TernaryConfig(importance={"8": 9.0, "*": 1.5, "3": 2.0})))
        assert {name: layer.importance for name, layer in layers.items()} == {"3": 2.0, "8": 1.5}

    def test_importance_of_no_ternary_layer_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"ternary\.importance: pattern '0' matches no ternary layer"):
            prepare(small_net(), TernaryConfig(importance={"0": 2.0}))

    @pytest.mark.parametrize("options", [{"allocation": "layer"}, {"threshold": "optimal"}])
    def test_importance_needs_one_threshold_for_all_layers(self, options: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="importance needs allocation 'global' and threshold 'ratio'"):
            TernaryConfig.model_validate({"importance": {"8": 2.0}, **options})

    def test_optimal_thresholds_ignore_the_ratio(self) -> None:
        model = ternary_net(TernaryConfig(threshold="optimal"), sparsity=0.99)
        assert 0.3 < layer_statistics(model)[0].sparsity < 0.7

    def test_pruned_weights_come_back_when_their_gradient_says_so(self) -> None:
        model = ternary_net(TernaryConfig(gradient="straight-through"))
        weight = latent_weights(model)["3"]
        mask = ternary_layers(model)["3"].mask(weight)
        optimizer = torch.optim.SGD([weight], lr=50.0)
        model(IMAGES).square().sum().backward()
        optimizer.step()
        update_masks(model, 0.6)
        assert (ternary_layers(model)["3"].mask(weight) & ~mask).any()


class TestEcosystem:
    def test_state_dict_carries_masks_and_phase_to_a_freshly_prepared_model(self) -> None:
        model, other = ternary_net().eval(), prepare(small_net(seed=9)).eval()
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(IMAGES), model(IMAGES))

    def test_deepcopy_is_independent(self) -> None:
        model = ternary_net().eval()
        twin, expected = copy.deepcopy(model), model(IMAGES)
        update_masks(model, 0.95)
        assert torch.equal(twin(IMAGES), expected)

    def test_the_moving_average_of_torch_follows_the_thresholds_at_once(self) -> None:
        model = ternary_net()
        average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=False
        )
        update_masks(model, 0.9)
        average.update_parameters(model)
        average.update_parameters(model)
        assert torch.equal(ternary_layers(average.module)["3"].threshold, ternary_layers(model)["3"].threshold)

    @pytest.mark.parametrize("gradient", ["straight-through", "sphere"])
    def test_torch_compile_takes_the_whole_graph_in_every_phase(self, gradient: str) -> None:
        model = prepare(small_net(), TernaryConfig(gradient=gradient))  # type: ignore[arg-type]
        update_masks(model, 0.6)
        for phase in ("dense", "pruned", "ternary"):
            set_phase(model, phase)
            model.zero_grad()
            expected = model(IMAGES)
            expected.square().sum().backward()
            gradients = [weight.grad.clone() for weight in latent_parameters(model) if weight.grad is not None]
            model.zero_grad()
            torch.compiler.reset()
            got = torch.compile(model, fullgraph=True, backend="aot_eager")(IMAGES)
            got.square().sum().backward()
            assert torch.allclose(got, expected, atol=1e-5), phase
            for weight, gradient_before in zip(latent_parameters(model), gradients, strict=True):
                assert weight.grad is not None
                assert torch.allclose(weight.grad, gradient_before, atol=1e-4), phase

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_torch_compile_takes_the_whole_graph_without_gradients(self, mode: type[torch.no_grad]) -> None:
        model = ternary_net().eval()
        torch.compiler.reset()
        with mode():
            assert torch.allclose(torch.compile(model, fullgraph=True, backend="aot_eager")(IMAGES), model(IMAGES))


class TestStatistics:
    def test_they_count_what_changed_since_the_signs_given(self) -> None:
        model = ternary_net()
        before = layer_signs(model)
        weight = latent_weights(model)["3"]
        with torch.no_grad():
            flipped = before["3"].flatten().nonzero().flatten()[:3]
            weight.view(-1)[flipped] *= -1
        row = layer_statistics(model, before)[0]
        assert row.name == "3"
        assert row.sign_flips == pytest.approx(3 / weight.numel())
        assert row.trit_changes == pytest.approx(3 / weight.numel())

    def test_the_cosine_is_one_for_weights_that_are_ternary_already(self) -> None:
        model = ternary_net()
        with torch.no_grad():
            for name, signs in layer_signs(model).items():
                latent_weights(model)[name].copy_(signs * 0.7)
        assert all(row.cosine == pytest.approx(1.0) for row in layer_statistics(model))

    def test_entropy_and_sparsity_describe_the_trits(self) -> None:
        row = layer_statistics(ternary_net(sparsity=0.5))[0]
        density = 1 - row.sparsity
        upper = -density * torch.log2(torch.tensor(density / 2)) - row.sparsity * torch.log2(torch.tensor(row.sparsity))
        assert 0.8 * float(upper) < row.entropy_bits_per_weight <= float(upper) + 1e-6


class Mobile(nn.Sequential):
    """A first convolution, a depthwise one and a pointwise one, each with its batch norm."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 16, 1, bias=False),
            nn.BatchNorm2d(16),
        )


@pytest.mark.parametrize(
    ("depthwise", "kind"), [("ternary", TernaryTensor), ("int8", Int8Tensor), ("float", np.ndarray)]
)
def test_depthwise_convolutions_become_what_is_asked_for(depthwise: str, kind: type) -> None:
    model = prepare(Mobile(), TernaryConfig(depthwise=depthwise, sparsity=0.5))
    assert ("2" in ternary_layers(model)) == (depthwise == "ternary")
    update_masks(model, 0.5)
    set_phase(model, "ternary")
    stored = convert(model)
    assert isinstance(stored.tensors["2.weight"], kind)
    assert isinstance(stored.tensors["4.weight"], TernaryTensor)
    assert isinstance(stored.tensors["0.weight"], np.ndarray)


def test_a_grouped_convolution_is_not_depthwise() -> None:
    assert not is_depthwise(nn.Conv2d(8, 16, 3, groups=4))
    assert not is_depthwise(nn.Conv2d(1, 16, 3))
    assert is_depthwise(nn.Conv2d(8, 16, 3, groups=8))


def test_scaled_thresholds_make_more_zeros_and_go_back_to_the_last_bit() -> None:
    model = ternary_net()
    before = {name: layer.threshold.clone() for name, layer in ternary_layers(model).items()}
    zeros = {name: int((signs == 0).sum()) for name, signs in layer_signs(model).items()}
    with scaled_thresholds(model, 1.1):
        assert all(int((signs == 0).sum()) > zeros[name] for name, signs in layer_signs(model).items())
    assert all(torch.equal(layer.threshold, before[name]) for name, layer in ternary_layers(model).items())
    scale_thresholds(model, 0.9)
    assert all(int((signs == 0).sum()) < zeros[name] for name, signs in layer_signs(model).items())
