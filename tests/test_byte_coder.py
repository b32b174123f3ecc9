"""Text and numbers: what goes in comes out, small, and the reference decodes it too."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sterna import _core
from sterna.reference.byte_coder import decode_numbers, decode_text
from sterna.reference.primer import PRIMER

REPOSITORY = Path(__file__).resolve().parent.parent


def encode_numbers(data: bytes, width: int) -> bytes:
    return _core.encode_numbers(np.frombuffer(data, np.uint8), width)


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
@settings(deadline=None, max_examples=20)
def test_any_text_survives(text: bytes) -> None:
    assert decode_text(_core.encode_text(text), len(text)) == text


@given(st.integers(1, 8), st.lists(st.integers(0, 3) | st.integers(0, 255), max_size=160).map(bytes))
@settings(deadline=None)
def test_any_numbers_survive(width: int, data: bytes) -> None:
    data = data[: len(data) // width * width]
    assert decode_numbers(encode_numbers(data, width), len(data) // width, width) == data


def test_text_like_the_primer_costs_next_to_nothing() -> None:
    assert len(_core.encode_text(PRIMER[1000:1500])) < 20


def test_json_that_the_primer_does_not_know_costs_less_than_deflated() -> None:
    text = json.dumps([{"station": n, "river": f"Elbe {n % 7}", "level": 3.5 * n % 11} for n in range(60)]).encode()
    assert len(_core.encode_text(text)) < 0.9 * len(zlib.compress(text, 9))


def test_float16_weights_cost_less_than_deflated_planes() -> None:
    weights = np.random.default_rng(0).normal(0, 0.05, 20_000).astype(np.float16)
    planes = weights.view(np.uint8).reshape(-1, 2).T.tobytes()
    assert len(encode_numbers(weights.tobytes(), 2)) < 0.97 * len(zlib.compress(planes, 9))


def test_noise_is_kept_as_it_is() -> None:
    noise = np.random.default_rng(1).integers(0, 256, 5000).astype(np.uint8).tobytes()
    coded = encode_numbers(noise, 1)
    assert coded == b"\0" + noise


def test_numbers_that_are_not_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="whole"):
        encode_numbers(bytes(7), 2)


def test_specification_reference_and_native_code_have_one_primer() -> None:
    text = (REPOSITORY / "docs" / "format.md").read_text(encoding="utf-8")
    listing = re.search(r"These ([\d,]+) bytes.*\(CRC `0x([0-9a-f]{8})`\):\n\n```primer\n(.*?)\n```", text, re.DOTALL)
    assert listing is not None
    assert listing[3].replace("\n", "").encode() == PRIMER == _core.TEXT_PRIMER.encode()
    assert int(listing[1].replace(",", "")) == len(PRIMER)
    assert int(listing[2], 16) == zlib.crc32(PRIMER)
