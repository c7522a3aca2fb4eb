"""Settled trials as offline runs of Weights & Biases: folders that `wandb sync` uploads when one likes."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path

from raybench.errors import RaybenchError
from raybench.results.schema import Status
from raybench.sinks.runs import Attempt, Run, need

FOLDER = re.compile(r"offline-run-[0-9_]+-(?P<trial>[0-9a-f]+)-a(?P<attempt>\d+)")
WHOLE = "raybench-whole"
"""A file in a run's folder, written last."""
QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
"""Unless the environment says otherwise."""


class WandbRuns:
    """Offline runs of one project below `folder`/wandb.

    The id of a run is the trial's with its attempt, so that what is uploaded twice is one run there, too.
    """

    def __init__(self, folder: Path, project: str) -> None:
        need("wandb", "wandb", "wandb")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self.folder = folder
        self.project = project

    @property
    def _runs(self) -> list[tuple[Attempt, Path]]:
        found = []
        for path in sorted((self.folder / "wandb").glob("offline-run-*")):
            if (match := FOLDER.fullmatch(path.name)) is not None:
                found.append((Attempt(match["trial"], int(match["attempt"])), path))
        return found

    def known(self) -> set[Attempt]:
        """The attempts that lie there whole."""
        return {attempt for attempt, path in self._runs if (path / WHOLE).is_file()}

    def write(self, run: Run) -> None:
        """Write it whole, then remove what there was of the trial before."""
        earlier = [path for attempt, path in self._runs if attempt.trial_id == run.attempt.trial_id]
        for path in earlier:
            if not (path / WHOLE).is_file():
                shutil.rmtree(path)  # cut short, under the id that is to be written
        self.folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import wandb

            try:
                made = wandb.init(
                    project=self.project,
                    dir=self.folder,
                    id=str(run.attempt),
                    name=run.name,
                    group=run.cell,
                    job_type=str(run.tags.get("preset", "")),
                    config={**run.params, "raybench": dict(run.tags)},
                    mode="offline",
                    settings=wandb.Settings(
                        console="off",
                        disable_git=True,
                        save_code=False,
                        x_disable_stats=True,
                        x_disable_meta=True,
                        x_save_requirements=False,
                    ),
                )
                for epoch, values in run.curve:
                    made.log(dict(values), step=epoch)
                made.summary.update(dict(run.scores))
                place = Path(made.dir).parent
                made.finish(exit_code=0 if run.status in (Status.COMPLETE, Status.PRUNED) else 1)
            except wandb.Error as error:
                raise RaybenchError(f"{self.folder}: Weights & Biases does not take it ({error})") from error
        (place / WHOLE).write_text(f"{run.attempt}\n", encoding="utf-8")
        for path in earlier:
            shutil.rmtree(path, ignore_errors=True)
