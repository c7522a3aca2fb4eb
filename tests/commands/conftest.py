"""A sweep whose trials are settled without being trained, and the command run over it in this process."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raybench import sweep as command
from raybench.config.load import load_sweep
from raybench.config.plan import Plan, make_plan
from raybench.config.trial import TrialConfig
from raybench.data import load
from raybench.results.manifest import environment
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store
from raybench.training.recorder import Setup, device_share

SWEEP = """\
# Does it all hang together?
base:
  dataset: {name: digits, train_size: 60, val_size: 100, image_size: 8, augment: [crop1]}
  model: {name: resnet8}
  distillation: {type: soft, tau: 2.0, teacher: {name: vit_micro_patch2_8, epochs: 1}}
  schedule: {epochs: 4}
factors:
  distillation.alpha: [0.0, 0.5]
tune: {space: {optimizer.lr: [0.05, 0.1]}}
seeds: [0, 1]
presets:
  quick: {}
  small: {base: {schedule: {epochs: 5}}, seeds: [0]}
"""


@dataclass(frozen=True)
class Settled:
    """Makes trials settled and runs the command, which then has nothing to train."""

    file: Path
    results: Path

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return self.results / self.file.stem

    def plan(self, *overrides: str, preset: str = "quick") -> Plan:
        """The plan as the command makes it, with the data's fingerprint."""
        config = load_sweep(str(self.file), preset, overrides)
        return make_plan(config.model_copy(update={"fingerprints": {"digits": load("digits").fingerprint}}))

    def settle(self, trials: Iterable[TrialConfig], **changes: Any) -> list[str]:
        """Leave what complete trials leave; their numbers follow from their place. Returns their ids."""
        ids = []
        store = Store(self.folder)
        for place, trial in enumerate(trials):
            about: dict[str, Any] = {"trial_id": trial.trial_id, "attempt": 1}
            epochs = range(1, trial.schedule.epochs + 1)
            curve = [EpochRow(**about, epoch=epoch, eval_top1=50.0 + place + epoch / 10) for epoch in epochs]
            now = datetime.now(UTC)
            row: dict[str, Any] = {
                **about,
                "sweep": self.file.stem,
                "preset": "quick",
                "cell": "a cell",
                "status": Status.COMPLETE,
                "setting_id": trial.setting_id,
                "seed": trial.seed,
                "started": now,
                "ended": now,
                "epochs": trial.schedule.epochs,
                "best_epoch": 4,
                "train_time": 1.0,
                "param_count": 0.075,
                "eval_top1": curve[-1].eval_top1,
                "test_top1": 40.0 + place,
                "config": trial.flat(),
            }
            store.write_epochs(trial.trial_id, 1, curve)
            store.write_trial(TrialRow(**{**row, **changes}))
            ids.append(trial.trial_id)
        return ids

    def halves(self, *overrides: str) -> tuple[list[TrialConfig], list[TrialConfig]]:
        """Trials of the student alone, and those with a teacher."""
        found = list(self.plan(*overrides).trials())
        taught = [trial for trial in found if trial.canonical().distillation.teacher is not None]
        return [trial for trial in found if trial not in taught], taught

    def took(self, train_s: float, eval_s: float, fixed_s: float = 2.0, **env: Any) -> dict[str, Any]:
        """What the row of a trial says that took so long in all, on this machine."""
        begun = datetime(2026, 1, 1, tzinfo=UTC)
        return {
            "train_time": train_s,
            "eval_time": eval_s,
            "device_hours": (train_s + eval_s) / 3600 * device_share(Setup()),
            "peak_memory": 600.0,
            "started": begun,
            "ended": begun + timedelta(seconds=train_s + eval_s + fixed_s),
            "env": {**environment(), "threads": 1, **env},
        }

    def ran(self, plan: Plan) -> None:
        """Leave what a run leaves of its configuration."""
        content = plan.sweep.model_dump(mode="json", exclude={"places"})
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def run(self, *arguments: str, preset: str = "quick") -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = command.main([str(self.file), "--preset", preset, "--results", str(self.results), *arguments])
        return code, out.getvalue(), err.getvalue()


def sweep_in(folder: Path) -> Settled:
    """A small sweep with nothing settled yet."""
    torch.set_num_threads(1)
    file = folder / "tiny.yaml"
    file.write_text(SWEEP)
    return Settled(file, folder / "results")


@pytest.fixture
def settled(tmp_path: Path) -> Settled:
    """A small sweep for one test."""
    return sweep_in(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settled]:
    """A small sweep for the tests of one file."""
    with pytest.MonkeyPatch.context() as patch:
        (cache := tmp_path_factory.getbasetemp() / "cache").mkdir(exist_ok=True)
        patch.setenv("RAYBENCH_CACHE", str(cache))
        yield sweep_in(tmp_path_factory.mktemp("shared"))
