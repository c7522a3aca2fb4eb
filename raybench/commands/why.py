"""`raybench why TRIAL_ID`: in words how a trial stands, and whether and with what it can be compared."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.commands.one_trial import OneTrial, find_trial
from raybench.config.folders import results_root
from raybench.config.trial import RECIPE_VERSION
from raybench.errors import ConfigError, ResultsError
from raybench.report.sheet import quantity_title
from raybench.results.schema import Status

DIFFERS_HERE = ("raybench", "git_commit", "torch", "cpu", "gpu")
"""Of the environment: what may be another one now."""


def parser(prog: str = "raybench why") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").partition(": ")[2])
    parse.add_argument("trial", metavar="TRIAL_ID", help="12 hex digits, or the first few")
    parse.add_argument("--results", default=results_root(), metavar="ROOT", help="folder, or s3://BUCKET/PREFIX")
    return parse


def main(argv: Sequence[str]) -> int:
    """Print it, a paragraph a fact."""
    args = parser().parse_args(argv)
    return ended(lambda: _why(args))


def _why(args: argparse.Namespace) -> int:
    from raybench.results.storage import folder_at

    found = find_trial(folder_at(args.results), args.trial)
    for line in explained(found):
        print(line)
    return EXIT_COMPLETE


def explained(found: OneTrial) -> list[str]:
    """Everything that can be said of a trial from the rows of its sweep."""
    row = found.row
    head = f"{found.trial_id}: {found.sweep}, preset {row['preset']}, {row['cell']}, seed {row['seed']}"
    return [head, *_standing(row, found), *_place(found), *_incomparable(found)]


def _standing(row: dict[str, Any], found: OneTrial) -> Iterator[str]:
    epochs = f"{row['epochs'] or 0} epoch{'s' * (row['epochs'] != 1)}"
    reason = row["reason"] or "no reason was written"
    status = row["status"]
    if status == Status.COMPLETE:
        yield f"complete after {epochs}; scored with the weights of epoch {row['best_epoch']}."
    elif status == Status.PRUNED:
        yield f"pruned after {epochs}: a scheduler gave up its setting ({reason}). It is not trained further."
    elif status == Status.DIVERGED:
        yield f"diverged after {epochs}: {reason}. (--rerun {found.trial_id} or --rerun diverged runs it again.)"
    elif status == Status.FAILED:
        yield f"failed after {epochs} and {row['failures'] or 0} broken attempts: {reason}."
        yield f"Its log: {found.store.folder}/logs/{found.trial_id}*. (--rerun {found.trial_id} runs it again.)"
    else:
        yield (
            f"running or cut off: {epochs} finished in attempt {row['attempt']} on {row['node'] or 'an unknown node'}. "
            "The sweep's command goes on with it."
        )


def _place(found: OneTrial) -> Iterator[str]:
    """Whether its cell's numbers are made of it."""
    from raybench.commands.comparing import Asked, compare_sweeps

    if found.row["status"] != Status.COMPLETE:
        yield "Only complete trials stand in means; this one is counted beside them."
        return
    root = found.store.folder.parent
    try:
        config = found.config
        tables = compare_sweeps(root, [found.sweep], Asked(preset=found.row["preset"]))
    except (ResultsError, ConfigError) as error:
        yield f"Not comparable: {error}."
        return
    for result in tables[0].results:
        if found.trial_id in result.left_out:
            yield f"Left out of its cell, {result.label}: {result.left_out[found.trial_id]}."
        if any(trial.trial_id == found.trial_id for trial in result.selected):
            test = result.test
            said = f"{test.mean:.4g} over {test.n} seeds" if test else "without a test result"
            quantity = quantity_title(result.test_metric)
            yield f"Its setting is the one selected in its cell, {result.label}: test {quantity} {said}."
            if result.difference:
                yield f"That cell against {result.baseline}: {result.difference.verdict}."
            return
        tuned = {key: value for key, value in result.tuned.items() if value != _at(config, key)}
        if result.label == found.row["cell"] and tuned:
            chosen = ", ".join(f"{key} = {value}" for key, value in tuned.items())
            yield f"Its setting was tried and not selected: {chosen} scored better on validation ({result.label})."
            return


def _at(config: Any, key: str) -> Any:
    from raybench.config.keys import get

    return get(config.model_dump(mode="json"), key)


def _incomparable(found: OneTrial) -> Iterator[str]:
    """What sets it apart from trials that would be run now."""
    from raybench.results.manifest import environment

    row = found.row
    try:
        if not found.same_recipe:
            yield (
                f"Stale: made by another recipe than version {RECIPE_VERSION} of this code. The same configuration is "
                "another trial now, and a sweep would run it again."
            )
    except ResultsError as error:
        yield f"Stale: {error}."
    if row["deviation"]:
        yield f"Its maths departs from its configuration: {row['deviation']}. It is compared to none."
    if row["dataset_variant"] not in ("official", None):
        yield f"Its data are not the official ones ({row['dataset_variant']}): no reproduction of published results."
    here = environment()
    others = [
        f"{name} {row[f'env/{name}']} (here {here.get(name) or 'none'})"
        for name in DIFFERS_HERE
        if row.get(f"env/{name}") is not None and name in here and row[f"env/{name}"] != here.get(name)
    ]
    if others:
        yield f"Made elsewhere or by other code: {'; '.join(others)}. Times are not comparable with this machine's."
