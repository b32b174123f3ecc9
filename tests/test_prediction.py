"""From a picture and a stranger's metadata to predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from sterna.config import DataConfig
from sterna.data.dataset import Normalization
from sterna.data.digits import load_digits
from sterna.data.image_folder import MEAN, STD, ImageFolderDataset, Samples, resize_before_crop
from sterna.errors import DataError
from sterna.models import build_model
from sterna.pictures import TASKS, Preprocessing, label_name, read_image, read_labels, read_task, top_classes
from sterna.tasks.prediction import Detections, classify, detect, preprocess

DIGITS = {"input_shape": [1, 8, 8], "resize": None, "pixel_maximum": 16.0, "mean": [0.305], "std": [0.376]}
PHOTOS = {"input_shape": [3, 24, 24], "resize": 27, "pixel_maximum": 255.0, "mean": list(MEAN), "std": list(STD)}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def preprocessing_of(values: Any) -> Preprocessing:
    return Preprocessing.from_metadata({"preprocessing": values})


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def outcome(run: Callable[[], Any]) -> tuple[Any, str | None]:
    """A result, or the text of a DataError; any other exception is one of the test."""
    try:
        return run(), None
    except DataError as error:
        return None, str(error)


class Stub(nn.Module):
    """Answers with the same value whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.inputs: Any = None

    def forward(self, inputs: Any) -> Any:
        self.inputs = inputs
        return self.answer


def detector(scores: list[float], changed: dict[str, Any] | None = None, *, with_masks: bool = False) -> Stub:
    """What torchvision's detectors answer for a picture of 20x10 pixels."""
    count, width, height = len(scores), 20, 10
    answer: dict[str, Any] = {
        "boxes": torch.arange(4.0).repeat(count, 1) + torch.arange(count).reshape(-1, 1),
        "labels": torch.arange(1, count + 1),
        "scores": torch.tensor(scores),
    }
    if with_masks:
        answer["masks"] = torch.linspace(0, 1, count * width * height).reshape(count, 1, height, width)
    return Stub([answer | (changed or {})])


