"""The ready queries of the pages: each runs on a results folder, and DuckDB and Polars give the same answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from benchmarks.peers import made_sweep
from benchmarks.peers.made_sweep import SETTINGS, Trial
from raybench.results.schema import epoch_schema, trial_schema
from tests.docs.test_commands import ROOT, fences

PAGE = ROOT / "docs/results.md"
SEEDS, EPOCHS = 2, 20
TRIALS = SEEDS * len(SETTINGS) * 9
"""Of each setting, at three train sizes and three rates."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Results of two sweeps, made up, of which one has a column more; the folder one is in."""
    folder = tmp_path_factory.mktemp("queries")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_sweep, "EPOCHS", EPOCHS)
        patch.setattr(made_sweep, "epochs_of", partial(made_sweep.epochs_of, epochs=EPOCHS))
        made_sweep.make(folder / "results/deit_reverse", TRIALS)
        made_sweep.make(folder / "results/other", 3)
        patch.chdir(folder)
        for file in Path("results/other/trials").glob("*.parquet"):
            pl.read_parquet(file).with_columns(sweep=pl.lit("other"), test_top3=pl.lit(1.0)).write_parquet(file)
        yield folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Any]:
    """What the page's Python leaves under each name, run from top to bottom."""
    assert Path.cwd() == folder
    space: dict[str, Any] = {}
    for text in blocks(PAGE, "python"):
        exec(compile(text, str(PAGE), "exec"), space)
    return space


def blocks(page: Path, language: str) -> list[str]:
    """The text of each block of a language."""
    return [text.replace("3f9a0c1be2d4", Trial(0).trial_id) for _, kind, text in fences(page) if kind == language]


def asked(text: str) -> pl.DataFrame:
    """What DuckDB answers."""
    answer = duckdb.sql(text)
    assert answer is not None, "no question"
    frame: pl.DataFrame = answer.pl()
    return frame


QUESTIONS = re.findall(r"^### (.*\?)$", PAGE.read_text(), re.MULTILINE)


def test_there_are_five() -> None:
    assert len(QUESTIONS) == 5
    assert len(blocks(PAGE, "sql")) == 5


@pytest.mark.parametrize("number", range(5), ids=QUESTIONS)
def test_both_give_the_same_answer(answers: dict[str, Any], number: int) -> None:
    name = re.findall(r"^(\w+) = ", blocks(PAGE, "python")[number - 5], re.MULTILINE)[-1]
    ours: pl.DataFrame = answers[name]
    theirs = asked(blocks(PAGE, "sql")[number])
    assert ours.height >= 2
    assert set(ours.columns) == set(theirs.columns)
    theirs = theirs.select(pl.col(name).cast(kind) for name, kind in ours.schema.items())
    assert_frame_equal(ours, theirs, abs_tol=0.0101)  # two decimals, which may be rounded to either side


def test_the_answers_are_right(answers: dict[str, Any]) -> None:
    """Counted by hand, and from each other."""
    pruned = sum(number % 20 == 7 for number in range(TRIALS))
    assert answers["settings"]["n"].sum() == TRIALS - pruned
    assert answers["selected"].height == len(SETTINGS) * 3
    best = answers["settings"].group_by("cell").agg(pl.col("eval_top1").max()).sort("cell")
    assert (answers["selected"].sort("cell")["eval_top1"] - best["eval_top1"]).abs().max() < 0.006
    assert set(answers["differences"]["kind"]) == {"hard", "soft", "both"}
    assert answers["differences"]["pairs"].max() == SEEDS * 3
    assert answers["curves"].filter(pl.col("epoch") == EPOCHS)["n"].sum() == TRIALS
    assert answers["ran"].select("sweep", "trials").rows() == [("made_up", TRIALS), ("other", 3)]


def test_those_of_the_readme_run(folder: Path) -> None:
    assert Path.cwd() == folder
    for text in blocks(ROOT / "README.md", "python"):
        exec(compile(text, "README.md", "exec"), {})
    for text in blocks(ROOT / "README.md", "sql"):
        assert asked(text).height


COLUMN = re.compile(r"^\| (`[^|]+`) \| (\w+) \|", re.MULTILINE)
KINDS = {pa.string(): "string", pa.int64(): "int64", pa.float64(): "double", pa.timestamp("us", tz="UTC"): "timestamp"}


@pytest.mark.parametrize(("table", "schema"), [("trials", trial_schema()), ("epochs", epoch_schema())])
def test_the_schema_on_the_page_is_that_of_the_files(table: str, schema: pa.Schema) -> None:
    (section,) = re.findall(rf"^## `{table}`\n(.*?)^## ", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    shown = {name: kind for names, kind in COLUMN.findall(section) for name in re.findall(r"`([^`]+)`", names)}
    held = {field.name: KINDS[field.type] for field in schema if not field.name.startswith(("config/", "env/"))}
    assert shown == held


def test_the_environment_on_the_page_is_that_of_the_rows() -> None:
    (text,) = re.findall(r"^`env/<key>`: (.*?)\n\n", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", text)))
    assert named == {field.name[4:] for field in trial_schema() if field.name.startswith("env/")}
