from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import to_tensor

from sterna.config import DataConfig
from sterna.data import coco_file as coco_file_module
from sterna.data import load_data, make_loader
from sterna.data.coco import CocoDataset, flip, load_coco
from sterna.data.coco_file import read_coco
from sterna.errors import ConfigError, DataError, MissingDependencyError
from sterna.pictures import UnreadableImageError, read_image

pytest.importorskip("faster_coco_eval", reason="COCO data need faster-coco-eval")

Change = Callable[[dict[str, Any]], object]

WIDTH, HEIGHT = 12, 10
# Columns 2 to 4 and rows 3 to 6 of a picture, in each of the three forms.
SQUARE_BOX = [2, 3, 3, 4]
SQUARE_POLYGON = [[2, 3, 5, 3, 5, 7, 2, 7]]
SQUARE_COUNTS = {"size": [HEIGHT, WIDTH], "counts": [23, 4, 6, 4, 6, 4, 73]}
SQUARE_CODE = {"size": [HEIGHT, WIDTH], "counts": "g046000S2"}


def annotation(identity: int, image: int, **values: Any) -> dict[str, Any]:
    return {
        "id": identity,
        "image_id": image,
        "category_id": 7,
        "bbox": SQUARE_BOX,
        "area": 12,
        "iscrowd": 0,
        "segmentation": SQUARE_POLYGON,
        **values,
    }


def document() -> dict[str, Any]:
    """Four pictures: two objects and a crowd, nothing, one object, a crowd alone."""
    return {
        "images": [
            {"id": identity, "file_name": f"{identity}.png", "width": WIDTH, "height": HEIGHT}
            for identity in (40, 10, 30, 20)
        ],
        "annotations": [
            annotation(5, 40, category_id=9),
            annotation(3, 30, segmentation=SQUARE_COUNTS),
            annotation(8, 40, segmentation=SQUARE_CODE),
            annotation(4, 40, iscrowd=1, segmentation=SQUARE_COUNTS),
            annotation(6, 20, iscrowd=1),
        ],
        "categories": [{"id": 9, "name": "owl"}, {"id": 7, "name": "cat"}],
    }


