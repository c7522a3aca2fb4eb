"""The teachers that trials need, and whether they are worth going on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raybench.config.plan import Plan
from raybench.config.trial import TrialConfig
from raybench.results.storage import Folder
from raybench.search.outcomes import Outcomes
from raybench.search.search import Search, taught

if TYPE_CHECKING:
    from raybench.distillation.teacher import TeacherRecord


def by_teacher(trials: Sequence[TrialConfig]) -> list[list[TrialConfig]]:
    """The trials that share a teacher's logits, together; those of the student alone are left out."""
    from raybench.training.preparation import teacher_key

    found: dict[str, list[TrialConfig]] = {}
    for trial in trials:
        if trial.canonical().distillation.teacher is None:
            continue
        # Trials of one teacher may differ in views; each kind of views has its own logits.
        key = f"{teacher_key(trial)} {trial.dataset.views} {trial.dataset.augment} {trial.distillation.cache}"
        found.setdefault(key, []).append(trial)
    return list(found.values())


def gated(plan: Plan) -> bool:
    """Whether some teacher is to stop the sweep when it is no better than the student alone."""
    return any(t.gate == "stop" for trial in plan.trials() if (t := trial.distillation.teacher) is not None)


def student_alone(plan: Plan, outcomes: Outcomes, folder: Folder) -> float | None:
    """Best mean validation metric of the student alone; none before any of its settings is settled."""
    means = [
        outcomes.mean_best(setting)
        for cell in Search(plan, outcomes, folder, 1).cells()
        if not taught(plan, cell)
        for setting in cell.settings
        if all(outcomes.settled(trial.trial_id) for trial in setting.trials)
    ]
    return max((value for value in means if value > float("-inf")), default=None)


def weak_teachers(plan: Plan, outcomes: Outcomes, folder: Folder, gates: Sequence[str] = ("warn", "stop")) -> list[str]:
    """A line for each prepared teacher of these gates that is near chance or not better than the student alone."""
    from raybench.training.preparation import find_teacher

    # The teacher's own score is that of top-1.
    alone = student_alone(plan, outcomes, folder) if plan.sweep.metric.name == "eval_top1" else None
    lines = []
    for *_, example in by_teacher(list(plan.trials())):
        teacher = example.distillation.teacher
        if teacher is None or teacher.gate not in gates or (record := find_teacher(example)) is None:
            continue
        if weakness := _weakness(record, alone):
            lines.append(f"teacher {record.name} ({record.prepare}) is {weakness}")
    return list(dict.fromkeys(lines))


def _weakness(record: TeacherRecord, alone: float | None) -> str:
    """What is wrong with a teacher, in words; empty where nothing is."""
    scored = f"top-1 {record.eval_top1:.1f} % on validation"
    if record.near_chance:
        return f"near chance: {scored}, chance {record.chance_top1:.1f} %"
    if alone is not None and record.eval_top1 <= alone:
        return f"not better than the student alone: {scored} against {alone:.1f} %"
    return ""
