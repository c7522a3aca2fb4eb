"""Tables from rows alone: the sweep's own table again, at any time, on any machine."""

from __future__ import annotations

import argparse
import csv
import functools
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from raybench.api import load_results
from raybench.commands import comparing, reporting
from raybench.commands.comparing import Asked, Compared, compare_sweeps, compare_trials, sweeps_in
from raybench.commands.export import _asked
from raybench.commands.one_trial import find_trial
from raybench.commands.sink import _store
from raybench.compare import main
from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.config.price import Price
from raybench.config.trial import TrialConfig
from raybench.errors import ResultsError
from raybench.report.comparison import compare
from raybench.report.crossing import Crossing
from raybench.report.fits import LogFit
from raybench.report.holdout import Holdout
from raybench.report.tables import comparison_lines
from raybench.report.trends import trends
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.storage import entries
from raybench.results.store import Store

Outcome = dict[str, Any] | None
Made = Callable[..., Path]
EPOCHS = 6


def accuracy(trial: TrialConfig) -> float:
    """What this trial scores: better with a teacher, more images and the higher rate; seeds differ by far more."""
    generator = np.random.default_rng([trial.seed, 7])
    alpha = trial.distillation.alpha if trial.distillation.type != "none" else 0.0
    size = trial.dataset.train_size if isinstance(trial.dataset.train_size, int) else 2000
    noise = float(np.random.default_rng(int(trial.trial_id, 16)).normal(0, 0.2))
    return 60 + 4 * alpha + 5 * (size > 500) + (trial.optimizer.lr > 0.05) + 3 * float(generator.normal()) + noise