class TestPreprocess:
    @pytest.mark.parametrize("size", [(40, 30), (30, 40), (24, 24), (5, 9), (300, 27), (1, 1)])
    @pytest.mark.parametrize("side", [24, 31])
    def test_equals_the_evaluation_path_of_image_folders_bit_for_bit(
        self, size: tuple[int, int], side: int, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.png"
        noise(*size).save(path)
        normalization = Normalization(MEAN, STD, channels=3)
        dataset = ImageFolderDataset(Samples((str(path),), np.zeros(1, np.int64), ("a",)), side, normalization)
        expected, _ = dataset.__getitems__([0])
        described = normalization.describe((3, side, side), resize=resize_before_crop(side))
        result = preprocess(read_image(path), preprocessing_of(described))
        assert result.dtype == expected.dtype
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(result, expected)

    def test_a_digit_saved_as_a_grey_picture_equals_the_one_of_the_data_set(self, tmp_path: Path) -> None:
        pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
        splits = load_digits(DataConfig(name="digits", augment=False))
        images, _ = splits.test.__getitems__(range(20))
        pixels = (images * 0.376 + 0.305) * 255  # type: ignore[operator]
        for number, digit in enumerate(pixels):
            path = tmp_path / f"{number}.png"
            Image.fromarray(digit[0].round().to(torch.uint8).numpy()).save(path)
            result = preprocess(read_image(path), preprocessing_of(dict(splits.preprocessing)))
            assert torch.equal(result[0], images[number])

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1"])
    def test_takes_pictures_of_every_mode(self, mode: str) -> None:
        assert preprocess(noise(9, 7, mode), preprocessing_of(DIGITS)).shape == (1, 1, 8, 8)
        assert preprocess(noise(9, 7, mode), preprocessing_of(PHOTOS)).shape == (1, 3, 24, 24)

    def test_white_and_black_are_the_ends_of_the_scale(self) -> None:
        for values in (DIGITS, PHOTOS):
            plain = values | {"mean": [0.0] * values["input_shape"][0], "std": [1.0] * values["input_shape"][0]}  # type: ignore[operator, index]
            for colour, expected in (("white", 1.0), ("black", 0.0)):
                assert preprocess(Image.new("RGB", (30, 40), colour), preprocessing_of(plain)).unique() == expected

    def test_height_comes_before_width(self) -> None:
        for resize in (None, 20):
            values = PHOTOS | {"input_shape": [3, 8, 16], "resize": resize}
            assert preprocess(noise(50, 40), preprocessing_of(values)).shape == (1, 3, 8, 16)

    def test_without_resize_the_whole_picture_is_scaled(self) -> None:
        image = Image.new("L", (80, 8), 0)
        image.paste(255, (0, 0, 40, 8))
        values = DIGITS | {"mean": [0.0], "std": [1.0]}
        columns = preprocess(image, preprocessing_of(values))[0, 0, 0]
        assert columns[[0, 2, 5, 7]].tolist() == [1.0, 1.0, 0.0, 0.0]

    def test_the_picture_is_not_changed(self) -> None:
        image = noise(30, 20)
        before = image.tobytes()
        preprocess(image, preprocessing_of(PHOTOS))
        assert image.tobytes() == before

    def test_a_picture_that_would_become_gigantic_is_refused(self) -> None:
        with pytest.raises(DataError, match="a picture of 30000x1 pixels is too long and thin"):
            preprocess(Image.new("RGB", (30_000, 1)), preprocessing_of(PHOTOS | {"resize": 256}))


class TestMetadata:
    @pytest.mark.parametrize("task", TASKS)
    def test_every_task_is_read(self, task: str) -> None:
        assert read_task({"task": task}) == task

    @pytest.mark.parametrize(("task", "got"), [(None, "nothing"), ("pose", '"pose"'), (3, "3"), (["detection"], "[")])
    def test_another_task_is_refused_with_what_was_got_and_what_is_allowed(self, task: Any, got: str) -> None:
        with pytest.raises(DataError) as caught:
            read_task({"task": task})
        text = str(caught.value)
        assert text.startswith("metadata: task must be classification or detection or instance-segmentation, got ")
        assert got in text

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("input_shape", [2, 8, 8]), ("input_shape", [1, 8]), ("input_shape", [1, 0, 8]), ("input_shape", "188"),
            ("input_shape", [1, 8.0, 8]), ("input_shape", [True, 8, 8]), ("input_shape", [1, 8, 10**9]),
            ("input_shape", None), ("resize", 0), ("resize", "8"), ("resize", 8.5), ("resize", True),
            ("pixel_maximum", 0), ("pixel_maximum", 1.0), ("pixel_maximum", 16.5), ("pixel_maximum", 256),
            ("pixel_maximum", "255"), ("pixel_maximum", None), ("mean", 0.5), ("mean", [0.5, 0.5]), ("mean", ["0.5"]),
            ("mean", [None]), ("mean", [1e300]), ("mean", None), ("std", [0.0]), ("std", [-1.0]), ("std", []),
            ("std", None),
        ],
    )  # fmt: skip
    def test_a_malformed_preprocessing_is_refused_by_its_key(self, key: str, value: Any) -> None:
        with pytest.raises(DataError, match=rf"^metadata: preprocessing\.{key} must be .*, got "):
            preprocessing_of(DIGITS | {key: value})

    @given(values=JSON)
    @settings(deadline=None, max_examples=200)
    def test_any_preprocessing_is_read_or_refused_in_one_line(self, values: Any) -> None:
        with pytest.raises(DataError) as caught:
            preprocessing_of(values)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300

    @given(key=st.sampled_from(sorted(DIGITS)), value=JSON)
    @settings(deadline=None, max_examples=300)
    def test_any_value_of_a_key_gives_predictions_or_a_data_error(self, key: str, value: Any) -> None:
        model = build_model("digits_cnn", {}).eval()
        found, problem = outcome(lambda: classify(model, noise(9, 9), preprocessing_of(DIGITS | {key: value})))
        assert len(found) == 5 if problem is None else "\n" not in problem

    @given(values=JSON | st.lists(st.text()))
    @settings(deadline=None, max_examples=200)
    def test_any_labels_are_read_or_refused_in_one_line(self, values: Any) -> None:
        labels, problem = outcome(lambda: read_labels({"labels": values}))
        if problem is None:
            assert list(labels) == values
        else:
            assert problem.startswith("metadata: labels must be a list of texts, got ")
            assert "\n" not in problem

    def test_a_file_without_labels_has_none(self) -> None:
        assert read_labels({}) == ()

    def test_a_class_without_a_name_is_called_by_its_number(self) -> None:
        assert [label_name(("cat", "dog"), number) for number in (0, 1, 2, -1)] == ["cat", "dog", "2", "-1"]


