"""Run by test_distributed.py in each process of a group: train, and write what each step left behind.

Usage: ``distributed_worker.py RECIPE.yaml RUN_DIR [resume | die=RANK:STEP]``; writes ``RUN_DIR/rank-N.json``
and, at the very end, ``RUN_DIR/rank-N-ended.json``.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sterna.data import Batch
from sterna.data.pixels import PixelDataset
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
    recipe_path, run_dir, option = sys.argv[1], Path(sys.argv[2]), (*sys.argv[3:], "")[0]
    doomed = tuple(map(int, option.removeprefix("die=").split(":"))) if option.startswith("die=") else None
    steps: list[dict[str, str]] = []
    seen: dict[int, list[int]] = {}
    original = TrainingLoop._train_step

    def recording_step(self: TrainingLoop, *arguments: Any) -> None:
        if (int(os.environ["RANK"]), self.step) == doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, *arguments)
        latents = {name: weight.data for name, weight in latent_weights(self._network).items()}
        signs = layer_signs(self._network)
        masks = {name: sign != 0 for name, sign in signs.items()}
        steps.append({"latents": digest(latents), "masks": digest(masks), "signs": digest(signs)})

    read = PixelDataset.__getitems__

    def recording_read(self: PixelDataset, indices: Sequence[int]) -> Batch:
        if self._augmentation is not None or len(self) > 1000:  # the training split
            seen.setdefault(self.epoch, []).extend(map(int, indices))
        return read(self, indices)

    PixelDataset.__getitems__ = recording_read  # type: ignore[method-assign]
    TrainingLoop._train_step = recording_step  # type: ignore[method-assign]
    torch.set_num_threads(1)
    # What is registered first runs last.
    ended = run_dir / f"rank-{os.environ['RANK']}-ended.json"
    atexit.register(lambda: ended.write_text(json.dumps({"in_group": torch.distributed.is_initialized()})))
    recipe = load_recipe(recipe_path)
    result = compress(recipe, run_dir, resume=option == "resume", progress=False, log_interval=1)
    content = {"steps": steps, "seen": seen, "metric": result.metrics[result.metric], "path": str(result.path)}
    (run_dir / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
