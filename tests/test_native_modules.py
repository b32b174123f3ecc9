"""The native engine inside PyTorch: detectors find what they find in PyTorch, and say what they cannot do."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from detection_data import SMALL_DETECTOR
from torch import Tensor, nn

import sterna
from sterna.capturing import capture, capture_detector
from sterna.config import DataConfig
from sterna.container import read, save
from sterna.conversion import convert
from sterna.detector_calibration import calibrate_detector
from sterna.detector_metadata import describe_detector
from sterna.errors import DataError, SternaError
from sterna.loading import load
from sterna.models import build_model
from sterna.native_modules import NativeRegionHead
from sterna.preparation import prepare, set_phase, update_masks

# Of the largest number: sums of a few thousand terms in another order, layer after layer.
TOLERANCE = 1e-4
ALL_FOUND = {**SMALL_DETECTOR, "box_score_thresh": 0.0}


def write_detector(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    model = build_model(name, arguments)
    for path, parameter in model.named_parameters():
        if path.endswith(("cls_logits.weight", "cls_score.weight")):
            parameter.data *= 30  # scores so far apart that rounding does not change their order
    prepare(model)
    update_masks(model, 0.7)
    set_phase(model, "ternary")
    metadata = {"model": {"name": name, "arguments": arguments}, "task": "instance-segmentation"}
    stored = dataclasses.replace(convert(model, metadata=metadata), graphs=capture_detector(model))
    path = folder / "detector.sterna"
    save(stored, path, coder="fast")
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("native"), "maskrcnn_resnet18_fpn", ALL_FOUND)


@pytest.fixture(scope="module")
def reference(file: Path) -> nn.Module:
    return load(file)


@pytest.fixture(scope="module")
def native(file: Path) -> nn.Module:
    return load(file, engine="native", tune=False)


def pictures(*sizes: tuple[int, int], seed: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=random) for size in sizes]


@torch.inference_mode()
def detect(model: nn.Module, images: list[Tensor]) -> list[dict[str, Tensor]]:
    found: list[dict[str, Tensor]] = model(images)
    return found


def assert_same_detections(actual: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        assert one["labels"].tolist() == other["labels"].tolist()
        for key, unit in (("scores", 1.0), ("boxes", 64.0), ("masks", 1.0)):
            if key in other:
                torch.testing.assert_close(one[key], other[key], rtol=0, atol=TOLERANCE * unit)


@pytest.mark.parametrize("sizes", [((64, 64),), ((48, 80),), ((30, 64), (64, 50)), ((200, 120), (64, 64), (9, 40))])
def test_a_detector_finds_what_it_finds_in_pytorch(
    sizes: tuple[tuple[int, int], ...], native: nn.Module, reference: nn.Module
) -> None:
    expected = detect(reference, pictures(*sizes))
    assert all(len(found["boxes"]) > 0 for found in expected)
    assert_same_detections(detect(native, pictures(*sizes)), expected)


def test_it_finds_the_same_in_real_pictures(data_root: Path, native: nn.Module, reference: nn.Module) -> None:
    pytest.importorskip("faster_coco_eval", reason="reading COCO's format needs faster-coco-eval")
    from sterna.data import load_data

    images, _ = load_data(DataConfig(name="coco", path=str(data_root / "nuclei"))).test.__getitems__([0, 1])
    expected = detect(reference, images)
    assert all(len(found["boxes"]) > 0 for found in expected)
    assert_same_detections(detect(native, images), expected)


@pytest.mark.slow
def test_a_detector_of_one_stage_does_too(tmp_path: Path) -> None:
    arguments = {"num_classes": 3, "min_size": 64, "max_size": 64, "score_thresh": 0.0, "detections_per_img": 20}
    path = write_detector(tmp_path, "retinanet_resnet18_fpn", arguments)
    images = pictures((64, 64), (40, 60))
    expected = detect(load(path), images)
    assert all(len(found["boxes"]) > 0 for found in expected)
    assert_same_detections(detect(load(path, engine="native", tune=False), images), expected)


@pytest.mark.slow
def test_calibration_says_how_the_boxes_of_a_retinanet_are_found(tmp_path: Path) -> None:
    path = write_detector(tmp_path, "retinanet_mobilenet_v2_fpn", {"num_classes": 3, "min_size": 64, "max_size": 64})
    assert "detector" not in read(path).metadata
    calibrated = calibrate_detector(path, [pictures((64, 64))])
    assert calibrated.metadata["detector"] == describe_detector(load(path))
    assert calibrated.metadata.items() >= read(path).metadata.items()


def test_nothing_is_left_of_the_parts_that_run_natively(native: nn.Module) -> None:
    assert list(native.parameters()) == []
    assert not native.training


@pytest.mark.parametrize("part", ["box", "mask"])
def test_heads_take_any_number_of_regions(part: str, native: Any, reference: Any) -> None:
    side = 7 if part == "box" else 14
    regions = torch.randn(41, 256, side, side, generator=torch.Generator().manual_seed(2)).relu()
    heads = reference.roi_heads
    with torch.inference_mode():
        expected = getattr(heads, f"{part}_predictor")(getattr(heads, f"{part}_head")(regions))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for count in (41, 1, 0, 7, 32):
            actual = getattr(native.roi_heads, f"{part}_predictor")(regions[:count])
            actual = actual if isinstance(actual, tuple) else (actual,)
            for one, other in zip(actual, expected, strict=True):
                assert one.shape == other[:count].shape
                torch.testing.assert_close(one, other[:count], rtol=0, atol=TOLERANCE * float(other.abs().max()))


def test_a_picture_in_which_nothing_is_found_has_empty_masks(file: Path) -> None:
    strict = {**ALL_FOUND, "box_score_thresh": 1.1}
    actual, expected = (
        detect(load(file, build_model("maskrcnn_resnet18_fpn", strict), **options), pictures((64, 40)))
        for options in ({"engine": "native", "tune": False}, {})
    )
    assert [len(found["boxes"]) for found in actual] == [0]
    assert {key: value.shape for key, value in actual[0].items()} == {
        key: value.shape for key, value in expected[0].items()
    }


def test_threads_can_share_a_detector(native: nn.Module) -> None:
    images = [pictures((64, 64), seed=seed) for seed in range(3)]
    expected = [detect(native, image) for image in images]
    problems: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for turn in range(6):
                number = (first + turn) % len(images)
                assert_same_detections(detect(native, images[number]), expected[number])
        except BaseException as error:
            problems.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert problems == []


def test_what_no_graph_covers_stays_in_pytorch(file: Path, tmp_path: Path, reference: nn.Module) -> None:
    stored = read(file)
    save(
        dataclasses.replace(stored, graphs=tuple(graph for graph in stored.graphs if graph.name == "roi_heads.box")),
        tmp_path / "a.sterna",
    )
    mixed: Any = load(tmp_path / "a.sterna", engine="native", tune=False)
    assert isinstance(mixed.roi_heads.box_predictor, NativeRegionHead)
    assert any(name.startswith("backbone.") for name, _ in mixed.named_parameters())
    images = pictures((64, 64))
    assert_same_detections(detect(mixed, images), detect(reference, images))


@pytest.fixture(scope="module")
def calibrated(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "a.sterna"
    save(calibrate_detector(file, [pictures((64, 64), (50, 64), seed=seed) for seed in range(3)]), path)
    return path


class TestCalibration:
    def test_every_graph_gets_ranges_and_weights_stay(self, file: Path, calibrated: Path) -> None:
        before, after = read(file), read(calibrated)
        assert all(len(graph.ranges) == graph.value_count for graph in after.graphs)
        assert [dataclasses.replace(graph, ranges=()) for graph in after.graphs] == list(before.graphs)
        assert before.tensors.keys() == after.tensors.keys()

    def test_levels_are_near_real_numbers(self, calibrated: Path, native: Any) -> None:
        int8: Any = load(calibrated, engine="native", activations="int8", tune=False)
        images = torch.stack(pictures((64, 64), (64, 64), seed=7))
        with torch.inference_mode():
            expected, actual = native.backbone(images), int8.backbone(images)
            for level, other in zip(expected.values(), actual.values(), strict=True):
                assert 0 < float((level - other).square().mean() / level.square().mean()) < 0.01
        assert len(detect(int8, pictures((64, 64)))[0]["boxes"]) > 0

    def test_a_head_that_had_nothing_to_do_is_named(self, file: Path) -> None:
        strict = build_model("maskrcnn_resnet18_fpn", {**ALL_FOUND, "box_score_thresh": 1.1})
        with pytest.raises(DataError, match=r"detector\.sterna: there are no batches .* graph 'roi_heads\.mask'"):
            calibrate_detector(file, [pictures((64, 64))], model=strict)

    def test_a_file_without_graphs_and_other_methods_are_refused(self, file: Path, tmp_path: Path) -> None:
        save(dataclasses.replace(read(file), graphs=()), tmp_path / "bare.sterna")
        with pytest.raises(SternaError, match="has no graph to calibrate"):
            calibrate_detector(tmp_path / "bare.sterna", [])
        with pytest.raises(SternaError, match="method must be one of"):
            calibrate_detector(file, [], method="best")  # type: ignore[arg-type]


class TestWrongUse:
    def test_training_is_refused(self, native: nn.Module) -> None:
        try:
            with pytest.raises(SternaError, match="cannot be trained: load the file without engine='native'"):
                native.train()
        finally:
            native.eval()

    def test_gradients_are_refused(self, native: Any) -> None:
        images = torch.rand(1, 3, 64, 64, requires_grad=True)
        with pytest.raises(SternaError, match="computes no gradients"):
            native.backbone(images)
        with torch.no_grad():
            native.backbone(images)

    def test_another_device_is_refused(self, native: Any) -> None:
        with pytest.raises(SternaError, match="computes on the CPU, got a tensor on meta"):
            native.backbone(torch.rand(1, 3, 64, 64, device="meta"))

    def test_a_head_takes_the_levels_of_the_native_backbone_only(self, native: Any) -> None:
        with pytest.raises(SternaError, match=r"rpn\.head\.cls_logits is computed with the native backbone"):
            native.rpn.head([torch.zeros(1, 256, 4, 4)])

    def test_numbers_that_are_not_finite_are_refused(self, native: nn.Module) -> None:
        with pytest.raises(DataError, match="not finite"):
            detect(native, [torch.full((3, 64, 64), torch.nan)])

    def test_a_file_without_graphs_says_what_to_do(self, file: Path, tmp_path: Path) -> None:
        save(dataclasses.replace(read(file), graphs=()), tmp_path / "bare.sterna")
        with pytest.raises(DataError, match=r"holds no graph to run natively: write it anew with one .*engine='torch'"):
            load(tmp_path / "bare.sterna", engine="native")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"engine": "gpu"}, "engine must be one of 'torch', 'native', got 'gpu'"),
            ({"engine": "native", "activations": "int8"}, "not calibrated .* graph 'backbone': run  sterna calibrate"),
            ({"activations": "int8"}, "activations and isa are for engine='native'"),
            ({"isa": "avx2"}, "activations and isa are for engine='native'"),
            ({"engine": "native", "isa": "mmx"}, "instruction set 'mmx' is not available"),
            ({"engine": "native", "threads": 1000}, "threads must be 1 to"),
            ({"engine": "native", "model": nn.Linear(2, 2)}, "the model does not fit the file: it has no place for"),
        ],
    )
    def test_options_are_named(self, file: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(SternaError, match=message):
            load(file, **options)

    def test_a_model_of_another_size_is_refused(self, file: Path) -> None:
        wider = build_model("maskrcnn_resnet18_fpn", {**ALL_FOUND, "num_classes": 4})
        with pytest.raises(DataError, match=r"'roi_heads\.box_predictor\.cls_score\.bias' has shape \(4,\)"):
            load(file, wider, engine="native")

    def test_a_graph_that_stands_for_no_part_is_refused(self, file: Path, tmp_path: Path) -> None:
        stored = read(file)
        renamed = dataclasses.replace(stored.graphs[1], name="roi_heads.keypoint")
        save(dataclasses.replace(stored, graphs=(renamed,)), tmp_path / "a.sterna")
        with pytest.raises(DataError, match=r"'roi_heads\.keypoint' stands for no part of this MaskRCNN"):
            load(tmp_path / "a.sterna", engine="native")


def test_a_classifier_is_one_native_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = prepare(build_model("digits_cnn"))
    update_masks(model, 0.7)
    set_phase(model, "ternary")
    metadata = {"model": {"name": "digits_cnn", "arguments": {}}}
    stored = dataclasses.replace(convert(model, metadata=metadata), graphs=(capture(model, (1, 8, 8)),))
    save(stored, tmp_path / "a.sterna")
    images = torch.randn(3, 1, 8, 8)
    native = sterna.load(tmp_path / "a.sterna", engine="native", threads=2)
    torch.testing.assert_close(native(images), sterna.load(tmp_path / "a.sterna")(images), rtol=0, atol=TOLERANCE)
    with pytest.raises(SternaError, match="cannot be trained"):
        native.train()
