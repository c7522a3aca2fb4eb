"""What the sheet makes of factors that are whole sections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from raybench.config.plan import Cell, Setting
from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.report.comparison import CellResult, compare
from raybench.report.export import as_csv, as_json, records
from raybench.report.latex import latex_table
from raybench.report.reproduction import Reproduction, reproduction_sheet
from raybench.report.sheet import cell_names, make_sheet, readable
from raybench.report.tables import comparison_lines, sheet_markdown
from raybench.results.published import published

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


def test_a_cell_has_a_short_name_where_one_column_is_all_there_is() -> None:
    found = results(BASE, {**BASE, "options": {**BASE["options"], "tome_r": 8}})
    assert list(cell_names(found).values()) == ["vit", "vit (tome_r=8)"]
    row = next(row for row in published("pretrained") if row.model_name)
    told = Reproduction(row, None, found[1].label, None, "", (), ())
    sheet = reproduction_sheet([told], "any", found)
    assert next(column for column in sheet.columns if "our cell" in column.title).texts == ("vit (tome_r=8)",)


def test_work_is_a_column_where_it_differs_and_speed_wherever_it_is_known() -> None:
    slow, fast = results(BASE, {"name": "resnet20"})
    slow, fast = (
        replace(each, gmacs=g, infer_samples_per_sec=s) for each, g, s in ((slow, 2.0, 10.0), (fast, 1.0, 25.0))
    )
    titles = {column.title: column.texts for column in make_sheet([slow, fast], "any").columns}
    assert titles["work\n(GMAC)"] == ("2", "1")
    assert titles["inference\n(1/s)"] == ("10", "25")
    same = make_sheet([slow, replace(fast, gmacs=2.0)], "any")
    titles = {column.title: column.texts for column in same.columns}
    assert "work\n(GMAC)" not in titles
    # As much work is not as much time; what all share stands above.
    assert titles["inference\n(1/s)"] == ("10", "25")
    assert same.subtitle.endswith("work 2 GMAC")


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


def codecs(test_metric: str = "test_psnr") -> list[CellResult]:
    """Two codecs of two seeds each, the second with half the bits a pixel."""
    cells, rows = [], []
    for name, bpp in (("ci2p_codec", 0.6), ("codec_small", 0.3)):
        data, model = DatasetConfig(name="digits"), ModelConfig(name=name)
        trials = tuple(TrialConfig(task="compression", seed=seed, dataset=data, model=model) for seed in (0, 1))
        cells.append(Cell(name, {"model.name": name}, None, (Setting({}, trials),)))
        known = {"status": "complete", "eval_psnr": 24.0, "preset": "small", "dataset_variant": "official"}
        rows += [
            {"trial_id": t.trial_id, **known, "test_psnr": 23.0 + t.seed, "test_bpp": bpp + 0.01 * t.seed}
            for t in trials
        ]
    return compare(cells, pl.DataFrame(rows), "eval_psnr", "max", test_metric)


def test_the_psnr_of_a_codec_stands_beside_its_bits_a_pixel_in_every_form() -> None:
    results = codecs()
    sheet = make_sheet(results, "codecs")
    assert [column.title for column in sheet.columns[:2]] == ["test\nPSNR (dB)", "test\nbits a pixel"]
    assert sheet.columns[1].texts == ("0.605 ± 0.007 (2)", "0.305 ± 0.007 (2)")
    assert "test bits a pixel" in sheet_markdown(sheet)
    assert r"0.305 $\pm$ 0.007" in latex_table(sheet)
    assert "0.305 ± 0.007 (2)" in "\n".join(comparison_lines(results, "codecs"))
    assert [round(each["test_bpp_mean"], 6) for each in records(results)] == [0.605, 0.305]
    assert "test_bpp_mean" in as_csv(records(results)).splitlines()[0]
    assert '"test_bpp_sd": 0.007' in as_json(records(results))


def test_bits_a_pixel_are_not_shown_twice_nor_where_there_are_none() -> None:
    titles = [column.title for column in make_sheet(codecs("test_bpp"), "codecs").columns]
    assert titles.count("test\nbits a pixel") == 1
    assert "test\nbits a pixel" not in [column.title for column in make_sheet(results(BASE), "any").columns]