class TestClassification:
    @given(logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30))
    @settings(deadline=None)
    def test_all_probabilities_sum_to_one_and_fall(self, logits: list[float]) -> None:
        found = top_classes(np.array(logits), [], count=len(logits))
        probabilities = [probability for _, probability in found]
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-12)
        assert probabilities == sorted(probabilities, reverse=True)
        assert sorted(int(label) for label, _ in found) == list(range(len(logits)))

    @pytest.mark.parametrize(("count", "expected"), [(1, ["b"]), (2, ["b", "c"]), (5, ["b", "c", "a"])])
    def test_no_more_classes_are_given_than_there_are(self, count: int, expected: list[str]) -> None:
        found = top_classes(np.array([0.0, 2.0, 1.0]), ["a", "b", "c"], count)
        assert [label for label, _ in found] == expected

    def test_equally_probable_classes_keep_their_order(self) -> None:
        assert [label for label, _ in top_classes(np.zeros(40), [], 40)] == [str(number) for number in range(40)]

    def test_classes_beyond_the_labels_are_numbers(self) -> None:
        assert [label for label, _ in top_classes(np.array([0.0, 2.0, 1.0]), ["a"])] == ["1", "2", "a"]

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_logits_that_are_not_finite_are_refused(self, bad: float) -> None:
        with pytest.raises(DataError, match="not finite"):
            top_classes(np.array([0.0, bad]), [])

    def test_equals_softmax_of_the_network_on_the_preprocessed_picture(self) -> None:
        model = build_model("digits_cnn", {}).eval()
        image, preprocessing = noise(30, 20), preprocessing_of(DIGITS)
        with torch.no_grad():
            expected = model(preprocess(image, preprocessing)).double().softmax(1)[0]
        found = classify(model, image, preprocessing, list("abcdefghij"), count=10)
        # In float64, summed in another order.
        probabilities = [probability for _, probability in found]
        assert probabilities == pytest.approx(sorted(expected.tolist(), reverse=True), rel=1e-12)
        assert found[0][0] == "abcdefghij"[int(expected.argmax())]

    def test_a_network_for_other_inputs_is_refused(self) -> None:
        model = build_model("digits_cnn", {}).eval()
        with pytest.raises(DataError, match="the network cannot take 3x24x24: "):
            classify(model, noise(9, 9), preprocessing_of(PHOTOS))

    @pytest.mark.parametrize("answer", [None, {"out": torch.zeros(1, 2)}, torch.zeros(2), torch.zeros(2, 3),
                                        torch.zeros(1, 2, dtype=torch.int64), [torch.zeros(1, 2)]])  # fmt: skip
    def test_a_network_that_is_no_classifier_is_refused(self, answer: Any) -> None:
        with pytest.raises(DataError, match="Stub does not answer as a classifier"):
            classify(Stub(answer), noise(9, 9), preprocessing_of(DIGITS))


class TestDetection:
    def test_the_detector_is_given_the_picture_in_0_to_1(self) -> None:
        model, image = detector([]), noise(20, 10)
        detect(model, image)
        (inputs,) = model.inputs
        assert inputs.dtype == torch.float32
        expected = np.asarray(image).transpose(2, 0, 1) / np.float32(255)
        assert torch.equal(inputs, torch.from_numpy(expected.copy()))

    def test_objects_from_the_threshold_on_are_given_best_first(self) -> None:
        found = detect(detector([0.3, 0.9, 0.5, 0.49]), noise(20, 10), ["background", "cat", "dog", "cow"])
        assert found.scores.tolist() == pytest.approx([0.9, 0.5])
        assert found.labels == ("dog", "cow")
        assert found.classes.tolist() == [2, 3]
        assert found.boxes.tolist() == [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]]
        assert found.masks is None
        assert len(found) == 2

    def test_no_more_objects_than_the_limit_are_given(self) -> None:
        found = detect(detector([0.6, 0.9, 0.8]), noise(20, 10), limit=2)
        assert found.labels == ("2", "3")

    def test_masks_stay_with_their_objects(self) -> None:
        model = detector([0.6, 0.9, 0.1], with_masks=True)
        found = detect(model, noise(20, 10))
        assert found.masks is not None
        assert found.masks.dtype == torch.bool
        assert torch.equal(found.masks, model.answer[0]["masks"][[1, 0], 0] >= 0.5)

    def test_a_picture_may_be_empty(self) -> None:
        found = detect(detector([], with_masks=True), noise(20, 10))
        assert len(found) == 0
        assert found.masks is not None
        assert found.masks.shape == (0, 10, 20)

    @pytest.mark.parametrize(
        "changed",
        [{"boxes": torch.zeros(2, 4)}, {"boxes": None}, {"labels": torch.zeros(1)}, {"labels": [1]},
         {"scores": torch.zeros(1, 1)}, {"masks": torch.zeros(1, 10, 20)}, {"masks": torch.zeros(1, 1, 20, 10)}],
    )  # fmt: skip
    def test_a_malformed_answer_is_refused(self, changed: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="Stub does not answer as a detector"):
            detect(detector([0.9], changed), noise(20, 10))

    @pytest.mark.parametrize("answer", [None, [], {}, [3], torch.zeros(1, 10)])
    def test_a_network_that_is_no_detector_is_refused(self, answer: Any) -> None:
        with pytest.raises(DataError, match="Stub does not answer as a detector"):
            detect(Stub(answer), noise(20, 10))

    def test_a_classifier_called_a_detector_is_refused(self) -> None:
        with pytest.raises(DataError, match="the network cannot take a picture of 20x10 pixels: "):
            detect(build_model("digits_cnn", {}).eval(), noise(20, 10))

    @pytest.mark.parametrize(
        "changed", [{"boxes": torch.full((1, 4), torch.nan)}, {"scores": torch.tensor([torch.inf])}]
    )
    def test_answers_that_are_not_finite_are_refused(self, changed: dict[str, Tensor]) -> None:
        with pytest.raises(DataError, match="not finite"):
            detect(detector([0.9], changed), noise(20, 10))

    def test_detections_cannot_be_changed(self) -> None:
        found: Any = detect(detector([0.9]), noise(20, 10))
        assert isinstance(found, Detections)
        with pytest.raises(AttributeError):
            found.labels = ()
