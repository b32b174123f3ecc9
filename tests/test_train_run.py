"""A whole run on the digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_runs import STEPS_PER_EPOCH, digits_recipe, epoch_lines, read_lines, sha256, step_lines
from safetensors.torch import save_file
from torch import nn

from sterna.capturing import capture
from sterna.config import Recipe
from sterna.container import read
from sterna.data import load_data
from sterna.errors import ConfigError, DataError, SternaError
from sterna.loading import load
from sterna.models import build_model
from sterna.preparation import layer_signs, ternary_layers
from sterna.reference.graph_runner import run_graph
from sterna.tasks.classification import evaluate
from sterna.train import recorder
from sterna.train.checkpoint import load_checkpoint
from sterna.train.loop import TrainingLoop
from sterna.train.recipe import dump_recipe, load_recipe
from sterna.train.run import CompressResult, compress

RECIPE = digits_recipe(
    data={"validation_size": 200},
    train={"epochs": 6, "label_smoothing": 0.05},
    schedule={"dense_epochs": 2.0},
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> CompressResult:
    """The result of one complete run."""
    return compress(RECIPE, tmp_path_factory.mktemp("runs") / "finished", progress=False)


def test_the_folder_holds_what_the_interface_promises(finished: CompressResult) -> None:
    run_dir = finished.path.parent
    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        "recipe.yaml", "metrics.jsonl", "result.json", "checkpoint", "digits.sterna", "digits.best.sterna"
    }  # fmt: skip
    assert load_recipe(run_dir / "recipe.yaml") == RECIPE
    result = json.loads((run_dir / "result.json").read_text())
    assert result["path"] == "digits.sterna"
    assert result["metrics"] == finished.metrics
    assert finished.steps == 6 * (1097 // 64)
    assert finished.file_bytes == finished.path.stat().st_size


def test_it_learns(finished: CompressResult) -> None:
    assert finished.metrics["top1"] > 70.0
    assert finished.baseline_metrics["top1"] > 70.0
    assert finished.sparsity == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("kept", ["path", "best_path"])
def test_the_accuracy_in_a_file_is_the_accuracy_of_the_file(finished: CompressResult, kept: str) -> None:
    path = getattr(finished, kept)
    metrics = read(path).metadata["metrics"]
    test = load_data(RECIPE.data, RECIPE.seed).test
    measured = evaluate(load(path), test)
    assert metrics == {"top1": measured["top1"], "top5": measured["top5"], "images": 500, "split": "test"}
    assert {"path": finished.metrics, "best_path": finished.best_metrics}[kept]["top1"] == measured["top1"]


def test_a_file_says_where_it_comes_from(finished: CompressResult) -> None:
    metadata = read(finished.path).metadata
    assert metadata["model"] == {"name": "digits_cnn", "arguments": {}}
    assert metadata["task"] == "classification"
    assert metadata["labels"] == [str(digit) for digit in range(10)]
    assert metadata["recipe"] == RECIPE.model_dump(mode="json")
    assert metadata["source_sha256"] is None
    assert metadata["preprocessing"]["input_shape"] == [1, 8, 8]


@pytest.mark.parametrize("kept", ["path", "best_path"])
def test_a_file_holds_the_graph_of_its_network(finished: CompressResult, kept: str) -> None:
    stored = read(getattr(finished, kept))
    (graph,) = stored.graphs
    assert graph == capture(load(finished.path), (1, 8, 8))
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        expected = load(getattr(finished, kept))(images).numpy()
    np.testing.assert_allclose(run_graph(graph, stored, {"input": images.numpy()})["output"], expected, atol=1e-4)
    assert finished.graph_problem is None


def test_a_network_that_cannot_be_captured_gives_a_file_without_a_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SternaError("aten.gelu at 'act'")

    monkeypatch.setattr(recorder, "capture", refuse)
    result = compress(digits_recipe(), tmp_path / "run", progress=False)
    assert read(result.path).graphs == ()
    assert result.graph_problem == "aten.gelu at 'act'"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["graph_problem"] == "aten.gelu at 'act'"


def test_the_log_has_a_line_for_each_epoch_and_each_interval(finished: CompressResult) -> None:
    run_dir = finished.path.parent
    epochs, steps = epoch_lines(run_dir), step_lines(run_dir)
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in steps] == [50, 100]
    assert [line["phase"] for line in epochs] == ["dense", "dense", "ternary", "ternary", "ternary", "ternary"]
    last = epochs[-1]
    assert last["loss"] < epochs[0]["loss"]
    assert last["expected_bytes"] < finished.file_bytes * 1.5
    assert [layer["name"] for layer in last["layers"]] == ["conv2", "conv3", "linear"]
    assert last["layers"][0].keys() >= {"sparsity", "cosine", "sign_flips", "entropy_bits_per_weight"}
    assert any(layer["trit_changes"] > 0 for line in epochs for layer in line["layers"])
    assert all(line["validation"]["images"] == 200 for line in epochs)


def test_the_best_model_is_ternary_and_past_the_ramp(finished: CompressResult) -> None:
    checkpoint = load_checkpoint(finished.path.parent)
    eligible = [line["validation"]["top1"] for line in epoch_lines(finished.path.parent)[3:]]
    assert checkpoint.best is not None
    assert checkpoint.best["top1"] == max(eligible)
    assert read(finished.best_path).sparsity == pytest.approx(0.7, abs=0.02)


def test_equal_recipes_give_equal_bytes(tmp_path: Path) -> None:
    recipe = digits_recipe(train={"epochs": 2})
    first = compress(recipe, tmp_path / "first", progress=False)
    second = compress(recipe, tmp_path / "second", progress=False, log_interval=1)
    assert sha256(first.path) == sha256(second.path)
    other = compress(recipe.model_copy(update={"seed": 1}), tmp_path / "other", progress=False)
    assert sha256(first.path) != sha256(other.path)


def test_the_caller_keeps_the_thread_count(finished: CompressResult, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    compress(digits_recipe(train={"epochs": 2}), tmp_path, progress=False)
    assert torch.get_num_threads() == threads


def test_pretrained_weights_set_the_baseline_and_are_named(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = build_model("digits_cnn")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    recipe = digits_recipe(model={"weights": str(tmp_path / "weights.safetensors")}, train={"epochs": 2})
    result = compress(recipe, tmp_path / "run", progress=False)
    expected = evaluate(model, load_data(recipe.data).test)
    assert result.baseline_metrics == pytest.approx(expected, rel=1e-6)  # another memory format, another last bit
    assert read(result.path).metadata["source_sha256"] == sha256(tmp_path / "weights.safetensors")


def test_the_plan_reaches_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float, float]] = []
    original = TrainingLoop._train_step

    def step(self: TrainingLoop, *arguments: Any) -> None:
        original(self, *arguments)
        phases = {layer.current_phase for layer in ternary_layers(self._network).values()}
        assert len(phases) == 1
        signs = torch.cat([sign.flatten() for sign in layer_signs(self._network).values()])
        seen.append((phases.pop(), float((signs == 0).float().mean()), self._optimizer.param_groups[0]["lr"]))

    monkeypatch.setattr(TrainingLoop, "_train_step", step)
    compress(digits_recipe(train={"batch_norm_batches": 0}), tmp_path, progress=False)
    assert [phase for phase, *_ in seen] == ["dense"] * 10 + ["pruned"] * 10 + ["ternary"] * 40
    assert seen[10][1] == pytest.approx(0.3, abs=0.02)
    assert seen[30][1] == pytest.approx(0.7, abs=0.02)
    assert max(rate for *_, rate in seen) == 0.05
    assert seen[-1][2] < 1e-4


def test_a_moving_average_is_what_is_evaluated_and_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[TrainingLoop] = []
    original = TrainingLoop.finish

    def finish(self: TrainingLoop) -> dict[str, float]:
        loops.append(self)
        return original(self)

    monkeypatch.setattr(TrainingLoop, "finish", finish)
    result = compress(digits_recipe(train={"ema_decay": 0.95}), tmp_path, progress=False)
    (loop,) = loops
    stored = read(result.path).ternary()
    averaged, latest = layer_signs(loop.result), layer_signs(loop._network)
    for name, signs in averaged.items():
        assert (stored[f"{name}.weight"].trits == signs.numpy()).all()
    assert any(not torch.equal(averaged[name], latest[name]) for name in averaged)
    assert {layer.current_phase for layer in ternary_layers(loop.result).values()} == {"ternary"}


def test_frozen_batch_norms_keep_their_statistics(tmp_path: Path) -> None:
    recipe = digits_recipe(train={"epochs": 2, "freeze_batch_norm": True, "batch_norm_batches": 0})
    compress(recipe, tmp_path, progress=False)
    model = load_checkpoint(tmp_path).model
    assert torch.equal(model["bn2.running_mean"], torch.zeros(64))
    assert not torch.equal(model["bn2.weight"], torch.ones(64))


def test_divergence_is_one_line_and_leaves_a_sound_checkpoint(tmp_path: Path) -> None:
    recipe = digits_recipe(optimizer={"learning_rate": 1e18, "warmup_epochs": 0.0})
    with pytest.raises(
        SternaError, match=r"^training diverged: the loss is (nan|inf) .* lower optimizer.learning_rate"
    ):
        compress(recipe, tmp_path, progress=False)
    checkpoint = load_checkpoint(tmp_path)
    assert all(value.isfinite().all() for value in checkpoint.model.values())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"arguments": {"num_classes": 7}}}, "at least 10 outputs, one for each label of the data, got"),
        ({"model": {"name": "cifar_resnet20"}}, r"does not take images of shape \(1, 8, 8\)"),
        ({"train": {"batch_size": 2000}}, r"batch_size \(=2000\) must not be larger"),
        ({"ternary": {"include": ["nothing.*"]}}, "matches no convolution or Linear"),
        ({"distillation": {"weight": 0.5}}, "model.weights is missing: distillation needs a trained teacher"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compress(digits_recipe(**sections), tmp_path, progress=False)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.safetensors"):
        compress(digits_recipe(model={"weights": "absent.safetensors"}), tmp_path, progress=False)


def test_a_run_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SternaError, match=r"cannot make the run folder .*: Not a directory"):
        compress(digits_recipe(), tmp_path / "file" / "run", progress=False)


def test_an_int8_pattern_that_matches_nothing_is_refused_before_training(tmp_path: Path) -> None:
    recipe = digits_recipe(storage={"int8": ("nowhere",)})
    with pytest.raises(ConfigError, match=r"storage\.int8: pattern 'nowhere' matches no layer"):
        compress(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_full_disk_at_the_very_end_is_one_line(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "result.json.partial").symlink_to("/dev/full")
    with pytest.raises(SternaError, match=r"^cannot write .*result.json \(after \d+ bytes\): No space left on device$"):
        compress(digits_recipe(train={"epochs": 2}), run_dir, progress=False)
    assert not (run_dir / "result.json").exists()
    assert (
        compress(digits_recipe(train={"epochs": 2}), run_dir, resume=True, progress=False).steps == 2 * STEPS_PER_EPOCH
    )


def test_the_resolved_recipe_in_the_folder_repeats_the_run(finished: CompressResult, tmp_path: Path) -> None:
    recipe = load_recipe(finished.path.parent / "recipe.yaml")
    assert dump_recipe(recipe) == (finished.path.parent / "recipe.yaml").read_text()
    again = compress(recipe, tmp_path / "again", progress=False)
    assert sha256(again.path) == sha256(finished.path)
    assert [line.get("loss") for line in read_lines(tmp_path / "again")] == [
        line.get("loss") for line in read_lines(finished.path.parent)
    ]


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_file_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # a shared one may hold half a library
    result = compress(digits_recipe(train={"epochs": 2, "compile": True}), tmp_path, progress=False)
    assert isinstance(load(result.path), nn.Module)
    assert "_orig_mod" not in "".join(read(result.path).tensors)


def stop_run(recipe: Recipe, run_dir: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is interrupted before a step."""
    step = TrainingLoop._train_step

    def stopping(self: TrainingLoop, batch: Any) -> None:
        if self.step == stop_at:
            raise KeyboardInterrupt
        step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            compress(recipe, run_dir, progress=False)


