"""Pictures with what a detector found in them: masks, boxes, and labels that can be read."""

from __future__ import annotations

import colorsys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sterna.tasks.prediction import Detections

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in whole pixels; the right column and the bottom row belong to it."""

MASK_OPACITY = 0.4

_GOLDEN_RATIO = 0.6180339887498949
# Neighbouring numbers differ in brightness too, for those who tell hues apart badly.
_BRIGHTNESS = (1.0, 0.75, 0.9)
_SATURATION = 0.85
_PIXELS_PER_LINE_WIDTH = 400
_PIXELS_PER_FONT_SIZE = 50
_SMALLEST_FONT_SIZE = 8
_FONT_SIZE_WITH_ROOM = 12
_LARGEST_FONT_SIZE = 96
_LONGEST_NAME = 40
# Relative luminance to which black and white have the same contrast, 4.6 : 1.
_MIDDLE_LUMINANCE = 0.179


@dataclass(frozen=True)
class FittedText:
    """A text that fits into a picture.

    Args:
        text: to draw; empty if there is no room for any.
        font: to draw it with.
        offset: from where the text is drawn to the left top of its ink, in pixels.
        size: width and height of its ink, in pixels.
    """

    text: str
    font: ImageFont.FreeTypeFont
    offset: tuple[int, int]
    size: tuple[int, int]


def draw_detections(image: Image.Image, detections: Detections) -> Image.Image:
    """Draw what was found: translucent masks with outlines, boxes, and a label with its score on each.

    Objects with masks have a colour each, others a colour for each class. Better objects are drawn over worse ones,
    and labels over everything. Lines and texts grow with the picture; a label that has no room in a tiny picture is
    shortened, then left out.

    Args:
        image: the picture that was looked at; it is not changed.
        detections: of this picture, finite.

    Returns:
        A new RGB picture of the same size.

    Raises:
        ValueError: masks have another size than the picture.
    """
    masks = detections.masks
    if masks is not None and tuple(masks.shape[1:]) != (image.height, image.width):
        raise ValueError(
            f"masks are {masks.shape[2]}x{masks.shape[1]} pixels, the picture {image.width}x{image.height}"
        )
    numbers = detections.classes.tolist() if masks is None else range(len(detections))
    colours = [colour_of(number) for number in numbers]
    boxes = [_inside(box, image.size) for box in detections.boxes.tolist()]
    line_width = max(1, round(max(image.size) / _PIXELS_PER_LINE_WIDTH))

    pixels = np.array(image.convert("RGB"))
    if masks is not None:
        for place in reversed(range(len(detections))):
            _blend_mask(pixels, masks[place].cpu().numpy(), colours[place], line_width)
    drawn = Image.fromarray(pixels)
    draw = ImageDraw.Draw(drawn)
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        draw.rectangle(box, outline=colour, width=line_width)
    scores = detections.scores.tolist()
    for place in reversed(range(len(detections))):
        text = fit_text(detections.labels[place], f"{100 * scores[place]:.0f} %", drawn.size)
        _draw_label(draw, text, boxes[place], colours[place], drawn.size)
    return drawn


def colour_of(number: int) -> Colour:
    """The colour of a class or an object, always the same; hues of successive numbers are far apart."""
    hue = (number * _GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, _SATURATION, _BRIGHTNESS[number % len(_BRIGHTNESS)])
    return round(255 * red), round(255 * green), round(255 * blue)


def text_colour_on(background: Colour) -> Colour:
    """Black or white, whichever has more contrast to this colour.

    References:
        W3C: Web content accessibility guidelines 2.1, relative luminance and contrast ratio.
    """
    return (0, 0, 0) if relative_luminance(background) > _MIDDLE_LUMINANCE else (255, 255, 255)


def relative_luminance(colour: Colour) -> float:
    """Of an sRGB colour: 0 for black, 1 for white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def fit_text(name: str, score: str, picture: tuple[int, int]) -> FittedText:
    """Make a label fit into a picture: smaller letters first, then a shorter name, then the score alone, then nothing.

    Args:
        name: of a class. Pillow's own font has ASCII alone: accents are left off, and what is still not ASCII or cannot
            be printed in one line becomes question marks.
        score: to follow it.
        picture: width and height in pixels.

    Returns:
        A text that is nowhere larger than the picture, together with the margin of its background.
    """
    letters = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    clean = "".join(c if c.isascii() and c.isprintable() else "?" for c in letters)
    clean = clean if len(clean) <= _LONGEST_NAME else clean[: _LONGEST_NAME - 3] + "..."
    for text, font_size in _attempts(clean, score, picture):
        font = _font(font_size)
        left, top, right, bottom = font.getbbox(text)
        # Outwards, as ink may begin between two pixels.
        left, top = int(np.floor(left)), int(np.floor(top))
        size = int(np.ceil(right)) - left, int(np.ceil(bottom)) - top
        margin = 2 * _margin(font_size)
        if size[0] + margin <= picture[0] and size[1] + margin <= picture[1]:
            return FittedText(text, font, (left, top), size)
    return FittedText("", _font(_SMALLEST_FONT_SIZE), (0, 0), (0, 0))


