"""Run by test_distributed.py in each process of a group: train, and write what each step left behind.

Usage: ``distributed_worker.py RECIPE.yaml RUN_DIR``; writes ``RUN_DIR/rank-N.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from sterna.preparation import latent_weights, layer_signs
from sterna.train.loop import TrainingLoop
from sterna.train.recipe import load_recipe
from sterna.train.run import compress


def digest(tensors: dict[str, torch.Tensor]) -> str:
    state = hashlib.sha256()
    for name, tensor in tensors.items():
        state.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return state.hexdigest()


def main() -> None:
    recipe_path, run_dir = sys.argv[1], Path(sys.argv[2])
    steps: list[dict[str, str]] = []
    original = TrainingLoop._train_step

    def recording_step(self: TrainingLoop, *arguments: Any) -> None:
        original(self, *arguments)
        latents = {name: weight.data for name, weight in latent_weights(self._network).items()}
        signs = layer_signs(self._network)
        masks = {name: sign != 0 for name, sign in signs.items()}
        steps.append({"latents": digest(latents), "masks": digest(masks), "signs": digest(signs)})

    TrainingLoop._train_step = recording_step  # type: ignore[method-assign]
    torch.set_num_threads(1)
    result = compress(load_recipe(recipe_path), run_dir, progress=False, log_interval=1)
    content = {"steps": steps, "top1": result.metrics["top1"], "path": str(result.path)}
    (run_dir / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
