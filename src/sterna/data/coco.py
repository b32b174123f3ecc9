"""Detection and instance segmentation data in the JSON format of COCO.

Below ``data.path`` a split has one annotation file, in one of these places. ``NAME`` begins with ``train``, ``val`` or
``test``, whatever follows (``train2017``, ``validation``):

- ``annotations/instances_NAME.json``, ``annotations/NAME.json``, ``instances_NAME.json`` or ``NAME.json``, with the
  pictures in ``NAME/``, ``images/NAME/`` or ``images/``, the first of them that exists;
- ``NAME/_annotations.coco.json``, with the pictures beside it.

``train`` is needed, and at least one of ``val`` and ``test``:

- both there: they are the two splits, and ``validation_size`` must be 0;
- one there: it is the test split, and ``validation_size`` images are held out from ``train``.

References:
    Lin et al.: Microsoft COCO: common objects in context, arXiv 1405.0312; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sterna.config import DataConfig
from sterna.data.coco_file import CocoAnnotations, read_coco, starts_of
from sterna.data.dataset import FIRST_AUGMENTATION_STREAM, BatchDataset, DataSplits, DetectionBatch, hold_out
from sterna.data.image_folder import find_readable
from sterna.data.paths import resolve_data_path
from sterna.data.randomness import Indices, random_fractions, random_words
from sterna.errors import ConfigError, DataError
from sterna.pictures import UnreadableImageError, read_image

BACKGROUND = "background"
PIXEL_MAXIMUM = 255.0
SMALLEST_SIDE = 1.0
"""Boxes that are narrower or lower, in pixels, are not trained on."""

_ANNOTATION_FILES = (
    "annotations/instances_{}*.json",
    "annotations/{}*.json",
    "instances_{}*.json",
    "{}*.json",
    "{}*/_annotations.coco.json",
)


def flip(image: Tensor, target: Mapping[str, Tensor], dimension: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Mirror an image and what is on it.

    Args:
        image: ``(3, height, width)``.
        target: with ``boxes`` and perhaps ``masks``, as in a detection batch; the rest is taken over.
        dimension: -1 swaps left and right, -2 top and bottom.
    """
    extent = image.shape[dimension]
    low = {-1: 0, -2: 1}[dimension]
    boxes = target["boxes"].clone()
    boxes[:, low] = extent - target["boxes"][:, low + 2]
    boxes[:, low + 2] = extent - target["boxes"][:, low]
    flipped = {**target, "boxes": boxes}
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(dimension)
    return image.flip(dimension), flipped


