"""The plan as it is printed before anything starts: what, how much, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence

from raybench.commands.estimating import Estimate, estimate_lines
from raybench.commands.sharing import placement_text, workers_text
from raybench.commands.sweeping import Sweep
from raybench.config.changes import Change, changes, makes_other_trials, read_resolved
from raybench.config.keys import get
from raybench.config.plan import make_plan, short_key
from raybench.errors import RaybenchError
from raybench.report.progress import seconds_text
from raybench.report.statistics import detectable_difference
from raybench.results.storage import read
from raybench.search.search import Search

CHANGES_SHOWN = 8
CAUSES_SHOWN = 3
FILES_SHOWN = 5


def plan_lines(sweep: Sweep, cost: Estimate) -> list[str]:
    """The lines printed before a sweep starts."""
    config = sweep.config
    why = f" ({sweep.why_preset})" if sweep.why_preset else ""
    settled, wanted = sweep.settled_trials, sweep.wanted_trials
    price = (
        f"about {seconds_text(cost.wall_s)}, {cost.device_hours:.2g} device-hours"
        if settled < wanted
        else "nothing due"
    )
    lines = [
        f"{config.name} · {config.question}" if config.question else config.name,
        f"preset {config.preset}{why} · {_data(sweep)} · {_models(sweep)}",
        f"plan: {_grid(sweep)} = {wanted} trials, {settled} settled · {_resources(sweep)} · {price}",
    ]
    if settled < wanted:
        lines += estimate_lines(cost)
    lines += _shares(sweep)
    if len(config.seeds) > 1:
        lines.append(f"      {_detectable(sweep)}")
    lines += cost.logits
    if config.assumed and config.preset == "paper":
        lines.append("assumed, since the source leaves it open: " + "; ".join(config.assumed))
    return lines + _first(sweep) + _changed(sweep) + _unreadable(sweep)


def tell_plan(sweep: Sweep, cost: Estimate, lines: Sequence[str]) -> None:
    """The plan as an event, with the lines that a person would read."""
    sweep.events.write(
        "plan",
        sweep=sweep.config.name,
        preset=sweep.config.preset,
        cells=len(sweep.plan.cells),
        trials=sweep.wanted_trials,
        settled=sweep.settled_trials,
        **cost.record(),
        text=list(lines),
    )


def _first(sweep: Sweep) -> list[str]:
    """What must be run before this sweep can start, and what is not known until then."""
    return [
        f"run first:  {each.command}  ({each.why}; which trial is best, whose weights {each.key} asks for, is unknown "
        "until then, and so are the ids of the trials here that begin from it, whether they are settled, and whether "
        "the weights fit)"
        for each in sweep.unlent
    ]


def _unreadable(sweep: Sweep) -> list[str]:
    """Files of results whose rows are not counted as settled."""
    files = sweep.store.skipped
    more = [f"… and {len(files) - FILES_SHOWN} more"] if len(files) > FILES_SHOWN else []
    return [f"left out: {line}" for line in [*files[:FILES_SHOWN], *more]]


def _changed(sweep: Sweep) -> list[str]:
    """What is to run that the last run in this folder was not, and whose settled trials it cannot use."""
    path = sweep.folder / "sweep.yaml"
    try:
        before = read_resolved(read(path))
        found = changes(before, sweep.config)
        if not found:
            return []
        plan = make_plan(before)
        planned = Search(plan, sweep.outcomes, sweep.folder, 1).cells()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, RaybenchError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [f"changed since the last run here: not known, since {path} is not readable as a sweep ({why})"]
    ids = {trial.trial_id for cell in planned for setting in cell.settings for trial in setting.trials}
    unused = sum(sweep.outcomes.settled(trial_id) for trial_id in ids - sweep.trial_ids())
    shown = [str(change) for change in found[:CHANGES_SHOWN]]
    more = f" and {len(found) - CHANGES_SHOWN} more" if len(found) > CHANGES_SHOWN else ""
    causes = [change for change in found if makes_other_trials(change, plan)]
    return [f"changed since the last run here: {', '.join(shown)}{more}{_unused(unused, found, causes)}"]


def _unused(unused: int, found: list[Change], causes: list[Change]) -> str:
    if not causes:
        if not unused:
            return ""
        return (
            f" ({unused} settled trial{'s' if unused != 1 else ''} of that run {_are(unused)} in no table of this one)"
        )
    keys = [cause.key for cause in causes]
    if found[0].key == "preset":
        keys = ["the preset"]
    elif len(keys) > CAUSES_SHOWN:
        keys[CAUSES_SHOWN:] = [f"{len(keys) - CAUSES_SHOWN} more"]
    who = f"{' and '.join(filter(None, (', '.join(keys[:-1]), keys[-1])))} make{'s' if len(keys) == 1 else ''}"
    lost = f": {unused} settled one{'s' if unused != 1 else ''} {_are(unused)} not used" if unused else ""
    return f" ({who} other trials{lost})"


def _are(count: int) -> str:
    return "are" if count != 1 else "is"


def _data(sweep: Sweep) -> str:
    size = get(sweep.config.base, "dataset.image_size")
    pixels = f", {size}x{size}" if size else ""
    return ", ".join(f"{name} ({variant}){pixels}" for name, variant in sweep.checked.variants.items())


def _models(sweep: Sweep) -> str:
    def listed(models: dict[str, int]) -> str:
        return ", ".join(f"{name} {_count(count)}" for name, count in models.items())

    teachers = f", teacher {listed(sweep.checked.teachers)}" if sweep.checked.teachers else ""
    return f"student {listed(sweep.checked.students)}{teachers} parameters"


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def _grid(sweep: Sweep) -> str:
    config = sweep.config
    factors = " x ".join(short_key(key) for key in config.factors)
    text = f"{len(sweep.plan.cells)} cell{'s' if len(sweep.plan.cells) != 1 else ''}" + (
        f" ({factors})" if factors else ""
    )
    seeds = f"{len(config.seeds)} seed{'s' if len(config.seeds) != 1 else ''}"
    if not config.tune.space:
        return f"{text} x {seeds}"
    number = config.tune.num_samples or max((len(cell.settings) for cell in sweep.plan.cells), default=0)
    by = "" if config.tune.algorithm == "grid" else f" by {config.tune.algorithm}"
    tuned = ", ".join(short_key(key) for key in config.tune.space)
    text += f" x {number} setting{'s' if number != 1 else ''} of {tuned}{by}"
    if config.tune.seeds == "first" and number > 1:
        return f"{text} on the first seed, the selected one on {seeds}"
    return f"{text} x {seeds}"


def _resources(sweep: Sweep) -> str:
    scheduler = "" if sweep.config.scheduler.name == "none" else f", {sweep.config.scheduler.name}"
    return f"{placement_text(sweep.machines, sweep.share, sweep.max_concurrent)}{scheduler}"


def _shares(sweep: Sweep) -> list[str]:
    """How a GPU or a batch is shared, where that is not plain."""
    return [f"      {line}" for line in (sweep.share.why, workers_text(sweep.plan)) if line]


def _detectable(sweep: Sweep) -> str:
    seeds = len(sweep.config.seeds)
    spreads = sorted(d.sd for result in sweep.results() if (d := result.difference) and d.sd)
    if spreads:
        points = detectable_difference(seeds, spreads[len(spreads) // 2])
        spread = "80 % power; spread from the rows there are"
        return f"{seeds} seeds show a difference of about {points:.1f} points or more ({spread})"
    multiple = detectable_difference(seeds, 1.0)
    return (
        f"{seeds} seeds show a difference of about {multiple:.1f} standard deviations of a seed's difference, or more "
        "(80 % power; in points once there are rows)"
    )