def complete(trial: TrialConfig) -> Outcome:
    top1 = accuracy(trial)
    known = {"train_time": 12.0, "eval_time": 3.0, "device_hours": 0.5 * 15 / 3600, "epochs": EPOCHS}
    return {"status": Status.COMPLETE, "eval_top1": top1, "test_top1": top1 - 1, **known}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Sweeps whose trials are all complete, each written once: writing takes longer than most tests."""
    folders: dict[tuple[str, ...], Path] = {}

    def find(name: str, preset: str, *overrides: str) -> Path:
        key = (name, preset, *overrides)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("known")
            fill(folders[key], name, preset, complete, *overrides)
        return folders[key]

    return find


@pytest.fixture
def made(tmp_path: Path, known: Made) -> Made:
    """Writes the rows of a sweep as its trials would; returns the root of the results."""

    def make(
        name: str = "deit_reverse",
        preset: str = "quick",
        outcome: Callable[[TrialConfig], Outcome] = complete,
        *overrides: str,
        described: bool = True,
    ) -> Path:
        folder = tmp_path / "results" / name
        if outcome is complete and not folder.exists():
            shutil.copytree(known(name, preset, *overrides), folder)
        else:
            fill(folder, name, preset, outcome, *overrides)
        if described:
            config = load_sweep(name, preset, [*overrides], {}, None)
            content = config.model_dump(mode="json", exclude={"places"})
            (folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path / "results"

    return make


def fill(folder: Path, name: str, preset: str, outcome: Callable[[TrialConfig], Outcome], *overrides: str) -> None:
    """The rows of all trials of a sweep, compacted."""
    store = Store(folder)
    for cell in make_plan(load_sweep(name, preset, [*overrides], {}, None)).cells:
        for trial in (trial for setting in cell.settings for trial in setting.trials):
            if (found := outcome(trial)) is not None:
                write(store, trial, name, preset, cell.label, found)
    store.compact()


def write(store: Store, trial: TrialConfig, name: str, preset: str, cell: str, found: dict[str, Any]) -> None:
    row = TrialRow(
        trial_id=trial.trial_id,
        setting_id=trial.setting_id,
        sweep=name,
        preset=preset,
        cell=cell,
        attempt=1,
        seed=trial.seed,
        **{"config": trial.flat(), "dataset_variant": "embedded", **found},
    )
    store.write_trial(row)
    if (top1 := found.get("eval_top1")) is not None:
        epochs = [
            EpochRow(
                trial_id=trial.trial_id,
                attempt=1,
                epoch=epoch,
                eval_top1=top1 * (1 - 0.5**epoch),
                train_time=2.0,
                eval_time=0.5,
            )
            for epoch in range(1, EPOCHS + 1)
        ]
        store.write_epochs(trial.trial_id, 1, epochs)


def load_trials() -> list[TrialConfig]:
    """Those of the sweep, each once."""
    return list(make_plan(load_sweep("deit_reverse", "quick", [], {}, None)).trials())


def only(root: Path, *names: str, **asked: Any) -> Compared:
    (table,) = compare_sweeps(root, names, Asked(**asked))
    return table


def test_the_table_is_the_sweeps_own(made: Made) -> None:
    root = made()
    config = load_sweep("deit_reverse", "quick", [], {}, None)
    rows = Store(root / "deit_reverse").trials()
    own = compare(make_plan(config).cells, rows)
    table = only(root, "deit_reverse")
    assert sorted(result.label for result in table.results) == sorted(result.label for result in own)
    by_label = {result.label: result for result in table.results}
    for result in own:
        found = by_label[result.label]
        assert (found.test, found.tuned, found.counts, found.difference) == (
            result.test,
            result.tuned,
            result.counts,
            result.difference,
        )
    # The same rows in the same words, whatever the order of the cells.
    lines = comparison_lines(own, "t")
    assert set(lines) == set(comparison_lines(table.results, "t"))


def test_what_did_not_complete_is_counted_and_never_averaged(made: Made) -> None:
    def outcome(trial: TrialConfig) -> Outcome:
        found = complete(trial)
        assert found is not None
        alone = trial.canonical().distillation.teacher is None
        if alone:
            return found
        if trial.seed == 0:
            return {"status": Status.FAILED, "reason": "worker died", "eval_top1": 1.0}
        if trial.seed == 1 and trial.optimizer.lr < 0.05:
            return {"status": Status.DIVERGED, "reason": "loss is nan"}
        if trial.seed == 2 and trial.distillation.type == "hard":
            return {"status": Status.PRUNED, "eval_top1": 2.0}
        if trial.seed == 2:
            return None if trial.optimizer.lr < 0.05 else {**found, "test_top1": None}
        return found

    table = only(made(outcome=outcome), "deit_reverse")
    for result in table.results:
        if not result.factors.get("distillation.alpha"):
            assert result.counts.complete == 6
            continue
        assert result.counts.failed == 2
        assert result.counts.diverged == 1
        hard = result.factors["distillation.type"] == "hard"
        assert (result.counts.pruned, result.counts.due) == ((2, 0) if hard else (0, 1))
        assert result.test is not None
        assert result.test.mean > 50
        assert result.difference is not None
        assert result.difference.verdict == "too few seeds"
    text = table.text("md")
    assert "2 failed, 1 diverged, 2 pruned of 6" in text
    assert "2 failed, 1 diverged, 1 due of 6" in text


def test_a_trial_that_failed_before_its_data_were_there_changes_no_other_cell(made: Made, tmp_path: Path) -> None:
    def outcome(trial: TrialConfig) -> Outcome:
        early = trial.distillation.alpha == 0.9 and trial.optimizer.lr < 0.05 and trial.seed == 1
        return {"status": Status.FAILED, "reason": "no weights", "dataset_variant": None} if early else complete(trial)

    whole = {result.label: result for result in only(made(), "deit_reverse").results}
    shutil.rmtree(tmp_path / "results")
    for result in only(made("deit_reverse", "quick", outcome), "deit_reverse").results:
        assert result.tuned == whole[result.label].tuned
        assert result.counts.failed == (result.factors.get("distillation.alpha") == 0.9)


def test_settings_compete_where_every_cell_has_tried_them(made: Made) -> None:
    def outcome(trial: TrialConfig) -> Outcome:
        untried = trial.distillation.alpha == 0.9 and trial.optimizer.lr > 0.05
        return None if untried else complete(trial)

    table = only(made("deit_reverse", "quick", outcome), "deit_reverse")
    assert {result.tuned["optimizer.lr"] for result in table.results} == {0.03}
    assert "cells have tried 1 to 2 settings; only the 1 tried in every cell compete" in table.notes


def test_one_configuration_is_one_trial_whoever_made_it(made: Made) -> None:
    root = made()
    store = Store(root / "deit_reverse")
    config = load_sweep("deit_reverse", "quick", [], {}, None)
    older = {trial.trial_id: trial for trial in make_plan(config).trials()}
    for trial in older.values():
        trial.__dict__["trial_id"] = f"old{trial.trial_id[3:]}"  # as an earlier recipe named it
        found = {"status": Status.COMPLETE, "test_top1": 1.0, "eval_top1": 1.0}
        write(store, trial, "deit_reverse", "quick", "", found)
    table = only(root, "deit_reverse")
    assert {result.test.n for result in table.results if result.test} == {3}
    assert any(f"left out: {len(older)} trials (" in note and "stale" in note for note in table.notes)


@pytest.mark.parametrize("form", ["md", "json", "csv"])
def test_a_table_of_stale_trials_says_so_in_every_form(made: Made, form: str) -> None:
    root = made("deit_reverse", "quick", lambda _: {"status": Status.RUNNING})
    store = Store(root / "deit_reverse")
    for trial in load_trials():
        ran = trial.model_copy()
        ran.__dict__ |= {"trial_id": f"old{trial.trial_id[3:]}", "setting_id": f"old{trial.setting_id[3:]}"}
        write(store, ran, "deit_reverse", "quick", "", complete(trial) or {})
    table = only(root, "deit_reverse")
    assert {result.test.n for result in table.results if result.test} == {3}
    assert {result.counts.due for result in table.results} == {0}
    text = table.text(form)
    assert {"md": "\n- STALE: all ", "json": '"stale": true', "csv": ",stale\n"}[form] in text
    assert "all stale" in table.title


def test_rows_of_no_configuration_are_named_once_a_reason(made: Made) -> None:
    root = made()
    store = Store(root / "deit_reverse")
    for number, trial in enumerate(load_trials()[:5]):
        trial.__dict__["trial_id"] = f"{number:012x}"
        found = {"status": Status.COMPLETE, "config": {**trial.flat(), "schedule.name": "unheard of"}}
        write(store, trial, "deit_reverse", "quick", "", found)
    (note,) = [note for note in only(root, "deit_reverse").notes if note.startswith("left out")]
    assert note.startswith("left out: 5 trials (000000000000, 000000000001, 000000000002 …): not a configuration")
    assert "unheard of" in note


def test_seeds_first_leaves_nothing_due_and_compares_the_selected_setting(made: Made) -> None:
    def outcome(trial: TrialConfig) -> Outcome:
        wanted = trial.seed == 0 or trial.optimizer.lr > 0.05
        return complete(trial) if wanted else None

    table = only(made("deit_reverse", "quick", outcome, "tune.seeds=first"), "deit_reverse")
    for result in table.results:
        assert result.counts.due == 0
        assert result.test is not None
        assert result.test.n == 3


def test_what_is_due_is_only_said_of_the_preset_that_was_run_last(made: Made) -> None:
    made()
    quick = only(made("deit_reverse", "small"), "deit_reverse", preset="quick")
    assert {result.counts.due for result in quick.results} == {0}
    assert any("what is still due is not known" in note for note in quick.notes)


def test_a_trial_of_two_sweeps_counts_once(made: Made) -> None:
    root = made()
    shutil.copytree(root / "deit_reverse", root / "again")
    by = ("distillation.alpha", "distillation.type", "dataset.train_size")
    joint, alone = only(root, by=by), only(root, "deit_reverse", by=by)
    assert joint.results == alone.results
    assert joint.budget == alone.budget
    assert len(joint.reproductions) == len(alone.reproductions)


def test_selecting_on_the_test_set_is_refused(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deit_reverse", "--metric", "test_top1", "--results", str(made())]) == 2
    assert "selected on validation" in capsys.readouterr().err


def test_presets_data_and_train_sizes_are_never_averaged_together(made: Made) -> None:
    made()
    root = made("deit_reverse", "small", described=False)
    tables = compare_sweeps(root, ["deit_reverse"], Asked())
    assert [table.preset for table in tables] == ["quick", "small"]
    assert only(root, "deit_reverse", preset="small").results == tables[1].results
    by_kind = only(root, "deit_reverse", preset="quick", by=("distillation.type",))
    assert {result.factors.get("dataset.train_size") for result in by_kind.results} == {100, 1000}


def test_by_a_key_everything_else_is_tuned(made: Made) -> None:
    table = only(made(), "deit_reverse", by=("type",), preset="quick")
    hard = next(r for r in table.results if r.factors.get("distillation.type") == "hard")
    assert set(hard.tuned) == {"distillation.alpha", "optimizer.lr"}
    # Alpha adds to the accuracy, so the larger is selected.
    assert hard.tuned["distillation.alpha"] == 0.9
    assert any("tuned harder" in note for note in table.notes)


def test_without_the_sweeps_description_every_key_that_differs_makes_cells(made: Made) -> None:
    root = made("deit_reverse", described=False)
    folder = root / "deit_reverse"
    folder.rename(root / "unknown")
    table = only(root, "unknown")
    assert {"optimizer.lr", "distillation.alpha", "dataset.train_size"} <= {k for r in table.results for k in r.factors}
    assert any("no sweep.yaml" in note for note in table.notes)


def test_models_without_a_student_alone_are_compared_with_the_best_on_validation(made: Made) -> None:
    def outcome(trial: TrialConfig) -> Outcome:
        seed = float(np.random.default_rng(trial.seed).normal())
        better = 5.0 if trial.model.name == "resnet18" else 0.0
        noise = 0.1 * float(np.random.default_rng(int(trial.trial_id, 16)).normal())
        top1 = 70 + seed + better + noise
        return {"status": Status.COMPLETE, "eval_top1": top1, "test_top1": top1}

    table = only(made("tinyvit_resnet", "quick", outcome, "seeds=[0,1,2,3]"), "tinyvit_resnet")
    verdicts = {result.label: result.difference.verdict for result in table.results if result.difference}
    assert len(verdicts) == len(table.results) - 1
    assert {result.difference.to for result in table.results if result.difference} == {"best on validation"}
    others = [verdict for label, verdict in verdicts.items() if "resnet18" not in label]
    assert set(others) <= {"worse"}


def test_equal_cost(made: Made) -> None:
    table = only(made(), "deit_reverse", preset="quick", at_epoch=2)
    assert table.budget is not None
    assert table.budget.epochs == 2
    assert table.budget.device_seconds == EPOCHS * 2.5 * 0.5
    finals = {r.label: r.validation.mean for r in table.results if r.validation}
    for cell in table.budget.cells:
        assert cell.at_epochs is not None
        assert cell.at_time is not None
        assert cell.at_epochs.mean == pytest.approx(0.75 * finals[cell.label])
        assert cell.at_time.mean == pytest.approx((1 - 0.5**EPOCHS) * finals[cell.label])
    assert table.budget.target == pytest.approx(min(finals.values()) * (1 - 0.5**EPOCHS))
    low = only(made(), "deit_reverse", preset="quick", target=1.0).budget
    assert low is not None
    assert {(cell.target.epochs, cell.target.device_seconds) for cell in low.cells} == {(1, 1.25)}
    high = only(made(), "deit_reverse", preset="quick", target=1000.0).budget
    assert high is not None
    assert {(cell.target.seeds, cell.target.epochs) for cell in high.cells} == {(0, None)}


def test_published_numbers_stand_beside_and_are_never_called_reproduced(made: Made) -> None:
    table = only(made(), "deit_reverse", preset="quick")
    assert table.reproductions
    assert all(each.differs for each in table.reproductions)
    text = table.text("md")
    assert "published against measured" in text
    assert "Jeong and Arnoud" in text
    assert "| yes |" not in text


@pytest.mark.parametrize("form", ["md", "csv", "json"])
def test_every_form_holds_every_cell(made: Made, capsys: pytest.CaptureFixture[str], form: str) -> None:
    root = made()
    assert main(["deit_reverse", "--results", str(root), "--format", form, "--price-per-hour", "2"]) == 0
    text = capsys.readouterr().out
    table = only(root, "deit_reverse")
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["cell"] for row in rows] == [result.label for result in table.results]
        assert [float(row["mean"]) for row in rows] == [r.test.mean for r in table.results if r.test]
    elif form == "json":
        content = json.loads(text)
        assert [cell["cell"] for cell in content["cells"]] == [result.label for result in table.results]
        assert content["at_equal_cost"]["epochs"] == EPOCHS
    else:
        assert text.count("\n| ") > len(table.results)


@pytest.mark.parametrize("form", ["md", "html", "latex", "csv", "json"])
def test_the_cost_stands_in_every_table(made: Made, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr("raybench.commands.reporting.figures", lambda _: [])
    table = only(made(), "deit_reverse")
    assert re.search("12,?345", table.text(form)) is None
    # Six trials a cell, each of 15 s on half a device.
    text = replace(table, price=Price(987_600, "a test")).text(form)
    shown = re.sub('="[^"]*"', "", text)  # without what a page sorts by
    assert len(re.findall(r"\b12,?345\b", shown)) == len(table.results)
    if form in ("md", "html", "latex"):
        assert "at 987,600 an hour (a test)" in text


def test_the_price_is_that_of_the_cluster_file_unless_one_is_given(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["deit_reverse", "--results", str(made()), "--format", "md"]
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").write_text("provider: {type: local, price_per_hour: 1.5}")
    assert main(arguments) == 0
    assert r"at 1.5 an hour (provider.price\_per\_hour of cluster.yaml)" in capsys.readouterr().out
    assert main([*arguments, "--price-per-hour", "2"]) == 0
    assert "at 2 an hour (--price-per-hour)" in capsys.readouterr().out
    Path("cluster.yaml").write_text("provider: {type: local, price_per_hour: much}")
    assert main(arguments) == 2
    assert "price_per_hour = 'much'" in capsys.readouterr().err
    assert main([*arguments, "--price-per-hour", "0"]) == 0


def test_a_page_holds_tables_and_figures_and_asks_nobody_for_anything(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = made()
    assert main(["deit_reverse", "--results", str(root), "--format", "html", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "deit_reverse-quick.html").read_text()
    assert page.count("<figure") >= 5
    assert page.count("<table") >= 3
    assert "Does a ViT teacher help a CNN student" in page
    assert 'http-equiv="Content-Security-Policy"' in page
    assert not re.search(r"(src|href)=.https?://", page)
    assert "deit_reverse-quick.html" in capsys.readouterr().out


def test_every_figure_says_where_its_numbers_come_from(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    table = only(made(), "deit_reverse")
    drawing = [name for name, value in vars(reporting).items() if "source" in getattr(value, "__annotations__", {})]
    said: dict[str, Any] = {}
    for name in drawing:
        bind = inspect.signature(getattr(reporting, name)).bind
        note = functools.partial(lambda name, bind, *args, **kw: said.update({name: bind(*args, **kw)}), name, bind)
        monkeypatch.setattr(reporting, name, note)
    for _, draw in reporting.figures(table):
        draw(Path("none.svg"))
    assert len(said) == len(drawing) == 9
    source = f"rows of {table.trials.height} trials of deit_reverse, preset quick"
    assert {bound.arguments.get("source") for bound in said.values()} == {source}


def test_latex_holds_every_cell(made: Made) -> None:
    text = only(made(), "deit_reverse").text("latex")
    assert text.count(r"\toprule") >= 3
    assert "student alone" in text


def test_files_are_written_where_asked(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made()
    assert main(["--results", str(root), "--format", "csv", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "deit_reverse-quick.csv").read_text().startswith("sweep,preset,cell,")
    assert "deit_reverse-quick.csv" in capsys.readouterr().out


def test_several_tables_are_one_csv_and_no_one_page(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made()
    root = made("deit_reverse", "small", described=False)
    tables = compare_sweeps(root, ["deit_reverse"], Asked())
    assert main(["deit_reverse", "--results", str(root), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out), strict=True))
    wanted = [("deit_reverse", table.preset, result.label) for table in tables for result in table.results]
    assert len(tables) == 2
    assert [(row["sweep"], row["preset"], row["cell"]) for row in rows] == wanted
    assert not any(None in row or None in row.values() for row in rows)
    assert main(["deit_reverse", "--results", str(root), "--format", "html"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "2 pages (deit_reverse quick, deit_reverse small)" in said.err
    assert "--out DIR" in said.err


@pytest.mark.parametrize("arguments", [["--format", "json"], ["--out", "there"]])
def test_two_trials_are_compared_in_the_terminal_alone(
    made: Made, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    trials = ["ffffffffffff", "eeeeeeeeeeee"]
    assert main(["--results", str(made()), "--examples", *trials, *arguments]) == 2
    assert "leave --format and --out away" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deit_revers"], "deit_revers: no rows of such a sweep"),
        (["deit_reverse", "--by", "alpa"], "--by alpa: no such key; did you mean"),
        (["deit_reverse", "--by", "name"], "--by name: may be"),
        (["deit_reverse", "--metric", "eval_topl"], "no row of deit_reverse has eval_topl"),
        (["deit_reverse", "--preset", "paper"], "no trial of preset paper"),
    ],
)
def test_bad_input(made: Made, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main([*arguments, "--results", str(made())]) == 2
    assert said in capsys.readouterr().err


def test_an_empty_root_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no results in .*python -m raybench\.sweep"):
        compare_sweeps(tmp_path, [], Asked())
    assert sweeps_in(tmp_path) == []


def foreign(root: Path, table: str, **columns: pl.Expr) -> None:
    """Change columns of the compact file as something else would: without its checksum."""
    (path,) = (root / "deit_reverse" / table).glob("compact-*.parquet")
    frame = pl.read_parquet(path).with_columns(**columns)
    path.unlink()
    pq.write_table(frame.to_arrow(), path)


@pytest.mark.parametrize("form", [None, "html", "latex", "json", "csv"])
def test_huge_numbers_are_none(made: Made, form: str | None) -> None:
    root = made()
    sound = only(root, "deit_reverse").results[0]
    first = pl.col("trial_id") == sound.selected[0].trial_id
    huge = dict.fromkeys(
        ("test_top1", "eval_top1", "device_hours", "energy", "train_time", "peak_memory"), pl.lit(-1.0e308)
    )
    changed = {name: pl.when(first).then(value).otherwise(pl.col(name)).alias(name) for name, value in huge.items()}
    foreign(root, "trials", **changed)
    alternating = pl.when(pl.int_range(pl.len()) % 2 == 0).then(1e200).otherwise(-1e308)
    foreign(root, "epochs", eval_top1=pl.when(first).then(alternating).otherwise("eval_top1"), train_time=alternating)
    arguments = ["--format", form] if form else []
    assert main(["deit_reverse", "--results", str(root), *arguments]) == 0
    table = only(root, "deit_reverse")
    changed_cell = next(result for result in table.results if result.label == sound.label)
    assert changed_cell.without == {sound.selected[0].trial_id: "test_top1"}
    assert all(abs(value) < 100 for result in table.results for _, value in result.by_seed)


def test_one_row_of_garbage_is_left_out_and_named(made: Made) -> None:
    root = made()
    sound = only(root, "deit_reverse")
    trial_id = sound.results[0].selected[0].trial_id
    augment = pl.when(pl.col("trial_id") == trial_id).then(pl.lit("garbage")).otherwise("config/dataset.augment")
    foreign(root, "trials", **{"config/dataset.augment": augment})
    table = only(root, "deit_reverse")
    assert table.trials.height == sound.trials.height - 1
    assert any(note.startswith(f"left out: trial {trial_id}: not a configuration") for note in table.notes)


def test_what_lies_beside_the_sweeps_hides_none(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made()
    os.mkfifo(root / "a-pipe")
    (root / "a-loop").symlink_to("a-loop")
    (root / "lost+found").mkdir()
    (root / "lost+found" / "trials").write_text("no folder")
    assert sweeps_in(root) == ["deit_reverse"]
    assert any(note.startswith(f"passed over: {root}/lost+found/trials cannot be used") for note in only(root).notes)
    looked_at = []

    def watched(folder: Path) -> dict[str, Any]:
        looked_at.append(folder)
        return dict(entries(folder))

    monkeypatch.setattr(comparing, "entries", watched)
    assert not any("passed over" in note for note in only(root, "deit_reverse").notes)
    assert looked_at == [root / "deit_reverse" / "trials"]
    for name in ("", ".", "..", "../results/deit_reverse", "deit"):
        with pytest.raises(ResultsError, match="no rows of such a sweep"):
            only(root, name)


def test_what_was_passed_over_is_told_to_whoever_finds_nothing(made: Made) -> None:
    root = made()
    (root / "other").mkdir()
    (root / "other" / "trials").write_text("no folder")
    export = argparse.Namespace(best="othr", preset=None)
    for nothing in (
        lambda: find_trial(root, "ffffffffffff"),
        lambda: _asked(export, root),
        lambda: _store(root, "othr"),
        lambda: load_results("othr", root),
        lambda: only(root, "othr"),
        lambda: compare_trials(root, [], "ffffffffffff", "eeeeeeeeeeee"),
    ):
        with pytest.raises(ResultsError, match=rf"\npassed over: {root}/other/trials cannot be used"):
            nothing()


def test_a_foreign_preset_stays_in_the_folder_that_was_asked_for(made: Made, tmp_path: Path) -> None:
    root = made(described=False)
    foreign(root, "trials", preset=pl.lit("x/../../\0a b"))
    out = tmp_path / "a" / "b"
    assert main(["deit_reverse", "--results", str(root), "--format", "csv", "--out", str(out)]) == 0
    assert [path.name for path in (tmp_path / "a").rglob("*.csv")] == ["deit_reverse-x_.._..__a_b.csv"]
    assert [path.parent for path in tmp_path.rglob("*.csv")] == [out]


def test_neither_torch_nor_ray_is_loaded(made: Made) -> None:
    code = (
        "import sys; from raybench.compare import main; "
        f"code = main(['deit_reverse', '--results', {str(made())!r}]); "
        "heavy = {'torch', 'ray', 'timm', 'matplotlib'} & set(sys.modules); assert not heavy, heavy; sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "verdict" in ended.stdout


def test_json_and_csv_hold_what_the_printed_tables_say(made: Made) -> None:
    table = only(made("deit_reverse", "quick"), "deit_reverse")
    content = json.loads(table.text("json"))
    fits, horizon = trends(table.results, table.epochs, "eval_top1")
    assert content["trends_horizon"] == horizon
    by_cell = {each["cell"]: each for each in content["trends"]}
    for fit in fits:
        assert isinstance(fit.log, LogFit)
        told = by_cell[fit.label]
        assert (told["log_a"], told["log_b"], told["log_r2"]) == (fit.log.a, fit.log.b, fit.log.r2)
        assert (told["log_b_low"], told["log_b_high"]) == fit.log.b_interval
        if isinstance(fit.hidden, Holdout):
            assert told["hidden_third_mean_absolute"] == fit.hidden.mean_absolute
        if isinstance(fit.crossing, Crossing):
            assert told["crossing_epoch"] == fit.crossing.epoch
    assert any(each["hidden_third_mean_absolute"] is not None for each in content["trends"])
    assert [each["best"] for each in content["cells"]] == [result.best for result in table.results]
    assert any(each["interval"] for each in content["published"])
    for sheet in table.sheets():
        assert content["footnotes"][sheet.title] == list(sheet.footnotes)
    rows = list(csv.DictReader(io.StringIO(table.text("csv"))))
    assert [row["best"] for row in rows] == [str(result.best) for result in table.results]
    assert [float(row["trend/log_r2"]) for row in rows] == [by_cell[row["cell"]]["log_r2"] for row in rows]
    assert {"trend/power_c", "trend/crossing_epoch", "teacher_top1_high", "without_metric"} <= set(rows[0])


def test_csv_and_json_hold_every_seed_the_validation_and_the_equal_cost(made: Made) -> None:
    table = only(made(), "deit_reverse")
    rows = list(csv.DictReader(io.StringIO(table.text("csv"))))
    cells = json.loads(table.text("json"))["cells"]
    assert table.budget is not None
    at_cost = {cell.label: cell for cell in table.budget.cells}
    assert len(at_cost) == len(rows)
    for result, row, cell in zip(table.results, rows, cells, strict=True):
        assert result.validation is not None
        assert result.validation.sd is not None
        for told in (row, cell):
            assert json.loads(told["by_seed"]) == {str(seed): value for seed, value in result.by_seed}
            validation = [float(told[f"validation_{name}"]) for name in ("n", "mean", "sd", "low", "high")]
            assert validation == list(vars(result.validation).values())
        if result.difference is not None:
            differences = {str(seed): value for seed, value in result.difference.by_seed}
            assert json.loads(row["difference_by_seed"]) == differences
        found = at_cost[result.label]
        assert found.at_epochs is not None
        assert found.at_time is not None
        told = {key.removeprefix("at_equal_cost/"): row[key] for key in row if key.startswith("at_equal_cost/")}
        assert (float(told["epochs"]), float(told["epochs_mean"])) == (EPOCHS, found.at_epochs.mean)
        assert float(told["device_seconds"]) == table.budget.device_seconds
        assert (int(told["device_seconds_n"]), float(told["device_seconds_sd"])) == (3, found.at_time.sd)
        assert (float(told["target"]), int(told["target_seeds"])) == (table.budget.target, found.target.seeds)