def test_a_run_in_floating_point_begins_a_ternary_one(tmp_path: Path) -> None:
    recipe = digits_recipe(ternary=None, train={"epochs": 3})
    floats = compress(recipe, tmp_path / "float", progress=False)
    assert floats.path.name == "digits.safetensors"
    assert floats.sparsity == 0.0
    assert floats.metrics["top1"] > 50.0
    assert {line["phase"] for line in read_lines(floats.path.parent)} == {"dense"}
    weights = {"model": {"weights": str(floats.path)}, "schedule": {"dense_epochs": 0.0}}
    ternary = compress(digits_recipe(**weights), tmp_path / "ternary", progress=False)
    assert ternary.baseline_metrics == pytest.approx(floats.metrics)


def test_a_run_in_floating_point_resumes_to_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = digits_recipe(ternary=None, train={"epochs": 2})
    whole = compress(recipe, tmp_path / "whole", progress=False)
    stop_run(recipe, tmp_path / "stopped", STEPS_PER_EPOCH + 5, monkeypatch)
    resumed = compress(recipe, tmp_path / "stopped", resume=True, progress=False)
    assert sha256(resumed.path) == sha256(whole.path)


def test_folded_weights_are_trained_with_statistics_of_their_own(tmp_path: Path) -> None:
    network = build_model("digits_cnn")
    save_file(network.state_dict(), tmp_path / "fresh.safetensors")  # means 0, variances 1: as a folded file has them
    recipe = digits_recipe(model={"weights": str(tmp_path / "fresh.safetensors")}, ternary=None)
    result = compress(recipe, tmp_path / "run", progress=False)
    assert result.metrics["top1"] > 40.0  # 10 by chance


def test_a_target_size_survives_a_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = digits_recipe(ternary={"target_size": "8KB"})
    whole = compress(recipe, tmp_path / "whole", progress=False)
    stop_run(recipe, tmp_path / "stopped", 2 * STEPS_PER_EPOCH + 5, monkeypatch)
    resumed = compress(recipe, tmp_path / "stopped", resume=True, progress=False)
    assert sha256(resumed.path) == sha256(whole.path)


def test_validation_at_intervals_leaves_out_epochs_but_never_the_last(tmp_path: Path) -> None:
    recipe = digits_recipe(data={"validation_size": 100}, train={"epochs": 3, "validation_interval": 2})
    compress(recipe, tmp_path, progress=False)
    assert [line["validation"] is not None for line in epoch_lines(tmp_path)] == [False, True, True]
