from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from sterna.config import DataConfig
from sterna.data import load_data
from sterna.data.digits import read_digits
from sterna.errors import ConfigError, MissingDependencyError


def config(**values: object) -> DataConfig:
    return DataConfig.model_validate({"name": "digits", **values})


def test_the_test_split_has_fifty_images_a_class() -> None:
    splits = load_data(config())
    assert (len(splits.train), len(splits.test)) == (1297, 500)
    assert torch.bincount(splits.test.__getitems__(range(500))[1]).tolist() == [50] * 10
    assert splits.validation is splits.test


def test_the_three_splits_are_all_digits_once() -> None:
    splits = load_data(config(validation_size=200, augment=False, mean=(0.0,), std=(0.0625,)))
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [1097, 200, 500]
    images = torch.cat([part.__getitems__(range(len(part)))[0] for part in parts]).numpy().reshape(1797, 64)
    pixels, _ = read_digits()
    assert np.array_equal(np.sort(images, axis=0), np.sort(pixels.reshape(1797, 64), axis=0))


def test_inputs_are_normalised_by_default() -> None:
    train = load_data(config(augment=False)).train
    images, _ = train.__getitems__(range(len(train)))
    assert images.shape == (1297, 1, 8, 8)
    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02


def test_training_images_are_shifted_but_never_mirrored() -> None:
    plain = load_data(config(augment=False, mean=(0.0,))).train
    shifted = load_data(config(mean=(0.0,))).train
    for index in range(20):
        padded = torch.nn.functional.pad(plain[index][0], (1, 1, 1, 1))
        crops = [padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
        assert any(torch.equal(shifted[index][0], crop) for crop in crops)


def test_the_digits_have_no_path() -> None:
    with pytest.raises(ConfigError, match=r"data\.path must be left out for digits"):
        load_data(config(path="somewhere"))


def test_a_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sterna\[demo\]'"):
        load_data(config())
