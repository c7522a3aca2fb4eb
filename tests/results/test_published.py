"""Published numbers against literals of the sources."""

from __future__ import annotations

import pytest

from raybench.errors import ResultsError
from raybench.results.published import PublishedRow, parse, published, published_sweeps


def texts(sweep: str, model: str, metric: str, **setting: object) -> list[str]:
    """The values of one model and metric, with unit, in the order of the source."""
    return [
        row.text
        for row in published(sweep)
        if row.model == model
        and row.metric == metric
        and all(getattr(row.setting, key) == value for key, value in setting.items())
    ]


# Course report, CIFAR-10: top-1 at the epochs printed; train s of the first and later epochs; eval s.
COURSE_REPORT = [
    ("train_size", "basic ViT, from scratch", 500, "21.10 21.90 23.60", "6.15 2.55", "2.2"),
    ("train_size", "basic ViT, from scratch", 10_000, "22.00 26.35 35.30 36.05", "46.55 42.5", "4.5"),
    ("train_size", "basic ViT, from scratch", 20_000, "29.45 28.80 34.20 37.00", "86.52 84.3", "5.2"),
    ("pretrained", "ResNet-18, pretrained", 500, "9.20 22.20 56.80 57.60", "4.91 1.13", "0.9"),
    ("pretrained", "ViT, pretrained", 500, "83.20 90.20 91.60 91.20", "6.23 2.51", "1.4"),
    ("pretrained", "ViT + ToMe, pretrained", 500, "92.80 96.00 96.00 96.20", "7.72 4.03", "2.0"),
]


@pytest.mark.parametrize(("sweep", "model", "size", "top1", "train", "evaluation"), COURSE_REPORT)
def test_course_report(sweep: str, model: str, size: int, top1: str, train: str, evaluation: str) -> None:
    assert texts(sweep, model, "top1", train_size=size) == [f"{value} %" for value in top1.split()]
    assert texts(sweep, model, "train_time", train_size=size) == [f"{value} s/epoch" for value in train.split()]
    assert texts(sweep, model, "eval_time", train_size=size) == [f"{evaluation} s"]


@pytest.mark.parametrize(
    ("model", "pretrained", "epochs", "numbers"),
    [
        ("ResNet-18", True, 30, ("95.86", "79.64", "0.117")),
        ("ResNet-18", False, 30, ("83.16", "62.55", "0.494")),
        ("TinyViT-5M", True, 21, ("98.36", "89.28", "0.046")),
        ("TinyViT-5M", False, 30, ("88.02", "68.28", "0.346")),
    ],
)
def test_tinyvit_against_resnet(model: str, pretrained: bool, epochs: int, numbers: tuple[str, ...]) -> None:
    rows = [r for r in published("tinyvit_resnet") if r.model == model and r.setting.pretrained is pretrained]
    assert tuple(row.printed for row in rows) == numbers
    assert [row.metric for row in rows] == ["eval_top1", "train_top1", "eval_loss"]
    assert {row.setting.epochs for row in rows} == {epochs}


def test_ci2p() -> None:
    assert texts("ci2p", "ViT-B/16", "flops") == ["23.127 G", "55.433 G", "107 G"]
    assert texts("ci2p", "CI2P-ViT", "flops") == ["8.477 G", "19.284 G", "34.81 G"]
    assert texts("ci2p", "CI2P-ViT-ds", "flops") == ["6.442 G", "14.492 G", "25.762 G"]
    assert texts("ci2p", "ViT-B/32", "flops") == ["23.13 G"]
    size = {m: texts("ci2p", m, "param_count") for m in ("ViT-B/16", "ViT-B/32", "CI2P-ViT", "CI2P-ViT-ds")}
    assert size == {"ViT-B/16": ["86 M"], "ViT-B/32": ["86 M"], "CI2P-ViT": ["88.96 M"], "CI2P-ViT-ds": ["49.7 M"]}
    imagenet = {m: texts("ci2p", m, "top1", dataset="imagenet") for m in size}
    expected = {"ViT-B/16": ["77.91 %"], "ViT-B/32": ["73.38 %"], "CI2P-ViT": ["72.9 %"], "CI2P-ViT-ds": ["77 %"]}
    assert imagenet == expected
    animals = {m: texts("ci2p", m, "top1", dataset="animals10") for m in ("ViT-B/16", "CI2P-ViT", "CNN-ViT")}
    assert animals == {"ViT-B/16": ["89 %"], "CI2P-ViT": ["92.37 %"], "CNN-ViT": ["88.5 %"]}
    assert texts("ci2p", "ViT-B/16", "train_time") + texts("ci2p", "CI2P-ViT", "train_time") == ["20 h", "9 h"]
    quoted = {
        "DeiT-B": ["86 M", "17.6 G", "81.8 %"],
        "T2T-ViT-24": ["64.1 M", "14.1 G", "82.3 %"],
        "TNT-B": ["65.6 M", "14.1 G", "82.9 %"],
        "CPVT-B": ["88 M", "17.6 G", "82.3 %"],
        "Swin-B": ["88 M", "15.4 G", "83.3 %"],
    }
    assert {m: [row.text for row in published("ci2p") if row.model == m] for m in quoted} == quoted


