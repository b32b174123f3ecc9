"""Text and numbers in plain Python, laid out like "Bytes", "Text" and "Numbers" of ``docs/format.md``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sterna.reference.mixing import Counter, Mixer, RangeDecoder
from sterna.reference.primer import PRIMER

WEIGHT = 20000
WORD = 1 << 32


class ByteModel:
    """Decodes bytes, bit by bit, from some contexts and a guess."""

    def __init__(self, contexts: int) -> None:
        self.tables: list[defaultdict[int, Counter]] = [defaultdict(Counter) for _ in range(contexts)]
        self.guesses = [Counter() for _ in range(16)]
        self.mixers = Mixer(contexts + 1, WEIGHT), Mixer(contexts + 1, WEIGHT)

    def decode(self, decoder: RangeDecoder, contexts: Sequence[int], guess: int = 0, confidence: int = 0) -> int:
        """The next byte."""
        mixer = self.mixers[confidence != 0]
        node = 1
        for bit in range(7, -1, -1):
            inputs = [
                (table[((context * 0x9E3779B1 ^ node * 0x85EBCA6B) * 0xC2B2AE35 & WORD - 1) >> 16], 1)
                for table, context in zip(self.tables, contexts, strict=True)
            ]
            holds = confidence != 0 and (256 | guess) >> bit + 1 == node
            sign = (1 if guess >> bit & 1 else -1) if holds else 0
            node = 2 * node + mixer.decide(decoder, [*inputs, (self.guesses[confidence], sign)])
        return node & 255


class _Known(RangeDecoder):
    """Stands for a decoder whose bytes are known."""

    def __init__(self, data: bytes) -> None:
        self.position = 0
        self.bits = [bool(byte >> bit & 1) for byte in data for bit in range(7, -1, -1)]

    def decide(self, probability: int) -> bool:
        del probability
        decision = self.bits[self.position]
        self.position += 1
        return decision


def decode_text(data: bytes, size: int) -> bytes:
    """Text of ``size`` bytes.

    Raises:
        ValueError: the code is too short or too long.
    """
    model = ByteModel(6)
    history = bytearray()
    word = 0
    heads = [0] * 2**14
    place = length = 0

    known = _Known(PRIMER)
    decoder = RangeDecoder(data)
    for i in range(len(PRIMER) + size):
        one, two, three, four = (int.from_bytes(history[-n:][::-1], "little") for n in (1, 2, 3, 4))
        confidence = length if length < 12 else 12 if length < 16 else 13 if length < 32 else 14
        guess = history[place] if length else 0
        source = known if i < len(PRIMER) else decoder
        byte = model.decode(source, [0, one, two, three, four, word], guess, confidence)
        history.append(byte)
        is_letter = ord("a") <= byte <= ord("z") or ord("A") <= byte <= ord("Z") or byte >= 128
        word = (word + byte) * 0x2F0B4C47 % WORD if is_letter else 0

        if length and history[place] == byte:
            place, length = place + 1, min(length + 1, 32)
        else:
            length = 0
        if len(history) >= 4:
            last = int.from_bytes(history[-4:][::-1], "big")
            head = (last * 0x9E3779B1 & WORD - 1) >> 18
            if length == 0 and heads[head]:
                place = heads[head]
                while length < min(32, place) and history[place - 1 - length] == history[len(history) - 1 - length]:
                    length += 1
            heads[head] = len(history)
    decoder.finish()
    return bytes(history[len(PRIMER) :])


def decode_numbers(data: bytes, count: int, width: int) -> bytes:
    """``count`` numbers of ``width`` bytes each.

    Raises:
        ValueError: the code is too short or too long.
    """
    numbers = bytearray(count * width)
    position = 0
    for plane in range(width - 1, -1, -1):
        head, position = read_varint(data, position)
        size = count if head == 0 else head - 1
        section = data[position : position + size]
        position += size
        if head == 0:
            numbers[plane::width] = section
            continue
        model, decoder = ByteModel(5), RangeDecoder(section)
        last = [0, 0, 0, 0]
        for i in range(count):
            above = numbers[i * width + plane + 1] if plane + 1 < width else 0
            contexts = [0, last[0], above, last[0] | last[1] << 8, sum(last) // 4]
            numbers[i * width + plane] = model.decode(decoder, contexts)
            last = [numbers[i * width + plane], *last[:3]]
        decoder.finish()
    if position != len(data):
        raise ValueError("bytes are left after the code, or it ends too early")
    return bytes(numbers)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A number and the place after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
