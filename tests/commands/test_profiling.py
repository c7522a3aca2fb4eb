"""Profiles: what is counted, what is refused, and how it is printed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from raybench import profile as command
from raybench.commands import profiling
from raybench.commands.profile_text import print_profiles, quantity
from raybench.commands.profiling import Request, profile
from raybench.config.trial import ModelConfig
from raybench.errors import ConfigError
from raybench.models import build
from raybench.models.builder import meant_size
from raybench.models.counts import Counts, count
from raybench.training.footprint import RESIDENT, Footprint
from raybench.training.speed import Load, Rate, Speed

torch.set_num_threads(1)

# Counts of shared facts, section 4: parameters with the model's own head, and with one of 10 classes.
PUBLISHED = {
    "deit_base_patch16_224": (86_567_656, 85_806_346),
    "vit_base_patch16_224": (86_567_656, 85_806_346),
    "deit_base_distilled_patch16_224": (87_338_192, 85_815_572),
    "regnety_160": (83_590_140, 80_595_390),
    "tiny_vit_5m_224": (5_392_764, 5_074_974),
    "resnet18": (11_689_512, 11_181_642),
    "resnet50": (25_557_032, 23_528_522),
    "vit_base_patch32_224": (88_224_232, 87_462_922),
}
SMALL = ("resnet8", "vit_micro_patch2_8")


def request(*models: str, **changes: Any) -> Request:
    settings = {
        "options": (),
        "image_size": None,
        "num_classes": 10,
        "batch_size": 2,
        "precision": "auto",
        "threads": 1,
        "repeats": 3,
        "timing": False,
    }
    return Request(models=models, **{**settings, **changes})


def unheard(line: str) -> None:
    raise AssertionError(f"nothing is measured here, and yet: {line}")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces what is measured, which takes seconds, by what it would say; texts are faults."""

    def replace(taken: dict[str, Footprint | str], speeds: dict[str, Speed | str]) -> None:
        def compare(loads: dict[str, Load], repeats: int) -> dict[str, Speed | str]:
            assert repeats == 3
            return {name: speeds[name] for name in loads}

        monkeypatch.setattr(profiling, "footprint", lambda load: taken[load.model.name])
        monkeypatch.setattr(profiling, "compare_speeds", compare)

    return replace


@pytest.mark.parametrize(("classes", "place"), [(1000, 0), (10, 1)])
def test_published_parameter_counts(classes: int, place: int) -> None:
    entries = profile(request(*PUBLISHED, num_classes=classes), unheard)
    assert {entry["model"]: entry["param_count"] for entry in entries} == {
        name: counts[place] for name, counts in PUBLISHED.items()
    }
    assert all(type(entry["param_count"]) is int and type(entry["macs"]) is int for entry in entries)


def test_without_its_head_a_model_does_not_depend_on_the_classes() -> None:
    names = ("resnet20", "vit_micro_patch2_8", "deit_tiny_distilled_patch16_224")
    few, many = (profile(request(*names, num_classes=classes, image_size=32), unheard) for classes in (10, 100))
    for one, other in zip(few, many, strict=True):
        assert one["param_count_no_head"] == other["param_count_no_head"] < one["param_count"] < other["param_count"]
        for key in ("macs", "macs_without_attention_products"):
            assert one[key] == other[key]
    # Heads for 10 classes: one of 64 features for each of ours; two of 192 features for the distilled DeiT-Ti.
    assert [entry["param_count"] - entry["param_count_no_head"] for entry in few] == [650, 650, 2 * 1930]


def test_the_published_counts_of_ci2p_vit() -> None:
    # Shared facts, section 2 (arXiv 2502.10120): 8.477 G counts the products of attention, 6.442 G does not.
    plain, dual = profile(request("ci2p_vit", "ci2p_vit_ds"), unheard)
    head = 768 * 10 + 10
    assert (plain["image_size"], plain["param_count"], plain["param_count_no_head"]) == (256, 88_964_010, 88_956_320)
    assert plain["param_count_trainable"] == 87_463_008 + head
    assert plain["macs"] == 8_476_811_264
    assert (dual["image_size"], dual["param_count"], dual["param_count_no_head"]) == (256, 49_707_114, 49_699_424)
    assert dual["param_count_trainable"] == 48_206_112 + head
    assert dual["macs_without_attention_products"] == 6_441_525_248


