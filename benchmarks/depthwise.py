"""What the depthwise convolutions of MobileNetV2 lose and weigh in float16, in int8 and as trits, without any training.

Everything else stays in float32. Accuracy is that of the images of imagenet-mini/val; bytes are those of the depthwise
weights and their scales in a file.

    python benchmarks/depthwise.py --threads 2
"""

from __future__ import annotations

import argparse
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from sterna.config import DataConfig, TernaryConfig
from sterna.container import encode
from sterna.conversion import convert
from sterna.data import load_data
from sterna.loading import fill
from sterna.models import build_model, load_weights
from sterna.preparation import is_depthwise, prepare, set_phase, update_masks
from sterna.tasks.classification import evaluate
from sterna.ternary_model import Tensor, TernaryModel

MODEL = "torchvision:mobilenet_v2"
WEIGHTS = "weights/mobilenet_v2_imagenet.safetensors"


def stored_depthwise(model: nn.Module, kind: str) -> dict[str, Tensor]:
    """The depthwise weights as a file of this kind holds them."""
    names = [name for name, layer in model.named_modules() if is_depthwise(layer)]
    # One more layer is ternary, because there is no file without trits.
    include = (*names, "classifier.1") if kind == "ternary" else ("classifier.1",)
    config = TernaryConfig(sparsity=0.5, include=include, depthwise=kind if kind != "float16" else "float")
    prepared = prepare(deepcopy(model), config)
    update_masks(prepared, 0.5)
    set_phase(prepared, "ternary")
    tensors = convert(prepared).tensors
    norms = {f"{name.rsplit('.', 1)[0]}.{int(name.rsplit('.', 1)[1]) + 1}" for name in names}
    owners = {*names, *(norms if kind == "ternary" else ())}  # the scales of trits are in the batch norms
    return {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] in owners}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_data(DataConfig(name="image-folder", path="imagenet-mini", mean=(0.5,) * 3, std=(0.5,) * 3)).test
    model = build_model(MODEL).eval()
    load_weights(model, WEIGHTS)
    plain = prepare(deepcopy(model), TernaryConfig(include=("classifier.1",), depthwise="float"))
    set_phase(plain, "ternary")
    rest = convert(plain, float_dtype="float32").tensors
    classifier = {"classifier.1.weight": model.classifier[1].weight.detach().numpy()}  # type: ignore[union-attr,index]
    print(f"| depthwise | top-1, {len(data):,} images | bytes |\n|---|--:|--:|")
    for kind in ("float32", "float16", "int8", "ternary"):
        own = stored_depthwise(model, kind) if kind != "float32" else {}
        network = fill(build_model(MODEL), TernaryModel({**rest, **classifier, **own}, {}))
        weights = {
            name: tensor for name, tensor in own.items() if not isinstance(tensor, np.ndarray) or tensor.ndim > 1
        }
        size = len(encode(TernaryModel(weights, {}))) if weights else 4 * 64_224
        print(f"| {kind} | {evaluate(network, data, batch_size=50)['top1']:.2f} % | {size:,} |", flush=True)


if __name__ == "__main__":
    main()
