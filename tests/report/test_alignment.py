"""Padding is taken for what stands in its place elsewhere, and nothing that is shown is lost."""

from __future__ import annotations

import pytest

from raybench.report.alignment import pieces


def shown(texts: list[str]) -> list[str]:
    return ["".join(piece.text for piece in row if piece.shown) for row in pieces(texts)]


def room(texts: list[str]) -> list[int]:
    return [len("".join(piece.text for piece in row)) for row in pieces(texts)]


def test_texts_without_padding_are_one_piece() -> None:
    assert [[tuple(piece) for piece in row] for row in pieces(["a b", "not distinguishable", ""])] == [
        [("a b", True)],
        [("not distinguishable", True)],
        [],
    ]


@pytest.mark.parametrize(
    "texts",
    [
        ["79.2 ± 0.4 (2)", "79.9       (1)", " 7.2 ±  0.4 (12)"],
        ["+3.1 [ +2.8,  +3.4]", "+0.6 [-14.5, +15.7]", " 0.0"],
        ["", "  ", " 1"],
    ],
)
def test_all_that_is_shown_stays_at_its_place(texts: list[str]) -> None:
    assert room(texts) == [len(text.rstrip()) for text in texts]
    assert [text.replace(" ", "") for text in shown(texts)] == [text.replace(" ", "") for text in texts]


def test_padding_is_as_wide_as_what_stands_in_its_place_elsewhere() -> None:
    (_, short, small) = pieces(["79.2 ± 0.4 (2)", "79.9       (1)", " 7.2 ± 0.4 (2)"])
    assert short[1] == (" ± 0.4 ", False)
    assert small[0] == ("7", False)


def test_signs_stand_left_of_their_digits() -> None:
    short, _, zero = pieces(["[  +2.8]", "[-104.5]", "[   0.0]"])
    assert short[1] == ("01", False)
    assert zero[1] == ("+10", False)


def test_padding_beside_nothing_is_as_wide_as_zeros() -> None:
    assert pieces(["a   b"])[0][1] == ("000", False)