def write(file: Path, content: dict[str, Any], folder: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    for image in content["images"]:
        generator = np.random.default_rng(image["id"])
        pixels = generator.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout of COCO: train and val."""
    for name in ("train2017", "val2017"):
        write(tmp_path / "annotations" / f"instances_{name}.json", document(), tmp_path / name)
    return tmp_path


def config(root: Path, **values: Any) -> DataConfig:
    return DataConfig.model_construct(name="coco", path=str(root), **values)


def dataset(folder: Path, content: dict[str, Any] | None = None, **values: Any) -> CocoDataset:
    write(folder / "train.json", content or document(), folder / "train")
    return CocoDataset(read_coco(folder / "train.json", folder / "train"), **values)


def square() -> torch.Tensor:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    mask[3:7, 2:5] = 1
    return mask


# Layouts and splits


def test_a_lone_val_file_is_the_test_split(root: Path) -> None:
    splits = load_coco(config(root))
    assert (len(splits.train), len(splits.test)) == (4, 4)
    assert splits.validation is splits.test


def test_validation_is_held_out_from_training_beside_a_lone_file(root: Path) -> None:
    splits = load_coco(config(root, validation_size=1))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3, 1, 4)
    ids = [
        int(split[index][1]["image_id"]) for split in (splits.train, splits.validation) for index in range(len(split))
    ]
    assert sorted(ids) == [10, 20, 30, 40]


def test_val_and_test_are_both_splits(root: Path) -> None:
    write(root / "test.json", document(), root / "images" / "test")
    splits = load_coco(config(root))
    assert splits.validation is not splits.test
    with pytest.raises(ConfigError, match=r"validation_size must be 0 where .* has 'val' and 'test', got 2"):
        load_coco(config(root, validation_size=2))


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2017.json", "images/{}2017"),
        ("annotations/{}.json", "{}"),
        ("instances_{}.json", "images"),
        ("{}.json", "images/{}"),
        ("{}/_annotations.coco.json", "{}"),
    ],
)
def test_the_usual_layouts_are_understood(tmp_path: Path, file: str, folder: str) -> None:
    for split, name in (("train", "train"), ("val", "valid")):
        content = document()
        for image in content["images"]:
            image["file_name"] = f"{split}{image['id']}.png"
        write(tmp_path / file.format(name), content, tmp_path / folder.format(name))
    splits = load_coco(config(tmp_path))
    assert [len(split.__getitems__(range(4))[0]) for split in (splits.train, splits.test)] == [4, 4]


def test_other_annotations_beside_the_instances_are_left_alone(root: Path) -> None:
    (root / "annotations" / "captions_train2017.json").write_text("{}")
    (root / "annotations" / "image_info_test2017.json").write_text("{}")
    assert len(load_coco(config(root)).train) == 4


def test_labels_count_the_categories_by_their_ids(root: Path) -> None:
    splits = load_coco(config(root, augment=False))
    assert splits.labels == ("background", "cat", "owl")
    assert splits.train[0][1]["labels"].tolist() == [2, 1]
    assert splits.preprocessing == {"pixel_maximum": 255.0}


def test_a_missing_annotation_file_is_told_with_the_places_searched(root: Path) -> None:
    (root / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(
        DataError, match=r"has no annotation file for val or test; looked for annotations/instances_val\*\.json, .*test"
    ):
        load_coco(config(root))
    (root / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(
        DataError, match=r"no annotation file for train; looked for .*train\*/_annotations\.coco\.json$"
    ):
        load_coco(config(root))


def test_two_annotation_files_for_a_split_are_refused(root: Path) -> None:
    (root / "train.json").write_text("{}")
    with pytest.raises(
        DataError,
        match=r"one annotation file for 'train', got 'annotations/instances_train2017\.json', 'train\.json'$",
    ):
        load_coco(config(root))


def test_a_missing_image_folder_is_told_with_the_places_searched(root: Path) -> None:
    (root / "val2017").rename(root / "pictures")
    with pytest.raises(
        DataError,
        match=r"val2017\.json' has no image folder; looked for val2017, images/val2017, images in '",
    ):
        load_coco(config(root))


def test_a_missing_data_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_coco(config(tmp_path / "nowhere"))


def test_splits_with_other_categories_are_refused(tmp_path: Path) -> None:
    other = document()
    other["categories"][0]["name"] = "fox"
    write(tmp_path / "train.json", document(), tmp_path / "train")
    write(tmp_path / "val.json", other, tmp_path / "val")
    with pytest.raises(DataError, match=r"train\.json' and '.*val\.json' must have the same categories$"):
        load_coco(config(tmp_path))


def test_values_of_the_configuration_that_do_not_fit_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path must be given for coco"):
        load_coco(DataConfig.model_construct(name="coco"))
    with pytest.raises(ConfigError, match=r"data\.image_size must be left out for coco"):
        load_coco(config(root, image_size=64))
    with pytest.raises(ConfigError, match=r"validation_size \(=4\) must be smaller"):
        load_coco(config(root, validation_size=4))


# Images and targets


def test_a_batch_is_what_the_detectors_of_torchvision_take(tmp_path: Path) -> None:
    images, targets = dataset(tmp_path).__getitems__([0, 1])
    assert torch.equal(images[0], to_tensor(read_image(tmp_path / "train" / "40.png")))
    assert [(image.shape, image.dtype) for image in images] == [((3, HEIGHT, WIDTH), torch.float32)] * 2
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in targets[0].items()}
    assert shapes == {
        "boxes": ((2, 4), torch.float32),
        "labels": ((2,), torch.int64),
        "masks": ((2, HEIGHT, WIDTH), torch.uint8),
        "image_id": ((), torch.int64),
        "area": ((2,), torch.float32),
        "iscrowd": ((2,), torch.int64),
    }
    assert targets[0]["boxes"].tolist() == [[2, 3, 5, 7]] * 2
    assert [int(target["image_id"]) for target in targets] == [40, 10]


def test_an_image_without_objects_has_empty_targets(tmp_path: Path) -> None:
    for index in (1, 3):
        _, target = dataset(tmp_path)[index]
        assert tuple(target["boxes"].shape) == (0, 4)
        assert tuple(target["masks"].shape) == (0, HEIGHT, WIDTH)
        assert target["labels"].dtype == torch.int64
        assert target["labels"].shape == target["area"].shape == target["iscrowd"].shape == (0,)


def test_images_without_objects_can_be_skipped(tmp_path: Path) -> None:
    data = dataset(tmp_path, skip_empty=True)
    assert [int(data[index][1]["image_id"]) for index in range(len(data))] == [40, 30]


def test_a_crowd_is_not_a_training_target_but_part_of_the_ground_truth(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    assert len(data[0][1]["labels"]) == 2
    assert data[0][1]["iscrowd"].tolist() == [0, 0]
    crowds = [entry["id"] for entry in data.ground_truth()["annotations"] if entry["iscrowd"]]
    assert crowds == [4, 6]


def test_the_ground_truth_is_the_file_itself(tmp_path: Path) -> None:
    original = document()
    truth = dataset(tmp_path).ground_truth()
    assert truth["images"] == original["images"]
    assert truth["categories"] == sorted(original["categories"], key=lambda category: category["id"])
    by_id = {entry["id"]: entry for entry in original["annotations"]}
    assert by_id.keys() == {entry["id"] for entry in truth["annotations"]}
    for entry in truth["annotations"]:
        expected = by_id[entry["id"]]
        if expected["segmentation"] == SQUARE_COUNTS:
            expected["segmentation"] = SQUARE_CODE
        assert entry == expected
    json.dumps(truth)


def test_the_ground_truth_covers_the_images_of_the_split_alone(root: Path) -> None:
    truth = load_coco(config(root, validation_size=1)).train.ground_truth()
    ids = {image["id"] for image in truth["images"]}
    assert len(ids) == 3
    assert {entry["image_id"] for entry in truth["annotations"]} <= ids


def test_boxes_are_cut_at_the_border_and_slim_ones_left_out(tmp_path: Path) -> None:
    content = document()
    boxes = [[-3, -2, 5, 4], [9.5, 8, 100, 100], [0, 0, 0.9, 5], [0, 0, 5, 0], [11.5, 2, 5, 5], [50, 50, 5, 5]]
    content["annotations"] = [annotation(number, 40, bbox=box) for number, box in enumerate(boxes)]
    data = dataset(tmp_path, content)
    assert data[0][1]["boxes"].tolist() == [[0, 0, 2, 2], [9.5, 8, WIDTH, HEIGHT]]
    assert [entry["bbox"] for entry in data.ground_truth()["annotations"]] == boxes


def test_an_empty_mask_is_not_a_training_target(tmp_path: Path) -> None:
    content = document()
    content["annotations"] = [
        annotation(1, 40, area=1, segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
        annotation(2, 40, area=2),
    ]
    target = dataset(tmp_path, content)[0][1]
    assert target["area"].tolist() == [2]
    assert target["masks"].shape[0] == target["boxes"].shape[0] == 1


@pytest.mark.parametrize("outline", [SQUARE_POLYGON, SQUARE_COUNTS, SQUARE_CODE], ids=["polygon", "counts", "code"])
def test_a_shape_has_one_mask_in_every_form(tmp_path: Path, outline: Any) -> None:
    content = document()
    content["annotations"] = [annotation(1, 40, segmentation=outline)]
    assert torch.equal(dataset(tmp_path, content)[0][1]["masks"], square()[None])


def test_the_polygons_of_an_object_are_one_mask(tmp_path: Path) -> None:
    content = document()
    content["annotations"] = [
        annotation(1, 40, segmentation=[[2, 3, 5, 3, 5, 5, 2, 5], [2, 5, 5, 5, 5, 7, 2, 7, 2, 6]])
    ]
    data = dataset(tmp_path, content)
    assert torch.equal(data[0][1]["masks"], square()[None])
    assert data.ground_truth()["annotations"][0]["segmentation"] == content["annotations"][0]["segmentation"]


# Files are written for each example: how long that takes says nothing.
@settings(deadline=None, max_examples=30)
@given(pixels=st.lists(st.booleans(), min_size=35, max_size=35))
def test_any_mask_is_read_from_its_run_lengths(tmp_path_factory: pytest.TempPathFactory, pixels: list[bool]) -> None:
    mask = np.array(pixels, np.uint8).reshape(5, 7)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [2]])))
    counts = np.diff(np.concatenate([[0], changes])).tolist()
    content = document()
    content["images"] = [{"id": 1, "file_name": "1.png", "width": 7, "height": 5}]
    content["annotations"] = [annotation(1, 1, bbox=[0, 0, 7, 5], segmentation={"size": [5, 7], "counts": counts})]
    folder = tmp_path_factory.mktemp("masks")
    data = dataset(folder, content)
    assert data[0][1]["masks"].any() == mask.any()
    if mask.any():
        assert np.array_equal(data[0][1]["masks"][0], mask)
    again = {**content, "annotations": data.ground_truth()["annotations"]}
    assert isinstance(again["annotations"][0]["segmentation"]["counts"], str)
    assert torch.equal(dataset(folder, again)[0][1]["masks"], data[0][1]["masks"])


@pytest.mark.parametrize("outline", [None, []])
def test_a_file_without_segmentations_gives_boxes_alone(tmp_path: Path, outline: Any) -> None:
    content = document()
    for entry in content["annotations"]:
        entry["segmentation"] = outline
    data = dataset(tmp_path, content)
    assert "masks" not in data[0][1]
    assert "segmentation" not in data.ground_truth()["annotations"][0]


def test_area_and_crowd_may_be_left_out(tmp_path: Path) -> None:
    content = document()
    for entry in content["annotations"]:
        del entry["area"], entry["iscrowd"]
    assert dataset(tmp_path, content)[0][1]["area"].tolist() == [12, 12, 12]


def test_a_file_without_annotations_is_valid(tmp_path: Path) -> None:
    data = dataset(tmp_path, {**document(), "annotations": []})
    assert tuple(data[2][1]["masks"].shape) == (0, HEIGHT, WIDTH)
    assert len(dataset(tmp_path, {**document(), "annotations": []}, skip_empty=True)) == 0


# Augmentation

# Sixteenths of a pixel: their differences are exact in float32.
COORDINATES = st.integers(0, 160).map(lambda sixteenths: sixteenths / 16)


@given(
    boxes=st.lists(st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES), max_size=5),
    dimension=st.sampled_from([-1, -2]),
    seed=st.integers(0, 1000),
)
def test_flipping_twice_changes_nothing(boxes: list[tuple[float, ...]], dimension: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, HEIGHT, WIDTH, generator=generator)
    target = {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.arange(len(boxes)),
        "masks": (torch.rand(len(boxes), HEIGHT, WIDTH, generator=generator) > 0.5).to(torch.uint8),
    }
    once = flip(image, target, dimension)
    twice = flip(*once, dimension)
    assert torch.equal(twice[0], image)
    assert all(torch.equal(twice[1][key], target[key]) for key in target)
    assert not torch.equal(once[0], image)


@pytest.mark.parametrize(("dimension", "box"), [(-1, [7, 3, 10, 7]), (-2, [2, 3, 5, 7])])
def test_a_box_moves_with_its_mask(dimension: int, box: list[int]) -> None:
    target = {"boxes": torch.tensor([[2.0, 3.0, 5.0, 7.0]]), "masks": square()[None]}
    _, flipped = flip(torch.zeros(3, HEIGHT, WIDTH), target, dimension)
    assert flipped["boxes"].tolist() == [box]
    left, top, right, bottom = box
    assert flipped["masks"].sum() == flipped["masks"][0, top:bottom, left:right].sum() == 12


def test_augmentation_mirrors_about_half_of_the_images(tmp_path: Path) -> None:
    content = document()
    content["images"] = [{"id": number, "file_name": f"{number}.png", "width": 2, "height": 2} for number in range(100)]
    content["annotations"] = []
    plain = dataset(tmp_path, content)
    horizontal, both = (dataset(tmp_path, content, augment=True, vertical_flip=vertical) for vertical in (False, True))
    counts = dict.fromkeys([(), (-1,), (-2,), (-1, -2)], 0)
    for index in range(100):
        image = plain[index][0]
        assert any(torch.equal(horizontal[index][0], each) for each in (image, image.flip(-1)))
        for flips in counts:
            counts[flips] += torch.equal(both[index][0], image.flip(flips))
    assert sum(counts.values()) == 100
    # Four standard deviations of a binomial count of 100 with probability 1/4.
    assert all(25 - 17.3 < count < 25 + 17.3 for count in counts.values())


def test_an_image_is_augmented_equally_in_whatever_batch(tmp_path: Path) -> None:
    data = dataset(tmp_path, augment=True, vertical_flip=True, seed=3)
    epochs = []
    for epoch in range(4):
        data.set_epoch(epoch)
        together, targets = data.__getitems__(range(4))
        assert torch.equal(data[2][0], together[2])
        assert torch.equal(data[2][1]["masks"], targets[2]["masks"])
        assert torch.equal(data.__getitems__([3, 0])[0][1], together[0])
        epochs.append(torch.stack(together))
    assert not all(torch.equal(epochs[0], other) for other in epochs[1:])


def test_evaluation_is_not_augmented(root: Path) -> None:
    splits = load_coco(config(root, validation_size=1, vertical_flip=True), seed=1)
    for split in (splits.validation, splits.test):
        before = split[0][0]
        for epoch in range(1, 5):
            split.set_epoch(epoch)
            assert torch.equal(split[0][0], before)


def test_workers_give_the_same_batches(tmp_path: Path) -> None:
    data = dataset(tmp_path, augment=True)
    alone, helped = (list(make_loader(data, 3, shuffle=True, seed=1, workers=workers)) for workers in (0, 2))
    for (images, targets), (images_helped, targets_helped) in zip(alone, helped, strict=True):
        assert all(map(torch.equal, images, images_helped))
        for ours, theirs in zip(targets, targets_helped, strict=True):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)


# Malformed files


def in_annotation(**values: Any) -> Change:
    return lambda content: content["annotations"][0].update(values)


def in_image(**values: Any) -> Change:
    return lambda content: content["images"][0].update(values)


def outline(value: Any) -> Change:
    return in_annotation(segmentation=value)


def code(counts: Any, size: Any = (HEIGHT, WIDTH)) -> Change:
    return outline({"size": list(size), "counts": counts})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "not a COCO file: 'images' must be a list, got None"),
        (lambda content: content.update(annotations={}), "not a COCO file: 'annotations' must be a list, got {}"),
        (lambda content: content.pop("categories"), "not a COCO file: 'categories' must be a list, got None"),
        (lambda content: content.update(images=[]), "it lists no images"),
        (lambda content: content["images"].append(7), "images[4] must be an object, got 7"),
        (in_image(id="a"), "images[0]: 'id' must be an integer from 0 on, got 'a'"),
        (in_image(id=10), "two entries of 'images' have the id 10"),
        (in_annotation(id=3), "two entries of 'annotations' have the id 3"),
        (lambda c: c["categories"][0].update(id=7), "two entries of 'categories' have the id 7"),
        (lambda c: c["categories"][0].update(name=""), "category 9: 'name' must be a text, got ''"),
        (in_image(file_name=None), "image 40: 'file_name' must be a text, got None"),
        (in_image(file_name="../x.png"), "image 40: 'file_name' must stay inside the image folder, got '../x.png'"),
        (in_image(file_name="/x.png"), "image 40: 'file_name' must stay inside the image folder, got '/x.png'"),
        (in_image(height=0), "image 40 is 12x0; an image must have 1 to 67108864 pixels"),
        (in_image(height=1 << 20, width=1 << 20), "image 40 is 1048576x1048576; an image must have"),
        (in_image(width=12.5), "image 40: 'width' must be an integer from 0 on, got 12.5"),
        (in_annotation(image_id=99), "annotation 5 is on image 99, which the file does not list"),
        (in_annotation(category_id=1), "annotation 5 has category 1, which the file does not list"),
        (in_annotation(bbox=None), "annotation 5: 'bbox' must be left, top, width and height, finite"),
        (in_annotation(bbox=[1, 2, 3]), "annotation 5: 'bbox' must be"),
        (in_annotation(bbox=[1, 2, -3, 4]), "the last two not negative, got [1, 2, -3, 4]"),
        (in_annotation(bbox=[1, 2, float("nan"), 4]), "annotation 5: 'bbox' must be"),
        (in_annotation(bbox=[1, float("-inf"), 3, 4]), "annotation 5: 'bbox' must be"),
        (in_annotation(bbox=[10**400, 2, 3, 4]), "annotation 5: 'bbox' must be"),
        (in_annotation(bbox=[1e300, 2, 3, 4]), "annotation 5: 'bbox' must be"),
        (in_annotation(bbox=["1", 2, 3, 4]), "annotation 5: 'bbox' must be"),
        (in_annotation(area=-1), "annotation 5: the area must be a number from 0 to 1e+10, got -1"),
        (in_annotation(area=float("nan")), "annotation 5: the area must be a number from 0 to 1e+10, got nan"),
        (in_annotation(iscrowd=2), "annotation 5: 'iscrowd' must be 0 or 1, got 2"),
        (in_annotation(iscrowd=[]), "annotation 5: 'iscrowd' must be 0 or 1, got []"),
        (outline([]), "annotation 5 has no segmentation, but annotation 3 has one"),
        (outline("x"), "must be polygons or a run-length code of size [10, 12] (height, width), got 'x'"),
        (outline([1, 2, 3, 4, 5, 6]), "annotation 5 has a malformed segmentation: a polygon must be a list of three"),
        (outline([[1, 2, 3, 4]]), "three points or more, two finite numbers each, got [1, 2, 3, 4]"),
        (outline([[1, 2, 3, 4, 5, 6, 7]]), "three points or more, two finite numbers each"),
        (outline([[1, 2, 3, 4, 5, float("nan")]]), "three points or more, two finite numbers each"),
        (outline([[1, 2, 3, 4, 5, 1e7]]), "a polygon must stay within 1048576 pixels of the origin"),
        (outline([[0, 0, 1e6, 1e6] * 9]), "its polygons are 18000000 pixels long, at most 4194304 may be"),
        (code("g046000S2", (WIDTH, HEIGHT)), "of size [10, 12] (height, width), got [12, 10]"),
        (code(None), "'counts' must be a list of lengths or their text, got None"),
        (code([10, -1, 111]), "'counts' must be a list of lengths or their text, got [10, -1, 111]"),
        (code([10, 1.5, 111]), "'counts' must be a list of lengths or their text"),
        (code([10, 1]), "'counts' must sum up to 120 pixels, got 11"),
        (code("g046000S3"), "'counts' must sum up to 120 pixels, got 152"),
        (code("4@"), "'counts' must be a list of lengths or their text, got '4@'"),
        (code("g04600é"), "annotation 5 has a malformed segmentation: 'g04600é' is not a compressed run-length code"),
        (code("g046P"), "annotation 5 has a malformed segmentation: 'g046P' ends inside a number"),
        (code("o" * 1000), "is not a compressed run-length code"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    content = document()
    change(content)
    file = tmp_path / "train.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_coco(file, tmp_path)
    assert str(caught.value).startswith(f"'{file}': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train.json' is not a readable JSON file: Expecting value"),
        ("[1", "train.json' is not a readable JSON file: "),
        ("[" * 100_000, "train.json' is not a readable JSON file: nested too deeply"),
        ("1" * 10_000, "train.json' is not a readable JSON file: Exceeds the limit"),
        ("[[]]", "train.json' is not a COCO file: it must hold an object, got [[]]"),
    ],
)
def test_a_file_that_is_not_coco_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_coco(tmp_path / "train.json", tmp_path)
    assert "\n" not in str(caught.value)


def test_the_memory_that_masks_take_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_file_module, "MAX_MASK_BYTES_PER_IMAGE", 3 * HEIGHT * WIDTH)
    assert len(dataset(tmp_path)) == 4
    content = document()
    content["annotations"].append(annotation(9, 40))
    with pytest.raises(DataError, match="the masks of one image would need 480 bytes, at most 360 are allowed"):
        dataset(tmp_path, content)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    (tmp_path / "train" / "30.png").unlink()
    with pytest.raises(DataError, match=r"train/30\.png' is not a readable image: .*No such file"):
        data[2]


def test_a_picture_of_another_size_is_named_in_one_line_by_a_worker(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    Image.new("RGB", (3, 4)).save(tmp_path / "train" / "30.png")
    message = r"^'.*train/30\.png' has 3x4 pixels, but is annotated as 12x10$"
    with pytest.raises(UnreadableImageError, match=message):
        data[2]
    with pytest.raises(UnreadableImageError, match=message):
        list(make_loader(data, 2, shuffle=False, seed=0, workers=1))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    content = document()
    content["annotations"] = [annotation(1, 40)]
    with pytest.raises(MissingDependencyError, match=r"need faster-coco-eval: install it with  pip install"):
        dataset(tmp_path, content)
    del content["annotations"][0]["segmentation"]
    assert dataset(tmp_path, content)[0][1]["boxes"].tolist() == [[2, 3, 5, 7]]


# Real data


def test_real_microscopy_is_read(data_root: Path) -> None:
    splits = load_coco(config(data_root / "nuclei", validation_size=30, vertical_flip=True), seed=1)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (239, 30, 65)
    assert splits.labels == ("background", "nucleus")
    images, targets = splits.train.__getitems__(range(0, 239, 20))
    for image, target in zip(images, targets, strict=True):
        assert tuple(image.shape) == (3, 256, 256)
        assert len(target["masks"]) == len(target["boxes"]) > 0
        masks = target["masks"].numpy()
        assert masks.sum((1, 2)).tolist() == target["area"].tolist()
        for mask, box in zip(masks, target["boxes"].int().tolist(), strict=True):
            left, top, right, bottom = box
            inside = mask[top:bottom, left:right]
            assert mask.sum() == inside.sum()
            # And the box is not larger than needed.
            assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_unreadable_pictures_are_left_out_on_request(root: Path) -> None:
    picture = next(root.rglob("40.png"))
    picture.write_bytes(b"no picture")
    splits = load_coco(config(root, skip_unreadable=True))
    assert len(splits.train) == 3
    assert all("40.png" in text for text in splits.unreadable)
    assert sorted(int(target["image_id"]) for target in splits.train.__getitems__(range(3))[1]) == [10, 20, 30]


@pytest.mark.parametrize("key", ["vertical_flip", "skip_empty"])
def test_what_only_detection_has_is_refused_elsewhere(key: str) -> None:
    with pytest.raises(ConfigError, match=f"data.{key} is only for coco, got it for digits"):
        load_data(DataConfig.model_validate({"name": "digits", key: True}))
