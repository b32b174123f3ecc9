"""Detectors as a task: they train, become ternary, are stored, loaded and evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detection_data import SMALL_DETECTOR, detection_recipe, write_shapes
from digits_runs import read_lines, sha256
from torch import nn

from sterna.cli import main
from sterna.config import DataConfig, TernaryConfig
from sterna.container import decode, encode, read
from sterna.conversion import convert
from sterna.data import DataSplits, load_data, make_loader
from sterna.errors import ConfigError
from sterna.loading import fill, load
from sterna.models import build_model
from sterna.preparation import prepare, set_phase, update_masks
from sterna.tasks.detection import Detection, FeatureTeacher, levels_of
from sterna.train.batch_norm import freeze_batch_norms
from sterna.train.run import CompressResult, compress

pytest.importorskip("faster_coco_eval", reason="the metric of COCO needs faster-coco-eval")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def data(root: Path) -> DataSplits:
    return load_data(DataConfig(name="coco", path=str(root)))


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> CompressResult:
    return compress(detection_recipe(root), tmp_path_factory.mktemp("runs") / "shapes", progress=False)


def detector(head: str = "maskrcnn", **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(f"{head}_resnet18_fpn", {**SMALL_DETECTOR, **arguments})


def test_a_run_ends_in_a_file_with_its_precision(finished: CompressResult) -> None:
    stored = read(finished.path)
    assert finished.metric == "mask_ap"
    assert set(finished.metrics) >= {"box_ap", "mask_ap", "mask_ap50", "images"}
    assert stored.metadata["task"] == "instance-segmentation"
    assert stored.metadata["labels"] == ["background", "bright", "dark"]
    assert stored.metadata["metrics"]["mask_ap"] == finished.metrics["mask_ap"]
    assert finished.sparsity == pytest.approx(0.6, abs=0.05)


def test_what_is_excluded_and_the_first_convolution_stay_in_floating_point(finished: CompressResult) -> None:
    stored = read(finished.path)
    floats = {name for name, tensor in stored.tensors.items() if name not in stored.ternary() and tensor.ndim >= 2}
    assert floats == {
        "backbone.body.conv1.weight",
        "rpn.head.cls_logits.weight",
        "rpn.head.bbox_pred.weight",
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.box_predictor.bbox_pred.weight",
    }
    # A transposed convolution is ternary like the others.
    assert "roi_heads.mask_predictor.conv5_mask.weight" in stored.ternary()


def test_the_file_alone_gives_the_detector_and_its_precision(finished: CompressResult, data: DataSplits) -> None:
    model = load(finished.path)
    assert Detection(with_masks=True).evaluate(model, data.test) == finished.metrics


def test_the_command_measures_the_same(finished: CompressResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(finished.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["measured"] == finished.metrics
    assert document["equal"] is True
    assert main(["evaluate", str(finished.path)]) == 0
    assert "mask AP" in capsys.readouterr().out


class TestNativeEngine:
    def json(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
        assert main([*map(str, arguments), "--json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    def test_the_precision_is_that_of_pytorch(
        self, finished: CompressResult, capsys: pytest.CaptureFixture[str]
    ) -> None:
        document = self.json(capsys, "evaluate", finished.path, "--engine", "native")
        assert (document["engine"], document["activations"]) == ("native", "float32")
        # Detections of nearly equal scores may change places.
        for key, value in finished.metrics.items():
            assert document["measured"][key] == pytest.approx(value, abs=0.5)

    def test_a_calibrated_file_is_evaluated_in_8_bits(
        self, finished: CompressResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "calibrated.sterna"
        document = self.json(capsys, "calibrate", finished.path, "--out", path, "--images", "2", "--evaluate")
        assert set(document["validation"]) == {"float32", "int8"}
        assert "mask_ap" in document["validation"]["int8"]
        stored = read(path)
        assert all(len(graph.ranges) == graph.value_count for graph in stored.graphs)
        assert stored.metadata["calibration"]["images"] == 2
        document = self.json(capsys, "evaluate", path, "--engine", "native", "--activations", "int8")
        assert document["measured"]["images"] == 3

    def test_what_cannot_be_done_is_said(self, finished: CompressResult, capsys: pytest.CaptureFixture[str]) -> None:
        for options, message in [
            (("--activations", "int8"), "not calibrated for 8-bit activations of graph 'backbone'"),
            (("--against", "torch"), "--against compares classes, this is for instance-segmentation"),
        ]:
            assert main(["evaluate", str(finished.path), "--engine", "native", *options]) == 2
            assert message in capsys.readouterr().err

    def test_pictures_are_run_natively_where_the_file_allows_it(
        self, finished: CompressResult, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("run", finished.path, root / "val", "--threshold", "0.1")
        native = self.json(capsys, *arguments, "--output", tmp_path / "native")
        expected = self.json(capsys, *arguments, "--output", tmp_path / "torch", "--engine", "torch")
        assert (native["engine"], expected["engine"]) == ("native", "torch")
        assert any(image["predictions"] for image in expected["images"])
        for found, wanted in zip(native["images"], expected["images"], strict=True):
            for one, other in zip(found["predictions"], wanted["predictions"], strict=True):
                assert one["label"] == other["label"]
                assert one["score"] == pytest.approx(other["score"], abs=1e-4)
                assert one["box"] == pytest.approx(other["box"], abs=1e-2)


def test_a_run_that_was_stopped_ends_in_equal_bytes(root: Path, finished: CompressResult, tmp_path: Path) -> None:
    from test_train_run import stop_run

    with pytest.MonkeyPatch.context() as patch:
        stop_run(detection_recipe(root), tmp_path / "run", 4, patch)
    resumed = compress(detection_recipe(root), tmp_path / "run", resume=True, progress=False)
    assert sha256(resumed.path) == sha256(finished.path)


def test_no_accuracy_of_training_is_made_up(finished: CompressResult) -> None:
    lines = [line for line in read_lines(finished.path.parent) if "epoch" in line]
    assert all(line["train_top1"] is None and line["loss"] > 0 for line in lines)


@pytest.mark.parametrize("head", ["fasterrcnn", "retinanet"])
def test_boxes_alone(root: Path, tmp_path: Path, head: str) -> None:
    recipe = detection_recipe(root, head, schedule={"dense_epochs": 0.0}, train={"epochs": 1})
    result = compress(recipe, tmp_path, progress=False)
    assert result.metric == "box_ap"
    assert "mask_ap" not in result.metrics
    assert ("detector" in read(result.path).metadata) == (head == "retinanet")


def test_the_loss_falls_on_one_batch(data: DataSplits) -> None:
    task, model = Detection(with_masks=True), detector().train()
    freeze_batch_norms(model)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    batch = data.train.__getitems__([0, 1])
    losses = []
    for _ in range(12):
        loss = task.step(model, batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_a_batch_without_any_object_has_a_finite_loss_and_gradient(data: DataSplits) -> None:
    model = detector().train()
    result = Detection(with_masks=True).step(model, data.train.__getitems__([1]))
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert result.right is None
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_teacher_of_features_asks_nothing_of_an_equal_student(data: DataSplits) -> None:
    model = detector().train()
    freeze_batch_norms(model)
    batch = data.train.__getitems__([0, 2])
    teacher = FeatureTeacher(detector(), 3.0)

    @torch.no_grad()
    def loss(teacher: FeatureTeacher | None) -> float:
        torch.manual_seed(1)  # proposals are drawn at random
        return float(Detection(with_masks=True, teacher=teacher).step(model, batch).loss)

    assert loss(teacher) == pytest.approx(loss(None), rel=1e-5)
    with torch.no_grad():
        model.backbone.fpn.layer_blocks[0][0].weight.zero_()
    # One of five levels has lost everything but its bias, which is zero: a relative distance of one, times 3 / 5.
    assert loss(teacher) - loss(None) == pytest.approx(0.6, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "masks", "message"),
    [
        (lambda: build_model("digits_cnn"), False, "the model is no detector of 3 classes"),
        (lambda: detector(num_classes=2), False, "the model is no detector of 3 classes"),
        (lambda: detector("fasterrcnn"), True, "needs a model with masks, this one has loss_classifier"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(data: DataSplits, model, masks: bool, message: str) -> None:
    network = model()
    modes = [module.training for module in network.modules()]
    with pytest.raises(ConfigError, match=message):
        Detection(with_masks=masks).check_fit(network, data)
    assert [module.training for module in network.modules()] == modes


def test_checking_changes_nothing(data: DataSplits) -> None:
    network = detector()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Detection(with_masks=True).check_fit(network, data)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_workers_give_the_same_batches(root: Path) -> None:
    splits = [load_data(DataConfig(name="coco", path=str(root))) for _ in range(2)]
    for (a, b), (c, d) in zip(
        make_loader(splits[0].train, 2, shuffle=True, seed=3),
        make_loader(splits[1].train, 2, shuffle=True, seed=3, workers=1),
        strict=True,
    ):
        assert all(torch.equal(x, y) for x, y in zip(a, c, strict=True))
        assert all(torch.equal(x["boxes"], y["boxes"]) for x, y in zip(b, d, strict=True))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"task": "classification"}, "task classification does not go with data.name coco"),
        ({"distillation": {"weight": 0.5}}, "distillation is for classification"),
    ],
)
def test_a_recipe_of_two_minds_is_refused(root: Path, sections: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detection_recipe(root, **sections)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "maskrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn_v2",
        "retinanet_resnet50_fpn_v2",
        "ssdlite320_mobilenet_v3_large",
    ],
)
def test_the_detectors_of_torchvision_become_ternary_and_come_back(name: str) -> None:
    torch.manual_seed(0)
    arguments = {"num_classes": 3} if name.startswith("ssd") else {"num_classes": 3, "min_size": 64, "max_size": 64}
    model = build_model(f"torchvision:{name}", arguments).eval()
    prepare(model, TernaryConfig(sparsity=0.8))
    update_masks(model, 0.8)
    set_phase(model, "ternary")
    stored = convert(model, float_dtype="float32")
    again = fill(build_model(f"torchvision:{name}", arguments), stored)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before, after = levels_of(model.backbone(images)), levels_of(again.backbone(images))
    for level, features in before.items():
        scale = float(features.abs().max())
        assert torch.allclose(after[level], features, rtol=0.0, atol=1e-4 * max(scale, 1e-6)), level
    assert decode(encode(stored)).ternary().keys() == stored.ternary().keys()
    assert 0.79 < stored.sparsity < 0.81


def test_features_of_an_untrained_model_teach_nothing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"model\.weights is missing: detection\.feature_weight needs a trained model"
    ):
        compress(detection_recipe(root, detection={"feature_weight": 1.0}), tmp_path, progress=False)


class Prophet(nn.Module):
    """Finds every rectangle exactly, and says of one more that it is of a class that the data do not have."""

    def __init__(self, data: DataSplits) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        self.answers = iter(data.test.__getitems__(range(len(data.test)))[1])

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found = []
        for _ in images:
            target = next(self.answers)
            boxes = torch.cat([target["boxes"], torch.tensor([[0.0, 0.0, 9.0, 9.0]])])
            labels = torch.cat([target["labels"], torch.tensor([77])])
            found.append({"boxes": boxes, "labels": labels, "scores": torch.linspace(0.9, 0.8, len(labels))})
        return found


def test_detections_of_classes_that_the_data_do_not_have_are_left_out(data: DataSplits) -> None:
    metrics = Detection(with_masks=False).evaluate(Prophet(data), data.test)
    assert metrics["box_ap"] == pytest.approx(100.0)
