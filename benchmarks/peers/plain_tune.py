"""The sweep of sweeps/smoke.yaml on plain Ray Tune, written as its guides advise; benchmarks/chaos.py kills it.

    python benchmarks/peers/plain_tune.py FOLDER

The same trials, data, models and training loop as raybench's; results, checkpoints, retries and restoring are Tune's.
Run again after an interruption, it restores the experiment in FOLDER. Each epoch is also noted in FOLDER/reported.jsonl
once Tune's `report` has returned: what the trials really told Tune, for the count of what is found again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.config.trial import TrialConfig
from raybench.training.batches import PlainImages
from raybench.training.classifying import make_task
from raybench.training.device import choose_device
from raybench.training.ingredients import gather
from raybench.training.loop import Epoch, Run, evaluate, signed, train
from raybench.training.preparation import prepare_teacher
from raybench.training.recorder import Setup

NAME = "smoke"
TRIALS_FAILED = 3
RESTORE_REFUSED = 4


def find(alpha: float, lr: float, seed: int) -> TrialConfig:
    """The trial of the sweep with these settings."""
    trials = make_plan(load_sweep(NAME, "quick")).trials()
    return next(
        trial
        for trial in trials
        if (trial.distillation.alpha, trial.optimizer.lr, trial.seed) == (alpha, lr, seed)
    )  # fmt: skip


def train_one(config: dict[str, Any]) -> None:
    """One trial: metrics and a checkpoint to Tune after each epoch, and on from the last checkpoint when restored."""
    trial, setup = find(config["alpha"], config["lr"], config["seed"]), Setup()
    torch.set_num_threads(1)
    device = choose_device(trial.precision, setup.gpu)
    ingredients = gather(trial, setup, device)
    task, _ = make_task(trial, setup, ingredients, device)
    run = Run(trial, task, ingredients.training, ingredients.validation, device)
    torch.manual_seed(trial.seed)
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as folder:
            run.restore(torch.load(Path(folder) / "state.pt", map_location="cpu", weights_only=True))

    def after_epoch(run: Run, epoch: Epoch) -> bool:
        metrics = {"epoch": epoch.epoch, "lr_now": epoch.lr, **epoch.metrics}
        with tempfile.TemporaryDirectory() as folder:
            torch.save(run.state(), Path(folder) / "state.pt")
            if epoch.epoch == trial.schedule.epochs:
                run.use_best()
                data = ingredients.data
                images = PlainImages(data.test_images, data.test_labels, None, device.device)
                metrics |= {f"test_{name}": value for name, value in evaluate(task, images, device).items()}
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        note(config, metrics)
        return True

    train(run, trial.schedule.epochs, lambda epoch: signed(epoch.metrics["eval_top1"], "max"), after_epoch)


def note(config: dict[str, Any], metrics: dict[str, Any]) -> None:
    """A line in the file of what was reported; appended in one write, so that nothing can tear it."""
    trial_id = tune.get_context().get_trial_id()
    run = int(os.environ.get("CHAOS_RUN", "0"))
    line = json.dumps({"run": run, "pid": os.getpid(), "trial_id": trial_id, "config": config, "metrics": metrics})
    file = os.open(config["notes"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


def main(folder: Path) -> int:
    """Fit or go on, then leave what the user would read from the results in FOLDER/grid.json."""
    folder.mkdir(parents=True, exist_ok=True)
    trials = list(make_plan(load_sweep(NAME, "quick")).trials())
    taught = next(trial for trial in trials if trial.canonical().distillation.teacher is not None)
    assert isinstance(taught.dataset.train_size, int)
    prepare_teacher(taught, Setup(), taught.dataset.train_size)
    # "local": never joins a Ray that somebody else runs here.
    ray.init(address="local", include_dashboard=False)
    experiment = str(folder / NAME)
    if tune.Tuner.can_restore(experiment):
        try:
            tuner = tune.Tuner.restore(experiment, trainable=train_one, resume_errored=True, restart_errored=False)
        except Exception:
            traceback.print_exc()
            return RESTORE_REFUSED
    else:
        tuner = tune.Tuner(
            train_one,
            param_space={
                "alpha": tune.grid_search(sorted({trial.distillation.alpha for trial in trials})),
                "lr": tune.grid_search(sorted({trial.optimizer.lr for trial in trials})),
                "seed": tune.grid_search(sorted({trial.seed for trial in trials})),
                "notes": str(folder / "reported.jsonl"),
            },
            tune_config=tune.TuneConfig(metric="eval_top1", mode="max"),
            run_config=tune.RunConfig(
                name=NAME,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=3),
            ),
        )
    results = tuner.fit()
    grid = [
        {
            "trial_id": result.metrics.get("trial_id") if result.metrics else None,
            "config": result.config,
            "error": str(result.error) if result.error else None,
            "rows": [] if result.metrics_dataframe is None else result.metrics_dataframe.to_dict("records"),
        }
        for result in (results[place] for place in range(len(results)))
    ]
    draft = folder / ".grid.json"
    draft.write_text(json.dumps(grid, default=str))
    draft.replace(folder / "grid.json")
    return TRIALS_FAILED if results.num_errors else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
