"""Another configuration in the folder of an earlier run: what changed is said, and no table mixes the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Settled

CHANGED = "changed since the last run here: "


def changed(settled: Settled, *arguments: str, preset: str = "quick") -> str | None:
    """What the plan says of the change."""
    code, out, err = settled.run("--dry-run", *arguments, preset=preset)
    assert (code, err) == (0, "")
    lines = [line.removeprefix(CHANGED) for line in out.splitlines() if line.startswith(CHANGED)]
    assert len(lines) <= 1
    return lines[0] if lines else None


@pytest.fixture
def finished(settled: Settled) -> Settled:
    """The sweep after a run that settled all of its 8 trials."""
    plan = settled.plan()
    settled.settle(plan.trials())
    settled.ran(plan)
    return settled


def test_nothing_is_said_without_a_change_or_without_an_earlier_run(settled: Settled, finished: Settled) -> None:
    assert changed(finished) is None
    (finished.folder / "sweep.yaml").unlink()
    assert changed(settled, "schedule.epochs=6") is None


def test_what_makes_other_trials_is_told_from_what_extends(finished: Settled) -> None:
    said = changed(finished, "schedule.epochs=6", "--seeds", "3")
    assert said == (
        "schedule.epochs 4 -> 6, seeds 2 -> 3 (schedule.epochs makes other trials: 8 settled ones are not used)"
    )
    assert changed(finished, "--seeds", "3") == "seeds 2 -> 3"
    assert changed(finished, "optimizer.lr=[0.05, 0.1, 0.2]") == "optimizer.lr [0.05, 0.1] -> [0.05, 0.1, 0.2]"
    said = changed(finished, "seeds=[0]")
    assert said == "seeds 2 -> 1 (4 settled trials of that run are in no table of this one)"
    said = changed(finished, "distillation.tau=4")
    assert said == "distillation.tau 2.0 -> 4.0 (distillation.tau makes other trials: 4 settled ones are not used)"


def test_an_extension_uses_all_that_is_settled(finished: Settled) -> None:
    _, out, _ = finished.run("--dry-run", "--seeds", "3")
    assert "= 12 trials, 8 settled" in out
    _, out, _ = finished.run("--dry-run", "optimizer.lr=[0.05, 0.1, 0.2]", "distillation.alpha=[0.0, 0.5, 0.9]")
    assert "= 18 trials, 8 settled" in out
    _, out, _ = finished.run("--dry-run", "schedule.epochs=6")
    assert "= 8 trials, 0 settled" in out


def test_a_preset_and_many_keys_are_kept_short(finished: Settled) -> None:
    assert changed(finished, preset="small") == (
        "preset quick -> small, schedule.epochs 4 -> 5, seeds 2 -> 1 "
        "(the preset makes other trials: 8 settled ones are not used)"
    )
    many = ["batch_size=1", "optimizer.name=adam", "optimizer.weight_decay=1", "label_smoothing=0.1", "precision=fp32"]
    several = ["schedule.warmup_epochs=1", "schedule.min_lr=0.01", "dataset.val_size=50", "dataset.train_size=50"]
    said = changed(finished, *many, *several)
    assert said is not None
    assert said.endswith(
        " and 1 more (dataset.train_size, dataset.val_size, optimizer.name and 6 more make other trials: "
        "8 settled ones are not used)"
    )


def test_other_data(finished: Settled) -> None:
    path = finished.folder / "sweep.yaml"
    (now,) = finished.plan().sweep.fingerprints.values()
    path.write_text(path.read_text().replace(now, "0123456789ab"))
    assert changed(finished) == f"data of digits 0123456789ab -> {now} (data of digits makes other trials)"


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "not text", "a folder", "of another version"])
def test_an_unreadable_configuration_is_said_and_does_not_matter(finished: Settled, damage: str) -> None:
    path = finished.folder / "sweep.yaml"
    whole = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "absent":
        contents = {"empty": b"", "cut": whole[:100], "not text": b"\xff" * 100}
        path.write_bytes(contents.get(damage, whole + b"novelty: 1\n"))
    said = changed(finished)
    if damage == "absent":
        assert said is None
    else:
        assert said is not None
        assert said.startswith(f"not known, since {path} is not readable as a sweep (")
    code, out, _ = finished.run()
    assert code == 0
    assert "8 of 8 trials settled (8 complete)" in out


def test_trials_of_another_configuration_are_in_no_table(finished: Settled) -> None:
    longer = finished.plan("schedule.epochs=6")
    finished.settle(longer.trials(), test_top1=90.0)
    code, out, err = finished.run("schedule.epochs=6")
    assert (code, err) == (0, "")
    assert "8 of 8 trials settled (8 complete)" in out
    assert "90.0 ± 0.0 (2)" in out
    assert "42.5" not in out
    assert len(list((finished.folder / "trials").glob("*.parquet"))) == 16  # what was settled before stays
    code, out, _ = finished.run()
    assert code == 0
    assert "42.5 ± 0.7 (2)" in out
    assert "90.0" not in out
