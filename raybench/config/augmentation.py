"""What the words of `dataset.augment` mean; how they are done is the business of `raybench.data`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

ALLOWED = (
    "cropN (such as crop4), hflip, rrc (or rrc0.25: least share of the area), randaugment-n2-m9, "
    "rand-m9-mstd0.5-inc1 (timm's words m, n, mstd, inc, p), erasing0.25 (its probability)"
)
NUMBER = r"\d+(?:\.\d+)?"
WORDS = {
    "crop": re.compile(r"crop(?P<padding>[1-9]\d*)"),
    "hflip": re.compile(r"hflip"),
    "rrc": re.compile(rf"rrc(?P<scale>{NUMBER})?"),
    "randaugment": re.compile(r"randaugment-n(?P<n>\d+)-m(?P<m>\d+)"),
    "rand": re.compile(rf"rand(?P<options>(?:-(?:m\d+|n\d+|mstd{NUMBER}|inc[01]|p{NUMBER}))+)"),
    "erasing": re.compile(rf"erasing(?P<probability>{NUMBER})"),
}
OPTION = re.compile(rf"(mstd|inc|m|n|p)({NUMBER})")
SMALLEST_CROP = 0.08
"""Share of the area that torchvision's and timm's RandomResizedCrop take at least."""
LARGEST_BIN = 30
"""Magnitudes of torchvision's RandAugment are 0 to 30, those of timm's 0 to 10."""
LARGEST_LEVEL = 10


@dataclass(frozen=True)
class RandAugment:
    """A few operations, drawn anew for every view."""

    family: str
    """`torchvision` or `timm`: whose operations and magnitudes."""
    layers: int
    magnitude: int
    deviation: float = 0.0
    """Standard deviation of the magnitude (timm); above 100 it is uniform from 0 to `magnitude`."""
    increasing: bool = False
    """Whether a larger magnitude always changes an image more (timm)."""
    probability: float = 1.0
    """Of each layer being done at all (timm: 0.5)."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to an image, in this order."""

    padding: int = 0
    """Pixels of zeros on each side, from which a crop of the old size is taken."""
    smallest_crop: float | None = None
    """Least share of the area that a crop resized to the view's size takes; none: no such crop."""
    flip: bool = False
    rand: RandAugment | None = None
    erasing: float = 0.0
    """Probability."""

    @property
    def endless(self) -> bool:
        """Whether its views cannot be numbered."""
        return self.smallest_crop is not None or self.rand is not None or self.erasing > 0


@lru_cache(maxsize=64)
def parse(words: tuple[str, ...]) -> Augmentation:
    """The augmentation that the words of `dataset.augment` mean, in whatever order.

    Raises ValueError for unknown words, numbers out of range, and words that exclude each other.
    """
    found: dict[str, re.Match[str]] = {}
    for word in words:
        kind, match = next(((kind, m) for kind, each in WORDS.items() if (m := each.fullmatch(word))), (None, None))
        if kind is None or match is None:
            raise ValueError(f'unknown augmentation "{word}"; allowed: {ALLOWED}')
        if kind in found:
            raise ValueError("each kind of augmentation at most once")
        found[kind] = match
    for one, other in (("crop", "rrc"), ("rand", "randaugment")):
        if one in found and other in found:
            raise ValueError(f"{found[one][0]} and {found[other][0]} exclude each other; leave one of them out")
    return Augmentation(
        padding=int(found["crop"]["padding"]) if "crop" in found else 0,
        smallest_crop=_smallest_crop(found["rrc"]) if "rrc" in found else None,
        flip="hflip" in found,
        rand=_rand(found),
        erasing=_share(found["erasing"], found["erasing"]["probability"]) if "erasing" in found else 0.0,
    )


def _smallest_crop(match: re.Match[str]) -> float:
    return SMALLEST_CROP if match["scale"] is None else _share(match, match["scale"])


def _share(match: re.Match[str], number: str) -> float:
    if not 0 < float(number) <= 1:
        raise ValueError(f'augmentation "{match[0]}": {number} must be above 0 and at most 1')
    return float(number)


def _rand(found: dict[str, re.Match[str]]) -> RandAugment | None:
    if "randaugment" in found:
        match = found["randaugment"]
        made = RandAugment("torchvision", layers=int(match["n"]), magnitude=int(match["m"]))
        largest = LARGEST_BIN
    elif "rand" in found:
        match = found["rand"]
        given: dict[str, str] = {}
        for option, value in OPTION.findall(match["options"]):
            if option in given:
                raise ValueError(f'augmentation "{match[0]}": {option} is there twice')
            given[option] = value
        made = RandAugment(
            "timm",
            layers=int(given.get("n", 2)),
            magnitude=int(given.get("m", LARGEST_LEVEL)),
            deviation=float(given.get("mstd", 0)),
            increasing=given.get("inc") == "1",
            probability=_share(match, given["p"]) if "p" in given else 0.5,
        )
        largest = LARGEST_LEVEL
    else:
        return None
    if not 1 <= made.layers <= 16:
        raise ValueError(f'augmentation "{match[0]}": n = {made.layers} operations; allowed are 1 to 16')
    if made.magnitude > largest:
        raise ValueError(f'augmentation "{match[0]}": magnitude m = {made.magnitude}; allowed are 0 to {largest}')
    return made
