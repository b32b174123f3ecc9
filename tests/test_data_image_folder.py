from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from sterna.config import DataConfig
from sterna.data import load_data, make_loader
from sterna.data.image_folder import random_crop_box
from sterna.errors import ConfigError, DataError
from sterna.pictures import UnreadableImageError, read_image

CLASSES = ("cat", "dog", "owl")


def write_split(folder: Path, count: int, size: tuple[int, int] = (50, 40)) -> None:
    generator = np.random.default_rng(len(folder.name))
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            # Smooth pictures, so that resampling does not average everything to grey.
            coarse = generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(size).save(folder / label / f"{number}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes; 4 training and 2 validation pictures each, no test folder."""
    write_split(tmp_path / "train", 4)
    write_split(tmp_path / "val", 2)
    return tmp_path


def config(root: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"name": "image-folder", "path": str(root), "image_size": 32, **values})


def test_a_lone_validation_folder_is_the_test_split(root: Path) -> None:
    splits = load_data(config(root))
    assert (len(splits.train), len(splits.test)) == (12, 6)
    assert splits.validation is splits.test
    assert splits.labels == CLASSES


def test_validation_is_held_out_from_training_beside_a_lone_folder(root: Path) -> None:
    splits = load_data(config(root, validation_size=5))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (7, 5, 6)


def test_both_folders_are_both_splits(root: Path) -> None:
    (root / "val").rename(root / "validation")
    write_split(root / "test", 1)
    splits = load_data(config(root))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 6, 3)
    with pytest.raises(ConfigError, match=r"validation_size must be 0 where .* has 'validation' and 'test', got 5"):
        load_data(config(root, validation_size=5))


def test_evaluation_preprocessing_equals_that_of_torchvision(root: Path) -> None:
    theirs = transforms.Compose(
        [
            transforms.Resize(37),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    image, label = load_data(config(root)).test[3]
    assert label == 1
    assert torch.equal(image, theirs(read_image(root / "val" / "dog" / "1.png")))


@pytest.mark.parametrize("size", [(9, 70), (3, 3), (32, 32)])
def test_pictures_of_any_size_become_inputs(tmp_path: Path, size: tuple[int, int]) -> None:
    write_split(tmp_path / "train", 1, size)
    write_split(tmp_path / "val", 1, size)
    splits = load_data(config(tmp_path))
    for split in (splits.train, splits.test):
        images, labels = split.__getitems__([0, 2])
        assert images.shape == (2, 3, 32, 32)
        assert labels.tolist() == [0, 2]
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_pictures_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path)
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_preprocessing_says_how_pictures_become_inputs(root: Path) -> None:
    preprocessing = load_data(config(root, image_size=None)).preprocessing
    assert preprocessing["input_shape"] == [3, 224, 224]
    assert preprocessing["resize"] == 256
    assert preprocessing["mean"] == [0.485, 0.456, 0.406]


def test_a_sample_is_augmented_equally_in_whatever_batch(root: Path) -> None:
    data = load_data(config(root), seed=3).train
    data.set_epoch(2)
    together, _ = data.__getitems__(range(12))
    assert torch.equal(data[7][0], together[7])
    assert torch.equal(data.__getitems__([9, 1])[0], together[[9, 1]])
    data.set_epoch(3)
    assert not torch.equal(data.__getitems__(range(12))[0], together)


def test_training_without_augmentation_is_preprocessed_like_evaluation(root: Path) -> None:
    plain = load_data(config(root, augment=False)).train
    first, _ = plain.__getitems__([0, 1])
    plain.set_epoch(1)
    assert torch.equal(plain.__getitems__([0, 1])[0], first)


@given(
    width=st.integers(1, 600),
    height=st.integers(1, 600),
    fractions=st.lists(st.floats(0, 1, exclude_max=True), min_size=40, max_size=40),
)
def test_a_random_crop_lies_inside_the_picture(width: int, height: int, fractions: list[float]) -> None:
    left, top, right, bottom = random_crop_box(width, height, fractions)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_random_crops_have_the_documented_areas_and_aspects() -> None:
    fractions = np.random.default_rng(0).random((2000, 40))
    boxes = np.array([random_crop_box(1000, 1000, row) for row in fractions])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, aspects = widths * heights / 1e6, widths / heights
    # Sides are rounded to pixels: 0.3 % of the smallest, which has 245.
    assert 0.0797 < areas.min() < 0.09
    assert 0.95 < areas.max() <= 1.0
    assert 0.747 < aspects.min() < 0.76
    assert 1.31 < aspects.max() < 1.337


def test_an_extreme_picture_gets_its_centre() -> None:
    assert random_crop_box(1000, 10, [0.5] * 40) == (493, 0, 506, 10)
    assert random_crop_box(10, 1000, [0.5] * 40) == (0, 493, 10, 506)


def test_an_unreadable_picture_is_named(root: Path) -> None:
    (root / "val" / "dog" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"dog/1\.png' is not a readable image: ") as caught:
        load_data(config(root)).test.__getitems__([0, 3])
    assert "\n" not in str(caught.value)


def test_a_truncated_picture_is_named(root: Path) -> None:
    path = root / "val" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cat/0\.png' is not a readable image: "):
        load_data(config(root)).test[0]


def test_an_unreadable_picture_is_named_in_one_line_by_a_worker(root: Path) -> None:
    (root / "val" / "dog" / "1.png").write_bytes(b"not a picture")
    loader = make_loader(load_data(config(root)).test, 2, shuffle=False, seed=0, workers=1)
    with pytest.raises(UnreadableImageError, match=r"^'.*dog/1\.png' is not a readable image: ") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_workers_give_the_same_batches(root: Path) -> None:
    data = load_data(config(root), seed=1).train
    data.set_epoch(2)
    alone, helped = (list(make_loader(data, 5, shuffle=True, seed=1, workers=workers)) for workers in (0, 2))
    for (images, labels), (images_helped, labels_helped) in zip(alone, helped, strict=True):
        assert torch.equal(images, images_helped)
        assert torch.equal(labels, labels_helped)


def test_a_class_may_be_empty(root: Path) -> None:
    for picture in (root / "val" / "dog").iterdir():
        picture.unlink()
    splits = load_data(config(root))
    assert splits.labels == CLASSES
    assert splits.test.__getitems__(range(4))[1].tolist() == [0, 0, 2, 2]


def test_splits_with_other_classes_are_refused(root: Path) -> None:
    (root / "val" / "dog").rename(root / "val" / "fox")
    with pytest.raises(DataError, match=r"'train' and 'val' must have the same class folders; .* has 'dog', 'fox'$"):
        load_data(config(root))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((), "has no folder 'train'"),
        (("val",), "has no folder 'train'"),
        (("train",), "has none of the folders 'validation', 'val' and 'test'"),
        (("train", "val", "validation"), "has both 'validation' and 'val'"),
    ],
)
def test_missing_and_ambiguous_folders_are_refused(tmp_path: Path, kept: tuple[str, ...], message: str) -> None:
    for name in kept:
        write_split(tmp_path / name, 1)
    with pytest.raises(DataError, match=message):
        load_data(config(tmp_path))


