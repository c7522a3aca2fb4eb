"""What the commands' arguments may be, for argparse."""

from __future__ import annotations

import argparse

MAX_SEEDS = 10_000


def add_plugin(parse: argparse.ArgumentParser) -> None:
    """`--plugin`, of every command that meets models, data sets or kinds of distillation."""
    parse.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE|MODULE",
        help="models, data sets or kinds of distillation of your own (docs/extending.md); may be given again",
    )


def positive(text: str) -> int:
    """A whole number above 0."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be at least 1")
    return number


def seed_count(text: str) -> int:
    """A number of seeds that a sweep can have."""
    number = positive(text)
    if number > MAX_SEEDS:
        raise argparse.ArgumentTypeError(f"{number}: must be at most {MAX_SEEDS}")
    return number


def duration(text: str) -> float:
    """Seconds of a duration such as 90, 90s, 30m, 2h."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a duration above 0, such as 90, 30m or 2h")
    return seconds


def price(text: str) -> float:
    """A price, which may be 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of at least 0")
    return number
