"""Drawn detections: everything in the picture, everything readable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sterna.tasks.drawing import (
    colour_of,
    draw_detections,
    fit_text,
    place_label,
    relative_luminance,
    text_colour_on,
)
from sterna.tasks.prediction import Detections

SIZES = [(1, 1), (2, 3), (8, 8), (40, 30), (64, 64), (640, 480), (3000, 4), (4, 3000), (2000, 1500)]
GREY = (128, 128, 128)


def detections(
    boxes: list[list[float]], labels: list[str] | None = None, masks: torch.Tensor | None = None
) -> Detections:
    names = labels if labels is not None else [f"class {number}" for number in range(len(boxes))]
    return Detections(
        boxes=torch.tensor(boxes).reshape(-1, 4).float(),
        classes=torch.arange(len(boxes)),
        labels=tuple(names),
        scores=torch.linspace(0.99, 0.5, len(boxes)),
        masks=masks,
    )


def pixels_of(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_masks", [False, True])
def test_pictures_of_every_size_keep_it_and_are_not_changed(size: tuple[int, int], with_masks: bool) -> None:
    width, height = size
    image = Image.new("RGB", size, GREY)
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    masks[0] = True
    masks[1, : height // 2] = True
    boxes = [[0.0, 0.0, width, height], [width * 0.6, height * 0.7, width * 0.9, height * 0.9], [-50.0, -50, 1e9, 1e9]]
    drawn = draw_detections(image, detections(boxes, masks=masks if with_masks else None))
    assert (drawn.size, drawn.mode) == (size, "RGB")
    assert (pixels_of(image) == GREY).all()
    assert (pixels_of(drawn) != GREY).any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_every_mode_are_drawn_on_in_colour(mode: str) -> None:
    drawn = draw_detections(Image.new(mode, (40, 30)), detections([[5, 5, 30, 20]]))
    assert drawn.mode == "RGB"


def test_a_picture_without_objects_stays_as_it_is() -> None:
    image = Image.effect_noise((30, 20), 50).convert("RGB")
    drawn = draw_detections(image, detections([]))
    assert drawn is not image
    assert (pixels_of(drawn) == pixels_of(image)).all()


@pytest.fixture
def drawn_texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float, float]]:
    """Boxes of the texts that are drawn, as Pillow measures them."""
    boxes: list[tuple[float, float, float, float]] = []
    original = ImageDraw.ImageDraw.text

    def record(self: ImageDraw.ImageDraw, place: Any, text: str, **options: Any) -> None:
        boxes.append(self.textbbox(place, text, font=options["font"]))
        original(self, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return boxes


@pytest.mark.parametrize("size", SIZES)
def test_texts_are_drawn_inside_the_picture(
    size: tuple[int, int], drawn_texts: list[tuple[float, float, float, float]]
) -> None:
    width, height = size
    corners = [
        (0.0, 0.0),
        (width - 1.0, 0.0),
        (0.0, height - 1.0),
        (width - 1.0, height - 1.0),
        (width / 2, height / 2),
    ]
    boxes = [[x, y, x + 30, y + 30] for x, y in corners for _ in range(3)]
    names = ["cat", "a name so long that it reaches far over the edge of the picture", "jÄgy\n\x1b[31m"] * len(corners)
    draw_detections(Image.new("RGB", size), detections(boxes, names))
    for left, top, right, bottom in drawn_texts:
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height
    assert len(drawn_texts) == (len(boxes) if min(size) >= 30 else 0)


@given(name=st.text(max_size=60), width=st.integers(1, 400), height=st.integers(1, 400))
@settings(deadline=None, max_examples=150)
def test_the_ink_of_any_fitted_text_is_what_was_measured(name: str, width: int, height: int) -> None:
    fitted = fit_text(name, "97 %", (width, height))
    assert fitted.size[0] <= width
    assert fitted.size[1] <= height
    canvas = Image.new("L", (width + 200, height + 200))
    place = 100 - fitted.offset[0], 100 - fitted.offset[1]
    ImageDraw.Draw(canvas).text(place, fitted.text, fill=255, font=fitted.font)
    ink = canvas.getbbox()
    if ink is not None:
        assert ink[0] >= 100
        assert ink[1] >= 100
        assert ink[2] <= 100 + fitted.size[0]
        assert ink[3] <= 100 + fitted.size[1]


@given(data=st.data(), width=st.integers(1, 300), height=st.integers(1, 300))
def test_labels_are_placed_inside_the_picture(data: st.DataObject, width: int, height: int) -> None:
    left, right = sorted(data.draw(st.tuples(st.integers(0, width - 1), st.integers(0, width - 1))))
    top, bottom = sorted(data.draw(st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))))
    size = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    placed = place_label((left, top, right, bottom), size, (width, height))
    assert (placed[2] - placed[0] + 1, placed[3] - placed[1] + 1) == size
    assert placed[0] >= 0
    assert placed[1] >= 0
    assert placed[2] < width
    assert placed[3] < height


def test_a_label_is_above_its_box_where_there_is_room() -> None:
    assert place_label((10, 50, 90, 90), (30, 12), (100, 100)) == (10, 38, 39, 49)
    assert place_label((10, 5, 90, 90), (30, 12), (100, 100)) == (10, 5, 39, 16)


def test_a_name_is_shortened_before_it_is_left_out() -> None:
    texts = [fit_text("Schneeleopard", "97 %", (width, 100)).text for width in (400, 60, 28, 3)]
    assert texts[0] == "Schneeleopard 97 %"
    assert texts[1].startswith("Sch")
    assert texts[1].endswith("... 97 %")
    assert texts[2:] == ["97 %", ""]


def test_letters_grow_with_the_picture() -> None:
    sizes = [fit_text("cat", "97 %", (side, side)).font.size for side in (100, 1000, 4000, 100_000)]
    assert sizes == [12, 20, 80, 96]


def test_letters_that_the_font_does_not_have_are_not_drawn_as_boxes() -> None:
    assert fit_text("Bär ½ 犬", "9 %", (900, 900)).text == "Bar 1?2 ? 9 %"


def test_what_a_terminal_or_a_font_would_act_on_is_not_drawn() -> None:
    assert fit_text("a\nb\x1b[31m\u202e\ud800", "9 %", (900, 900)).text == "a?b?[31m?? 9 %"


def test_a_box_has_the_colour_of_its_class() -> None:
    image = Image.new("RGB", (200, 200), GREY)
    found = detections([[50, 50, 150, 150], [20, 20, 180, 180]])
    drawn = draw_detections(image, found)
    assert drawn.getpixel((150, 100)) == colour_of(0)
    assert drawn.getpixel((180, 100)) == colour_of(1)
    assert drawn.getpixel((100, 100)) == GREY


def test_objects_of_one_class_with_masks_have_a_colour_each() -> None:
    masks = torch.zeros(2, 100, 100, dtype=torch.bool)
    masks[0, 20:40, 20:40] = True
    masks[1, 60:80, 60:80] = True
    found = Detections(
        boxes=torch.tensor([[20.0, 20, 39, 39], [60, 60, 79, 79]]),
        classes=torch.tensor([1, 1]),
        labels=("nucleus", "nucleus"),
        scores=torch.tensor([0.9, 0.8]),
        masks=masks,
    )
    drawn = draw_detections(Image.new("RGB", (100, 100), GREY), found)
    assert (drawn.getpixel((39, 39)), drawn.getpixel((79, 79))) == (colour_of(0), colour_of(1))


def test_a_mask_is_translucent_with_an_opaque_outline() -> None:
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[0, 30:70, 40:80] = True
    image = Image.new("RGB", (100, 100), GREY)
    # The box is elsewhere, so that only the mask is seen here.
    drawn = draw_detections(image, detections([[0, 95, 5, 99]], masks=mask))
    colour = np.asarray(colour_of(0))
    assert drawn.getpixel((40, 50)) == drawn.getpixel((79, 50)) == drawn.getpixel((60, 30)) == tuple(colour)
    assert np.abs(np.asarray(drawn.getpixel((60, 50))) - (0.6 * 128 + 0.4 * colour)).max() <= 0.5
    assert drawn.getpixel((39, 50)) == drawn.getpixel((80, 50)) == GREY


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="masks are 4x5 pixels, the picture 9x9"):
        draw_detections(Image.new("RGB", (9, 9)), detections([[0, 0, 1, 1]], masks=torch.ones(1, 5, 4).bool()))


def test_the_best_object_is_on_top() -> None:
    found = detections([[50, 50, 150, 150], [50, 50, 150, 150]])
    assert draw_detections(Image.new("RGB", (200, 200)), found).getpixel((150, 100)) == colour_of(0)


def test_a_hundred_classes_have_distinct_colours() -> None:
    assert len({colour_of(number) for number in range(100)}) == 100
    near = [np.abs(np.subtract(colour_of(n), colour_of(n + 1))).max() for n in range(100)]
    assert min(near) > 60


def test_texts_have_the_contrast_that_accessibility_asks_for() -> None:
    for number in range(1000):
        background = colour_of(number)
        lighter, darker = sorted(
            (relative_luminance(background), relative_luminance(text_colour_on(background))), reverse=True
        )
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5