class CocoDataset(BatchDataset[DetectionBatch]):
    """Images and the objects on them, decoded when they are asked for.

    Crowds, boxes that inside the image are narrower or lower than one pixel, and empty masks are not among the targets;
    an image without targets has tensors of length 0. ``masks`` are there if the file has segmentations.

    Args:
        annotations: of the file.
        rows: of the images that belong to this split; nothing means all.
        augment: mirror left and right with probability one half.
        vertical_flip: with ``augment``, mirror top and bottom too with probability one half.
        skip_empty: leave out images without a box to train on.
        seed: of the augmentation.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        rows: Indices | None = None,
        *,
        augment: bool = False,
        vertical_flip: bool = False,
        skip_empty: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self._annotations = annotations
        self._augment = augment
        self._vertical_flip = vertical_flip
        self._corners = annotations.clipped_corners()
        sides = self._corners[:, 2:] - self._corners[:, :2]
        self._is_target = ~annotations.crowds & (sides >= SMALLEST_SIDE).all(1)
        self._rows = np.arange(len(annotations.image_ids)) if rows is None else rows
        if skip_empty:
            targets_before = starts_of(self._is_target.astype(np.int64))
            counts = np.diff(targets_before[annotations.first])
            self._rows = self._rows[counts[self._rows] > 0]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def __getitems__(self, indices: Sequence[int]) -> DetectionBatch:
        """These images and their targets.

        Raises:
            UnreadableImageError: a picture cannot be decoded, or its size is not the annotated one.
        """
        images, targets = [], []
        for index in indices:
            row = int(self._rows[index])
            image, target = self._read(row), self._target(row)
            if self._augment:
                word = random_words(self._seed, self._epoch, FIRST_AUGMENTATION_STREAM, np.asarray([index]))
                horizontal, vertical = random_fractions(random_words(int(word[0]), 0, 0, np.arange(2)))
                if horizontal < 0.5:
                    image, target = flip(image, target, -1)
                if self._vertical_flip and vertical < 0.5:
                    image, target = flip(image, target, -2)
            images.append(image)
            targets.append(target)
        return images, targets

    def ground_truth(self) -> dict[str, Any]:
        """What is to be found on these images, crowds included, with the ids of the file, as COCO's format has it.

        Run-length codes are compressed; ``segmentation`` is there if the file has segmentations.
        """
        source = self._annotations
        images, annotations = [], []
        for image_row in self._rows.tolist():
            height, width = source.sizes[image_row].tolist()
            image_id = int(source.image_ids[image_row])
            images.append({"id": image_id, "file_name": source.file_names[image_row], "height": height, "width": width})
            for row in range(source.first[image_row], source.first[image_row + 1]):
                annotation: dict[str, Any] = {
                    "id": int(source.ids[row]),
                    "image_id": image_id,
                    "category_id": int(source.category_ids[source.labels[row] - 1]),
                    "bbox": source.boxes[row].tolist(),
                    "area": float(source.areas[row]),
                    "iscrowd": int(source.crowds[row]),
                }
                if source.segmentations is not None:
                    outline = source.segmentations[row]
                    annotation["segmentation"] = (
                        {"size": [height, width], "counts": outline} if isinstance(outline, str) else outline
                    )
                annotations.append(annotation)
        categories = [
            {"id": identity, "name": name}
            for identity, name in zip(source.category_ids.tolist(), source.names, strict=True)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

    def check(self, index: int) -> None:
        """Decode one picture.

        Raises:
            UnreadableImageError: it cannot be read or decoded, or is not as large as the file says.
        """
        self._read(int(self._rows[index]))

    def _read(self, row: int) -> Tensor:
        path = self._annotations.image_folder / self._annotations.file_names[row]
        image = read_image(path)
        height, width = self._annotations.sizes[row].tolist()
        if image.size != (width, height):
            raise UnreadableImageError(
                f"'{path}' has {image.width}x{image.height} pixels, but is annotated as {width}x{height}"
            )
        pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
        return torch.from_numpy(pixels / np.float32(PIXEL_MAXIMUM))

    def _target(self, row: int) -> dict[str, Tensor]:
        source = self._annotations
        rows = source.first[row] + np.flatnonzero(self._is_target[source.first[row] : source.first[row + 1]])
        target = {}
        if source.segmentations is not None:
            masks = source.segmentations.masks(rows.tolist(), *source.sizes[row].tolist())
            filled = masks.any((1, 2))
            rows, masks = rows[filled], masks[filled]
            target["masks"] = torch.from_numpy(masks)
        return {
            "boxes": torch.from_numpy(self._corners[rows].astype(np.float32)),
            "labels": torch.from_numpy(source.labels[rows]),
            **target,
            "image_id": torch.tensor(int(source.image_ids[row])),
            "area": torch.from_numpy(source.areas[rows].astype(np.float32)),
            "iscrowd": torch.zeros(len(rows), dtype=torch.int64),
        }


def find_split(root: Path, split: str) -> tuple[Path, Path] | None:
    """The annotation file and the image folder of a split, or nothing if it has no annotation file.

    Args:
        root: of the data set.
        split: ``train``, ``val`` or ``test``.

    Raises:
        DataError: there are several files, or no folder.
    """
    files = sorted({path for place in _ANNOTATION_FILES for path in root.glob(place.format(split)) if path.is_file()})
    if not files:
        return None
    if len(files) > 1:
        names = ", ".join(f"'{path.relative_to(root)}'" for path in files)
        raise DataError(f"'{root}' must have one annotation file for '{split}', got {names}")
    file = files[0]
    if file.name == "_annotations.coco.json":
        return file, file.parent
    name = file.stem.removeprefix("instances_")
    folders = [root / name, root / "images" / name, root / "images"]
    for folder in folders:
        if folder.is_dir():
            return file, folder
    raise DataError(
        f"'{file}' has no image folder; looked for {', '.join(str(folder.relative_to(root)) for folder in folders)} "
        f"in '{root}'"
    )


def load_coco(config: DataConfig, seed: int = 0) -> DataSplits:
    """Detection or instance segmentation data; the module's text says which file becomes which split.

    Args:
        config: ``path`` is the folder of the data set; ``augment`` mirrors training images.
        seed: of the augmentation.

    Raises:
        DataError: a file or folder is missing or malformed, or the splits do not have the same categories.
        ConfigError: a value does not fit the data set.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    if config.path is None:
        raise ConfigError("data.path must be given for coco: the folder of the data set")
    for key in ("image_size", "mean", "std"):
        if getattr(config, key) is not None:
            raise ConfigError(f"data.{key} must be left out for coco: detectors resize and normalise images themselves")
    root = resolve_data_path(config.path)
    found = {split: find_split(root, split) for split in ("train", "val", "test")}
    places = {split: place for split, place in found.items() if place is not None}
    for wanted in (("train",), ("val", "test")):
        if not places.keys() & set(wanted):
            looked_for = ", ".join(pattern.format(split) for split in wanted for pattern in _ANNOTATION_FILES)
            raise DataError(f"'{root}' has no annotation file for {' or '.join(wanted)}; looked for {looked_for}")
    if len(places) == 3 and config.validation_size:
        raise ConfigError(
            f"data.validation_size must be 0 where '{root}' has 'val' and 'test', got {config.validation_size}"
        )

    files = {split: read_coco(*place) for split, place in places.items()}
    train = files.pop("train")
    for other in files.values():
        if (train.category_ids.tolist(), train.names) != (other.category_ids.tolist(), other.names):
            raise DataError(f"'{train.path}' and '{other.path}' must have the same categories")
    readable: list[Indices] = []
    unreadable: list[str] = []
    for file in (train, *files.values()):
        dataset = CocoDataset(file)
        rows, problems = np.arange(len(dataset)), list[str]()
        if config.skip_unreadable:
            rows, problems = find_readable(dataset.check, len(dataset))
        readable.append(rows)
        unreadable += problems
    train_rows, validation_rows = (readable[0][part] for part in hold_out(len(readable[0]), config.validation_size))
    evaluations = [CocoDataset(file, rows) for file, rows in zip(files.values(), readable[1:], strict=True)]
    validation = CocoDataset(train, validation_rows) if config.validation_size else evaluations[0]
    return DataSplits(
        train=CocoDataset(
            train,
            train_rows,
            augment=config.augment,
            vertical_flip=config.vertical_flip,
            skip_empty=config.skip_empty,
            seed=seed,
        ),
        validation=validation,
        test=evaluations[-1],
        labels=(BACKGROUND, *train.names),
        preprocessing={"pixel_maximum": PIXEL_MAXIMUM},
        unreadable=tuple(unreadable),
    )
