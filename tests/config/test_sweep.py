"""Limits and checkpoints of a sweep: defaults, wrong values, and that they are no part of a trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.config.sweep import CheckpointsConfig, LimitsConfig
from raybench.errors import ConfigError

SWEEP = """\
# Which limits?
base: {dataset: {name: digits, val_size: 100}, model: {name: resnet8}}
limits: {trial_time_s: 3600, memory_mib: 4000}
checkpoints: {every_epochs: 5}
presets:
  quick: {limits: {trial_time_s: 60}, checkpoints: {keep: none}}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> str:
    """The path of the sweep."""
    path = tmp_path / "limits.yaml"
    path.write_text(SWEEP)
    return str(path)


def test_defaults_presets_and_overrides(sweep: str) -> None:
    limits, checkpoints = LimitsConfig(), CheckpointsConfig()
    assert (limits.max_failures, limits.trial_time_s, limits.memory_mib, limits.stall_s) == (2, None, None, 1800)
    assert (checkpoints.every_s, checkpoints.every_epochs, checkpoints.keep) == (5, None, "best")
    paper, quick = (
        load_sweep(sweep, "paper"),
        load_sweep(sweep, "quick", ["limits.stall_s=null", "checkpoints.every_s=1"]),
    )
    assert (paper.limits.trial_time_s, paper.limits.stall_s, paper.checkpoints.keep) == (3600, 1800, "best")
    assert (quick.limits.trial_time_s, quick.limits.memory_mib, quick.limits.stall_s) == (60, 4000, None)
    assert quick.checkpoints == CheckpointsConfig(every_s=1, every_epochs=5, keep="none")


@pytest.mark.scenario(21)
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("limits.trial_time_s=0", "limits.trial_time_s = 0: must be greater than 0"),
        ("limits.memory_mib=-1", "limits.memory_mib = -1: must be greater than 0"),
        ("limits.memory_mib=2 GiB", 'limits.memory_mib = "2 GiB": must be a number'),
        ("limits.stall_s=.nan", "limits.stall_s = nan: must be a finite number"),
        ("limits.stall=5", "limits.stall: no such key; did you mean limits.stall_s?"),
        ("limits.max_failures=1.5", "limits.max_failures = 1.5: must be a whole number"),
        ("checkpoints.every_s=-5", "checkpoints.every_s = -5: must be at least 0"),
        ("checkpoints.every_s=null", "checkpoints.every_s = null: must be a number"),
        ("checkpoints.every_epochs=0", "checkpoints.every_epochs = 0: must be greater than 0"),
        ("checkpoints.every_epochs=true", "checkpoints.every_epochs = true: must be a whole number"),
        ("checkpoints.keep=bst", 'checkpoints.keep = "bst": must be none, best or last; did you mean best?'),
        ("checkpoints=best", 'checkpoints = "best": must be a mapping'),
        ("checkpoint.keep=best", "checkpoint.keep: no such key; did you mean checkpoints?"),
    ],
)
def test_wrong_values(sweep: str, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_sweep(sweep, "paper", [override])
    assert error.value.problems == (f"command line: {said}",)


def test_no_part_of_a_trials_identity(sweep: str) -> None:
    changes = ["limits.trial_time_s=5", "limits.memory_mib=99", "limits.stall_s=7", "checkpoints={keep: last}"]
    ids = [[t.trial_id for t in make_plan(load_sweep(sweep, "paper", each)).trials()] for each in ([], changes)]
    assert ids[0] == ids[1]
