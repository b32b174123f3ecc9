"""Soft targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from digits_runs import digits_recipe
from safetensors.torch import save_file
from torch.nn import functional as F

from sterna.config import DistillationConfig
from sterna.errors import ConfigError
from sterna.models import build_model
from sterna.tasks.distillation import Teacher, distillation_loss, feature_distance, make_teacher

CPU = torch.device("cpu")


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_the_loss_is_the_divergence_times_the_squared_temperature() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    p, q = softmax(teacher / 3.0), softmax(student / 3.0)
    expected = 9.0 * (p * np.log(p / q)).sum(1).mean()
    loss = distillation_loss(torch.from_numpy(student).float(), torch.from_numpy(teacher).float(), 3.0)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_equal_logits_is_zero_and_so_is_its_gradient() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = distillation_loss(logits, logits.detach(), 4.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


def test_bfloat16_logits_are_compared_in_float32() -> None:
    student, teacher = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = distillation_loss(student, teacher, 2.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, distillation_loss(student.float(), teacher.float(), 2.0))


def test_hard_and_soft_loss_are_mixed_by_weight() -> None:
    torch.manual_seed(0)
    network, images = build_model("digits_cnn"), torch.randn(6, 1, 8, 8)
    teacher = Teacher(network, DistillationConfig(weight=0.25, temperature=2.0), "float32", CPU)
    logits, labels = torch.randn(6, 10), torch.arange(6)
    hard = F.cross_entropy(logits, labels)
    mixed = teacher.loss(hard, logits, teacher.teach(images), {})
    expected = 0.75 * hard + 0.25 * distillation_loss(logits, network(images), 2.0)
    torch.testing.assert_close(mixed, expected)


def test_a_teacher_is_never_trained() -> None:
    network = build_model("digits_cnn")
    Teacher(network, DistillationConfig(), "bfloat16", CPU)
    assert not network.training
    assert all(not p.requires_grad and p.dtype == torch.bfloat16 for p in network.parameters())


def test_another_number_of_classes_is_refused() -> None:
    teacher = Teacher(build_model("digits_cnn", {"num_classes": 7}), DistillationConfig(), "float32", CPU)
    with pytest.raises(ConfigError, match="has 7 outputs, the model has 10"):
        teacher.loss(torch.zeros(()), torch.zeros(2, 10), teacher.teach(torch.zeros(2, 1, 8, 8)), {})


def test_the_uncompressed_model_is_the_default_teacher(tmp_path: Path) -> None:
    model = build_model("digits_cnn")
    recipe = digits_recipe(model={"weights": "somewhere.safetensors"}, distillation={"weight": 1.0})
    teacher = make_teacher(recipe, model, CPU)
    assert teacher is not None
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        own = model.eval()(images)
        for parameter in model.parameters():
            parameter.zero_()  # the teacher is a copy
    assert float(teacher.loss(torch.zeros(()), own, teacher.teach(images), {})) == pytest.approx(0.0, abs=1e-5)


def test_another_model_may_teach(tmp_path: Path) -> None:
    torch.manual_seed(3)
    other = build_model("digits_cnn")
    save_file(other.state_dict(), tmp_path / "teacher.safetensors")
    config = {"name": "digits_cnn", "weights": str(tmp_path / "teacher.safetensors")}
    teacher = make_teacher(
        digits_recipe(distillation={"weight": 1.0, "teacher": config}), build_model("digits_cnn"), CPU
    )
    assert teacher is not None
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        loss = teacher.loss(torch.zeros(()), other.eval()(images), teacher.teach(images), {})
    assert float(loss) == pytest.approx(0.0, abs=1e-5)


def test_no_teacher_where_the_recipe_has_none() -> None:
    assert make_teacher(digits_recipe(), build_model("digits_cnn"), CPU) is None
    assert make_teacher(digits_recipe(distillation={"weight": 0.0}), build_model("digits_cnn"), CPU) is None


@pytest.mark.parametrize(
    ("distillation", "key"),
    [({}, "model.weights"), ({"teacher": {"name": "digits_cnn"}}, "distillation.teacher.weights")],
)
def test_an_untrained_teacher_is_refused(distillation: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        make_teacher(digits_recipe(distillation=distillation), build_model("digits_cnn"), CPU)


def test_features_of_one_module_far_away_cost_their_relative_distance() -> None:
    target = {"a": torch.full((2, 3), 2.0), "b": torch.ones(4)}
    student = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    assert float(feature_distance(student, target)) == pytest.approx(0.5)
    assert float(feature_distance(target, target)) == 0.0


def test_features_are_watched_by_pattern_and_only_for_a_while() -> None:
    config = DistillationConfig(weight=1.0, temperature=1.0, features=("conv?",), feature_weight=4.0)
    torch.manual_seed(0)
    student, teacher = build_model("digits_cnn"), build_model("digits_cnn")
    teacher.load_state_dict(student.state_dict())
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    student.eval()
    watcher = Teacher(teacher, config, "float32", CPU)
    lesson = watcher.teach(images)
    with watcher.watching(student, lesson) as features:
        logits = student(images)
    assert set(features) == set(lesson.inputs) == {"conv1", "conv2", "conv3"}
    nothing = logits.new_zeros(())
    assert float(watcher.loss(nothing, logits, lesson, features).detach()) == pytest.approx(0.0, abs=1e-5)
    student(images[:1])
    assert features["conv1"].shape[0] == 3
    doubled = {**features, "conv3": 2.0 * features["conv3"]}
    assert float(watcher.loss(nothing, logits, lesson, doubled).detach()) == pytest.approx(4.0 / 3.0, rel=1e-4)


def test_modules_that_learn_alone_have_only_their_own_errors_and_gradients() -> None:
    config = DistillationConfig(weight=1.0, temperature=1.0, features=("conv2", "conv3"), local_epochs=2)
    torch.manual_seed(0)
    student, teacher = build_model("digits_cnn").eval(), build_model("digits_cnn")
    teacher.load_state_dict(student.state_dict())
    with torch.no_grad():
        student.conv1.weight.mul_(-1.0)  # an error before both modules
        student.conv3.weight.mul_(2.0)  # an error in the last one
    watcher = Teacher(teacher, config, "float32", CPU)
    watcher.begin_epoch(1)
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    lesson = watcher.teach(images)
    with watcher.watching(student, lesson) as features:
        student(images)
    torch.testing.assert_close(features["conv2"], lesson.outputs["conv2"])
    torch.testing.assert_close(features["conv3"], 2.0 * lesson.outputs["conv3"])
    feature_distance(features, lesson.outputs).backward()
    assert student.conv1.weight.grad is None
    assert student.conv3.weight.grad.abs().max() > 0.0
    watcher.begin_epoch(2)
    with watcher.watching(student, lesson) as features:
        student(images)
    assert not torch.allclose(features["conv2"], lesson.outputs["conv2"])


def test_learning_alone_needs_modules() -> None:
    with pytest.raises(ValueError, match="local_epochs needs features"):
        DistillationConfig(local_epochs=1)


def test_features_that_do_not_exist_or_fit_are_refused() -> None:
    config = DistillationConfig(features=("layer9",))
    watcher = Teacher(build_model("digits_cnn"), config, "float32", CPU)
    with pytest.raises(ConfigError, match="pattern 'layer9' matches no module"):
        watcher.teach(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ConfigError, match=r"features of 'a' have shape \(1,\) in the model and \(2,\)"):
        feature_distance({"a": torch.ones(1)}, {"a": torch.ones(2)})
