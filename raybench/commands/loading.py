"""From a sweep as it is asked for to one that is read, checked and planned: all that comes before anything starts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from raybench.commands import reopening
from raybench.commands.borrowed import Unlent, with_best_trials
from raybench.commands.given import check_used, load_plugins
from raybench.commands.sharing import (
    Machines,
    check_fits,
    check_workers,
    examples,
    machines_at,
    settle,
    this_machine,
)
from raybench.commands.sweeping import Sweep, read_outcomes
from raybench.config.load import load_sweep
from raybench.config.placement import Share
from raybench.config.plan import Plan, make_plan
from raybench.config.plugins import Plugin, codes
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.errors import ConfigError, ResultsError
from raybench.report.events import Events
from raybench.results.manifest import environment
from raybench.results.storage import Folder, check_writable, folder_at
from raybench.results.store import Store

if TYPE_CHECKING:
    from raybench.training.preflight import Checked
    from raybench.training.recorder import Setup


@dataclass(frozen=True)
class Asked:
    """A sweep as it is asked for: the command's arguments."""

    name: str
    """Of the sweep, or the path of its file."""
    preset: str
    overrides: Sequence[str] = ()
    options: dict[str, Any] = field(default_factory=dict)
    """Keys that options of the command set, such as seeds."""
    results: str = "results"
    """Folder, or address in an object store, of the sweeps' folders."""
    data_root: Path | None = None
    weights_root: Path | None = None
    address: str | None = None
    max_concurrent: int | None = None
    rerun: Sequence[str] = ()
    dry_run: bool = False
    profile: bool = False
    plugins: Sequence[str] = ()
    quiet: bool = False
    log_json: bool = False


def load(asked: Asked) -> Sweep:
    """Read, check and plan. Raises RaybenchError with everything that is wrong; nothing has started then."""
    given = load_plugins(asked.plugins)
    cluster = machines_at(asked.address) if asked.address is not None else None
    chosen, why = choose_preset(asked.preset, cluster)
    config = load_sweep(asked.name, chosen, asked.overrides, asked.options, unknown_name)
    check_used(config)
    machines = cluster or this_machine(config.resources)
    if not asked.dry_run:  # which may plan for another machine
        check_fits(config, machines)
    folder = folder_at(asked.results) / config.name
    config, unlent = with_best_trials(config, folder.parent)
    config = config.model_copy(update={"codes": _codes(config)})
    plan = _plan(config, unlent)
    check_workers(config, plan)
    store = Store(folder)
    if not asked.dry_run:
        _check_writable(store)
    # torch comes with this, seconds after everything that can be said without it has been said.
    checked, here = _checked(plan, asked, folder, unlent)
    config = config.model_copy(update={"fingerprints": checked.fingerprints, "digests": checked.digests})
    sweep = Sweep(
        config=config,
        why_preset=why,
        plan=make_plan(config),
        checked=checked,
        store=store,
        folder=folder,
        setup=_asked_of_trials(here, config, given),
        outcomes=read_outcomes(store, config),
        machines=machines,
        share=Share(),
        max_concurrent=asked.max_concurrent,
        console=Console(quiet=asked.log_json),
        quiet=asked.quiet,
        events=Events(sys.stdout if asked.log_json else None),
        unlent=unlent,
    )
    _reopen(sweep, asked.rerun)
    _share(sweep)
    return sweep


def _checked(plan: Plan, asked: Asked, folder: Folder, unlent: Sequence[Unlent]) -> tuple[Checked, Setup]:
    """What the checks with data and models learned, and where trials run. Raises RaybenchError with all faults."""
    from raybench.training.preflight import check
    from raybench.training.recorder import Setup

    here = Setup(data_root=asked.data_root, weights_root=asked.weights_root, results=folder, profile=asked.profile)
    checked = check(
        plan,
        here,
        lambda key: plan.sweep.places.get(key, plan.sweep.name),
        download=not asked.dry_run,
        unlent={each.weights: str(each) for each in unlent},
    )
    if unlent and not asked.dry_run:
        raise ConfigError([str(each) for each in unlent])
    return checked, here


def _reopen(sweep: Sweep, rerun: Sequence[str]) -> None:
    """Forget the outcomes that are to be run again: those asked for now, and those of a run that was cut off."""
    planned = {trial.trial_id for trial in sweep.plan.trials()}
    again = reopening.reopened(rerun, planned, sweep.outcomes, sweep.store)
    sweep.setup.reopened.update(again)
    reopening.forget(sweep.outcomes, again, sweep.store)


def _share(sweep: Sweep) -> None:
    """Settle what one worker occupies, of trials that are due or of which some may be."""

    def to_measure() -> list[TrialConfig]:
        return [trial for trial in examples(sweep.plan) if not sweep.outcomes.settled(trial.trial_id)]

    sweep.take(settle(sweep.config, sweep.machines, to_measure, sweep.setup))


def choose_preset(preset: str, cluster: Machines | None) -> tuple[str, str]:
    """(preset, why). `auto` is paper where this machine, or the cluster that is joined, has a GPU."""
    if preset != "auto":
        return preset, ""
    if cluster is not None:
        found = cluster.gpus > 0
        where = f"the cluster at {cluster.address}"
    else:
        found = any(Path("/dev").glob("nvidia[0-9]*")) and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
        where = "this machine"
    if found:
        return "paper", f"a GPU in {where}"
    return "quick", f"no GPU in {where}; --preset paper for the published setting"


def unknown_name(key: str, name: str) -> str | None:
    """What is wrong with the name of a data set, model or metric. Asked only of what a file or command names."""
    from raybench.training.preflight import unknown

    return unknown(key, name)


def _check_writable(store: Store) -> None:
    """Raises ResultsError when no rows could be written here. Makes no folder: other faults may come out after this."""
    if not isinstance(store.folder, Path) or os.path.exists(store.folder):  # noqa: PTH110 - Path's raises where it may not look
        store.check_writable()
        return
    place = next(folder for folder in store.folder.parents if os.path.exists(folder))  # noqa: PTH110
    if not place.is_dir():
        raise ResultsError(
            f"{place} is a file, where the folder of the results is to be; move it, or give --results ROOT"
        )
    check_writable(place)


def _plan(config: SweepConfig, unlent: Sequence[Unlent]) -> Plan:
    """The plan. Raises ConfigError with every fault of it, and beside them the sweeps that must be run first."""
    try:
        return make_plan(config)
    except ConfigError as error:
        raise ConfigError([*map(str, unlent), *error.problems]) from error


def _codes(config: SweepConfig) -> dict[str, str]:
    """The code of what the sweep names from outside the repository, wherever it does."""
    text = json.dumps([config.base, config.factors, config.tune.space])
    return {key: code for key, code in codes().items() if json.dumps(key.partition(" ")[2]) in text}


def _asked_of_trials(here: Setup, config: SweepConfig, plugins: Sequence[Plugin]) -> Setup:
    """Where trials run, with all that the sweep asks of each."""
    known = {"plugins": ", ".join(f"{plugin.name} {plugin.code}" for plugin in plugins)} if plugins else {}
    return replace(
        here,
        sweep=config.name,
        preset=config.preset,
        metric=config.metric.name,
        shown=config.metric.shown,
        mode=config.metric.mode,
        trial_time_s=config.limits.trial_time_s,
        stall_s=config.limits.stall_s,
        checkpoint_every_s=config.checkpoints.every_s,
        checkpoint_every_epochs=config.checkpoints.every_epochs,
        keep=config.checkpoints.keep,
        env={**environment(), **known},
        plugins=tuple(plugins),
    )
