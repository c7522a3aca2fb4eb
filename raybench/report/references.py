"""Published results as lines beneath our own, each with what makes it not comparable."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raybench.config.plan import show
from raybench.config.trial import ModelConfig
from raybench.report.comparison import CellResult
from raybench.report.statistics import binomial_interval
from raybench.results.published import INFERRED, PublishedModel, PublishedRow

INFERRED_NOTE = f"{INFERRED}: their number is not in the source either, but read from the digits of its accuracies"


def differing(row: PublishedRow, result: CellResult) -> tuple[str, ...]:
    """What keeps our cell from being the published setting; empty where they agree in all we know to compare.

    Hyperparameters, tuned or not, are no part of it: they belong to how a setting is trained, not to what it is.
    """
    if not result.selected:
        return ("not run",)
    trial = result.selected[0]
    teacher = trial.canonical().distillation.teacher
    theirs = row.setting
    image_size = trial.model.image_size or trial.dataset.image_size
    # Validation images are cut from the training set first, so our `all` is never the whole of it, as a source's is;
    # sentences have a validation set of their own.
    size = trial.dataset.train_size
    sentences = trial.task == "translation"
    shown = f"all but {trial.dataset.val_size:,} held out for validation" if size == "all" and not sentences else size
    known = _known_as(trial.model, row)
    pairs: list[tuple[str, object, object]] = [
        ("data set", trial.dataset.name, theirs.dataset),
        ("model", *_models(trial.model, row, known)),
        ("train sentences" if sentences else "train images", shown, theirs.train_size),
        ("epochs", trial.schedule.epochs, theirs.epochs),
        ("teacher", teacher.name if teacher else "none", row.teacher or "none"),
    ]
    if theirs.image_size is not None:
        pairs.append(("image size", image_size or "of the data set", theirs.image_size))
    if theirs.pretrained is not None:
        pairs.append(("weights", _weights(trial.model.weights != "none"), _weights(theirs.pretrained)))
    found = [
        f"{what} {_said(ours)}, {'theirs not stated' if printed is None else f'not {_said(printed)}'}"
        for what, ours, printed in pairs
        if ours != printed
    ]
    found += _options_apart(trial.model, known)
    if trial.dataset.augment and trial.dataset.views != "all":
        found.append(f"views {trial.dataset.views:,} fixed an image, not fresh each epoch")
    if result.variants != ("official",):
        found.append(f"data {'/'.join(result.variants) or 'of unknown variant'}, not official")
    if result.presets != ("paper",):
        found.append(f"preset {'/'.join(result.presets) or 'unknown'}, not paper")
    return tuple(found)


def _known_as(ours: ModelConfig, row: PublishedRow) -> PublishedModel | None:
    """The name of the published model under which ours is that model; none where it is another."""
    for model in row.models:
        same = _architecture(model.name) == _architecture(ours.name)
        if same and all(_is_one_of(ours.options.get(key), values) for key, values in model.options.items()):
            return model
    return None


def _is_one_of(value: object, values: Sequence[str]) -> bool:
    said = "none" if value is None else str(value)
    return said in values or ("some" in values and said not in ("none", "0"))


def _architecture(name: str) -> str:
    """Without its tag, which names weights."""
    return name.partition(".")[0]


def _models(ours: ModelConfig, row: PublishedRow, known: PublishedModel | None) -> tuple[str, str | None]:
    """Both names; without a tag where neither has weights, since a tag names weights and no architecture."""
    theirs = known.name if known else row.model_name
    if ours.weights != "none" or row.setting.pretrained is not False or theirs is None:
        return ours.name, theirs
    return _architecture(ours.name), _architecture(theirs)


def _options_apart(ours: ModelConfig, known: PublishedModel | None) -> list[str]:
    """Options of ours that the published model does not have, such as a smaller width, or has without a value."""
    if known is None:
        return []
    own = {key: value for key, value in ours.options.items() if key not in known.options and key != "img_size"}
    silent = [key for key, values in known.options.items() if "some" in values]
    said = [f"model with {', '.join(f'{key}={show(value)}' for key, value in own.items())}"] * bool(own)
    return said + [f"{key} {show(ours.options[key])}, theirs not stated" for key in silent]


def _weights(pretrained: bool) -> str:
    return "pretrained" if pretrained else "from scratch"


def _said(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def published_lines(rows: Sequence[PublishedRow], results: Sequence[CellResult], quantity: str = "top1") -> list[str]:
    """One line a published model and setting, indented under its source; the numbers are those printed there.

    Only rows that measure `quantity` are shown where there are any, all of them otherwise.
    """
    wanted = [row for row in rows if row.metric in (quantity, f"eval_{quantity}", f"test_{quantity}")] or list(rows)
    if not wanted:
        return []
    named = {row.metric for row in wanted} != {quantity}
    by_source: dict[str, dict[tuple[object, ...], list[PublishedRow]]] = {}
    for row in wanted:
        source = f"{row.source}{f'; {row.hardware}' if row.hardware else ''}"
        setting = row.setting.model_copy(update={"epochs": None, "recipe": None})
        same = (row.model, row.teacher, *setting.model_dump().values())
        by_source.setdefault(source, {}).setdefault(same, []).append(row)
    lines = ["published, as printed in the source, not measured here:"]
    for source, groups in by_source.items():
        lines.append(f"  {source}")
        apart = {same: _apart(members[-1], results) for same, members in groups.items()}
        shared = [what for what in next(iter(apart.values())) if all(what in others for others in apart.values())]
        if shared:
            lines.append(f"    not comparable: {'; '.join(shared)}")
        for same, members in groups.items():
            own = [what for what in apart[same] if what not in shared]
            verdict = f"; not comparable: {'; '.join(own)}" if own else "" if shared else "; same setting as ours"
            lines.append(f"    {described(members[-1])}: {', '.join(_number(row, named) for row in members)}{verdict}")
    if any(row.setting.test_images and row.unit == "%" for row in wanted):
        lines.append("    [low, high]: 95 % binomial interval at that number of test images, not printed in the source")
    if any(row.of_inferred_images for row in wanted if row.unit == "%"):
        lines.append(f"    {INFERRED_NOTE}")
    return lines


def closest(row: PublishedRow, results: Sequence[CellResult]) -> CellResult | None:
    """The cell of the same model whose setting has the least that differs, of several that with the most images.

    None where that model was not measured: another one's numbers have no place beside it.
    """
    ours = [result for result in results if result.selected and _known_as(result.selected[0].model, row)]
    alike = [result for result in ours if _taught(result) == (row.teacher is not None)] or ours
    return min(alike, key=lambda result: (len(differing(row, result)), -_train_images(result)), default=None)


def _train_images(result: CellResult) -> float:
    size = result.selected[0].dataset.train_size
    return math.inf if size == "all" else float(size)


def _apart(row: PublishedRow, results: Sequence[CellResult]) -> tuple[str, ...]:
    nearest = closest(row, results)
    return differing(row, nearest) if nearest else (not_measured(results),)


def not_measured(results: Sequence[CellResult]) -> str:
    """Why no cell stands beside a published number."""
    return "this model was not measured here" if any(r.selected for r in results) else "nothing measured here yet"


def _taught(result: CellResult) -> bool:
    return result.selected[0].canonical().distillation.teacher is not None


def described(row: PublishedRow) -> str:
    """The model and setting of a published row in a few words."""
    setting = row.setting
    said = [
        f"teacher {row.teacher}" if row.teacher else "",
        setting.dataset or "",
        _train_size(setting.train_size),
        f"{setting.image_size} px" if setting.image_size else "",
        f"{setting.epochs} epochs" if setting.epochs else "",
    ]
    return f"{row.model} ({', '.join(part for part in said if part)})" if any(said) else row.model


def _train_size(size: int | str | None) -> str:
    if size is None:
        return ""
    return "all train images" if size == "all" else f"{size:,} train images"


def _number(row: PublishedRow, named: bool) -> str:
    text = f"{row.metric} {row.text}" if named else row.text
    if row.setting.test_images and row.unit == "%" and row.value is not None:
        low, high = binomial_interval(row.value, row.setting.test_images)
        text += f" [{low:.1f}, {high:.1f}]{row.of_inferred_images}"
    return f"{text} ({row.at})" if row.at else text