def test_a_model_of_sentences() -> None:
    (entry,) = profile(request("multi30k_transformer"), unheard)
    # Shared facts, section 5: 54,942,448 with vocabularies of 8,317 and 6,384 words.
    assert (entry["param_count"], entry["source_vocabulary"], entry["target_vocabulary"]) == (54_942_448, 8317, 6384)
    assert entry["param_count"] - entry["param_count_no_head"] == 512 * 6384 + 6384
    assert "image_size" not in entry
    # N = 6 of d = 512 and 2048 on T = 72 tokens: 4 products with weights a self-attention, 4 a cross-attention, 2 a
    # feed-forward layer; 5 an element of each norm (2 an encoder layer, 3 a decoder layer, 1 a stack).
    tokens, dim = 72, 512
    weights = 6 * (4 + 8) * tokens * dim * dim + 12 * 2 * tokens * dim * 2048
    norms = (6 * 2 + 6 * 3 + 2) * 5 * tokens * dim
    assert entry["macs_without_attention_products"] == weights + norms
    assert entry["macs"] == weights + norms + 18 * 2 * tokens * tokens * dim
    (small,) = profile(
        request("multi30k_transformer", options=("source_vocabulary=100", "length=10", "layers=1")), unheard
    )
    assert (small["options"], small["source_vocabulary"], small["length"]) == ({"layers": 1}, 100, 10)
    printed = io.StringIO()
    print_profiles([entry, *profile(request("resnet8"), unheard)], Console(file=printed))
    assert "8,317 words read and 6,384 written, 72 tokens a sentence" in printed.getvalue()
    with pytest.raises(ConfigError, match=r"length = 2 must be a whole number >= 4"):
        profile(request("multi30k_transformer", options=("length=2",)), unheard)


def test_a_model_of_sentences_is_measured() -> None:
    options = ("layers=1", "d_model=8", "d_ff=8", "heads=2", "source_vocabulary=9", "target_vocabulary=7", "length=5")
    (entry,) = profile(request("multi30k_transformer", options=options, timing=True), lambda _: None)
    assert "error" not in entry
    assert entry["train_samples_per_sec"] > 0
    assert entry["infer_samples_per_sec"] > 0
    assert entry["peak_memory"] > entry["memory_before_model"] > 0


CODEC = {"options": ("N=8", "M=12"), "image_size": 32}


def test_a_codec_has_no_head() -> None:
    (entry,) = profile(request("bmshj2018_factorized", **CODEC), unheard)
    assert entry["param_count"] == entry["param_count_no_head"] == entry["param_count_trainable"] > 0
    assert entry["macs"] > 0


@pytest.mark.slow  # a process of its own imports torch and CompressAI
def test_a_codec_is_measured() -> None:
    (entry,) = profile(request("bmshj2018_factorized", timing=True, **CODEC), lambda _: None)
    assert "error" not in entry
    assert entry["train_samples_per_sec"] > 0
    assert entry["infer_samples_per_sec"] > 0


def test_products_of_attention_are_all_that_the_second_count_leaves_out() -> None:
    cnn, vit = profile(request(*SMALL), unheard)
    assert cnn["macs"] == cnn["macs_without_attention_products"]
    # 17 tokens of 64 numbers: three blocks of 2 T^2 d, and one that asks for the class token only, 2 T d.
    assert vit["macs"] - vit["macs_without_attention_products"] == 3 * 2 * 17 * 17 * 64 + 2 * 17 * 64