def place_label(box: Box, size: tuple[int, int], picture: tuple[int, int]) -> Box:
    """Where the background of a label goes: above the box, or into its upper edge where there is no room above.

    Args:
        box: of the object, in the picture.
        size: width and height of the background in pixels, not larger than the picture.
        picture: width and height in pixels.

    Returns:
        A box of this size, all of it in the picture.
    """
    left = min(box[0], picture[0] - size[0])
    above = box[1] - size[1]
    top = above if above >= 0 else min(box[1], picture[1] - size[1])
    return left, top, left + size[0] - 1, top + size[1] - 1


def _margin(font_size: float) -> int:
    """Pixels between a text and the edge of its background."""
    return max(1, round(font_size / 6))


def _attempts(name: str, score: str, picture: tuple[int, int]) -> Iterator[tuple[str, int]]:
    full = min(_LARGEST_FONT_SIZE, max(_FONT_SIZE_WITH_ROOM, round(max(picture) / _PIXELS_PER_FONT_SIZE)))
    for font_size in range(full, _SMALLEST_FONT_SIZE - 1, -1):
        yield f"{name} {score}".strip(), font_size
    for length in range(len(name) - 1, 0, -1):
        yield f"{name[:length]}... {score}", _SMALLEST_FONT_SIZE
    yield score, _SMALLEST_FONT_SIZE


@lru_cache(maxsize=_LARGEST_FONT_SIZE)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _inside(box: list[float], picture: tuple[int, int]) -> Box:
    """The pixels of a box that are in the picture; one pixel at its edge where none is."""
    left, right = sorted(min(max(x, 0.0), picture[0] - 1.0) for x in (box[0], box[2]))
    top, bottom = sorted(min(max(y, 0.0), picture[1] - 1.0) for y in (box[1], box[3]))
    return round(left), round(top), round(right), round(bottom)


def _blend_mask(pixels: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], colour: Colour, line_width: int) -> None:
    """Lay a colour over the pixels of a mask, in place: opaque at its edge, translucent within."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    shape = mask[part]
    inner = shape
    for _ in range(line_width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    target = pixels[part]
    tint = np.asarray(colour, np.float32)
    target[inner] = np.rint((1 - MASK_OPACITY) * target[inner] + MASK_OPACITY * tint).astype(np.uint8)
    target[shape & ~inner] = colour


def _draw_label(
    draw: ImageDraw.ImageDraw, text: FittedText, box: Box, colour: Colour, picture: tuple[int, int]
) -> None:
    if not text.text:
        return
    margin = _margin(text.font.size)
    background = place_label(box, (text.size[0] + 2 * margin, text.size[1] + 2 * margin), picture)
    draw.rectangle(background, fill=colour)
    place = background[0] + margin - text.offset[0], background[1] + margin - text.offset[1]
    draw.text(place, text.text, fill=text_colour_on(colour), font=text.font)
