"""Batch-norm statistics."""

from __future__ import annotations

import torch
from torch import nn

from sterna.train.batch_norm import (
    are_folded,
    batch_norms,
    freeze_batch_norms,
    reestimate_batch_norms,
    restore_batch_norms,
)


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2.0 + 3.0 * torch.randn(16, 4, 5, 5, generator=generator) for _ in range(count)]


def test_statistics_become_the_plain_mean_over_the_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4))
    model[0].running_mean.fill_(100.0)
    data = batches(5)
    reestimate_batch_norms(model, data, 3)
    images = torch.stack(data[:3])
    torch.testing.assert_close(model[0].running_mean, images.mean((1, 3, 4)).mean(0))
    torch.testing.assert_close(model[0].running_var, images.transpose(1, 2).flatten(2).var(2).mean(0))
    assert int(model[0].num_batches_tracked) == 3


def test_nothing_else_changes() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" not in name}
    state = torch.get_rng_state()
    reestimate_batch_norms(model, batches(2), 2)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if "num_batches" not in name)
    assert model[1].momentum == 0.3
    assert not any(module.training for module in model.modules())
    # Dropout was off, or it would have drawn random numbers.
    assert torch.equal(torch.get_rng_state(), state)


def test_no_batches_keep_the_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4))
    model[0].running_mean.fill_(7.0)
    reestimate_batch_norms(model, batches(2), 0)
    assert torch.equal(model[0].running_mean, torch.full((4,), 7.0))


def test_a_frozen_batch_norm_uses_its_statistics_and_keeps_them() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4)).train()
    freeze_batch_norms(model)
    images = batches(1)[0]
    torch.testing.assert_close(model(images), images / (1 + model[0].eps) ** 0.5)
    assert torch.equal(model[0].running_mean, torch.zeros(4))


def test_batch_norms_without_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4))
    assert batch_norms(model) == [model[1]]


def folded_network() -> nn.Sequential:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.BatchNorm2d(3))
    for norm in batch_norms(network):
        nn.init.uniform_(norm.weight, -2.0, 2.0)
        nn.init.normal_(norm.bias)
    return network.eval()


def test_restored_batch_norms_compute_the_same_and_know_their_inputs() -> None:
    network, data = folded_network(), batches(3)
    before = [network(images) for images in data]
    assert are_folded(network)
    restore_batch_norms(network, data)
    assert not are_folded(network)
    for images, expected in zip(data, before, strict=True):
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
    inputs = torch.cat([network[0](images) for images in data])
    torch.testing.assert_close(network[1].running_mean, inputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network[1].running_var, inputs.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)


def test_a_channel_that_never_changes_is_restored_too() -> None:
    network = folded_network()
    with torch.no_grad():
        network[0].weight[0] = 0.0
    data = batches(1)
    before = network(data[0])
    restore_batch_norms(network, data)
    torch.testing.assert_close(network(data[0]), before, rtol=1e-4, atol=1e-4)


def test_batch_norms_with_statistics_are_not_folded() -> None:
    network = folded_network()
    network[1].running_mean.fill_(0.1)
    assert not are_folded(network)
    assert not are_folded(nn.Sequential(nn.Conv2d(1, 1, 1)))