def test_the_meta_device_counts_as_the_cpu_does() -> None:
    def counted(device: str) -> Counts:
        half = (0.5,) * 3
        config = ModelConfig(name="test_vit")
        with torch.device(device):
            module = build(config, num_classes=10, in_channels=3, image_size=160, mean=half, std=half).module
            return count(module, torch.zeros(1, 3, 160, 160))

    assert counted("meta") == counted("cpu")


def test_frozen_parameters_are_not_trainable() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Conv2d(3, 4, 1).requires_grad_(False)
            self.middle = nn.Conv2d(4, 5, 1)
            self.head = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.middle(self.encoder(x)).mean(dim=(2, 3)))
            return logits

    counts = count(Frozen(), torch.zeros(1, 3, 8, 8))
    assert (counts.param_count, counts.param_count_trainable, counts.param_count_no_head) == (16 + 25 + 12, 37, 41)
    assert counts.macs == 64 * (3 * 4 + 4 * 5)


def test_each_model_is_counted_at_the_size_it_is_meant_for() -> None:
    names = ("resnet20", *SMALL, "vit_tiny_patch4_32", "basic_vit", "resnet18", "test_vit")
    assert [meant_size(name) for name in names] == [32, 32, 8, 32, 224, 224, 160]
    few = ("resnet8", "vit_micro_patch2_8", "test_vit")
    assert [entry["image_size"] for entry in profile(request(*few), unheard)] == [32, 8, 160]
    assert [entry["image_size"] for entry in profile(request(*few, image_size=64), unheard)] == [64, 64, 64]
    (sized,) = profile(request("test_vit", options=("img_size=32",)), unheard)
    assert sized["image_size"] == 32


def test_options_make_another_model() -> None:
    options = ("depth=2", "positions=learned", "patch_size=4", "dim=48", "heads=3")
    (entry,) = profile(request("basic_vit", image_size=32, options=options), unheard)
    assert entry["options"] == {"depth": 2, "positions": "learned", "patch_size": 4, "dim": 48, "heads": 3}
    d = 48
    blocks = 2 * (12 * d * d + 13 * d)
    assert entry["param_count"] == (d * d + d) + 65 * d + blocks + 2 * d + (10 * d + 10)


def test_all_errors_come_together_and_nothing_is_started() -> None:
    asked = request(
        "resnet2O",
        "vit_tiny_patch4_32",
        "basic_vit",
        "test_vit",
        image_size=30,
        options=("depth", "a=[b]"),
        timing=True,
    )
    with pytest.raises(ConfigError) as caught:
        profile(asked, unheard)
    problems = caught.value.problems
    assert problems[0].startswith("--options 'depth': must be KEY=VALUE")
    assert problems[1] == "--options a=[b]: must be a number, true, false, text or a list of numbers"
    assert problems[2].startswith('unknown model "resnet2O"; nearest known: ')
    assert "resnet20" in problems[2].partition("Allowed")[0]
    assert problems[3:] == (
        "model vit_tiny_patch4_32: image_size = 30 must be a multiple of patch_size = 4",
        "model basic_vit: image_size = 30 must be a multiple of patch_size = 16",
        "model test_vit: cannot be built and fed an image of 30x30 px: Input height (30) should be divisible by patch "
        "size (16).",
    )


def test_options_that_one_model_does_not_take_name_it() -> None:
    with pytest.raises(ConfigError) as caught:
        profile(request("resnet8", "test_resnet", "basic_vit", options=("depth=2", "heads=5")), unheard)
    assert caught.value.problems[:2] == (
        "model resnet8: unknown option depth; it takes none",
        "model resnet8: unknown option heads; it takes none",
    )
    assert caught.value.problems[2].startswith("model test_resnet: timm refuses these options {'depth': 2, 'heads': 5}")
    assert caught.value.problems[3] == "model basic_vit: dim = 768 must be a multiple of heads = 5"


