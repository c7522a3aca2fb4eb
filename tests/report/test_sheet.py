"""What the sheet makes of factors that are whole sections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from raybench.config.plan import Cell
from raybench.report.comparison import CellResult, compare
from raybench.report.sheet import make_sheet, readable

BASE: dict[str, Any] = {"name": "vit", "options": {"patch_size": 4, "depth": 4}}


def results(*models: Any) -> list[CellResult]:
    cells = [Cell(str(number), {"model": model}, None, ()) for number, model in enumerate(models)]
    return compare(cells, pl.DataFrame())


def said(*models: Any) -> list[Any]:
    return [result.factors["model"] for result in readable(results(*models))]


def test_models_of_one_name_are_told_apart_by_what_differs() -> None:
    merged = {"name": "vit", "options": {"patch_size": 4, "depth": 4, "tome_r": 8}}
    loaded = {**BASE, "weights": "pretrained"}
    assert said(BASE, merged, loaded) == ["vit", "vit (tome_r=8)", "vit (weights=pretrained)"]


def test_a_model_alone_with_its_name_needs_no_more() -> None:
    assert said(BASE, {"name": "resnet20", "weights": "pretrained"}, "plain") == ["vit", "resnet20", "plain"]


def test_the_table_shows_it() -> None:
    sheet = make_sheet(results(BASE, {"name": "vit", "options": {"patch_size": 2, "depth": 4}}), "any")
    assert sheet.keys[0].texts == ("vit (patch_size=4)", "vit (patch_size=2)")


def test_work_and_speed_are_shown_where_work_differs() -> None:
    slow, fast = results(BASE, {"name": "resnet20"})
    slow, fast = (
        replace(each, gmacs=g, infer_samples_per_sec=s) for each, g, s in ((slow, 2.0, 10.0), (fast, 1.0, 25.0))
    )
    titles = {column.title: column.texts for column in make_sheet([slow, fast], "any").columns}
    assert titles["work\n(GMAC)"] == ("2", "1")
    assert titles["inference\n(1/s)"] == ("10", "25")
    same = make_sheet([slow, replace(fast, gmacs=2.0)], "any")
    assert "work\n(GMAC)" not in {column.title for column in same.columns}


def test_energy_is_shown_where_there_is_any_and_said_to_be_of_the_whole_device() -> None:
    without, other = results(BASE, {"name": "resnet20"})
    assert "energy\n(Wh)" not in {column.title for column in make_sheet([without, other], "any").columns}
    alone = replace(other, energy=1234.5, shares={"a": 1.0})
    sheet = make_sheet([without, alone], "any")
    assert {column.title: column.texts for column in sheet.columns}["energy\n(Wh)"] == ("", "1,234")
    (note,) = [note for note in sheet.footnotes if note.startswith("energy: ")]
    assert "whole device" in note
    assert "shared" not in note
    shared = make_sheet([without, replace(alone, shares={"a": 1.0, "b": 0.5})], "any")
    assert any("trials that shared a device each count all" in note for note in shared.footnotes)
