"""Which batch norm follows which layer, and its affine form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sterna.folding import batch_norm_affine, batch_norm_pairs, is_batch_norm


class Branching(nn.Module):
    """``shared`` feeds two batch norms, ``twice`` is called twice, ``plain`` has a neighbour of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.first, self.second = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.twice, self.third = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.plain, self.fourth = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)
        x = self.first(x) + self.second(x)
        x = self.third(self.twice(x)) + self.twice(x)
        return self.fourth(self.plain(x))


class DataDependent(nn.Module):
    """A control flow that no symbolic trace follows, around a part that one does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if x.sum() > 0 else x


class FrozenBatchNorm2d(nn.Module):
    """The form that detectors use: four buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-5
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)


def test_only_a_batch_norm_with_one_layer_and_no_other_reader_is_a_pair() -> None:
    assert batch_norm_pairs(Branching()) == {"plain": "fourth"}


def test_children_are_traced_where_the_whole_cannot_be() -> None:
    assert batch_norm_pairs(DataDependent()) == {"body.0": "body.1"}


def test_a_residual_network_is_found_whole() -> None:
    from torchvision.models import resnet18

    pairs = batch_norm_pairs(resnet18())
    assert len(pairs) == 20
    assert pairs["conv1"] == "bn1"
    assert pairs["layer2.0.downsample.0"] == "layer2.0.downsample.1"


@pytest.mark.parametrize("make", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_the_affine_form_equals_the_module(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    norm = make(3)
    if isinstance(norm, nn.BatchNorm2d):
        norm.running_mean = torch.randn(3)
        norm.running_var = torch.rand(3) + 0.1
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        x = torch.randn(2, 3, 4, 4)
        affine = batch_norm_affine(norm)
        got = affine.weight.view(1, 3, 1, 1) * x + affine.bias.view(1, 3, 1, 1)
        assert torch.allclose(got.float(), norm.eval()(x), atol=1e-5)
    else:
        affine = batch_norm_affine(norm)
        assert torch.allclose(affine.weight.float(), norm.weight / (norm.running_var + 1e-5).sqrt())  # type: ignore[operator]
    assert is_batch_norm(norm)


def test_norms_without_statistics_or_parameters_are_left_alone() -> None:
    assert not is_batch_norm(nn.BatchNorm2d(3, affine=False))
    assert not is_batch_norm(nn.BatchNorm2d(3, track_running_stats=False))
    assert not is_batch_norm(nn.GroupNorm(1, 3))