def test_what_cannot_be_measured_of_one_model_loses_nothing_of_the_others(measured: Callable[..., None]) -> None:
    speed = Speed(Rate(10.0, 9.0, 12.34567), Rate(100.0, 99.0, 101.0))
    measured(
        {"resnet8": Footprint(800.04, 700.0), "resnet20": "out of memory", "vit_micro_patch2_8": Footprint(900, 700)},
        {"resnet8": speed, "vit_micro_patch2_8": "RuntimeError: no kernel"},
    )
    said: list[str] = []
    good, large, broken = profile(request("resnet8", "resnet20", "vit_micro_patch2_8", timing=True), said.append)
    assert good["train_samples_per_sec"] == 10.0
    assert good["train_samples_per_sec_range"] == [9.0, 12.35]
    assert good["infer_samples_per_sec"] == 100.0
    assert (good["peak_memory"], good["memory_before_model"], good["peak_memory_is"]) == (800.0, 700.0, RESIDENT)
    assert "error" not in good
    assert (large["error"], broken["error"]) == ("out of memory", "RuntimeError: no kernel")
    assert "peak_memory" not in large
    assert broken["peak_memory"] == 900
    assert large["param_count"] == 269_722  # He et al. 2016, section 4.2
    assert said[-1] == "speed of resnet8, vit_micro_patch2_8: 3 repeats, turn by turn"


def printed(entries: list[dict[str, Any]], width: int | None) -> str:
    """As a terminal of that width shows it, or as a file gets it."""
    out = io.StringIO()
    print_profiles(entries, Console(file=out, force_terminal=width is not None, width=width, color_system=None))
    return out.getvalue()


def test_the_table_is_the_same_in_a_terminal_in_a_file_and_where_it_is_narrow(measured: Callable[..., None]) -> None:
    speed = Speed(Rate(1234.5, 1200.0, 1300.0), Rate(100.0, 99.0, 101.0))
    measured(
        {"resnet8": Footprint(800.04, 700.0), "vit_micro_patch2_8": "out of memory"},
        {"resnet8": speed},
    )
    said: list[str] = []
    entries = profile(request(*SMALL, timing=True), said.append)
    told = ("75.29 k", "74.64 k", "12.39 M", "202.7 k", "1.234 k (1.200 k to 1.300 k)", "800 (700 before)")
    for width in (None, 200, 60):
        text = printed(entries, width)
        for number in told:
            assert number in text
        assert "not measured: vit_micro_patch2_8: out of memory" in " ".join(text.split())
        assert "1 thread," in text
        assert "trainable" not in text
        if width:
            assert max(map(len, text.splitlines())) <= width
    assert "parameters: 75.29 k" in printed(entries, 60)


def test_the_table_of_counts_alone_tells_nothing_of_a_machine() -> None:
    text = printed(profile(request("resnet20"), unheard), None)
    assert text.splitlines()[3].split()[:4] == ["resnet20", "32", "269.7", "k"]
    assert "images/s" not in text
    assert "torch" not in text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (917.0, "917.0"),
        (3.14159, "3.142"),
        (1000, "1.000 k"),
        (269_722, "269.7 k"),
        (88_956_320, "88.96 M"),
        (999_949, "999.9 k"),
        (999_960, "1.000 M"),
        (8_476_811_264, "8.477 G"),
        (23.127e9, "23.13 G"),
    ],
)
def test_quantities(number: float, text: str) -> None:
    assert quantity(number) == text


def test_json_of_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["resnet20", "resnet20", "--no-timing", "--json", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (entry,) = json.loads(out)
    assert list(entry) == [
        "model",
        "options",
        "image_size",
        "num_classes",
        "param_count",
        "param_count_no_head",
        "param_count_trainable",
        "macs",
        "macs_without_attention_products",
        "batch_size",
        "precision",
        "hardware",
        "versions",
    ]
    assert entry["param_count"] == 269_722  # He et al. 2016, section 4.2
    assert entry["hardware"]["threads"] == 1
    assert entry["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_the_command_refuses_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["resnet8", "nosuchmodel", "--options", "x=1", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "2 errors, nothing started:"
    with pytest.raises(SystemExit) as caught:
        command.main(["resnet8", "--batch-size", "0"])
    assert caught.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err
