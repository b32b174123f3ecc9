"""The packages that Sterna uses, by the name they are imported under, and the extra that brings each."""

EXTRAS = {
    "typer": "cli",
    "rich": "cli",
    "accelerate": "train",
    "PIL": "train",
    "pydantic": "train",
    "yaml": "train",
    "safetensors": "train",
    "torch": "train",
    "torchmetrics": "train",
    "torchvision": "train",
    "faster_coco_eval": "detection",
    "sklearn": "demo",
    "onnx": "export",
    "onnxruntime": "benchmark",
    "openvino": "benchmark",
    "nncf": "benchmark",
}

DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "faster_coco_eval": "faster-coco-eval", "sklearn": "scikit-learn"}
"""Names to install by, where they differ."""
