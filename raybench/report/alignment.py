"""Texts padded with spaces so that their parts line up, taken apart for media whose letters differ in width."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

PADDING = re.compile(r"^ +| {2,}|(?<=\[) +")
"""At the start, between parts, and before the shorter bound of an interval; one space between words is none."""


class Piece(NamedTuple):
    """A stretch of a text; one that is not `shown` only takes the room of `text`."""

    text: str
    shown: bool


def pieces(texts: Sequence[str]) -> list[tuple[Piece, ...]]:
    """The texts of one column, padding replaced by what another text has in its place, not shown; so parts line up.

    Digits must be equally wide. Padding beside which no text has anything is as wide as zeros; that at the end is left
    out, and a blank text has no pieces.
    """
    return [tuple(_pieces(text.rstrip(), texts)) for text in texts]


def _pieces(text: str, texts: Sequence[str]) -> list[Piece]:
    found: list[Piece] = []
    end = 0
    for gap in PADDING.finditer(text):
        found.append(Piece(text[end : gap.start()], True))
        beside = _beside(gap.start(), gap.end(), texts)
        # A sign stands left of its digits: padding before one is in the place of digits. A minus is as wide as a plus.
        sign = "0" if text[gap.end()] in "+-" else "+"
        found.append(Piece(re.sub(r"[+-]", sign, beside), False))
        end = gap.end()
    found.append(Piece(text[end:], True))
    return [piece for piece in found if piece.text]


def _beside(start: int, end: int, texts: Sequence[str]) -> str:
    stretches = (text[start:end] for text in texts)
    whole = (each for each in stretches if len(each) == end - start and each.strip() and "  " not in each)
    return next(whole, "0" * (end - start))