def test_reversed_deit() -> None:
    said = [row.text for row in published("deit_reverse")]
    assert said == [
        *("about 72 %", "5 h 42 min", "102.6 s/epoch", "0.662"),
        *("below the baseline", "19 h", "456 s/epoch", "4.44 x", "y = -0.112 + 0.139 ln(epoch)", "0.962"),
        "about 400 epoch",
    ]
    assert [row.value for row in published("deit_reverse")][1] == 5 * 60 + 42
    (deit,) = published("deit")
    assert deit.teacher == "regnety_160.deit_in1k"
    assert deit.value is None


def test_multi30k() -> None:
    said = [row.text for row in published("multi30k")]
    assert said == [
        *("8317 words", "6384 words", "about 20 min", "about 4,100 tokens/s", "7.61", "4.08", "about 1.0"),
        *("5.4e-07", "8.1e-4", "5.2e-04", "2.10", "4276.3 tokens/s", "8.0e-04"),
    ]


@pytest.mark.parametrize("sweep", ["tome", "pretrained"])
def test_token_merging_on_a_v100(sweep: str) -> None:
    rows = [row for row in published(sweep) if row.hardware == "V100"]
    assert [row.text for row in rows if row.metric == "infer_samples_per_sec"] == [
        f"{rate} images/s" for rate in (309, 511, 953, 1564, 930, 1550)
    ]
    assert [row.text for row in rows if row.metric == "top1"] == ["84.57 %", "82.60 %", "79.8 %", "79.36 %"]


def test_sweeps_and_unknown_sweep() -> None:
    assert {"train_size", "pretrained", "tinyvit_resnet", "ci2p", "deit_reverse", "deit", "multi30k"} < set(
        published_sweeps()
    )
    assert published("no_such_sweep") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- {rows: [{model: m, metric: top1, value: 1, sweep: s}]}", "source"),
        ("- {source: x, rows: [{model: m, metric: top1, sweep: s}]}", "either a value or words"),
        ("- {source: x, rows: [{model: m, metric: top1, sweep: s, value: 1, words: w}]}", "either a value or words"),
        ("- {source: x, rows: [{model: m, metric: top1, sweep: s, value: 2, printed: '2.5'}]}", "printed 2.5"),
        ("- {source: x, rows: [{model: m, metric: top1, sweep: s, value: 1, hardwear: y}]}", "hardwear"),
        ("- {source: x, rows: [{model: m, metric: top1, sweep: s, value: many}]}", "value"),
        ("a: b", "list of groups"),
        ("[", "not valid YAML"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(text: str, fault: str) -> None:
    with pytest.raises(ResultsError, match=fault) as raised:
        parse(text, "wrong.yaml")
    assert "wrong.yaml" in str(raised.value)


def test_a_row_keeps_the_digits_of_its_source() -> None:
    (row,) = parse("- {source: x, rows: [{model: m, metric: top1, sweep: s, value: 21.10, unit: '%'}]}", "one.yaml")
    assert isinstance(row, PublishedRow)
    assert (row.value, row.printed, row.text) == (21.1, "21.10", "21.10 %")


@pytest.mark.parametrize(
    ("sweep", "where", "images", "inferred"),
    [
        ("tinyvit_resnet", {"metric": "eval_top1"}, 5_000, False),
        ("deit_reverse", {"metric": "top1", "value": 72.0}, 10_000, False),
        ("ci2p", {"metric": "top1", "value": 77.91}, 50_000, False),
        ("pretrained", {"metric": "top1", "value": 84.57}, 50_000, False),
        ("train_size", {"metric": "top1", "value": 23.6}, 500, True),
        ("train_size", {"metric": "top1", "value": 36.05}, 2_000, True),
        ("train_size", {"metric": "top1", "value": 37.0}, 2_000, True),
    ],
)
def test_the_size_of_a_test_set_is_given_where_it_is_known(
    sweep: str, where: dict[str, object], images: int, inferred: bool
) -> None:
    rows = [row for row in published(sweep) if all(getattr(row, key) == value for key, value in where.items())]
    assert rows
    for row in rows:
        assert (row.setting.test_images, row.setting.test_images_inferred) == (images, inferred)
        assert row.of_inferred_images == (" (n inferred)" if inferred else "")


def test_inferred_sizes_fit_the_digits_of_their_accuracies() -> None:
    rows = [row for row in published("train_size") if row.setting.test_images == 2_000 and row.metric == "top1"]
    assert len(rows) == 8
    for row in rows:
        assert row.value is not None
        correct = row.value / 100 * (row.setting.test_images or 0)
        assert abs(correct - round(correct)) < 1e-6


def test_no_accuracy_on_training_images_has_an_interval() -> None:
    assert not [r for r in published("tinyvit_resnet") if r.metric == "train_top1" and r.setting.test_images]
