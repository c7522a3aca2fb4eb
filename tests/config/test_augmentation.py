"""What the words of `dataset.augment` mean."""

from __future__ import annotations

import pytest

from raybench.config.augmentation import Augmentation, RandAugment, parse


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ((), Augmentation()),
        (("hflip", "crop4"), Augmentation(padding=4, flip=True)),
        (("rrc",), Augmentation(smallest_crop=0.08)),
        (("rrc0.25", "hflip"), Augmentation(smallest_crop=0.25, flip=True)),
        (("erasing0.25",), Augmentation(erasing=0.25)),
        (("erasing1",), Augmentation(erasing=1.0)),
        (("randaugment-n2-m9",), Augmentation(rand=RandAugment("torchvision", layers=2, magnitude=9))),
        (
            ("rand-m9-mstd0.5-inc1",),
            Augmentation(rand=RandAugment("timm", 2, 9, deviation=0.5, increasing=True, probability=0.5)),
        ),
        (("rand-p0.8-n3-m7",), Augmentation(rand=RandAugment("timm", 3, 7, probability=0.8))),
        (("rand-n1",), Augmentation(rand=RandAugment("timm", 1, 10, probability=0.5))),
    ],
)
def test_words(words: tuple[str, ...], meaning: Augmentation) -> None:
    assert parse(words) == meaning


@pytest.mark.parametrize("words", ["rand-m9-mstd0.5-inc1", "rand-m5-n3-p0.3", "rand-m10", "rand-n4-mstd101-m2-inc0"])
def test_timms_words_mean_what_timm_reads(words: str) -> None:
    from timm.data.auto_augment import rand_augment_transform

    theirs, ours = rand_augment_transform(words, {}), parse((words,)).rand
    assert ours is not None
    first = theirs.ops[0]
    assert (ours.layers, ours.magnitude, ours.probability) == (theirs.num_layers, first.magnitude, first.prob)
    spread = first.magnitude_std
    assert ours.deviation == spread or (ours.deviation > 100 and spread == float("inf"))
    assert ours.increasing == any(op.name.endswith("Increasing") for op in theirs.ops)


def test_what_has_an_end() -> None:
    assert not parse(("crop4", "hflip")).endless
    assert all(parse((word,)).endless for word in ("rrc", "rand-m1", "randaugment-n1-m0", "erasing0.1"))


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("mixup",), 'unknown augmentation "mixup"; allowed: cropN'),
        (("crop0",), 'unknown augmentation "crop0"'),
        (("rand",), 'unknown augmentation "rand"'),
        (("rand-m9-x3",), 'unknown augmentation "rand-m9-x3"'),
        (("rand-m9.5",), "unknown"),
        (("rrc0",), 'augmentation "rrc0": 0 must be above 0 and at most 1'),
        (("rrc1.5",), "1.5 must be above 0 and at most 1"),
        (("erasing0",), "0 must be above 0"),
        (("rand-m9-p0",), "0 must be above 0"),
        (("rand-m9-m8",), 'augmentation "rand-m9-m8": m is there twice'),
        (("rand-m11",), "magnitude m = 11; allowed are 0 to 10"),
        (("randaugment-n2-m31",), "magnitude m = 31; allowed are 0 to 30"),
        (("randaugment-n0-m9",), "n = 0 operations; allowed are 1 to 16"),
        (("crop4", "rrc"), "crop4 and rrc exclude each other"),
        (("rand-m9", "randaugment-n2-m9"), "rand-m9 and randaugment-n2-m9 exclude each other"),
        (("rrc", "rrc0.5"), "each kind of augmentation at most once"),
        (("hflip", "hflip"), "each kind of augmentation at most once"),
    ],
)
def test_words_refused(words: tuple[str, ...], fault: str) -> None:
    with pytest.raises(ValueError, match=fault.replace(".", r"\.")):
        parse(words)
