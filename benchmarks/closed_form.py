"""What trits in closed form keep of a trained network, without any training, at several fractions of zeros.

Takes model, data and `reconstruction` of a recipe; trains nothing. Accuracy is that of a network filled with what a
file holds, on the test images or on those held out for validation; bytes are those of the file without its metadata.

    python benchmarks/closed_form.py recipes/imagenet_mini_resnet18.yaml --zeros 0.5 0.7 --threads 2
    python benchmarks/closed_form.py recipes/imagenet_mini_resnet18.yaml --zeros 0.5 \
        --set model.name=torchvision:resnet50 --set model.weights=weights/resnet50_imagenet.safetensors
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from accelerate import Accelerator

from sterna.config import Recipe
from sterna.container import encode
from sterna.conversion import convert
from sterna.loading import fill
from sterna.models import build_model
from sterna.train.precision import with_precision
from sterna.train.recipe import load_recipe
from sterna.train.run import Parts, make_accelerator, prepare_network, reconstruct_network, set_up


def measure(parts: Parts, recipe: Recipe, accelerator: Accelerator, split: str) -> dict[str, Any]:
    """Accuracy and size of the network in closed form, and the seconds that it took."""
    started = time.monotonic()
    prepare_network(parts.network, recipe)
    reconstruct_network(parts, recipe, accelerator, shown=True)
    seconds = time.monotonic() - started
    stored = convert(parts.network, float_dtype=recipe.storage.float_dtype, int8=recipe.storage.int8)
    network = fill(build_model(recipe.model), stored).to(accelerator.device)
    metrics = parts.task.evaluate(network, getattr(parts.data, split), workers=recipe.data.workers)
    zeros = sum(int((tensor.trits == 0).sum()) for tensor in stored.ternary().values())
    weights = sum(tensor.trits.size for tensor in stored.ternary().values())
    return {
        "zeros": zeros / weights,
        "top1": metrics[parts.task.metric],
        "bytes": len(encode(stored, coder=recipe.storage.coder)),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="with a section reconstruction")
    parser.add_argument("--zeros", type=float, nargs="+", required=True, help="fractions of zeros")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| zeros | top-1 | file | seconds |\n|--:|--:|--:|--:|", flush=True)
    for zeros in options.zeros:
        recipe = with_precision(load_recipe(options.recipe, [*options.set, f"ternary.sparsity={zeros}"]))
        if recipe.reconstruction is None:
            parser.error(f"{options.recipe} has no section reconstruction")
        accelerator = make_accelerator(recipe)
        row = measure(set_up(recipe, accelerator), recipe, accelerator, options.split)
        print(
            f"| {100 * row['zeros']:.1f} % | {row['top1']:.2f} % | {row['bytes']:,} B | {row['seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
