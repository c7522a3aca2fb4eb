"""Sweeps from Python, as in a notebook: the command line's own code, and its results as tables.

import raybench as rb

results = rb.run_sweep("deit_reverse", preset="quick")
results.trials.to_pandas()
results.comparisons()[0]
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from raybench.commands.endings import EXIT_BAD_INPUT
from raybench.config.document import dump
from raybench.errors import RaybenchError, ResultsError
from raybench.results.storage import Folder, entries, folder_at
from raybench.results.store import Store


@dataclass(frozen=True)
class Results:
    """The rows of one sweep."""

    folder: Folder
    """Its folder below the results root."""
    exit_code: int | None = None
    """As the command's: 0; 1 where trials failed or time ran out; 128 and a signal. None where nothing was run."""

    @property
    def name(self) -> str:
        """The sweep's."""
        return str(self.folder.name)

    @property
    def trials(self) -> pl.DataFrame:
        """One row a trial; docs/results.md has the columns. `.to_pandas()` where pandas is liked better."""
        return Store(self.folder).trials()

    @property
    def epochs(self) -> pl.DataFrame:
        """One row a trial and epoch."""
        return Store(self.folder).epochs()

    def comparisons(
        self, *, preset: str | None = None, by: Sequence[str] = (), metric: str | None = None
    ) -> list[Comparison]:
        """The tables of `raybench compare`, one a preset. Raises ResultsError where there is nothing to compare.

        by: keys to compare by; whatever else differs is tuned. metric: validation metric to select by.
        """
        from raybench.commands.comparing import Asked, compare_sweeps

        asked = Asked(by=tuple(by), metric=metric, preset=preset)
        return [Comparison(table) for table in compare_sweeps(self.folder.parent, [self.name], asked)]


@dataclass(frozen=True)
class Comparison:
    """One table: the cells of a sweep in one preset. A notebook shows it as a table."""

    compared: Any = field(repr=False)

    @property
    def cells(self) -> pl.DataFrame:
        """One row a cell, every number in full."""
        from raybench.report.export import records

        return pl.DataFrame(records(self.compared.results), infer_schema_length=None)

    def text(self, form: str = "md") -> str:
        """All of it as md, html (a page), csv, latex or json."""
        return str(self.compared.text(form))

    def __str__(self) -> str:
        from raybench.report.tables import sheet_lines

        return "\n\n".join("\n".join(sheet_lines(sheet)) for sheet in self.compared.sheets())

    def _repr_markdown_(self) -> str:
        return self.text("md")


def run_sweep(
    name: str | Path,
    *,
    preset: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    num_samples: int | None = None,
    data_root: str | Path | None = None,
    weights_root: str | Path | None = None,
    results: str | Path = "results",
    plugins: Sequence[str | Path] = (),
    max_concurrent: int | None = None,
    time_budget: str | None = None,
    address: str | None = None,
    rerun: Sequence[str] = (),
    yes: bool = False,
    dry_run: bool = False,
    probe: bool = False,
    price_per_hour: float | None = None,
    quiet: bool = False,
    verbose: bool = False,
) -> Results:
    """What is missing of a sweep, run; then its results. The arguments are the options of `raybench sweep`.

    name: of a sweep, or the path of its .yaml file. overrides: dotted key -> value, such as {"optimizer.lr": [0.1]}.
    seeds: how many. time_budget: such as "30m". yes: start what takes more than a device-hour. probe: estimate by real
    steps of each model. price_per_hour: of a device, for the cost of the plan.

    Blocks until the sweep ends; an interrupt ends it as Ctrl-C ends the command, and the same call goes on. Call it
    from the main thread, for only that receives signals. Raises RaybenchError where the command would refuse with exit
    code 2; trials that fail raise nothing: `exit_code` is 1 then, and their rows say why.
    """
    from raybench import sweep

    options: dict[str, Any] = {
        "--preset": preset,
        "--seeds": seeds,
        "--num-samples": num_samples,
        "--data-root": data_root,
        "--weights-root": weights_root,
        "--results": results,
        "--max-concurrent": max_concurrent,
        "--time-budget": time_budget,
        "--address": address,
        "--price-per-hour": price_per_hour,
    }
    arguments = [str(name)]
    arguments += [f"{key}={dump(json.loads(json.dumps(value)), flow=True)}" for key, value in (overrides or {}).items()]
    arguments += [part for option, value in options.items() if value is not None for part in (option, str(value))]
    arguments += [part for plugin in plugins for part in ("--plugin", str(plugin))]
    arguments += [part for each in rerun for part in ("--rerun", each)]
    flags = {"--yes": yes, "--dry-run": dry_run, "--probe": probe, "--quiet": quiet, "--verbose": verbose}
    arguments += [flag for flag, wanted in flags.items() if wanted]
    code = sweep.run(arguments, shlex.join(["raybench", "sweep", *arguments]))
    if code == EXIT_BAD_INPUT:
        raise RaybenchError("more than one device-hour is not started without yes=True")
    path = Path(name)
    folder = folder_at(str(results)) / (path.stem if path.suffix in (".yaml", ".yml") else path.name)
    return Results(folder, None if dry_run else code)


def load_results(name: str, results: str | Path = "results") -> Results:
    """The results of a sweep that was run. Raises ResultsError where there are none, naming those there are."""
    from raybench.commands.comparing import looked_through

    root = folder_at(str(results))
    if not entries(root / name / "trials"):
        known, passed_over = looked_through(root)
        unknown = f"{name}: no rows of such a sweep in {root}; it has {', '.join(known) or 'nothing'}"
        raise ResultsError("\n".join([unknown, *passed_over]))
    return Results(root / name)
