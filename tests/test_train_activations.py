"""The inputs of layers while the layers before them change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sterna.train.activations import Activations, _Replay, _Rerun, watch


class Residual(nn.Module):
    """Overwrites values in place, as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.second(x).add_(x))
        outputs: Tensor = self.last(x)
        return outputs


class Deciding(Residual):
    """Cannot be traced symbolically."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.abs().sum()) >= 0.0 else x


BATCHES = [torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
NAMES = ["first", "second", "last"]


@torch.no_grad()
def inputs(activations: Activations, name: str) -> Tensor:
    return torch.cat([each.clone() for each in activations.inputs_of(name)])


@pytest.mark.parametrize(("kind", "implementation"), [(Residual, _Replay), (Deciding, _Rerun)])
def test_a_layer_is_given_what_the_layers_before_it_make_now(
    kind: type[Residual], implementation: type[object]
) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    activations = watch(network, NAMES, BATCHES)
    assert isinstance(activations, implementation)
    images = torch.cat(BATCHES)
    torch.testing.assert_close(inputs(activations, "first"), images)
    with torch.no_grad():
        network.first.weight.mul_(2.0)
        hidden = torch.relu(network.first(images))
        torch.testing.assert_close(inputs(activations, "second"), hidden)
        network.second.weight.neg_()
        hidden = torch.relu(network.second(hidden) + hidden)
        torch.testing.assert_close(inputs(activations, "last"), hidden)


def test_layers_may_be_left_out() -> None:
    network = Residual().eval()
    found = inputs(watch(network, NAMES, BATCHES), "last")
    torch.testing.assert_close(found, inputs(_Rerun(network, BATCHES, torch.float32), "last"))


@pytest.mark.parametrize("kind", [Residual, Deciding])
def test_forward_passes_can_be_in_bfloat16(kind: type[Residual]) -> None:
    network = kind().eval()
    with torch.no_grad():
        assert next(watch(network, NAMES, BATCHES, torch.bfloat16).inputs_of("second")).dtype == torch.bfloat16


def test_nothing_stays_on_the_network() -> None:
    network = Deciding().eval()
    inputs(watch(network, NAMES, BATCHES), "second")
    assert not network.second._forward_pre_hooks


class Branches(nn.Module):
    """The layer ``late`` comes after ``second``, with whose outputs its own are added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.late, self.last = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        y = self.second(x)
        y += self.late(x)
        return torch.add(x, self.last(y) + 1.0)


def test_the_other_branch_of_a_block_is_known_to_the_layer_that_is_called_last() -> None:
    torch.manual_seed(0)
    network = Branches().eval()
    activations = watch(network, ["first", "second", "late", "last"], BATCHES)
    images = torch.cat(BATCHES)
    inputs(activations, "second")
    assert activations.added_to("second") is None
    inputs(activations, "late")
    values = activations.added_to("late")
    assert values is not None
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(values), network.second(torch.relu(network.first(images))))
    inputs(activations, "last")
    assert activations.added_to("first") is None  # its outputs go through a function
    assert activations.added_to("last") is None  # and to these a number is added


def test_without_a_trace_no_branches_are_known() -> None:
    activations = watch(Deciding().eval(), NAMES, BATCHES)
    inputs(activations, "second")
    assert activations.added_to("second") is None
