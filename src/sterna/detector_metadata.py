"""What a file says of a detector beside its graphs, so that boxes can be found without PyTorch.

A graph holds the networks of a detector. How pictures are scaled for them, and how boxes follow from what they answer,
are a few numbers: ``metadata["detector"]``, told by docs/format.md.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def describe_detector(model: nn.Module) -> dict[str, Any] | None:
    """The value of ``metadata["detector"]``.

    Args:
        model: a detector of torchvision.

    Returns:
        JSON values for a ``RetinaNet`` whose pictures are scaled by their sides; nothing for other models.
    """
    from torchvision.models.detection import RetinaNet

    if not isinstance(model, RetinaNet) or model.transform.fixed_size is not None:
        return None
    detector: Any = model
    transform, boxes = detector.transform, detector.box_coder
    return {
        "kind": "retinanet",
        "min_size": transform.min_size[-1],
        "max_size": transform.max_size,
        "size_divisible": transform.size_divisible,
        "image_mean": list(transform.image_mean),
        "image_std": list(transform.image_std),
        "anchors": [level.tolist() for level in detector.anchor_generator.cell_anchors],
        "box_weights": list(boxes.weights),
        "box_clip": boxes.bbox_xform_clip,
        "score_thresh": detector.score_thresh,
        "nms_thresh": detector.nms_thresh,
        "topk_candidates": detector.topk_candidates,
        "detections_per_img": detector.detections_per_img,
    }
