"""Which cell each is compared with, by how much it differs, and which differences and which best cells are real.

All from results of cells alone. Differences are paired by seed where seed, split and order are the same.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from raybench.report.cell_result import Against, CellResult, Difference, Verdict
from raybench.report.cells import data_of
from raybench.report.selection import Mode
from raybench.report.statistics import SIGNIFICANCE, estimate, holm, p_value, seeds_needed, welch

MIN_PAIRS = 3
"""Below so many seeds on both sides nothing is tested."""


def with_verdicts(results: list[CellResult], mode: Mode) -> list[CellResult]:
    """The same results, each with its reference, its difference to that, the verdict on it, and the best ones marked.

    `mode` says which way the metric of validation is better.
    """
    results = _with_references(results, mode)
    by_label = {result.label: result for result in results}
    return _marked(_judged([replace(result, difference=_difference(result, by_label)) for result in results]))


def _with_references(results: list[CellResult], mode: Mode) -> list[CellResult]:
    """Where no cell of the same data has a student alone with a number: the best on validation among them."""
    tested = {result.label for result in results if result.test is not None}
    served = {_data(result) for result in results if result.baseline in tested}
    sign = 1 if mode == "max" else -1
    by_data: dict[str, list[CellResult]] = {}
    for result in results:
        if result.validation is not None:
            by_data.setdefault(_data(result), []).append(result)
    found = []
    for result in results:
        data = _data(result)
        # Of one cell alone nothing is compared, and it keeps the student alone that is still to come.
        group = [] if data in served or len(by_data.get(data, ())) < 2 else by_data[data]
        best = max(group, key=lambda r: sign * r.validation.mean if r.validation else -math.inf, default=None)
        if best is None:
            found.append(result)
        elif best is result:
            found.append(replace(result, baseline=None))
        else:
            tied = sum(r.validation.mean == best.validation.mean for r in group if r.validation and best.validation)
            found.append(replace(result, baseline=best.label, baseline_chosen=True, tied=tied))
    return found


def _data(result: CellResult) -> str:
    """Names what a cell was trained and judged on."""
    return json.dumps(data_of(result.factors), sort_keys=True)


def _difference(result: CellResult, by_label: Mapping[str, CellResult]) -> Difference | None:
    base = by_label.get(result.baseline) if result.baseline is not None else None
    if base is None:
        return None
    return _between(result, base, "best on validation" if result.baseline_chosen else "student alone")


def _between(result: CellResult, base: CellResult, to: Against) -> Difference | None:
    """One cell minus another, not judged yet; none where one of them has no number."""
    alone = dict(base.by_seed) if _same_images(result, base) else {}
    by_seed = tuple((seed, value - alone[seed]) for seed, value in result.by_seed if seed in alone)
    if not by_seed:
        return _unpaired(result, base, to)
    values = [value for _, value in by_seed]
    found = estimate(values)
    assert found is not None
    enough = found.n >= MIN_PAIRS
    return Difference(
        to=to,
        by_seed=by_seed,
        n=found.n,
        mean=found.mean,
        sd=found.sd,
        low=found.low,
        high=found.high,
        p=p_value(values) if enough else None,
        p_holm=None,
        compared=0,
        verdict="too few seeds",
        seeds_needed=None,
    )


def _unpaired(result: CellResult, base: CellResult, to: Against) -> Difference | None:
    """Cells that share no images seed by seed are two samples."""
    ours, theirs = [value for _, value in result.by_seed], [value for _, value in base.by_seed]
    if not ours or not theirs:
        return None
    found = welch(ours, theirs)
    enough = min(len(ours), len(theirs)) >= MIN_PAIRS
    return Difference(
        to=to,
        by_seed=(),
        n=min(len(ours), len(theirs)),
        mean=found.mean,
        sd=found.sd,
        low=found.low,
        high=found.high,
        p=found.p if enough else None,
        p_holm=None,
        compared=0,
        verdict="too few seeds",
        seeds_needed=None,
    )


def _same_images(result: CellResult, base: CellResult) -> bool:
    """Whether equal seeds mean the same images in the same order."""
    if not result.selected or not base.selected:
        return True
    ours, theirs = result.selected[0].dataset, base.selected[0].dataset
    keys = ("data_key", "fingerprint", "train_size", "val_size")
    return all(getattr(ours, key) == getattr(theirs, key) for key in keys)


def _judged(results: list[CellResult]) -> list[CellResult]:
    """The same results with p values corrected together, and their verdicts.

    Comparisons with the student alone were planned: Holm. The best on validation was chosen by looking at all cells, so
    that each comparison with it is one of all pairs there were to choose from: Bonferroni over those, and where some
    cells are compared with the student alone over those comparisons, too.
    """
    differences = [result.difference for result in results if result.difference and result.difference.p is not None]
    planned = sum(found.to == "student alone" for found in differences)
    chosen = any(result.difference and result.difference.to == "best on validation" for result in results)
    compared = planned + _pairs(results) if chosen else planned
    tested = [found.p for found in differences if found.p is not None]
    corrected = iter([min(1.0, compared * p) for p in tested] if chosen else holm(tested))
    judged: list[CellResult] = []
    for result in results:
        found = result.difference
        if found is None:
            judged.append(result)
            continue
        # Enough where this one difference would have to pass the whole correction.
        needed = seeds_needed(found.mean, found.sd, SIGNIFICANCE / max(1, compared)) if found.sd else None
        if found.p is None:
            judged.append(replace(result, difference=replace(found, seeds_needed=needed)))
            continue
        p_holm = next(corrected)
        upwards = found.mean > 0 if result.test_mode == "max" else found.mean < 0
        verdict: Verdict = "not distinguishable"
        if p_holm < SIGNIFICANCE:
            verdict = "better" if upwards else "worse"
        found = replace(found, p_holm=p_holm, compared=compared, verdict=verdict, seeds_needed=needed)
        judged.append(replace(result, difference=found))
    return judged


def rivalries(results: Sequence[CellResult]) -> int:
    """Comparisons of a best cell with each other of its group, all groups together."""
    return sum(len(group) - 1 for group in _groups(results))


def _groups(results: Sequence[CellResult]) -> list[list[CellResult]]:
    """Cells with a test result that are compared with the same one, that one among them."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        if result.test is not None:
            groups.setdefault(result.baseline or result.label, []).append(result)
    return list(groups.values())


