"""The comparison as a sheet of texts: which columns, which rows, which footnotes; how it is drawn is `tables.py`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raybench.config.plan import short_key, show
from raybench.config.price import Price
from raybench.report.comparison import CellResult, Difference
from raybench.report.references import published_lines
from raybench.report.statistics import MAX_SEEDS, Estimate
from raybench.report.verdicts import rivalries
from raybench.results.published import PublishedRow

NOT_APPLICABLE = "–"
NAMES = {"train_size": "train", "val_size": "val", "weight_decay": "wd", "type": "kind", "image_size": "px"}
COMPARED_WITH = {
    "student alone": "to the student alone with the same other factors",
    "best on validation": "to the best on validation with the same data",
}
QUANTITIES = {"top1": "top-1 (%)", "top5": "top-5 (%)", "psnr": "PSNR (dB)", "bleu": "BLEU", "bpp": "bits a pixel"}


@dataclass(frozen=True)
class Column:
    """One column: `title` may have two lines, `texts` one entry a row, already padded where parts must line up."""

    title: str
    texts: tuple[str, ...]
    right: bool = False

    @property
    def width(self) -> int:
        return max(len(text) for text in (*self.title.split("\n"), *self.texts))


@dataclass(frozen=True)
class Sheet:
    """Rows are cells, the student alone first in each of its groups. `keys` name the cell, `columns` tell of it."""

    title: str
    subtitle: str
    keys: tuple[Column, ...]
    columns: tuple[Column, ...]
    """Most important first: what does not fit is moved or left out from the end."""
    labels: tuple[str, ...]
    verdicts: tuple[str, ...]
    best: tuple[bool, ...]
    ends_group: tuple[bool, ...]
    footnotes: tuple[str, ...]
    published: tuple[str, ...]

    @property
    def bold_footnotes(self) -> list[str]:
        """The footnotes for where the best is bold and has no star."""
        return [f"bold: {note.removeprefix('* ')}" if note.startswith("* ") else note for note in self.footnotes]

    @classmethod
    def plain(
        cls,
        title: str,
        subtitle: str,
        keys: Sequence[Column],
        columns: Sequence[Column],
        labels: Sequence[str],
        footnotes: Sequence[str] = (),
    ) -> Sheet:
        """Rows of which none is better than another."""
        none = (False,) * len(labels)
        texts = ("",) * len(labels)
        return cls(title, subtitle, tuple(keys), tuple(columns), tuple(labels), texts, none, none, tuple(footnotes), ())


def quantity_title(metric: str) -> str:
    """`eval_top1` -> `top-1 (%)`."""
    quantity = metric.partition("_")[2] or metric
    return QUANTITIES.get(quantity, quantity)


def ordered(results: Sequence[CellResult]) -> list[list[CellResult]]:
    """Cells with the same baseline together, it first, in the order in which the plan names them."""
    if all(result.baseline is None for result in results):
        return [list(results)] if results else []
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        groups.setdefault(result.baseline or result.label, []).append(result)
    return [sorted(group, key=lambda result: result.baseline is not None) for group in groups.values()]


def varying(results: Sequence[CellResult]) -> list[str]:
    """Dotted keys of the factors that differ between cells, those shared with the student alone first, alpha next."""
    keys = list(dict.fromkeys(key for result in results for key in result.factors))
    absent = object()
    chosen = [key for key in keys if len({_hashable(r.factors.get(key, absent)) for r in results}) > 1]
    # A kind of distillation varies even where there is one: the student alone has none.
    chosen = chosen or keys
    shared = [key for key in chosen if all(key in result.factors for result in results) and key != "distillation.alpha"]
    return sorted(chosen, key=lambda key: (key not in shared, key != "distillation.alpha", chosen.index(key)))


def key_columns(rows: Sequence[CellResult]) -> tuple[Column, ...]:
    """What names each cell beside the others."""
    return tuple(factor_column(key, rows) for key in varying(rows)) or (Column("cell", tuple(r.label for r in rows)),)


def make_sheet(
    results: Sequence[CellResult], title: str, published: Sequence[PublishedRow] = (), price: Price | None = None
) -> Sheet:
    """Everything the table says, as text; with a price also what each cell cost."""
    groups = ordered(readable(results))
    rows = [result for group in groups for result in group]
    best = [result.best for result in rows]
    last = [result is group[-1] for group in groups for result in group]
    keys = varying(rows)
    constant = {k: v for r in rows for k, v in r.factors.items() if k not in keys}
    about = [f"{short_name(key)} {show(value)}" for key, value in constant.items()]
    presets = sorted({preset for r in rows for preset in r.presets})
    about = [f"preset {' and '.join(presets)}"] * bool(presets) + about
    about += [f"work {work} GMAC"] if (work := _shared_work(rows)) else []
    return Sheet(
        title=title,
        subtitle=" · ".join(about),
        keys=key_columns(rows),
        columns=tuple(column for column in _columns(rows, best, price) if any(text.strip() for text in column.texts)),
        labels=tuple(result.label for result in rows),
        verdicts=tuple(r.difference.verdict if r.difference else "" for r in rows),
        best=tuple(best),
        ends_group=tuple(last),
        footnotes=(*_footnotes(rows, any(best)), *_energy_note(rows), *_price_note(rows, price)),
        published=tuple(published_lines(published, rows, rows[0].test_metric.partition("_")[2] if rows else "top1")),
    )


def short_name(key: str) -> str:
    """A dotted key as a column's title."""
    name = short_key(key)
    return NAMES.get(name, name)


