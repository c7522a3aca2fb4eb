"""`raybench sink`: what is asked, what lacks, and a sweep as Optuna studies."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from wsgiref.simple_server import make_server

import optuna
import pytest

from raybench.__main__ import main
from raybench.commands.sweeping import read_outcomes
from raybench.config.plan import Plan
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.search.search import Search
from raybench.sinks.optuna_study import Study, in_memory, studies
from tests.commands.conftest import Settled


def found(settled: Settled, plan: Plan) -> list[Study]:
    store = Store(settled.folder)
    return studies(plan, read_outcomes(store, plan.sweep), store)


def loaded(study: Study) -> optuna.Study:
    return optuna.load_study(study_name=study.name, storage=in_memory([study]))


def test_a_setting_is_a_trial_of_the_study_and_its_value_what_the_search_is_told(settled: Settled) -> None:
    plan = settled.plan()
    trials = list(plan.trials())
    settled.settle(trials[:-1])  # of the last setting one seed is still to come
    (study,) = found(settled, plan)
    made = loaded(study)
    assert made.direction == optuna.study.StudyDirection.MAXIMIZE
    assert len(made.trials) == 4
    first = made.trials[0]
    assert first.params == {"distillation.alpha": "0.0", "optimizer.lr": "0.05"}
    outcomes = read_outcomes(Store(settled.folder), plan.sweep)
    setting = plan.cells[0].settings[0]
    assert first.value == outcomes.mean_best(setting)
    assert first.value == pytest.approx(50.0 + 0.5 + 0.4)  # seeds of places 0 and 1, epoch 4
    assert first.intermediate_values == {epoch: pytest.approx(50.5 + epoch / 10) for epoch in range(1, 5)}
    assert first.user_attrs["trial_ids"] == [trial.trial_id for trial in setting.trials]
    assert made.best_trial.value == max(trial.value or 0.0 for trial in made.trials)
    assert not [name for trial in made.trials for name in trial.user_attrs if "test" in name]
    # One seed of a setting runs: the setting is not told.
    settled.settle(trials[-1:], status=Status.RUNNING)
    assert len(loaded(found(settled, plan)[0]).trials) == 3


def test_states_and_a_metric_of_which_less_is_better(settled: Settled) -> None:
    plan = settled.plan("seeds=[0]", "metric.name=eval_loss")
    assert plan.sweep.metric.mode == "min"
    trials = list(plan.trials())
    settled.settle(trials[:1], status=Status.PRUNED)
    settled.settle(trials[1:2], status=Status.DIVERGED)
    (study,) = found(settled, plan)
    assert study.direction == "minimize"
    assert [trial.state.name for trial in loaded(study).trials] == ["PRUNED", "FAIL"]


def test_with_tpe_each_cell_is_a_study_as_the_search_makes_it(settled: Settled) -> None:
    plan = settled.plan(
        "tune.algorithm=tpe", "tune.num_samples=3", "seeds=[0]", "tune.space.optimizer.lr={loguniform: [0.01, 0.1]}"
    )
    store = Store(settled.folder)
    for _ in range(3):  # as the driver asks: one suggestion a cell, each from what was told before
        search = Search(plan, read_outcomes(store, plan.sweep), settled.folder, 1)
        while (job := search.next_job()) is not None:
            settled.settle(job.trials)
    whole, *cells = found(settled, plan)
    assert [study.name for study in cells] == [f"tiny: {cell.label}" for cell in plan.cells]
    assert sum(len(study.told) for study in cells) == len(whole.told) == 6
    made = loaded(cells[0])
    assert [set(trial.params) for trial in made.trials] == [{"optimizer.lr"}] * 3
    assert made.trials[0].distributions["optimizer.lr"] == optuna.distributions.FloatDistribution(0.01, 0.1, log=True)
    names = [path.name for path in (settled.folder / "suggestions").glob("*.jsonl")]
    assert len(names) == 2
    stored = [
        json.loads(line)["optimizer.lr"]
        for name in names
        for line in (settled.folder / "suggestions" / name).read_text().splitlines()
    ]
    assert sorted(stored) == sorted(trial.params["optimizer.lr"] for study in cells for trial in loaded(study).trials)


def test_a_storage_has_the_study_once_and_anew_when_rows_have_come(
    settled: Settled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = settled.plan()
    trials = list(plan.trials())
    settled.settle(trials[:4])
    settled.ran(plan)
    where = f"sqlite:///{tmp_path / 'studies.db'}"
    arguments = ["sink", "optuna", "tiny", "--to", where, "--results", str(settled.results)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "study tiny: 2 settings, written" in said
    assert f"optuna-dashboard {where}" in said
    assert main(arguments) == 0
    assert "study tiny: 2 settings, there already" in capsys.readouterr().out
    settled.settle(trials[4:])
    assert main(arguments) == 0
    assert "study tiny: 4 settings, written" in capsys.readouterr().out
    assert optuna.get_all_study_names(where) == ["tiny"]
    assert len(optuna.load_study(study_name="tiny", storage=where).trials) == 4


def test_a_study_of_somebody_else_is_left_alone(
    settled: Settled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = settled.plan()
    settled.settle(plan.trials())
    settled.ran(plan)
    where = f"sqlite:///{tmp_path / 'studies.db'}"
    optuna.create_study(study_name="tiny", storage=where)
    assert main(["sink", "optuna", "tiny", "--to", where, "--results", str(settled.results)]) == 2
    assert "has a study tiny that raybench did not make" in capsys.readouterr().err
    assert main(["sink", "optuna", "tiny", "--to", "nonsense://x", "--results", str(settled.results)]) == 2
    assert "no storage of Optuna's" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("optuna_dashboard") is None, reason='not installed: pip install "raybench[dashboard]"')
def test_the_dashboard_shows_the_rebuilt_study(settled: Settled) -> None:
    from optuna_dashboard import wsgi

    plan = settled.plan()
    settled.settle(plan.trials())
    server = make_server("127.0.0.1", 0, wsgi(in_memory(found(settled, plan))))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        root = f"http://127.0.0.1:{server.server_port}/api/studies"
        with opener.open(root, timeout=30) as answer:
            (study,) = json.load(answer)["study_summaries"]
        assert study["study_name"] == "tiny"
        with opener.open(f"{root}/{study['study_id']}", timeout=30) as answer:
            assert len(json.load(answer)["trials"]) == 4
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ABSENT = {
    "mlflow": ("mlflow", 'mlflow-skinny is not installed: pip install "raybench[mlflow]"'),
    "wandb": ("wandb", 'wandb is not installed: pip install "raybench[wandb]"'),
    "optuna": ("optuna_dashboard", 'optuna-dashboard is not installed: pip install "raybench[dashboard]"'),
}


@pytest.mark.parametrize("sink", ABSENT)
def test_without_its_extra_a_sink_says_what_to_install(
    sink: str, settled: Settled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, said = ABSENT[sink]
    monkeypatch.setitem(sys.modules, module, None)
    plan = settled.plan()
    settled.settle(plan.trials())
    settled.ran(plan)
    to = ["--to", "http://127.0.0.1:1"] if sink == "mlflow" else []
    assert main(["sink", sink, "tiny", *to, "--results", str(settled.results)]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_what_is_asked_wrongly_is_said(
    settled: Settled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    results = ["--results", str(settled.results)]
    assert main(["sink", "mlflow", "other", *results]) == 2
    assert "other: no rows of such a sweep; " in capsys.readouterr().err
    settled.settle(list(settled.plan().trials())[:1], status=Status.RUNNING)
    assert main(["sink", "mlflow", "tiny", *results]) == 2
    assert "--to URI: where MLflow is" in capsys.readouterr().err
    assert main(["sink", "optuna", "tiny", "--name", "x", "--to", "sqlite://", *results]) == 2
    assert "a study has the name of its sweep" in capsys.readouterr().err
    assert main(["sink", "optuna", "tiny", "--to", "sqlite://", *results]) == 2
    assert "no sweep.yaml" in capsys.readouterr().err
    settled.ran(settled.plan())
    assert main(["sink", "optuna", "tiny", "--to", "sqlite://", *results]) == 2
    assert "no setting of preset quick is settled yet" in capsys.readouterr().err


def test_the_study_is_told_by_its_content_and_not_by_when(settled: Settled) -> None:
    plan = settled.plan()
    settled.settle(plan.trials())
    (study,) = found(settled, plan)
    later = replace(study, told=tuple(replace(each, started=None, ended=None) for each in study.told))
    assert later.digest == study.digest
    other = replace(study, told=study.told[:-1])
    assert other.digest != study.digest