def test_a_split_without_classes_or_pictures_is_refused(root: Path) -> None:
    (root / "test").mkdir()
    with pytest.raises(DataError, match=r"test' has no class folders"):
        load_data(config(root))
    (root / "test" / "cat").mkdir()
    with pytest.raises(DataError, match=r"test' has 1 class folders but no pictures"):
        load_data(config(root))


def test_a_path_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"data\.path must be given for image-folder"):
        load_data(DataConfig(name="image-folder"))


def test_real_photos_are_read(data_root: Path) -> None:
    splits = load_data(config(data_root / "clothing"))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3068, 341, 372)
    images, labels = splits.train.__getitems__(range(0, 3068, 400))
    assert images.isfinite().all()
    assert labels.max() < len(splits.labels) == 10


def test_unreadable_pictures_are_left_out_on_request_and_counted(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 3)):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 20)).save(tmp_path / split / label / f"{number}.png")
    (tmp_path / "train" / "dog" / "2.png").write_bytes(b"no picture")
    (tmp_path / "val" / "cat" / "0.png").write_bytes(b"")
    config = DataConfig(name="image-folder", path=str(tmp_path), image_size=8)
    with pytest.raises(UnreadableImageError, match=r"dog/2\.png"):
        load_data(config).train.__getitems__(range(8))
    splits = load_data(config.model_copy(update={"skip_unreadable": True, "validation_size": 2}))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (5, 2, 5)
    assert [text.split("'")[1][-13:] for text in splits.unreadable] == ["ain/dog/2.png", "val/cat/0.png"]
    splits.train.__getitems__(range(5))
    assert splits.test.__getitems__(range(5))[1].tolist() == [0, 0, 1, 1, 1]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        (tmp_path / split / "cat" / "a.png").write_bytes(b"no picture")
    config = DataConfig(name="image-folder", path=str(tmp_path), skip_unreadable=True)
    with pytest.raises(DataError, match=r"none of 1 pictures can be decoded; the first: .*a\.png"):
        load_data(config)
