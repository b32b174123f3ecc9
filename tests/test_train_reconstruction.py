"""A network made ternary layer by layer, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runs import digits_recipe, epoch_lines, sha256, step_lines
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from sterna import ternary
from sterna.config import Recipe, ReconstructionConfig, TernaryConfig
from sterna.errors import SternaError
from sterna.preparation import layer_signs, prepare, set_phase, ternary_layers, update_masks
from sterna.train.batch_norm import reestimate_batch_norms
from sterna.train.loop import TrainingLoop
from sterna.train.reconstruction import Part, is_reconstructible, reconstruct
from sterna.train.rehearsal import rehearse
from sterna.train.run import compress

CONFIG = ReconstructionConfig(images=64, damping=1e-3, sweeps=4)


class Block(nn.Module):
    """A residual block, so that a layer's input depends on more than one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.shortcut, self.bn3 = nn.Conv2d(8, 12, 1, stride=2, bias=False), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.bn3(self.shortcut(x)))


def images(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    coarse = [torch.randn(16, 3, 4, 4, generator=generator) for _ in range(count)]
    return [F.interpolate(batch, (12, 12), mode="bilinear") for batch in coarse]


def network() -> nn.Module:
    """Random weights whose batch norms have the statistics of the images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Block(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 10),
    )
    reestimate_batch_norms(model, images(), 4)
    return model


@pytest.fixture
def model() -> nn.Module:
    return network()


def whole(batches: list[Tensor]) -> list[Part]:
    return [Part("", lambda _: batches)]


def distance(outputs: Tensor, wanted: Tensor) -> float:
    return float((outputs - wanted).square().mean() / wanted.var())


@torch.no_grad()
def outputs_of(model: nn.Module) -> Tensor:
    return torch.cat([model.eval()(batch) for batch in images()])


@pytest.mark.parametrize("allocation", ["global", "layer"])
@pytest.mark.parametrize("scale", ["least-squares", "norm", "learned", "unit"])
@pytest.mark.parametrize("sparsity", [0.4, 0.8])
def test_trits_are_what_the_masks_choose_at_the_same_zeros(
    model: nn.Module, allocation: str, scale: str, sparsity: float
) -> None:
    prepare(model, TernaryConfig.model_validate({"allocation": allocation, "scale": scale}))
    reconstruct(model, whole(images()), sparsity, CONFIG)
    before = layer_signs(model)
    total = sum(signs.numel() for signs in before.values())
    kept = sum(int(signs.count_nonzero()) for signs in before.values())
    # Each layer's own count is rounded.
    assert abs(kept - (1 - sparsity) * total) <= (1 if allocation == "global" else len(before))
    update_masks(model, sparsity)
    after = layer_signs(model)
    assert all(torch.equal(after[name], signs) for name, signs in before.items())
    assert all(layer.current_phase == "ternary" for layer in ternary_layers(model).values())


def test_importance_moves_zeros_between_layers_and_trits_stay_what_the_masks_choose(model: nn.Module) -> None:
    plain = prepare(deepcopy(model))
    reconstruct(plain, whole(images()), 0.7, CONFIG)
    name = list(ternary_layers(plain))[-1]
    prepare(model, TernaryConfig(importance={name: 2.0}))
    reconstruct(model, whole(images()), 0.7, CONFIG)
    before = layer_signs(model)
    assert before[name].count_nonzero() > layer_signs(plain)[name].count_nonzero()
    update_masks(model, 0.7)
    assert all(torch.equal(signs, before[layer]) for layer, signs in layer_signs(model).items())


@pytest.mark.parametrize("group", ["filter", "layer"])
def test_outputs_are_nearer_than_with_the_largest_weights(model: nn.Module, group: str) -> None:
    wanted = outputs_of(model)
    config = TernaryConfig.model_validate({"group": group})
    plain = prepare(deepcopy(model), config)
    update_masks(plain, 0.5)
    set_phase(plain, "ternary")
    reestimate_batch_norms(plain, images(), 4)
    prepare(model, config)
    reconstruct(model, whole(images()), 0.5, CONFIG)
    assert distance(outputs_of(model), wanted) < 0.5 * distance(outputs_of(plain), wanted)


def test_equal_inputs_give_equal_networks(model: nn.Module) -> None:
    twin = deepcopy(model)
    for each in (model, twin):
        prepare(each)
        reconstruct(each, whole(images()), 0.6, CONFIG, seed=5)
    other = twin.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


def test_a_convolution_is_the_linear_layer_over_its_patches() -> None:
    torch.manual_seed(1)
    convolution = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2))
    linear = nn.Sequential(nn.Linear(27, 6))
    linear[0].load_state_dict({"weight": convolution[0].weight.flatten(1), "bias": convolution[0].bias})
    # Without symmetry, or two columns would share a place in the order; 25 positions, all of which are looked at.
    batches = [torch.randn(16, 3, 9, 9) * torch.rand(3, 9, 9) for _ in range(4)]
    patches = [F.unfold(batch, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1) for batch in batches]
    for model, inputs in ((convolution, batches), (linear, patches)):
        prepare(model, TernaryConfig(first_convolution="ternary"))
        reconstruct(model, whole(inputs), 0.5, CONFIG)
    torch.testing.assert_close(convolution[0].weight.flatten(1), linear[0].weight)
    torch.testing.assert_close(convolution[0].bias, linear[0].bias)


def test_the_end_of_a_branch_makes_up_for_the_error_of_the_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.stem_norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
            self.conv, self.norm = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem_norm(self.stem(x))
            return x + self.norm(self.conv(x))

    torch.manual_seed(2)
    plain = Shortcut().train()
    for batch in images():
        plain(batch)
    plain.eval()
    wanted = outputs_of(plain)

    def error() -> float:
        model = deepcopy(plain)
        prepare(model, TernaryConfig(first_convolution="ternary"))
        reconstruct(model, whole(images()), 0.5, CONFIG)
        return float((outputs_of(model) - wanted).square().mean())

    made_up = error()
    monkeypatch.setattr("sterna.train.activations._Replay.added_to", lambda *_: None)
    assert made_up < 0.8 * error()


def test_layers_and_batch_norms_are_counted_while_they_are_done(model: nn.Module) -> None:
    prepare(model)
    calls: list[tuple[int, int]] = []
    reconstruct(model, whole(images()), 0.5, CONFIG, report=lambda done, total: calls.append((done, total)))
    totals = {total for _, total in calls}
    assert len(totals) == 1
    assert [done for done, _ in calls] == list(range(totals.pop()))


def test_a_fitted_bias_leaves_no_error_on_the_average(model: nn.Module) -> None:
    wanted = outputs_of(model).mean(0)
    prepare(model)
    reconstruct(model, whole(images()), 0.5, CONFIG)
    torch.testing.assert_close(outputs_of(model).mean(0), wanted, rtol=0.0, atol=1e-4)


def test_a_batch_norm_gives_its_outputs_the_mean_and_variance_they_had(model: nn.Module) -> None:
    def outputs(of: nn.Module) -> Tensor:
        found: list[Tensor] = []
        handle = of.get_submodule("3.bn2").register_forward_hook(lambda *arguments: found.append(arguments[2]))
        outputs_of(of)
        handle.remove()
        return torch.cat(found)

    before = outputs(model)
    prepare(model)
    reconstruct(model, whole(images()), 0.5, CONFIG)
    after = outputs(model)
    torch.testing.assert_close(after.mean((0, 2, 3)), before.mean((0, 2, 3)), rtol=0.0, atol=1e-3)
    torch.testing.assert_close(after.var((0, 2, 3)), before.var((0, 2, 3)), rtol=1e-2, atol=0.0)
    # Training normalises with the statistics of a batch, so that evaluation must have those of the inputs.
    norm = model.get_submodule("3.bn2")
    assert isinstance(norm, nn.BatchNorm2d)
    statistics = norm.running_mean
    reestimate_batch_norms(model, images(), 4)
    assert norm.running_mean is not None
    assert statistics is not None
    torch.testing.assert_close(norm.running_mean, statistics, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(3, 6, 3, groups=3),
        lambda: nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
        lambda: nn.ConvTranspose2d(3, 6, 3),
    ],
)
def test_other_layers_keep_their_largest_weights(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(2)
    layer = make()
    assert not is_reconstructible(layer)
    weight = layer.get_parameter("weight").detach().clone()
    model = nn.Sequential(layer, nn.BatchNorm2d(6))
    prepare(model, TernaryConfig(first_convolution="ternary", depthwise="ternary"))
    reconstruct(model, whole(images()), 0.5, CONFIG)
    mask = ternary.top_k_mask(weight.abs(), ternary.kept_count(weight.numel(), 0.5))
    assert torch.equal(layer_signs(model)["0"], ternary.trits(weight, mask).to(torch.int8))


def test_batch_norms_behind_layers_in_floating_point_follow_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
    )
    reestimate_batch_norms(model, images(), 4)
    wanted = outputs_of(model)
    prepare(model, TernaryConfig(depthwise="float"))
    reconstruct(model, whole(images()), 0.5, CONFIG)
    outputs = outputs_of(model)
    torch.testing.assert_close(outputs.mean((0, 2, 3)), wanted.mean((0, 2, 3)), rtol=0.0, atol=1e-3)
    torch.testing.assert_close(outputs.var((0, 2, 3)), wanted.var((0, 2, 3)), rtol=1e-2, atol=0.0)


def test_a_channel_without_nonzero_trits_keeps_its_gain() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
    with torch.no_grad():
        model[1].weight[5] *= 1e-3  # its error counts for nothing
    reestimate_batch_norms(model, images(), 4)
    gain = model[1].weight / model[1].running_var.sqrt()
    prepare(model, TernaryConfig(first_convolution="ternary", allocation="layer"))
    reconstruct(model, whole(images()), 0.9, CONFIG)
    assert not layer_signs(model)["0"][5].any()
    torch.testing.assert_close((model[1].weight / model[1].running_var.sqrt())[5], gain[5], rtol=0.1, atol=0.0)
    assert bool((model[1].weight.abs() < 10.0).all())


def test_a_layer_that_is_called_twice_keeps_its_largest_weights() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    weight = shared.weight.detach().clone()
    prepare(model)
    reconstruct(model, whole([torch.randn(32, 6)]), 0.5, CONFIG)
    mask = ternary.top_k_mask(weight.abs(), 18)
    assert torch.equal(next(iter(layer_signs(model).values())), ternary.trits(weight, mask).to(torch.int8))


class Untraceable(nn.Module):
    """Decides by values, as no symbolic trace can."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if float(x.mean()) > 1e9:
            return x
        outputs: Tensor = self.inner(x)
        return outputs


def test_a_network_that_cannot_be_traced_gives_the_same_but_for_shortcuts(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a trace tells what is added to what.
    monkeypatch.setattr("sterna.train.activations._Replay.added_to", lambda *_: None)
    twin = Untraceable(deepcopy(model))
    for each in (model, twin):
        prepare(each)
        reconstruct(each, whole(images()), 0.6, CONFIG)
    other = twin.inner.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


def test_training_goes_on_from_there(model: nn.Module) -> None:
    prepare(model)
    reconstruct(model, whole(images()), 0.5, CONFIG)
    model.train()
    model(images()[0]).square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


def test_images_that_are_not_finite_are_refused(model: nn.Module) -> None:
    prepare(model)
    with pytest.raises(SternaError, match="not finite"):
        reconstruct(model, whole([torch.full((2, 3, 12, 12), float("nan"))]), 0.5, CONFIG)


# ---- In a run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that knows the digits."""
    folder = tmp_path_factory.mktemp("digits")
    return compress(digits_recipe(ternary=None), folder, progress=False).path


def reconstructed_recipe(weights: Path, **sections: Any) -> Recipe:
    return digits_recipe(
        model={"weights": str(weights)},
        reconstruction={"images": 500},
        schedule={"dense_epochs": 0.0, "prune_epochs": 0.0, "ramp_epochs": 0.0},
        **{"train": {"epochs": 2}, **sections},
    )


def test_a_run_begins_with_all_zeros_and_is_resumed_to_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    recipe = reconstructed_recipe(trained)
    whole = compress(recipe, tmp_path / "whole", progress=False, log_interval=1)
    first = step_lines(tmp_path / "whole")[0]
    assert first["phase"] == "ternary"
    assert first["sparsity"] == pytest.approx(0.7, abs=0.01)
    original = TrainingLoop._train_step

    def stop(self: TrainingLoop, *arguments: Any) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(TrainingLoop, "_train_step", stop)
        with pytest.raises(KeyboardInterrupt):
            compress(recipe, tmp_path / "cut", progress=False)
    # What a run begins with is in its first checkpoint: it is not made again.
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delattr("sterna.train.run.reconstruct")
        resumed = compress(recipe, tmp_path / "cut", resume=True, progress=False)
    assert sha256(resumed.path) == sha256(whole.path)


def test_a_run_begins_better_than_with_the_largest_weights(trained: Path, tmp_path: Path) -> None:
    slow = {"optimizer": {"learning_rate": 1e-6}, "ternary": {"sparsity": 0.8}, "train": {"epochs": 1}}
    compress(reconstructed_recipe(trained, **slow), tmp_path / "reconstructed", progress=False)
    plain = reconstructed_recipe(trained, **slow).model_copy(update={"reconstruction": None})
    compress(plain, tmp_path / "plain", progress=False)
    better, worse = (epoch_lines(tmp_path / name)[-1]["validation"]["top1"] for name in ("reconstructed", "plain"))
    assert better > worse


def test_a_rehearsal_reconstructs_too_and_tells_of_it(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rehearse(reconstructed_recipe(trained, ternary={"target_size": "8KB"}), steps=4, progress=True)
    assert capsys.readouterr().err == "choosing trits in closed form, layer by layer\n"
    assert result.file_bytes is not None
    assert result.file_bytes == pytest.approx(8000, rel=0.02)


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"ternary": None}, "reconstruction needs ternary layers"),
        ({"ternary": {"threshold": "optimal"}}, "reconstruction needs ternary layers with threshold 'ratio'"),
        ({"model": {"weights": None}}, r"reconstruction needs model\.weights"),
        ({"schedule": {"dense_epochs": 0.5, "prune_epochs": 0.0}}, "dense_epochs and prune_epochs must be 0"),
        ({"schedule": {"dense_epochs": 0.0, "prune_epochs": 0.5}}, "dense_epochs and prune_epochs must be 0"),
    ],
)
def test_a_recipe_that_it_does_not_fit_is_refused(sections: dict[str, Any], reason: str) -> None:
    fitting = {
        "model": {"weights": "somewhere.safetensors"},
        "reconstruction": {"images": 10},
        "schedule": {"dense_epochs": 0.0, "prune_epochs": 0.0},
    }
    with pytest.raises(ValidationError, match=reason):
        digits_recipe(**{**fitting, **sections})