def _columns(rows: Sequence[CellResult], best: Sequence[bool], price: Price | None) -> list[Column]:
    if not rows:
        return []
    digits = _digits(rows)
    quantity = quantity_title(rows[0].test_metric)
    tested = estimate_texts([r.test for r in rows], digits)
    stars = [f" {'*' if star else ' '}" if any(best) else "" for star in best]
    marked = tuple(f"{text}{star}" for text, star in zip(tested, stars, strict=True))
    columns = [Column(f"test\n{quantity}", marked)]
    rates = [r.test_bpp for r in rows]
    columns.append(Column(f"test\n{QUANTITIES['bpp']}", tuple(estimate_texts(rates, digits_of(rates, 3)))))
    if any(r.difference for r in rows):
        references = {r.baseline: r.difference.to for r in rows if r.difference}
        said = [r.difference.verdict if r.difference else references.get(r.label, "") for r in rows]
        columns += [
            Column("difference\n95 % interval", tuple(_differences(rows, digits))),
            Column("\nverdict", tuple(said)),
            Column("seeds\nto tell", tuple(_seeds_to_tell(r) for r in rows), right=True),
        ]
    same = rows[0].metric.partition("_")[2] == rows[0].test_metric.partition("_")[2]
    validation = tuple(_mean(r.validation, digits if same else None) for r in rows)
    columns += [
        Column(f"validation\n{quantity_title(rows[0].metric)}", validation, right=True),
        Column("not\ncomplete", tuple(_missing(r) for r in rows)),
    ]
    for key in dict.fromkeys(key for r in rows for key in r.tuned):
        values = [r.tuned.get(key) for r in rows]
        columns.append(Column(f"selected\n{short_name(key)}", tuple(_aligned(values, "")), right=_numeric(values)))
    if "distillation.teacher.name" not in varying(rows) and len(set(_teachers(rows)) - {""}) > 1:
        columns.append(Column("\nteacher", tuple(_teachers(rows))))
    columns.append(Column("teacher\ntop-1 (%)", tuple(_range(r.teacher_top1) for r in rows), right=True))
    sizes = tuple(short_text(r.param_count) for r in rows)
    columns.append(Column("size\n(M)", sizes, right=True))
    work = tuple(short_text(r.gmacs) for r in rows)
    if _shared_work(rows) is None:
        columns.append(Column("work\n(GMAC)", work, right=True))
    speeds = tuple(f"{r.infer_samples_per_sec:,.0f}" if r.infer_samples_per_sec else "" for r in rows)
    columns.append(Column("inference\n(1/s)", speeds, right=True))
    times = tuple(f"{r.train_time:,.0f}" if r.train_time is not None else "" for r in rows)
    columns.append(Column("train\n(s)", times, right=True))
    columns.append(Column("95 % interval\nof test", tuple(_interval(r.test, digits) for r in rows), right=True))
    columns.append(Column("epoch\n(s)", tuple(short_text(r.epoch_time) for r in rows), right=True))
    memory = tuple(f"{r.peak_memory:,.0f}" if r.peak_memory else "" for r in rows)
    columns.append(Column("memory\n(MiB)", memory, right=True))
    columns.append(Column("device\nhours", tuple(short_text(r.device_hours) for r in rows), right=True))
    columns.append(Column("energy\n(Wh)", tuple(short_text(r.energy) for r in rows), right=True))
    if price is not None:
        columns.append(Column("\ncost", tuple(short_text(price.of(r.device_hours)) for r in rows), right=True))
    return columns


