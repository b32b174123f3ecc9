"""Average precision of boxes and masks, as COCO defines it.

References:
    Lin et al.: Microsoft COCO: common objects in context, arXiv 1405.0312; https://cocodataset.org/#detection-eval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sterna.data.coco_file import mask_api
from sterna.errors import DataError, MissingDependencyError

MASK_THRESHOLD = 0.5
DEFAULT_MAX_DETS = 100

# At which intersection over union the third axis of the result is read.
_THRESHOLDS = {"ap": slice(None), "ap50": slice(0, 1), "ap75": slice(5, 6)}
_ALL_AREAS = (0.0, 1e10)


class CocoMetrics:
    """Collects what a detector finds, image by image, and compares it with the ground truth.

    Average precision (AP) is the mean of the precision at the recalls 0, 0.01, ..., 1, over all categories that have an
    object and over the intersections over union (IoU) 0.50, 0.55, ..., 0.95 that make a detection right.

    Masks are kept as run-length codes. Several processes can share the images: each collects its part, they exchange
    :meth:`predictions`, and one takes them back by :meth:`extend`. The order of the images does not matter.

    Args:
        ground_truth: in COCO's format, from :meth:`sterna.data.coco.CocoDataset.ground_truth`; it is not changed.
            A label ``i`` means its category with the ``i``-th lowest id.
        max_dets: detections of one category on one image that count, those of the highest scores; COCO takes 100,
            crowded scenes need more.

    Raises:
        ValueError: ``max_dets`` is below 1.
    """

    def __init__(self, ground_truth: Mapping[str, Any], *, max_dets: int = DEFAULT_MAX_DETS) -> None:
        if max_dets < 1:
            raise ValueError(f"max_dets must be at least 1, got {max_dets}")
        self._ground_truth = ground_truth
        self._max_dets = max_dets
        self._sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
        self._category_ids = sorted(category["id"] for category in ground_truth["categories"])
        self._truth_has_masks = all("segmentation" in annotation for annotation in ground_truth["annotations"])
        self._predictions: dict[int, Mapping[str, Any]] = {}

    def add(self, outputs: Sequence[Mapping[str, Tensor]], image_ids: Sequence[int]) -> None:
        """Take the detections on some images, on any device.

        Args:
            outputs: of torchvision's detectors, for each image: ``boxes`` ``(n, 4)``, left, top, right and bottom in
                pixels; ``labels`` ``(n,)``, from 1 on; ``scores`` ``(n,)``; perhaps ``masks``
                ``(n, 1, height, width)``, whose values above 0.5 belong to the object.
            image_ids: of each image, as the ground truth has them.

        Raises:
            DataError: a label has no category, or a value is not finite.
            ValueError: the ground truth has no such image, the image has detections already, its masks are of another
                size, or only some images have ``masks``.
        """
        for output, image_id in zip(outputs, image_ids, strict=True):
            size = self._sizes.get(image_id)
            if size is None:
                raise ValueError(f"the ground truth has no image {image_id}")
            boxes, scores = (output[key].detach().double().cpu() for key in ("boxes", "scores"))
            if not bool(boxes.isfinite().all() and scores.isfinite().all()):
                raise DataError(f"the boxes and scores found on image {image_id} must be finite")
            prediction: dict[str, Any] = {
                "image_id": image_id,
                "boxes": torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist(),
                "labels": output["labels"].tolist(),
                "scores": scores.tolist(),
            }
            if "masks" in output:
                if tuple(output["masks"].shape) != (len(boxes), 1, *size):
                    raise ValueError(
                        f"the masks of image {image_id} must be {(len(boxes), 1, *size)}, "
                        f"got {tuple(output['masks'].shape)}"
                    )
                prediction["masks"] = _encode_masks(output["masks"][:, 0])
            self._take(prediction)

    def predictions(self) -> list[dict[str, Any]]:
        """All that was collected, an entry for each image, of values that JSON and pickle can hold.

        Returns:
            ``image_id``; ``boxes``, left, top, width and height in pixels; ``labels``; ``scores``; and, where the
            detector gives them, ``masks``, compressed run-length codes.
        """
        return [dict(prediction) for prediction in self._predictions.values()]

    def extend(self, predictions: Iterable[Mapping[str, Any]]) -> None:
        """Take what :meth:`predictions` of another process gave.

        Raises:
            DataError: a label has no category.
            ValueError: the ground truth has no such image, the image has detections already, or only some images have
                ``masks``.
        """
        for prediction in predictions:
            self._take(prediction)

    def compute(self) -> dict[str, float]:
        """The average precisions of all images of the ground truth; nothing is found where nothing was collected.

        Returns:
            ``box_ap``, the mean over all IoU; ``box_ap50`` and ``box_ap75``, at the IoU 0.50 and 0.75; ``mask_ap``,
            ``mask_ap50`` and ``mask_ap75``, where ground truth and detections have masks; all in percent, and 0.0 where
            the ground truth is without objects (COCO says -1). ``images`` is the number of images collected.

        Raises:
            MissingDependencyError: faster-coco-eval is not installed.
        """
        results = {f"box_{key}": value for key, value in self._average_precisions("bbox").items()}
        if self._truth_has_masks and all("masks" in prediction for prediction in self._predictions.values()):
            results |= {f"mask_{key}": value for key, value in self._average_precisions("segm").items()}
        return {**results, "images": len(self._predictions)}

    def _take(self, prediction: Mapping[str, Any]) -> None:
        image_id, labels = prediction["image_id"], prediction["labels"]
        if image_id not in self._sizes:
            raise ValueError(f"the ground truth has no image {image_id}")
        if image_id in self._predictions:
            raise ValueError(f"image {image_id} has detections already; each image is counted once")
        first = next(iter(self._predictions.values()), prediction)
        if ("masks" in first) != ("masks" in prediction):
            raise ValueError(f"image {image_id} and image {first['image_id']} must both have masks or both not")
        if labels and not 1 <= min(labels) <= max(labels) <= len(self._category_ids):
            raise DataError(
                f"labels must be 1 to {len(self._category_ids)}, one for each category of the data, "
                f"got {min(labels)} to {max(labels)}"
            )
        self._predictions[image_id] = prediction

    def _average_precisions(self, kind: Literal["bbox", "segm"]) -> dict[str, float]:
        try:
            from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "average precision needs faster-coco-eval: install it with  pip install 'sterna[detection]'"
            ) from error
        # Copies, because the evaluation writes into both; new ids, because it takes 0 for no match.
        annotations = [
            {**annotation, "id": place} for place, annotation in enumerate(self._ground_truth["annotations"], 1)
        ]
        if not annotations:
            return dict.fromkeys(_THRESHOLDS, 0.0)
        truth = COCO({**self._ground_truth, "annotations": annotations})
        evaluation = COCOeval_faster(truth, truth.loadRes(self._detections(kind)), kind)
        evaluation.params.maxDets = [self._max_dets]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [_ALL_AREAS], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
        # (IoU, recalls, categories, areas, max_dets); -1 where a category has no object.
        precision = np.asarray(evaluation.eval["precision"])[..., 0, -1]
        chosen = {key: precision[threshold] for key, threshold in _THRESHOLDS.items()}
        return {
            key: 100.0 * float(values[values > -1].mean()) if (values > -1).any() else 0.0
            for key, values in chosen.items()
        }

    def _detections(self, kind: Literal["bbox", "segm"]) -> list[dict[str, Any]]:
        """COCO's results, ordered by the ground truth, so that ties do not depend on who collected what."""
        detections = []
        for image_id, size in self._sizes.items():
            prediction = self._predictions.get(image_id)
            if prediction is None:
                continue
            outlines = prediction["boxes" if kind == "bbox" else "masks"]
            for outline, label, score in zip(outlines, prediction["labels"], prediction["scores"], strict=True):
                detection = {"image_id": image_id, "category_id": self._category_ids[label - 1], "score": score}
                if kind == "bbox":
                    detection["bbox"] = outline
                else:
                    detection["segmentation"] = {"size": list(size), "counts": outline}
                detections.append(detection)
        return detections


def _encode_masks(masks: Tensor) -> list[str]:
    """Compressed run-length codes of ``(n, height, width)``."""
    api = mask_api()
    # The code runs down the columns.
    inside = (np.asfortranarray(mask, np.uint8) for mask in (masks > MASK_THRESHOLD).cpu().numpy())
    return [api.encode(mask)["counts"].decode("ascii") for mask in inside]
