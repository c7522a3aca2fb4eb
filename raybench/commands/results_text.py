"""What is said of a sweep's results: the table, the figures, and what went wrong."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raybench.commands.endings import EXIT_COMPLETE, EXIT_TROUBLE
from raybench.commands.sweeping import Sweep
from raybench.errors import ResultsError
from raybench.report.comparison import CellResult
from raybench.report.export import records
from raybench.report.figures import comparison_figure, curves_figure
from raybench.report.sheet import quantity_title
from raybench.report.tables import comparison_lines, comparison_markdown, comparison_table
from raybench.results.published import published
from raybench.results.schema import Status
from raybench.results.storage import Folder, write_atomically
from raybench.results.tensorboard import write_overview

PLAIN_WIDTH = 160
"""Columns of a table printed where there is no terminal."""


def nothing_to_do(sweep: Sweep) -> int:
    """Everything is settled: the table again."""
    rows = _rows(sweep)
    counts = {status: sum(row["status"] == status for row in rows) for status in Status}
    listed = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    extend = "--seeds, --num-samples, key=value extend it; --rerun failed|diverged|ID repeats"
    sweep.events.write("nothing_to_do", trials=len(rows), **{str(status): count for status, count in counts.items()})
    sweep.say(f"nothing to do: {len(rows)} of {sweep.wanted_trials} trials settled ({listed}). ({extend}.)")
    show_results(sweep)
    return trouble(sweep)


def _rows(sweep: Sweep) -> list[dict[str, Any]]:
    wanted = sweep.trial_ids()
    columns = ["trial_id", "status", "reason", "cell", "seed"]
    return [row for row in sweep.store.trials().select(columns).to_dicts() if row["trial_id"] in wanted]


def trouble(sweep: Sweep) -> int:
    """The exit code, and each trial that failed or diverged with its reason."""
    bad = [row for row in _rows(sweep) if row["status"] in (Status.FAILED, Status.DIVERGED)]
    for row in bad:
        sweep.events.write("trouble", **row)
        sweep.say(f"{row['status']}: {row['trial_id']} {row['cell']} seed={row['seed']}: {row['reason']}")
    for line in cures([str(row["reason"]) for row in bad if row["status"] == Status.FAILED], sweep.folder):
        sweep.say(line)
    if held := sweep.held_back():
        sweep.say(f"held back by gate: stop, since its teacher is weak: {held} trials (gate=warn runs them)")
    code = EXIT_TROUBLE if bad or held else EXIT_COMPLETE
    sweep.events.write("finished", exit_code=code, held_back=held)
    return code


def cures(reasons: Sequence[str], folder: Folder) -> list[str]:
    """What to do about trials that failed for these reasons."""
    if not reasons:
        return []
    lines = [f"their logs: {folder}/logs (raybench why ID says more); --rerun failed runs them again"]
    if any(reason.startswith("out of memory") for reason in reasons):
        less = "a smaller batch_size with accumulate, fewer trials at a time (--max-concurrent 1)"
        lines.insert(0, f"out of memory: {less}, or a larger share (resources.gpu=1) leave each trial more")
    return lines


def show_results(sweep: Sweep) -> None:
    """The comparison table, the figures, and where everything lies."""
    results = sweep.results()
    if sweep.store.skipped:
        sweep.say("skipped, not readable: " + "; ".join(sweep.store.skipped))
    if not any(result.counts.complete for result in results):
        sweep.say("no complete trial yet, so there is no table")
        return
    for record in records(results) if sweep.events.on else []:
        sweep.events.write("cell", **record)
    quantity = f"test {quantity_title(sweep.config.metric.shown)}"
    title = f"{sweep.config.name}, {sweep.config.preset}, {quantity}"
    rows = published(sweep.config.name)
    sweep.console.print()
    if sweep.console.is_terminal:
        sweep.console.print(comparison_table(results, title, rows, width=sweep.console.width))
    else:
        for line in comparison_lines(results, title, rows, width=PLAIN_WIDTH):
            sweep.say(line)
    for line in sweep.weak_teachers(sweep.outcomes):
        sweep.say(f"note: {line}")
    shown = os.path.relpath(sweep.folder) if isinstance(sweep.folder, Path) else str(sweep.folder)
    try:
        markdown = comparison_markdown(results, title, rows)
        write_atomically(sweep.folder / "comparison.md", markdown.encode())
        figures = _put_figures(sweep, results, sweep.config.question or title)
        write_overview(sweep.folder, markdown, figures)
    except (OSError, ResultsError) as error:
        # The rows are what matters; the same command draws again.
        sweep.say(f"note: table and figures could not be written into {shown}: {error}")
    sweep.say("")
    sweep.say(f"{shown} (comparison.md, comparison.png, curves.png) · tensorboard --logdir {shown}")


def _put_figures(sweep: Sweep, results: list[CellResult], title: str) -> dict[str, bytes]:
    """Drawn elsewhere first, so that a figure is whole, and on an object store too. Returns them by name."""
    with tempfile.TemporaryDirectory(prefix="raybench-figures-") as name:
        drawn = Path(name)
        source = f"{sweep.data_text()}, preset {sweep.config.preset}"
        comparison_figure(results, drawn / "comparison.png", title, source)
        metric, shown = sweep.config.metric.name, [trial.trial_id for each in results for trial in each.selected]
        epochs = sweep.store.epochs(shown, ["trial_id", "epoch", metric])
        curves_figure(epochs, results, drawn / "curves.png", title, metric)
        figures = {file.stem: file.read_bytes() for file in sorted(drawn.iterdir())}
    for name, content in figures.items():
        write_atomically(sweep.folder / f"{name}.png", content)
    return figures