def _shared_work(rows: Sequence[CellResult]) -> str | None:
    """Multiply-adds that all cells have in common; none where they differ or one is not known."""
    texts = {short_text(row.gmacs) for row in rows}
    return texts.pop() or None if len(texts) == 1 else None


def _interval(found: Estimate | None, digits: int) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def short_text(value: float | None) -> str:
    """Three significant digits, of a large number all that stand before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def factor_column(key: str, rows: Sequence[CellResult]) -> Column:
    """A factor's values, a row each."""
    values = [r.factors.get(key) for r in rows]
    return Column(f"\n{short_name(key)}", tuple(_aligned(values, NOT_APPLICABLE)), right=_numeric(values))


def cell_names(results: Sequence[CellResult]) -> dict[str, str]:
    """Label -> a name that is as short as tells the cells apart, for tables with one column for it."""
    rows = readable(results)
    keys = varying(rows)
    return {
        row.label: ", ".join(
            show(row.factors[key]) if len(keys) == 1 else f"{short_name(key)} {show(row.factors[key])}"
            for key in keys
            if row.factors.get(key) is not None
        )
        or row.label
        for row in rows
    }


def readable(results: Sequence[CellResult]) -> list[CellResult]:
    """The results with factors that are sections (whole models) as text: the name, and what tells them apart."""
    keys = {key for r in results for key, value in r.factors.items() if isinstance(value, dict) and "name" in value}
    texts = {key: _told_apart([r.factors.get(key) for r in results]) for key in keys}
    return [
        replace(
            result, factors={key: texts[key][row] if key in keys else value for key, value in result.factors.items()}
        )
        for row, result in enumerate(results)
    ]


def _told_apart(values: Sequence[Any]) -> list[Any]:
    named: dict[str, list[dict[str, Any]]] = {}
    for value in values:
        if isinstance(value, dict) and "name" in value:
            named.setdefault(value["name"], []).append(_flat(value))
    texts: list[Any] = []
    for value in values:
        if not (isinstance(value, dict) and "name" in value):
            texts.append(value)
            continue
        own, others = _flat(value), named[value["name"]]
        apart = [key for key in own if any(other.get(key) != own[key] for other in others)]
        said = ", ".join(f"{key.rpartition('.')[2]}={show(own[key])}" for key in apart)
        texts.append(f"{value['name']} ({said})" if said else value["name"])
    return texts


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _numeric(values: Sequence[Any]) -> bool:
    return any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _aligned(values: Sequence[Any], absent: str) -> list[str]:
    """Values of one key; floats with the decimals the longest of them needs, at most three significant digits."""
    floats = [float(f"{value:.3g}") for value in values if isinstance(value, float)]
    plain = all(value == 0 or 1e-4 <= abs(value) < 1e6 for value in floats)
    decimals = max((len(f"{value:f}".rstrip("0").partition(".")[2]) for value in floats), default=0)
    texts = []
    for value in values:
        if value is None:
            texts.append(absent)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            texts.append(show(value))
        elif floats and plain:
            texts.append(f"{float(f'{value:.3g}') if isinstance(value, float) else value:.{decimals}f}")
        else:
            texts.append(f"{value:,}" if isinstance(value, int) else f"{value:.3g}")
    return texts


