"""A trial's model card: what the weights are, what they scored and how sure that is, on which data, how to repeat it.

Every number is of the trial's row, or of the rows of the same setting with other seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raybench.config.document import dump
from raybench.config.folders import at_home
from raybench.config.trial import OF_A_SWEEP, TrialConfig
from raybench.report.sheet import quantity_title
from raybench.report.statistics import binomial_interval, estimate

SHARES = ("test_top1", "test_top5")
"""Accuracies of images, each right or wrong: their interval follows from the number of images."""
MANY_CLASSES = 100
ENVIRONMENT = ("raybench", "git_commit", "torch", "timm", "python", "cpu", "gpu", "precision", "threads")


@dataclass(frozen=True)
class Input:
    """How the input of a model that sees images is made."""

    channels: int
    size: int
    """Side in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """What a model card is made from."""

    sweep: str
    row: Mapping[str, Any]
    config: TrialConfig
    data_name: str
    sizes: tuple[int, int, int]
    """Examples trained on, validated on and tested on."""
    seeds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Test metric -> its values over the complete trials of this setting, one a seed, this one's among them."""
    input: Input | None = None
    """None for a model that sees no images."""
    terms: Sequence[str] = ()
    """Sentences on the terms of data and weights."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File -> what it is."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Form -> why it is not here."""
    chosen: str = ""
    """How this trial was chosen among others, as a sentence."""

    def text(self) -> str:
        """Markdown, with the header that model hubs read."""
        parts = [
            self._header(),
            f"# {self.config.model.name} on {self.data_name}",
            self._opening(),
            _section(
                "Files", _rows(("file", "what it is"), [(f"`{name}`", what) for name, what in self.files.items()])
            ),
            "\n".join(f"No {form}: {why}." for form, why in self.absent.items()),
            _section("Scores", "\n\n".join(self._scores())),
            _section("Input and output", "\n\n".join(self._usage())),
            _section("Data", "\n\n".join(self._data())),
            _section("Settings", "\n\n".join(self._settings())),
            _section("Again", "\n\n".join(self._again())),
            _section("Terms", "\n".join(f"- {sentence}" for sentence in self.terms)),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    @property
    def trial_id(self) -> str:
        """12 hex digits."""
        return str(self.row["trial_id"])

    @property
    def _has_onnx(self) -> bool:
        return "model.onnx" in self.files

    def _header(self) -> str:
        about: dict[str, Any] = {"tags": ["raybench", self.config.task.replace("_", "-")]}
        if "config.json" in self.files:
            about["library_name"] = "timm"
        if self.config.task == "image_classification":
            about["pipeline_tag"] = "image-classification"
        return f"---\n{yaml.safe_dump(about, sort_keys=True)}---"

    def _opening(self) -> str:
        row = self.row
        size = f"{row['param_count']:.3g} million parameters" if row.get("param_count") is not None else ""
        work = f"{row['gmacs']:.3g} billion multiply-adds (head left out)" if row.get("gmacs") is not None else ""
        facts = ", ".join(fact for fact in (size, work) if fact)
        said = (
            f"Trial `{self.trial_id}` of the sweep {self.sweep} (preset {row['preset']}, {row['cell']}, seed "
            f"{row['seed']}), the weights of epoch {row['best_epoch']} of {row['epochs']}, the best on validation."
        )
        return " ".join(
            part for part in (said, self.chosen, f"{facts[0].upper()}{facts[1:]}." if facts else "") if part
        )

    def _scores(self) -> Iterator[str]:
        titles = ("metric", "this trial", "95 % of images", "seeds of the setting, mean ± sd (n)", "95 % of seeds")
        yield _rows(titles, rows := [self._score(name) for name in _metrics(self.row)])
        yield (
            "The test set was scored once, with these weights. They were selected on validation, whose numbers are "
            "therefore too good."
        )
        if any(row[2] for row in rows):
            yield f"95 % of images: Wilson's interval for {self.sizes[2]:,} test images, what others would give."
        if any(row[4] for row in rows):
            yield "95 % of seeds: Student's t interval of the mean, what other seeds would give."

    def _score(self, name: str) -> tuple[str, ...]:
        value = self.row[name]
        images = ""
        if name in SHARES and self.config.task == "image_classification":
            low, high = binomial_interval(value, self.sizes[2])
            images = f"{low:.2f} to {high:.2f}"
        found = estimate(list(self.seeds.get(name, ())))
        spread, seeds = "", ""
        if found is not None and found.n > 1:
            spread = f"{found.mean:.4g} ± {found.sd:.2g} ({found.n})"
            seeds = "" if found.low is None or found.high is None else f"{found.low:.4g} to {found.high:.4g}"
        split, _, _ = name.partition("_")
        title = f"{'test' if split == 'test' else 'validation'} {quantity_title(name)}"
        return title, f"{value:.6g}", images, spread, seeds

    def _usage(self) -> Iterator[str]:
        if self.input is None:
            yield "Token ids in, log-probabilities of the next token out. `vocabulary.json` has all words."
            return
        given = self.input
        made = (
            f"Images of {given.channels} channel{'s' * (given.channels != 1)}, {given.size} x {given.size} pixels, in "
            "[0, 1], resized bilinearly (no antialiasing) where they are others, then (x - mean) / std by channel: "
            f"mean {_numbers(given.mean)}, std {_numbers(given.std)}."
        )
        yield f"{made} `model.onnx` takes pixels in [0, 1] and does the latter itself." if self._has_onnx else made
        if given.classes:
            shown = ", ".join(given.classes[:MANY_CLASSES])
            more = " …, all in the header of `model.safetensors`" if len(given.classes) > MANY_CLASSES else ""
            yield f"Out come logits of {len(given.classes)} classes, in this order: {shown}{more}."
        if "config.json" in self.files:
            yield _code(
                "import timm\n\nmodel = timm.create_model('local-dir:PATH/OF/THIS/FOLDER', pretrained=True).eval()"
            )
        if self._has_onnx:
            shape = f"(n, {given.channels}, {given.size}, {given.size})"
            yield _code(
                "import onnxruntime\n\nsession = onnxruntime.InferenceSession('model.onnx')\n"
                f"(logits,) = session.run(None, {{'images': pixels}})  # float32 {shape} in [0, 1] -> (n, classes)"
            )
        if self.config.task == "image_classification":
            yield "In a sweep of raybench: `model.weights=PATH/OF/THIS/FOLDER/model.safetensors`."

    def _data(self) -> Iterator[str]:
        train, validation, test = self.sizes
        row = self.row
        yield (
            f"{self.data_name} ({row.get('dataset_variant') or 'variant unknown'}), fingerprint of the decoded data "
            f"`{row.get('dataset_fingerprint') or 'unknown'}`: {train:,} examples to train on, {validation:,} for "
            f"validation, cut from the training part first, and {test:,} to test on."
        )
        teacher = self.config.canonical().distillation.teacher
        if teacher is not None:
            distillation = self.config.distillation
            scored = row.get("teacher_test_top1")
            softness = "" if "distillation.tau" in self.config.inert() else f", tau {distillation.tau:g}"
            yield (
                f"Distilled ({distillation.type}, alpha {distillation.alpha:g}{softness}) from the "
                f"teacher {teacher.name} (weights {_place(teacher.weights)}, prepare {teacher.prepare})"
                + (f", itself {scored:.2f} % top-1 on the test set." if scored is not None else ".")
            )

    def _settings(self) -> Iterator[str]:
        content = shared(self.config).canonical().model_dump(mode="json", exclude_defaults=True)
        yield "What differs from raybench's defaults; `trial.json` has every key."
        yield _code(dump(content).rstrip(), "yaml")

    def _again(self) -> Iterator[str]:
        preset = self.row["preset"]
        yield _code(
            f"raybench reproduce {self.trial_id}      # where the results are: run it again, compare every metric\n"
            f"raybench sweep {self.sweep} --preset {preset}      # anywhere: this trial and those beside it",
            "",
        )
        ran = [f"{name} {value}" for name in ENVIRONMENT if (value := self.row.get(f"env/{name}")) is not None]
        yield f"It ran on: {', '.join(ran)}." if ran else "What it ran on was not recorded."


def shared(config: TrialConfig) -> TrialConfig:
    """A configuration for other eyes: of absolute paths, which say where files lay on one machine, the last name."""
    model = config.model.model_copy(update={"weights": _place(config.model.weights)})
    dataset = config.dataset.model_copy(
        update={key: _place(getattr(config.dataset, key)) for key in ("path", "test_path")}
    )
    distillation = config.distillation
    if (teacher := distillation.teacher) is not None:
        teacher = teacher.model_copy(update={"weights": _place(teacher.weights)})
        distillation = distillation.model_copy(update={"teacher": teacher})
    copy = config.model_copy(update={"model": model, "dataset": dataset, "distillation": distillation})
    for name in ("trial_id", "setting_id"):
        copy.__dict__[name] = getattr(config, name)  # where a cached property keeps what it found
    return copy


def _place(text: str | None) -> Any:
    if text is None or text.startswith(OF_A_SWEEP) or not at_home(text).is_absolute():
        return text
    return Path(text).name


def _metrics(row: Mapping[str, Any]) -> list[str]:
    """The metrics of a row, test first."""
    names = [name for name, value in row.items() if name.startswith(("test_", "eval_")) and isinstance(value, float)]
    return sorted((name for name in names if name != "eval_time"), key=lambda name: not name.startswith("test_"))


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, without columns that no row fills."""
    filled = [place for place in range(len(titles)) if any(row[place] for row in rows)]
    lines = [
        [titles[place] for place in filled],
        ["---"] * len(filled),
        *([row[place] for place in filled] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def _numbers(values: Sequence[float]) -> str:
    return json.dumps([round(value, 6) for value in values])