def _marked(results: list[CellResult]) -> list[CellResult]:
    """The same results, the best of each group marked where the difference to every other of it is real.

    Bonferroni over `rivalries`: of k cells, one that is not the best is marked only if it also passes against the one
    that is, which is one comparison for each such cell and k - 1 in all. So at most 5 % of tables have a false mark.
    """
    comparisons = rivalries(results)
    best = {found.label for group in _groups(results) if (found := _best(group, comparisons)) is not None}
    return [replace(result, best=True) if result.label in best else result for result in results]


def _best(group: Sequence[CellResult], comparisons: int) -> CellResult | None:
    """The cell that is better than each other of its group; none where one of them cannot be told from it."""
    if len(group) < 2:
        return None
    if any(result.baseline_chosen for result in group):
        # Compared with it already, over all pairs there were to choose from.
        first = [result for result in group if not result.baseline_chosen]
        worse = all(r.difference is not None and r.difference.verdict == "worse" for r in group if r.baseline_chosen)
        return first[0] if first and worse else None
    sign = 1 if group[0].test_mode == "max" else -1
    best = max(group, key=lambda result: sign * result.test.mean if result.test else -math.inf)
    others = [_between(best, other, "student alone") for other in group if other is not best]
    real = (
        found is not None and found.p is not None and comparisons * found.p < SIGNIFICANCE and sign * found.mean > 0
        for found in others
    )
    return best if all(real) else None


def _pairs(results: Sequence[CellResult]) -> int:
    """Pairs of cells of the same data, each of which could have been compared, where the best was chosen by looking."""
    chosen = {_data(result) for result in results if result.baseline_chosen}
    sizes = Counter(data for result in results if result.test is not None and (data := _data(result)) in chosen)
    return sum(size * (size - 1) // 2 for size in sizes.values())