def _digits(rows: Sequence[CellResult]) -> int:
    """Decimals that show the spread: one for percentages, more where the spread is smaller than that would show."""
    spreads = [e.sd for r in rows for e in (r.test, r.difference) if e is not None and e.sd]
    if not spreads:
        return 1 if rows[0].test_metric.partition("_")[2] in (*QUANTITIES.keys() - {"bpp"},) else 3
    digits = min(6, max(1, 1 - math.floor(math.log10(5 * sorted(spreads)[len(spreads) // 2]))))
    told = [r.difference for r in rows if r.difference and r.difference.verdict in ("better", "worse")]
    bounds = [bound for d in told for bound in (d.low, d.high) if bound]
    # A difference told apart from 0 is not shown as 0.
    return digits + any(float(f"{bound:.{digits}f}") == 0 for bound in bounds)


def digits_of(estimates: Sequence[Estimate | None], least: int) -> int:
    """Decimals that show the spread of most, `least` where they have none."""
    spreads = sorted(e.sd for e in estimates if e is not None and e.sd)
    return max(least, min(6, 1 - math.floor(math.log10(5 * spreads[len(spreads) // 2])))) if spreads else least


def estimate_texts(estimates: Sequence[Estimate | None], digits: int) -> list[str]:
    """Each as `mean ± sd (n)`, their parts below one another."""
    spread = max((len(f"{e.sd:.{digits}f}") for e in estimates if e and e.sd is not None), default=0)
    whole = max((len(f"{e.mean:.{digits}f}") for e in estimates if e), default=0)
    texts = []
    for found in estimates:
        if found is None:
            texts.append("")
            continue
        plus_minus = f" ± {found.sd:{spread}.{digits}f}" if found.sd is not None else " " * (spread + 3) * bool(spread)
        texts.append(f"{found.mean:{whole}.{digits}f}{plus_minus} ({found.n})")
    return texts


def _mean(found: Estimate | None, digits: int | None) -> str:
    """With so many decimals; none: three significant digits."""
    if found is None:
        return ""
    return f"{found.mean:.3g}" if digits is None else f"{found.mean:.{digits}f}"


def _differences(rows: Sequence[CellResult], digits: int) -> list[str]:
    found = [r.difference for r in rows]
    pairs = _pairs(rows)
    bounds = [(d.mean, d.low, d.high) if d else () for d in found]
    signed = [["" if value is None else signed_text(value, digits) for value in three] for three in bounds]
    widths = [max((len(parts[i]) for parts in signed if parts), default=0) for i in range(3)]
    texts = []
    for parts, of in zip(signed, pairs, strict=True):
        if not parts:
            texts.append("")
            continue
        interval = f" [{parts[1]:>{widths[1]}}, {parts[2]:>{widths[2]}}]" if parts[1] else ""
        texts.append(f"{parts[0]:>{widths[0]}}{interval}{of}")
    return texts


def _pairs(rows: Sequence[CellResult]) -> list[str]:
    """How many pairs a difference is of, where one of both cells has more seeds."""
    seeds = {r.label: r.test.n for r in rows if r.test}
    texts = []
    for row in rows:
        found, most = row.difference, max(seeds.get(row.label, 0), seeds.get(row.baseline or "", 0))
        texts.append(f" ({found.n} pair{'s' * (found.n != 1)})" if found and found.paired and found.n < most else "")
    return texts


def signed_text(value: float, digits: int) -> str:
    """A difference with its sign; what rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def _seeds_to_tell(result: CellResult) -> str:
    found = result.difference
    if found is None or found.verdict not in ("not distinguishable", "too few seeds") or not found.sd:
        return ""
    return f"> {MAX_SEEDS:,}" if found.seeds_needed is None else f"{found.seeds_needed:,}"


def _range(bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return ""
    low, high = (f"{bound:.1f}" for bound in bounds)
    return low if low == high else f"{low}–{high}"


def _missing(result: CellResult) -> str:
    counts = result.counts
    names = ("deviating", "failed", "diverged", "pruned", "due")
    lacking = [(count, f"without {name}") for name, count in sorted(Counter(result.without.values()).items())]
    named = [(getattr(counts, name), name) for name in names]
    said = [f"{count} {name}" for count, name in [*lacking, *named] if count]
    return f"{', '.join(said)} of {counts.complete + sum(count for count, _ in named)}" if said else ""


def _footnotes(rows: Sequence[CellResult], any_best: bool) -> list[str]:
    if not rows:
        return ["no cells"]
    metric = quantity_title(rows[0].metric).removesuffix(" (%)")
    notes = [f"test: mean ± sample sd (n seeds) of the setting selected on validation {metric}; test scored once."]
    differences = [r.difference for r in rows if r.difference]
    compared = max((d.compared for d in differences), default=0)
    if differences:
        notes += _tests_said(differences, compared)
    notes += _reference_notes(rows)
    if len(hardware := sorted({name for r in rows for name in r.hardware})) > 1:
        notes.append(f"times and speeds are of different hardware ({', '.join(hardware)}).")
    if any(d.p is not None and d.sd == 0 for d in differences):
        notes.append("no interval: every seed differs by the same amount; the exact sign test stands in for t.")
    if any(_seeds_to_tell(r) for r in rows):
        notes.append("seeds to tell: pairs that would tell the observed difference (80 % power, 5 % over all of them).")
    if any_best:
        if {d.to for d in differences} == {"best on validation"}:
            notes.append("* best on validation, and every other with the same data is worse.")
        else:
            count = rivalries(rows)
            beside = "with the same student alone" if all(d.to == "student alone" for d in differences) else "beside it"
            over = f"Bonferroni-corrected over {count} comparison{'s' * (count != 1)}"
            notes.append(f"* best, and better than every other cell {beside} (same tests, {over}).")
    notes += _passed_over_note(rows)
    if unpriced := sum(r.unpriced for r in rows):
        of = f"{unpriced} complete trial{'s' * (unpriced != 1)}"
        notes.append(f"device hours: not known of {of}; cells with one have no sum and no cost.")
    if len(names := sorted(set(_teachers(rows)) - {""})) == 1:
        notes.append(f"teacher: {names[0]}.")
    presets = sorted({preset for r in rows for preset in r.presets})
    if len(presets) > 1:
        notes.append(f"mixed presets ({', '.join(presets)}): rows of different presets are not comparable.")
    variants = sorted({variant for r in rows for variant in r.variants} - {"official"})
    if variants:
        notes.append(f"data: {', '.join(variants)}; not a reproduction of results on the official split.")
    return notes + left_out_note(rows) + _precision_note(rows) + _code_note(rows)


def _reference_notes(rows: Sequence[CellResult]) -> list[str]:
    """What is not plain about the cells that others are compared with."""
    names = cell_names(rows)
    tied = {r.baseline: r.tied for r in rows if r.baseline and r.tied > 1}
    notes = [f"compared with {names[to]}, the first of {count} tied on validation." for to, count in tied.items()]
    tested = {r.label for r in rows if r.test}
    missing = [names[r.label] for r in rows if r.test and r.baseline and r.baseline not in tested]
    if missing:
        more = f"; {len(missing) - 3} more" if len(missing) > 3 else ""
        notes.append(f"no student alone complete, so no difference: {'; '.join(missing[:3])}{more}.")
    return notes


def _teachers(rows: Sequence[CellResult]) -> list[str]:
    """The name of each cell's teacher; empty without one."""
    return [r.teacher or "" for r in rows]


def _passed_over_note(rows: Sequence[CellResult]) -> list[str]:
    names = cell_names(rows)
    said = [
        f"{', '.join(f'{short_name(key)} {show(value)}' for key, value in found.tuned.items()) or 'one'} "
        f"of {names[r.label]} ({found.mean:.4g} over {found.seeds} of {found.asked} seeds)"
        for r in rows
        for found in r.passed_over
    ]
    if not said:
        return []
    shown = f"{'; '.join(said[:3])}{f'; {len(said) - 3} more' if len(said) > 3 else ''}"
    return [f"passed over, for a setting is selected before others only with a score of every seed: {shown}."]


def _tests_said(differences: Sequence[Difference], compared: int) -> list[str]:
    """What was compared with what, and how it was tested."""
    to = " or, where that has no result, ".join(
        said for name, said in COMPARED_WITH.items() if name in {d.to for d in differences}
    )
    alone = all(d.to == "student alone" for d in differences)
    paired = all(d.paired for d in differences)
    how = "paired by seed" if paired else "paired by seed where split and order are the same, else two samples"
    test = "paired t test" if paired else "paired or Welch's t test"
    plural = "s" * (compared != 1)
    corrected = f"Holm-corrected over {compared} comparison{plural}"
    if not alone:
        pairs = "pair" if all(d.to != "student alone" for d in differences) else "comparison"
        corrected = f"Bonferroni-corrected over all {compared} {pairs}{plural}, since the best was chosen by looking"
    tests = f"{test}, two-sided, 5 %, {corrected}"
    return [
        f"difference: {to}, {how}, t interval of each alone. "
        f"verdict: {tests if compared else 'needs 3 seeds on both sides'}.",
        "seeds vary the initial weights and the order of the images; the split and the teacher are the same for all.",
    ]


def _energy_note(rows: Sequence[CellResult]) -> list[str]:
    measured = [r for r in rows if r.energy is not None]
    if not measured:
        return []
    note = "energy: drawn by the whole device in training and validation of all trials of the cell, its tuning included"
    shared = any(share < 1 - 1e-6 for r in measured for share in r.shares.values())
    return [f"{note}; trials that shared a device each count all that it drew meanwhile." if shared else f"{note}."]


def _price_note(rows: Sequence[CellResult], price: Price | None) -> list[str]:
    if price is None or all(r.device_hours is None for r in rows):
        return []
    rate = f"{price.per_hour:,.10g} an hour ({price.source})"
    return [f"cost: device hours of all trials of the cell, its tuning included, at {rate}."]


def left_out_note(rows: Sequence[CellResult]) -> list[str]:
    """A note of the complete trials that are compared to none, and why; none where there are none."""
    left_out = {trial_id: why for r in rows for trial_id, why in r.left_out.items()}
    if not left_out:
        return []
    count, reasons = len(left_out), ", ".join(sorted(set(left_out.values())))
    return [
        f"left out: {count} complete trial{'s' * (count != 1)} that ran out of memory and whose maths is another "
        f"since ({reasons})."
    ]


def _precision_note(rows: Sequence[CellResult]) -> list[str]:
    """A note where machines made different precisions of what was asked for; one that was asked for is a column."""
    used = {trial_id: precision for r in rows for trial_id, precision in r.precisions.items()}
    asked = {trial.trial_id: trial.precision for r in rows for trial in r.selected}
    kinds = Counter((asked[trial_id], precision) for trial_id, precision in used.items())
    notes = []
    for wanted in sorted({wanted for wanted, _ in kinds}):
        made = {precision: count for (of, precision), count in kinds.items() if of == wanted}
        if len(made) > 1:
            notes.append(f"precision: {wanted} was not the same on all machines: {_trials_of_each(made)}.")
    return notes


def _code_note(rows: Sequence[CellResult]) -> list[str]:
    """A note where the compared trials were made by different code; code that is not known is no difference."""
    trials = {trial.trial_id for r in rows for trial in r.selected}
    commits = {trial_id: commit for r in rows for trial_id, commit in r.commits.items()}
    counts = Counter(commits.values())
    if len(counts) < 2:
        return []
    counts["unknown"] = len(trials) - len(commits)
    return [f"code: the trials compared were made by different commits: {_trials_of_each(counts)}."]


def _trials_of_each(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count} trial{'s' * (count != 1)})" for name, count in sorted(counts.items()) if count)


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, dict | list) else value
