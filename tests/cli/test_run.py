"""``sterna run``: predictions for pictures, drawn detections, and one line about whatever is bad."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sterna
from cli.command import ENVIRONMENT, is_one_line_error, sterna_process
from sterna.cli import main
from sterna.models import build_model
from sterna.pictures import Preprocessing, read_image
from sterna.preparation import prepare, set_phase, update_masks
from sterna.tasks.prediction import classify

DETECTOR = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
DETECTOR_ARGUMENTS = {"num_classes": 3, "min_size": 64, "max_size": 96, "box_score_thresh": 0.0}
LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PREPROCESSING = {"input_shape": [1, 8, 8], "resize": None, "pixel_maximum": 16.0, "mean": [0.305], "std": [0.376]}
CLASSIFIER = {
    "model": {"name": "digits_cnn", "arguments": {}},
    "task": "classification",
    "labels": LABELS,
    "preprocessing": PREPROCESSING,
}


def write_file(path: Path, metadata: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    model = prepare(build_model(metadata["model"]["name"], metadata["model"]["arguments"]))
    update_masks(model, 0.7)
    set_phase(model, "ternary")
    sterna.save(sterna.convert(model, metadata=metadata), path, coder="fast")
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("classifier") / "digits.sterna", CLASSIFIER)


@pytest.fixture(scope="module")
def real_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata = {
        "model": {"name": DETECTOR, "arguments": DETECTOR_ARGUMENTS},
        "task": "detection",
        "labels": ["background", "shirt", "shoe"],
    }
    return write_file(tmp_path_factory.mktemp("detector") / "detector.sterna", metadata)


class FixedDetector(nn.Module):
    """Finds a shirt and a shoe, with masks, in every picture; nothing in a black one."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        (image,) = images
        height, width = image.shape[1:]
        count = 2 if image.any() else 0
        masks = torch.zeros(2, 1, height, width)
        masks[0, 0, :5, :4] = 1
        boxes = torch.tensor([[0.0, 0.0, 4.0, 5.0], [2.0, 3.0, 9.5, 8.25]])
        answer = {"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.75, 0.5]), "masks": masks}
        return [{key: value[:count] for key, value in answer.items()}]


@pytest.fixture
def detector(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that says it segments instances; the network that is loaded from it is ``FixedDetector``."""
    metadata = {"task": "instance-segmentation", "labels": ["background", "shirt", "shoe"]}
    path = tmp_path / "detector.sterna"
    sterna.save(sterna.TernaryModel({"x": np.zeros(1, np.float32)}, metadata), path)
    monkeypatch.setattr("sterna.loading.load", lambda path, **_: FixedDetector().eval())
    return path


def picture(path: Path, size: tuple[int, int] = (20, 16), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def broken_picture(path: Path) -> Path:
    path.write_bytes(b"This is not a picture.")
    return path


def table(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[list[str]]:
    assert main(["run", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return [line.split() for line in captured.out.splitlines()]


def document(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main(["run", *map(str, arguments), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    result: dict[str, Any] = json.loads(captured.out)
    return result


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["run", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert is_one_line_error(captured.err)
    return captured.err


class TestClassifier:
    def test_json_holds_what_the_network_says(
        self, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = [picture(tmp_path / f"{seed}.png", seed=seed) for seed in range(3)]
        result = document(capsys, classifier, *paths)
        assert list(result) == ["file", "task", "engine", "images"]
        assert (result["file"], result["task"], result["engine"]) == (str(classifier), "classification", "torch")
        assert [entry["path"] for entry in result["images"]] == [str(path) for path in paths]
        model = sterna.load(classifier)
        preprocessing = Preprocessing.from_metadata(CLASSIFIER)
        for path, entry in zip(paths, result["images"], strict=True):
            expected = classify(model, read_image(path), preprocessing, LABELS)
            assert entry["predictions"] == [{"label": label, "probability": p} for label, p in expected]

    def test_the_table_has_a_line_for_each_of_the_five_best_classes(
        self, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = picture(tmp_path / "a.png")
        predictions = document(capsys, classifier, path)["images"][0]["predictions"]
        head, *rows = table(capsys, classifier, path)
        assert head == ["picture", "rank", "label", "probability"]
        assert rows[0][:2] == [str(path), "1"]
        assert [row[-4:-1] for row in rows] == [
            [str(rank), entry["label"], f"{100 * entry['probability']:.2f}"]
            for rank, entry in enumerate(predictions, 1)
        ]

    @pytest.mark.parametrize(("top", "count"), [(1, 1), (7, 7), (99, 10)])
    def test_no_more_classes_are_shown_than_there_are(
        self, top: int, count: int, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        result = document(capsys, classifier, picture(tmp_path / "a.png"), "--top", str(top))
        assert len(result["images"][0]["predictions"]) == count

    def test_a_folder_means_its_pictures_by_name(
        self, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("b.png", "a.JPG", "c.webp", "below/d.png", "old.detections.png"):
            picture(tmp_path / "photos" / name)
        (tmp_path / "photos" / "notes.txt").write_text("no picture")
        (tmp_path / "photos" / "folder.png").mkdir()
        single = picture(tmp_path / "z.png")
        result = document(capsys, classifier, single, tmp_path / "photos")
        assert [Path(entry["path"]).name for entry in result["images"]] == ["z.png", "a.JPG", "b.png", "c.webp"]

    def test_a_folder_without_pictures_is_refused(
        self, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "has no pictures, which end in .bmp, " in refusal(capsys, classifier, tmp_path)

    def test_nothing_is_written(self, classifier: Path, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        result = sterna_process("run", classifier, "a.png", "--threads", "1", folder=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    def test_a_name_of_a_class_cannot_command_the_terminal(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hostile = "\x1b[31mred\nline \u202e [bold]"
        metadata = CLASSIFIER | {"labels": [hostile] * 10}
        path = write_file(tmp_path / "hostile.sterna", metadata)
        image = picture(tmp_path / "a.png")
        main(["run", str(path), str(image), "--top", "1"])
        text = capsys.readouterr().out
        assert "\\x1b[31mred line \\u202e [bold]" in text
        assert all(character.isprintable() for line in text.splitlines() for character in line)
        assert document(capsys, path, image)["images"][0]["predictions"][0]["label"] == hostile


class TestBadPictures:
    @pytest.mark.parametrize("spoil", [broken_picture, lambda path: path], ids=["broken", "missing"])
    def test_a_single_one_is_an_error(
        self, spoil: Callable[[Path], Path], classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = refusal(capsys, classifier, spoil(tmp_path / "bad.png"))
        assert "bad.png' is not a readable image: " in text

    def test_one_of_several_is_named_and_the_others_are_done(
        self, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        good = [picture(tmp_path / f"{name}.png") for name in "ac"]
        paths = [good[0], broken_picture(tmp_path / "bad.png"), good[1]]
        assert main(["run", str(classifier), *map(str, paths), "--json"]) == 2
        captured = capsys.readouterr()
        assert [entry["path"] for entry in json.loads(captured.out)["images"]] == [str(path) for path in good]
        first, last = captured.err.splitlines()
        assert first.startswith(f"sterna: '{tmp_path / 'bad.png'}' is not a readable image: ")
        assert last == "sterna: error: 1 of 3 pictures could not be done"

    def test_nothing_but_bad_ones_gives_no_table(
        self, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = [broken_picture(tmp_path / f"{name}.png") for name in "ab"]
        assert main(["run", str(classifier), *map(str, paths)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.endswith("sterna: error: 2 of 2 pictures could not be done\n")

    def test_one_that_the_network_cannot_take_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_file(tmp_path / "a.sterna", CLASSIFIER | {"preprocessing": PREPROCESSING | {"resize": 4096}})
        text = refusal(capsys, path, picture(tmp_path / "long.png", (3000, 1)))
        assert "long.png': a picture of 3000x1 pixels is too long and thin" in text


class TestDetector:
    def test_a_real_one_is_run_and_drawn(
        self, real_detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, folder = picture(tmp_path / "street.png", (120, 80)), tmp_path / "drawn" / "deep"
        found = document(capsys, real_detector, path, "--threshold", "0", "--output", folder)
        assert found["task"] == "detection"
        predictions = found["images"][0]["predictions"]
        assert 0 < len(predictions) <= 100
        assert {entry["label"] for entry in predictions} <= {"shirt", "shoe"}
        scores = [entry["score"] for entry in predictions]
        assert scores == sorted(scores, reverse=True)
        for left, top, right, bottom in (entry["box"] for entry in predictions):
            assert 0 <= left <= right <= 120
            assert 0 <= top <= bottom <= 80
        assert found["images"][0]["drawn"] == str(folder / "street.detections.png")
        with Image.open(folder / "street.detections.png") as drawn:
            assert drawn.size == (120, 80)

    def test_json_has_areas_of_masks_but_no_masks(
        self, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        result = document(capsys, detector, picture(tmp_path / "a.png"), "--output", tmp_path)
        assert result == {
            "file": str(detector),
            "task": "instance-segmentation",
            "engine": "torch",
            "images": [
                {
                    "path": str(tmp_path / "a.png"),
                    "predictions": [
                        {"label": "shirt", "score": 0.75, "box": [0.0, 0.0, 4.0, 5.0], "mask_pixels": 20},
                        {"label": "shoe", "score": 0.5, "box": [2.0, 3.0, 9.5, 8.25], "mask_pixels": 0},
                    ],
                    "drawn": str(tmp_path / "a.detections.png"),
                }
            ],
        }

    def test_the_table_has_a_line_for_each_object(
        self, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        picture(Path("a.png"))
        Image.new("RGB", (20, 16)).save("black.png")
        head, *rows = table(capsys, detector, "a.png", "black.png")
        assert head == ["picture", "label", "score", "box"]
        assert rows[:3] == [
            ["a.png", "shirt", "75.0", "%", "0", "0", "4", "5"],
            ["shoe", "50.0", "%", "2", "3", "10", "8"],
            ["black.png", "(nothing", "found)"],
        ]
        assert ["drawn", "2", "pictures", "in", "."] in rows
        assert sorted(path.name for path in tmp_path.glob("*detections*")) == [
            "a.detections.png", "black.detections.png"
        ]  # fmt: skip

    def test_objects_below_the_threshold_are_left_out(
        self, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        result = document(capsys, detector, picture(tmp_path / "a.png"), "--output", tmp_path, "--threshold", "0.6")
        assert [entry["label"] for entry in result["images"][0]["predictions"]] == ["shirt"]

    @pytest.mark.parametrize("threshold", ["-0.1", "1.1", "nan", "half"])
    def test_a_threshold_beyond_0_to_1_is_refused(
        self, threshold: str, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["run", str(detector), str(picture(tmp_path / "a.png")), "--threshold", threshold]) == 2
        assert "--threshold" in capsys.readouterr().err

    def test_a_drawn_picture_is_replaced_only_with_force(
        self, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        old = tmp_path / "b.detections.png"
        old.write_text("precious")
        paths = [picture(tmp_path / f"{name}.png") for name in "ab"]
        text = refusal(capsys, detector, *paths, "--output", tmp_path)
        assert "b.detections.png' exists: replace it with --force" in text
        assert old.read_text() == "precious"
        assert not (tmp_path / "a.detections.png").exists()
        document(capsys, detector, *paths, "--output", tmp_path, "--force")
        assert old.read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("other", ["deep/a.jpg", "a.jpg", "A.png", "a.png"])
    def test_pictures_of_one_name_are_refused_before_any_work(
        self, other: str, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = [picture(tmp_path / "photos" / name) for name in ("a.png", other)]
        text = refusal(capsys, detector, *paths, "--output", tmp_path / "drawn", "--force")
        assert "would both be drawn to" in text
        assert not (tmp_path / "drawn").exists()

    def test_a_picture_that_is_looked_at_is_never_drawn_over(
        self, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = [picture(tmp_path / name) for name in ("a.png", "a.detections.png")]
        assert "is a picture to look at" in refusal(capsys, detector, *paths, "--output", tmp_path, "--force")

    def test_a_second_run_of_a_folder_does_not_look_at_what_the_first_has_drawn(
        self, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        picture(tmp_path / "a.png")
        for _ in range(2):
            result = document(capsys, detector, tmp_path, "--output", tmp_path, "--force")
            assert [entry["path"] for entry in result["images"]] == [str(tmp_path / "a.png")]

    def test_a_drawing_that_cannot_be_written_leaves_no_file(
        self, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.detections.png").mkdir()
        path = picture(tmp_path / "a.png")
        assert "cannot write" in refusal(capsys, detector, path, "--output", tmp_path, "--force")
        assert not list(tmp_path.glob("*.partial"))


class TestBadFiles:
    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({"task": None}, "classification or detection or instance-segmentation, got nothing"),
            ({"task": "pose"}, 'classification or detection or instance-segmentation, got "pose"'),
            ({"labels": "abc"}, 'metadata: labels must be a list of texts, got "abc"'),
            ({"preprocessing": None}, "metadata: preprocessing must be an object, got nothing"),
            ({"preprocessing": {}}, "metadata: preprocessing.input_shape must be"),
            ({"preprocessing": PREPROCESSING | {"input_shape": [3, 8, 8], "mean": [0.5] * 3, "std": [1.0] * 3}},
             "a.png': the network cannot take 3x8x8: "),
            ({"task": "detection"}, "a.png': the network cannot take a picture of 20x16 pixels: "),
            ({"model": None}, "does not name a model that Sterna can build"),
        ],
    )  # fmt: skip
    def test_malformed_metadata_are_one_line(
        self,
        changed: dict[str, Any],
        expected: str,
        classifier: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        stored = sterna.SternaFile.open(classifier).read()
        path = tmp_path / "strange.sterna"
        sterna.save(sterna.TernaryModel(stored.tensors, CLASSIFIER | changed), path)
        text = refusal(capsys, path, picture(tmp_path / "a.png"), "--output", tmp_path)
        assert expected in text
        assert not list(tmp_path.glob("*.detections.png"))

    def test_the_file_is_named(self, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        stored = sterna.SternaFile.open(classifier).read()
        path = tmp_path / "strange.sterna"
        sterna.save(sterna.TernaryModel(stored.tensors, {}), path)
        assert "strange.sterna: metadata: task must be" in refusal(capsys, path, picture(tmp_path / "a.png"))

    def test_damage_is_one_line(self, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "damaged.sterna"
        shutil.copy(classifier, path)
        path.write_bytes(path.read_bytes()[:-1])
        assert "damaged.sterna" in refusal(capsys, path, picture(tmp_path / "a.png"))
        assert "none.sterna" in refusal(capsys, tmp_path / "none.sterna", picture(tmp_path / "a.png"))

    def test_a_picture_is_needed(self, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", str(classifier)]) == 2
        assert "Usage: sterna run" in capsys.readouterr().err


def test_the_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert "  sterna run" in text.split("Examples:")[1]
    assert all(option in text for option in ("--top", "--threshold", "--output", "--threads", "--json", "--force"))


class TestEngine:
    @pytest.fixture
    def pictures(self, tmp_path: Path) -> list[Path]:
        sizes = [(20, 16), (8, 8), (5, 31), (64, 64)]
        return [picture(tmp_path / f"{seed}.png", size, seed) for seed, size in enumerate(sizes)]

    def test_a_file_with_a_graph_is_run_by_the_native_engine_with_the_answers_of_pytorch(
        self, captured_file: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        native = document(capsys, captured_file, *pictures)
        expected = document(capsys, captured_file, *pictures, "--engine", "torch")
        assert (native["engine"], expected["engine"]) == ("native", "torch")
        for found, wanted in zip(native["images"], expected["images"], strict=True):
            assert [entry["label"] for entry in found["predictions"]] == [
                entry["label"] for entry in wanted["predictions"]
            ]
            assert [entry["probability"] for entry in found["predictions"]] == pytest.approx(
                [entry["probability"] for entry in wanted["predictions"]], rel=1e-4
            )

    def test_a_classifier_needs_neither_pytorch_nor_torchvision(
        self, captured_file: Path, pictures: list[Path], tmp_path: Path
    ) -> None:
        # Typer itself needs pydantic.
        absent = ("torch", "torchvision", "torchmetrics", "accelerate", "yaml", "safetensors", "sklearn")
        code = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from sterna.cli import main
sys.exit(main(sys.argv[1:]))
"""
        arguments = ["run", str(captured_file), *map(str, pictures), "--json"]
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (result.returncode, result.stderr) == (0, "")
        assert [len(entry["predictions"]) for entry in json.loads(result.stdout)["images"]] == [5] * 4

    def test_8_bit_activations_are_chosen_by_an_option(
        self, calibrated_file: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        exact = document(capsys, calibrated_file, *pictures)["images"]
        rounded = document(capsys, calibrated_file, *pictures, "--activations", "int8", "--threads", "2")["images"]
        assert exact != rounded
        for one, other in zip(exact, rounded, strict=True):
            assert one["predictions"][0]["probability"] == pytest.approx(
                other["predictions"][0]["probability"], abs=0.1
            )

    def test_a_file_without_a_graph_is_run_by_pytorch_unless_told_otherwise(
        self, classifier: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert document(capsys, classifier, *pictures)["engine"] == "torch"
        assert "holds no graph" in refusal(capsys, classifier, *pictures, "--engine", "native")
        assert "is for the native engine" in refusal(capsys, classifier, *pictures, "--activations", "int8")

    def test_a_detector_without_graphs_is_not_run_by_the_native_engine(
        self, real_detector: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refusal(capsys, real_detector, *pictures, "--engine", "native")
        assert "holds no graph to run natively" in message
