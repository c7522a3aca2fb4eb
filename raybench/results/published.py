"""Published results, shown beneath our own: data in `published/*.yaml`, digits kept exactly as the source prints them.

A file holds groups; what a group says (source, hardware, setting, …) holds for each of its rows that does not say
otherwise.
A row named under several sweeps is given to each of them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from raybench.errors import ResultsError

INFERRED = "(n inferred)"
NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedSetting(_Record):
    """Under what a number was measured; none where the source leaves it open."""

    dataset: str | None = None
    """Name as in our configurations (`cifar10`), so that it can be compared with them."""
    train_size: Annotated[int, Field(gt=0)] | Literal["all"] | None = None
    test_images: Annotated[int, Field(gt=0)] | None = None
    """Images behind an accuracy, where known: a binomial interval is then shown beside it."""
    test_images_inferred: bool = False
    """Whether their number is not in the source but read from the digits of its accuracies."""
    epochs: Annotated[int, Field(gt=0)] | None = None
    """Epochs trained when the number was read."""
    image_size: Annotated[int, Field(gt=0)] | None = None
    """Side in pixels."""
    pretrained: bool | None = None
    batch_size: Annotated[int, Field(gt=0)] | None = None
    recipe: str | None = None
    """Optimizer, schedule and augmentation, in the source's words."""


def _as_values(options: Any) -> Any:
    """Each option's values as a tuple, where a file may give one alone."""
    if not isinstance(options, dict):
        return options
    return {key: value if isinstance(value, list | tuple) else (str(value),) for key, value in options.items()}


Identifying = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_as_values)]


class PublishedModel(_Record):
    """What raybench or timm calls a published model."""

    name: str
    options: Identifying = {}
    """Options that tell it from others of that name -> the values that are it. `none`: left out; `some`: any but 0."""


class PublishedRow(_Record):
    """One number, or one comparison in words, from one source."""

    sweep: str
    model: str
    """The model as the source calls it."""
    model_name: str | None = None
    """The name under which raybench or timm knows it; none where they have no such model."""
    model_options: Identifying = {}
    """As in `PublishedModel`, of that name."""
    model_also: tuple[PublishedModel, ...] = ()
    """Other names of the same model."""
    teacher: str | None = None
    setting: PublishedSetting = PublishedSetting()
    metric: str
    at: str | None = None
    """Where in the run the number was read, such as `epoch 9` or `step 1`."""
    value: float | None = None
    printed: str | None = None
    """The value with the digits the source prints."""
    words: str | None = None
    """What the source says where it gives no number."""
    about: bool = False
    """The source says about."""
    unit: str = ""
    hardware: str | None = None
    source: str
    notes: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _keep_printed_digits(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("value") is not None and data.get("printed") is None:
            return {**data, "printed": str(data["value"])}
        return data

    @model_validator(mode="after")
    def _says_something(self) -> PublishedRow:
        if (self.value is None) == (self.words is None):
            raise ValueError("a published row has either a value or words")
        if self.printed is not None and NUMBER.fullmatch(self.printed) and float(self.printed) != self.value:
            raise ValueError(f"printed {self.printed} is not the value {self.value}")
        return self

    @property
    def models(self) -> tuple[PublishedModel, ...]:
        """Each name under which it is known here; none of a model that is not."""
        named = (PublishedModel(name=self.model_name, options=self.model_options),) if self.model_name else ()
        return (*named, *self.model_also)

    @property
    def quantity(self) -> str:
        """What was measured, on whatever images: top1 of test_top1 and eval_top1."""
        return self.metric.removeprefix("eval_").removeprefix("test_")

    @property
    def of_inferred_images(self) -> str:
        """What stands behind the binomial interval where the number of images is inferred."""
        return f" {INFERRED}" if self.setting.test_images_inferred else ""

    @property
    def text(self) -> str:
        """The number with its unit as printed, or the words."""
        if self.words is not None:
            return self.words
        carries_unit = self.printed is not None and re.search("[a-z]", self.printed.replace("e", "")) is not None
        unit = "" if carries_unit or not self.unit else f" {self.unit}"
        return f"{'about ' if self.about else ''}{self.printed}{unit}"


def published(sweep: str) -> list[PublishedRow]:
    """Every published row of a sweep, in the order of the files; none is an empty list.

    Raises:
        ResultsError: a file of published numbers is not valid; the text names the file and each fault.
    """
    return [row for row in _all_rows() if row.sweep == sweep]


def published_sweeps() -> tuple[str, ...]:
    """Names of the sweeps that have published rows, sorted."""
    return tuple(sorted({row.sweep for row in _all_rows()}))


@lru_cache(maxsize=1)
def _all_rows() -> tuple[PublishedRow, ...]:
    folder = files("raybench.results") / "published"
    rows: list[PublishedRow] = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            rows += parse(file.read_text(encoding="utf-8"), file.name)
    return tuple(rows)


def parse(text: str, name: str) -> list[PublishedRow]:
    """Rows of one YAML text; `name` is the file's, for errors.

    Raises:
        ResultsError: not YAML, or a row that breaks the schema.
    """
    try:
        # BaseLoader leaves every scalar a string, so 21.10 keeps its last digit; pydantic turns them into their types.
        groups = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ResultsError(f"{name}: not valid YAML: {error}") from error
    if not isinstance(groups, list) or not all(isinstance(group, dict) and "rows" in group for group in groups):
        raise ResultsError(f"{name}: expected a list of groups, each with rows")
    rows: list[PublishedRow] = []
    problems: list[str] = []
    for group in groups:
        shared = {key: value for key, value in group.items() if key != "rows"}
        for own in group["rows"]:
            merged = {**shared, **own, "setting": {**shared.get("setting", {}), **own.get("setting", {})}}
            sweeps = merged.get("sweep", "")
            for sweep in sweeps if isinstance(sweeps, list) else [sweeps]:
                try:
                    rows.append(PublishedRow.model_validate({**merged, "sweep": sweep}))
                except ValidationError as error:
                    problems += [f"{name}: {own}: {_place(fault['loc'])}{fault['msg']}" for fault in error.errors()]
    if problems:
        raise ResultsError("\n".join(problems))
    return rows


def _place(location: tuple[int | str, ...]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""
