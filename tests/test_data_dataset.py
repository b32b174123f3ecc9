from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import transforms

from sterna.data.dataset import Batch, BatchDataset, Normalization, hold_out
from sterna.errors import ConfigError


class Counting(BatchDataset[Batch]):
    """Image i is full of i, label i."""

    def __len__(self) -> int:
        return 7

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        labels = torch.tensor(indices)
        return labels.float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2), labels


@pytest.mark.parametrize(("index", "label"), [(0, 0), (6, 6), (-1, 6), (-7, 0)])
def test_one_item_is_a_batch_of_one(index: int, label: int) -> None:
    image, target = Counting()[index]
    assert image.shape == (1, 2, 2)
    assert target.shape == ()
    assert image[0, 0, 0] == target == label


@pytest.mark.parametrize("index", [7, -8])
def test_an_index_out_of_range_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=r"out of range for 7 images"):
        Counting()[index]


def test_the_epoch_is_what_was_set() -> None:
    dataset = Counting(seed=3)
    assert dataset.epoch == 0
    dataset.set_epoch(5)
    assert dataset.epoch == 5


def test_normalization_equals_that_of_torchvision_to_the_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    ours = Normalization(mean, std, channels=3)(pixels)
    assert torch.equal(ours, torch.stack([theirs(image.transpose(1, 2, 0)) for image in pixels]))
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_normalization_leaves_the_pixels_as_they_are() -> None:
    pixels = np.full((1, 1, 2, 2), 8, np.uint8)
    result = Normalization((0.25,), (0.5,), channels=1, pixel_maximum=16)(pixels)
    assert (pixels == 8).all()
    assert (result == 0.5).all()


@pytest.mark.parametrize(("mean", "std", "key"), [((0.5,), (1.0,) * 3, "mean"), ((0.5,) * 3, (1.0,) * 4, "std")])
def test_mean_and_std_need_one_value_a_channel(mean: tuple[float, ...], std: tuple[float, ...], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key} must have 3 values, one a channel, got"):
        Normalization(mean, std, channels=3)


@given(st.data())
def test_a_hold_out_is_a_partition(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 500))
    size = data.draw(st.integers(0, count - 1))
    train, validation = hold_out(count, size)
    assert len(validation) == size
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(count))
    assert (np.diff(train) > 0).all()


def test_a_smaller_hold_out_is_part_of_a_larger_one() -> None:
    assert set(hold_out(1000, 50)[1]) < set(hold_out(1000, 100)[1])


def test_a_hold_out_must_leave_something_to_train_on() -> None:
    with pytest.raises(ConfigError, match=r"validation_size \(=10\) must be smaller than .* \(=10\)"):
        hold_out(10, 10)
