"""Batch-norm statistics."""

from __future__ import annotations

import torch
from torch import nn

from sterna.train.batch_norm import batch_norms, freeze_batch_norms, reestimate_batch_norms


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(2.0 + 3.0 * torch.randn(16, 4, 5, 5, generator=generator), torch.zeros(16)) for _ in range(count)]


def test_statistics_become_the_plain_mean_over_the_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4))
    model[0].running_mean.fill_(100.0)
    data = batches(5)
    reestimate_batch_norms(model, data, 3)
    images = torch.stack([images for images, _ in data[:3]])
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
    images = batches(1)[0][0]
    torch.testing.assert_close(model(images), images / (1 + model[0].eps) ** 0.5)
    assert torch.equal(model[0].running_mean, torch.zeros(4))


def test_batch_norms_without_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4))
    assert batch_norms(model) == [model[1]]
