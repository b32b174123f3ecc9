"""Training with and without the loading of data, in turns.

Prints the images a second of ternary training steps on batches that are decoded and augmented as they are needed, of
the same steps on one batch that is ready, and their ratio: 1 means that data cost nothing.

    python benchmarks/data_loading.py --data image-folder:clothing --image-size 128 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from sterna.config import DataConfig, OptimizerConfig, TernaryConfig
from sterna.data import Batch, load_data, make_loader
from sterna.models import build_model
from sterna.preparation import prepare, set_phase, update_masks
from sterna.train.optimizer import make_optimizer

SPARSITY = 0.9


def endless(data: DataConfig, batch_size: int) -> Iterator[Batch]:
    train = load_data(data).train
    epoch = 0
    while True:
        train.set_epoch(epoch)
        yield from make_loader(train, batch_size, shuffle=True, seed=0, drop_last=True, workers=data.workers)
        epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet18")
    parser.add_argument("--data", default="image-folder:clothing", metavar="NAME:PATH")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="in a turn")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name, _, path = options.data.partition(":")
    data = DataConfig.model_validate(
        {"name": name, "path": path, "image_size": options.image_size, "workers": options.workers}
    )
    model = build_model(options.model).to(memory_format=torch.channels_last).train()
    prepare(model, TernaryConfig(sparsity=SPARSITY))
    update_masks(model, SPARSITY)
    set_phase(model, "ternary")
    optimizer = make_optimizer(model, OptimizerConfig(learning_rate=1e-3))
    loaded = endless(data, options.batch_size)
    ready = next(loaded)

    def turn(from_loader: bool) -> float:
        started = time.perf_counter()
        for _ in range(options.steps):
            images, labels = next(loaded) if from_loader else ready
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        return options.steps * options.batch_size / (time.perf_counter() - started)

    for kind in (False, True):
        turn(kind)
    rates: dict[bool, list[float]] = {False: [], True: []}
    for index in range(options.rounds):
        for kind in (False, True) if index % 2 else (True, False):
            rates[kind].append(turn(kind))
    ratio = statistics.median(b / a for a, b in zip(rates[False], rates[True], strict=True))
    sizes = f"{options.image_size} px, batch {options.batch_size}, {options.workers} workers"
    print(f"{options.model}, {options.data}, {sizes}")
    print(f"ready {statistics.median(rates[False]):.1f} images/s, loaded {statistics.median(rates[True]):.1f} images/s")
    print(f"ratio {ratio:.3f} ({min(b / a for a, b in zip(rates[False], rates[True], strict=True)):.3f} at worst)")


if __name__ == "__main__":
    main()
