"""Mixup and CutMix: the arithmetic of timm, and draws that depend on their key alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from raybench.data.mixing import Mix, cut_box, draw, mixed, soft_targets


def images(n: int = 6, size: int = 8, floating: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    levels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
    return levels.float() / 255 if floating else levels


def draws(count: int, **options: Any) -> list[Mix]:
    return [draw(0, 3, step, size=32, **options) for step in range(count)]


def timm_mixup(
    share: float, box: tuple[int, int, int, int] | None, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Any:
    """timm's Mixup with its draws replaced by given ones."""
    from timm.data import mixup

    kind: Any = mixup.Mixup
    made = kind(mixup_alpha=1.0, cutmix_alpha=1.0, **options)
    monkeypatch.setattr(made, "_params_per_batch", lambda: (share, box is not None))
    if box is not None:
        monkeypatch.setattr(mixup, "rand_bbox", lambda *_, **__: box)
    return made


@pytest.mark.parametrize("share", [0.3, 0.77, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_is_that_of_timm(share: float, smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([0, 4, 1, 1, 3, 2])
    made = timm_mixup(share, None, monkeypatch, num_classes=5, label_smoothing=smoothing)
    theirs, their_targets = made(images(floating=True), labels)
    # One rounding of float32 in another order.
    assert torch.allclose(mixed(images(floating=True), Mix(share)), theirs, rtol=0, atol=1e-7)
    assert torch.allclose(soft_targets(labels, Mix(share), 5, smoothing), their_targets, rtol=0, atol=1e-7)


def test_cutmix_is_that_of_timm_with_lambda_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([0, 4, 1, 1, 3, 2])
    share, (y, x) = 0.64, (1, 6)
    box = cut_box(share, y, x, 8, 8)
    made = timm_mixup(share, box, monkeypatch, num_classes=5, label_smoothing=0.1)
    theirs, their_targets = made(images(floating=True), labels)
    top, bottom, left, right = box
    mix = Mix(1 - (bottom - top) * (right - left) / 64, box)
    assert torch.equal(mixed(images(floating=True), mix), theirs)
    assert torch.allclose(soft_targets(labels, mix, 5, 0.1), their_targets, rtol=0, atol=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.37, 0.5, 0.9, 0.999])
def test_the_box_is_that_of_timm(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.data import mixup

    rand_bbox: Any = mixup.rand_bbox

    for y, x in ((0, 0), (15, 3), (31, 40), (7, 44)):
        given = iter((y, x))
        monkeypatch.setattr(np.random, "randint", lambda *_, given=given, **__: next(given))
        theirs = rand_bbox((6, 3, 32, 45), share)
        assert cut_box(share, y, x, 32, 45) == tuple(map(int, theirs))


def test_uint8_is_rounded_like_timms_collate() -> None:
    whole, mix = images(), Mix(0.3)
    expected = np.rint(whole.numpy().astype(np.float32) * 0.3 + whole.flip(0).numpy().astype(np.float32) * 0.7)
    found = mixed(whole, mix)
    assert found.dtype == torch.uint8
    # A sum that is half a level up to float32 may be rounded either way.
    assert np.abs(found.numpy().astype(int) - expected).max() <= 1
    assert (found.numpy() == expected).mean() > 0.999


def test_no_mix_is_the_identity_and_nothing_is_changed_in_place() -> None:
    whole = images()
    before = whole.clone()
    assert mixed(whole, Mix()) is whole
    mixed(whole, Mix(0.4))
    mixed(whole, Mix(0.5, (0, 4, 0, 8)))
    assert torch.equal(whole, before)
    labels = torch.tensor([2, 0])
    assert torch.equal(soft_targets(labels, Mix(), 3), torch.eye(3)[labels])


def test_an_odd_batch_mixes_its_middle_with_itself() -> None:
    whole = images(5)
    assert torch.equal(mixed(whole, Mix(0.4))[2], whole[2])
    assert torch.allclose(soft_targets(torch.arange(5), Mix(0.4), 5)[2], torch.eye(5)[2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_sum_to_one_and_equal_labels_stay_whole(smoothing: float) -> None:
    targets = soft_targets(torch.tensor([1, 0, 2, 1]), Mix(0.3), 4, smoothing)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert float(targets[0, 1]) == pytest.approx(1 - smoothing + smoothing / 4)


def test_a_draw_is_a_function_of_its_key() -> None:
    options: dict[str, Any] = {"size": 32, "mixup_alpha": 0.8, "cutmix_alpha": 1.0}
    assert draw(1, 2, 3, **options) == draw(1, 2, 3, **options)
    assert len({draw(*key, **options) for key in ((1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3))}) == 4
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    draw(1, 2, 3, **options)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_lambda_is_of_a_beta_distribution(alpha: float) -> None:
    shares = [mix.share for mix in draws(4000, mixup_alpha=alpha)]
    assert all(mix.box is None for mix in draws(10, mixup_alpha=alpha))
    # The draws are fixed; p = 1e-3 would be one chance in a thousand of a wrong alarm once.
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_the_box_has_the_area_that_lambda_leaves() -> None:
    for mix in draws(300, cutmix_alpha=1.0):
        assert mix.box is not None
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 32
        assert 0 <= left <= right <= 32
        assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / 1024)


def test_how_often_it_is_mixed_and_with_what() -> None:
    both = draws(4000, mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.75, switch_prob=0.3)
    done = [mix for mix in both if mix != Mix()]
    # Five standard deviations of a share of 4,000: sqrt(p (1 - p) / n) is 0.0068 and, of the 3,000, 0.0084.
    assert abs(len(done) / 4000 - 0.75) < 0.034
    assert abs(sum(mix.box is not None for mix in done) / len(done) - 0.3) < 0.042
    assert draws(50, mixup_alpha=0.8, prob=0.0) == [Mix()] * 50
    assert draws(50) == [Mix()] * 50


@pytest.mark.parametrize("wrong", [{"mixup_alpha": -0.1}, {"prob": 1.1}, {"switch_prob": -0.1}, {"cutmix_alpha": -1}])
def test_numbers_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="alphas must be 0 or more"):
        draw(0, size=8, **wrong)
