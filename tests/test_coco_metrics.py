from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sterna.config import DataConfig
from sterna.data.coco import load_coco
from sterna.errors import DataError, MissingDependencyError
from sterna.tasks.coco_metrics import CocoMetrics

fast_mask = pytest.importorskip("faster_coco_eval.core.mask", reason="average precision needs faster-coco-eval")

Output = dict[str, Tensor]

SIDE = 40
CATEGORY_IDS = (3, 5, 90)
KEYS = ("ap", "ap50", "ap75")


def random_ellipse(generator: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    centre, radii = generator.uniform(5, SIDE - 5, 2), generator.uniform(2, 9, 2)
    return (((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1).astype(np.uint8)


def box_of(mask: np.ndarray) -> list[float]:
    """Left, top, width, height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)]


def random_scene(seed: int, images: int = 12, objects: int = 12) -> tuple[dict[str, Any], dict[int, Output]]:
    """Ground truth with crowds and images without objects, and detections: shifted copies of it, and inventions.

    One image has objects but no detections, one detections but no objects; scores are tied on purpose.
    """
    generator = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    outputs = {}
    for image in range(images):
        masks, labels = [], []
        for _ in range(0 if image in (1, 2) else generator.integers(objects // 2, objects)):
            mask, label = random_ellipse(generator), int(generator.integers(1, 3))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + image,
                    "category_id": CATEGORY_IDS[label - 1],
                    "bbox": box_of(mask),
                    "area": float(mask.sum()),
                    "iscrowd": int(generator.random() < 0.2),
                    "segmentation": {
                        "size": [SIDE, SIDE],
                        "counts": fast_mask.encode(np.asfortranarray(mask))["counts"].decode(),
                    },
                }
            )
            for _ in range(generator.integers(0, 4)):
                moved = np.roll(mask, generator.integers(-1, 2, 2), (0, 1))
                masks.append(moved if generator.random() < 0.8 else random_ellipse(generator))
                labels.append(label if generator.random() < 0.9 else 3)
        if image == 2:
            masks, labels = [random_ellipse(generator)] * 2, [1, 3]
        if image == 3:
            masks, labels = [], []
        outputs[100 + image] = output(masks, labels, generator.integers(1, 20, len(masks)) / 20)
    truth = {
        "images": [
            {"id": 100 + image, "file_name": f"{image}.png", "height": SIDE, "width": SIDE} for image in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": identity, "name": str(identity)} for identity in CATEGORY_IDS],
    }
    return truth, outputs


def output(masks: list[np.ndarray], labels: list[int], scores: np.ndarray) -> Output:
    """What a detector of torchvision gives."""
    boxes = torch.tensor([box_of(mask) for mask in masks]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    stack = torch.tensor(np.array(masks, np.float32)).reshape(-1, 1, SIDE, SIDE)
    return {
        "boxes": boxes,
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores, dtype=torch.float32),
        # Probabilities on either side of the threshold, which itself is outside.
        "masks": 0.5 + 0.4 * stack - 0.3 * (1 - stack) * (torch.arange(SIDE) % 2),
    }


def collect(truth: dict[str, Any], outputs: dict[int, Output], **values: Any) -> CocoMetrics:
    metrics = CocoMetrics(truth, **values)
    metrics.add(list(outputs.values()), list(outputs))
    return metrics


def reference(truth: dict[str, Any], outputs: dict[int, Output], max_dets: int) -> dict[str, float]:
    """The same by pycocotools, from the dense masks."""
    reason = "compares with pycocotools, which is not installed"
    coco = pytest.importorskip("pycocotools.coco", reason=reason)
    evaluator = pytest.importorskip("pycocotools.cocoeval", reason=reason)
    mask_api = pytest.importorskip("pycocotools.mask", reason=reason)
    ours = coco.COCO()
    ours.dataset = copy.deepcopy(truth)
    ours.createIndex()
    results: dict[str, list[dict[str, Any]]] = {"bbox": [], "segm": []}
    for image_id, found in outputs.items():
        for number, (left, top, right, bottom) in enumerate(found["boxes"].tolist()):
            common = {
                "image_id": image_id,
                "category_id": CATEGORY_IDS[int(found["labels"][number]) - 1],
                "score": float(found["scores"][number]),
            }
            results["bbox"].append({**common, "bbox": [left, top, right - left, bottom - top]})
            dense = np.asfortranarray(found["masks"][number, 0].numpy() > 0.5).astype(np.uint8)
            results["segm"].append({**common, "segmentation": mask_api.encode(dense)})
    percents = {}
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        evaluation = evaluator.COCOeval(ours, ours.loadRes(results[kind]), kind)
        evaluation.params.maxDets = [max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, :, 0, 0]
        for key, values in (("ap", precision), ("ap50", precision[0]), ("ap75", precision[5])):
            percents[f"{name}_{key}"] = 100 * values[values > -1].mean()
    return percents


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_pycocotools(seed: int) -> None:
    truth, outputs = random_scene(seed)
    result = collect(truth, outputs).compute()
    assert result.pop("images") == 12
    assert result == pytest.approx(reference(truth, outputs, 100), abs=1e-9)
    assert 10 < result["box_ap"] < result["box_ap50"] < 90
    assert result["mask_ap"] != result["box_ap"]


@pytest.mark.parametrize("max_dets", [3, 100, 300])
def test_crowded_scenes_are_counted_up_to_max_dets(max_dets: int) -> None:
    truth, outputs = random_scene(9, images=5, objects=300)
    assert max(int(found["labels"].bincount(minlength=4).max()) for found in outputs.values()) > 150
    result = collect(truth, outputs, max_dets=max_dets).compute()
    del result["images"]
    assert result == pytest.approx(reference(truth, outputs, max_dets), abs=1e-9)


def test_more_detections_count_with_a_higher_limit() -> None:
    truth, outputs = random_scene(9, images=5, objects=300)
    few, some, many = (collect(truth, outputs, max_dets=limit).compute()["box_ap"] for limit in (3, 100, 300))
    assert few < some < many


def perfect(truth: dict[str, Any]) -> dict[int, Output]:
    """The ground truth as if a detector had found it, crowds left out."""
    outputs = {}
    labels = {category["id"]: label for label, category in enumerate(truth["categories"], 1)}
    for image in truth["images"]:
        own = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"] and not entry["iscrowd"]]
        boxes = torch.tensor([entry["bbox"] for entry in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [torch.tensor(fast_mask.decode(entry["segmentation"])) for entry in own]
        outputs[image["id"]] = {
            "boxes": boxes,
            "labels": torch.tensor([labels[entry["category_id"]] for entry in own], dtype=torch.int64),
            "scores": torch.ones(len(own)),
            "masks": torch.stack(masks)[:, None] if own else torch.zeros(0, 1, image["height"], image["width"]),
        }
    return outputs


def test_perfect_detections_give_100_percent() -> None:
    truth, _ = random_scene(1)
    expected = {f"{kind}_{key}": 100.0 for kind in ("box", "mask") for key in KEYS}
    assert collect(truth, perfect(truth)).compute() == {**expected, "images": 12}


def test_detections_on_a_crowd_are_not_held_against_the_detector() -> None:
    truth, _ = random_scene(1)
    outputs = perfect(truth)
    for entry in truth["annotations"]:
        if entry["iscrowd"]:
            found = outputs[entry["image_id"]]
            left, top, width, height = entry["bbox"]
            extra = torch.tensor([[left, top, left + width, top + height]])
            label = torch.tensor([1 + CATEGORY_IDS.index(entry["category_id"])])
            mask = torch.tensor(fast_mask.decode(entry["segmentation"]))[None, None]
            for key, value in (("boxes", extra), ("labels", label), ("scores", torch.ones(1)), ("masks", mask)):
                found[key] = torch.cat([found[key], value])
    result = collect(truth, outputs).compute()
    assert (result["box_ap"], result["mask_ap"]) == (100.0, 100.0)


def test_the_ids_of_annotations_do_not_matter() -> None:
    truth, outputs = random_scene(2)
    expected = collect(truth, outputs).compute()
    for place, entry in enumerate(truth["annotations"]):
        entry["id"] = place
    assert collect(truth, outputs).compute() == expected


def test_computing_changes_nothing() -> None:
    truth, outputs = random_scene(3)
    original = copy.deepcopy(truth)
    metrics = collect(truth, outputs)
    collected = copy.deepcopy(metrics.predictions())
    assert metrics.compute() == metrics.compute()
    assert truth == original
    assert metrics.predictions() == collected


def test_processes_merge_what_they_collected() -> None:
    truth, outputs = random_scene(4)
    whole = collect(truth, outputs)
    merged = CocoMetrics(truth)
    for rank in (2, 0, 1):
        part = collect(truth, {image: outputs[image] for image in list(outputs)[rank::3]})
        merged.extend(json.loads(json.dumps(part.predictions())))
    assert merged.compute() == whole.compute()
    assert sorted(entry["image_id"] for entry in merged.predictions()) == list(outputs)


def test_an_image_is_counted_once() -> None:
    truth, outputs = random_scene(4)
    metrics = collect(truth, outputs)
    message = "image 100 has detections already; each image is counted once"
    with pytest.raises(ValueError, match=message):
        metrics.extend(metrics.predictions())
    with pytest.raises(ValueError, match=message):
        metrics.add([outputs[100]], [100])
    assert metrics.compute() == collect(truth, outputs).compute()


def test_nothing_collected_is_nothing_found() -> None:
    truth, outputs = random_scene(5)
    nothing = {f"{kind}_{key}": 0.0 for kind in ("box", "mask") for key in KEYS}
    assert CocoMetrics(truth).compute() == {**nothing, "images": 0}
    empty = collect(truth, {image: output([], [], np.zeros(0)) for image in outputs})
    assert empty.compute() == {**nothing, "images": 12}
    assert empty.predictions()[0] == {"image_id": 100, "boxes": [], "labels": [], "scores": [], "masks": []}


@pytest.mark.parametrize("crowds", [False, True])
def test_a_ground_truth_without_objects_gives_0_percent(crowds: bool) -> None:
    truth, outputs = random_scene(5)
    truth["annotations"] = [{**entry, "iscrowd": 1} for entry in truth["annotations"]] if crowds else []
    result = collect(truth, outputs).compute()
    assert result.pop("images") == 12
    assert set(result.values()) == {0.0}


def test_images_that_were_not_collected_count_as_missed() -> None:
    truth, _ = random_scene(6)
    outputs = perfect(truth)
    half = collect(truth, {image: outputs[image] for image in list(outputs)[::2]}).compute()
    assert half["images"] == 6
    assert 0 < half["box_ap"] < 100


def test_a_detector_without_masks_is_measured_by_its_boxes() -> None:
    truth, outputs = random_scene(7)
    expected = collect(truth, outputs).compute()
    plain = {image: {key: found[key] for key in ("boxes", "labels", "scores")} for image, found in outputs.items()}
    result = collect(truth, plain).compute()
    assert result == {key: value for key, value in expected.items() if not key.startswith("mask")}
    for entry in truth["annotations"]:
        del entry["segmentation"]
    assert collect(truth, outputs).compute() == result


def test_detections_are_kept_compact() -> None:
    truth, outputs = random_scene(8)
    dense = sum(found["masks"].numel() for found in outputs.values())
    assert len(json.dumps(collect(truth, outputs).predictions())) < dense / 5


def test_labels_without_a_category_are_refused() -> None:
    truth, outputs = random_scene(0)
    outputs[100]["labels"][0] = 4
    with pytest.raises(DataError, match=r"labels must be 1 to 3, one for each category of the data, got 1 to 4"):
        collect(truth, outputs)


@pytest.mark.parametrize("key", ["boxes", "scores"])
def test_values_that_are_not_finite_are_refused(key: str) -> None:
    truth, outputs = random_scene(0)
    outputs[100][key].view(-1)[0] = float("nan")
    with pytest.raises(DataError, match="the boxes and scores found on image 100 must be finite"):
        collect(truth, outputs)


def test_wrong_use_is_refused() -> None:
    truth, outputs = random_scene(0)
    found = outputs[100]
    metrics = CocoMetrics(truth)
    with pytest.raises(ValueError, match="max_dets must be at least 1, got 0"):
        CocoMetrics(truth, max_dets=0)
    with pytest.raises(ValueError, match="the ground truth has no image 7"):
        metrics.add([found], [7])
    with pytest.raises(ValueError, match="the ground truth has no image 7"):
        metrics.extend([{"image_id": 7, "boxes": [], "labels": [], "scores": []}])
    with pytest.raises(ValueError, match=r"the masks of image 100 must be \(\d+, 1, 40, 40\), got \(\d+, 1, 20, 40\)"):
        metrics.add([{**found, "masks": found["masks"][:, :, ::2]}], [100])
    metrics.add([found], [100])
    without = {key: outputs[104][key] for key in ("boxes", "labels", "scores")}
    with pytest.raises(ValueError, match="image 104 and image 100 must both have masks or both not"):
        metrics.add([without], [104])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, outputs = random_scene(0)
    metrics = collect(truth, outputs)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependencyError, match=r"needs faster-coco-eval: install it with  pip install"):
        metrics.compute()


def test_real_ground_truth_taken_as_found_gives_100_percent(data_root: Path) -> None:
    data = load_coco(DataConfig.model_construct(name="coco", path=str(data_root / "nuclei"))).test
    metrics = CocoMetrics(data.ground_truth(), max_dets=300)
    for index in range(len(data)):
        _, target = data[index]
        found = {**target, "scores": torch.ones(len(target["labels"])), "masks": target["masks"][:, None]}
        metrics.add([found], [int(target["image_id"])])
    expected = {f"{kind}_{key}": 100.0 for kind in ("box", "mask") for key in KEYS}
    assert metrics.compute() == {**expected, "images": 65}
