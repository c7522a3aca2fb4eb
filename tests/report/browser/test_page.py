"""The page in a real Chromium: drawn whole, sorted, enlarged, dark and light, wide and narrow, and asking nothing."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from raybench.config.plan import Cell, Setting, label
from raybench.config.trial import DatasetConfig, DistillationConfig, ModelConfig, TeacherConfig, TrialConfig
from raybench.report.comparison import CellResult, compare
from raybench.report.figures import comparison_figure, curves_figure
from raybench.report.page import FigurePart, Part, PlainTable, Prose, TablePart, report_page
from raybench.report.sheet import make_sheet
from raybench.results.published import published

if TYPE_CHECKING:
    from .conftest import OpenTab, Tab

WIDE, PHONE = (1280, 800), (390, 844)
"""Width and height of a screen in pixels."""


def sweep() -> tuple[list[CellResult], pl.DataFrame]:
    """Made-up rows of 10 cells with 3 seeds, one of them failed."""
    generator = np.random.default_rng(0)
    cells, trials, epochs = [], [], []
    for size in (1000, 4000):
        for alpha, kind in ((0.0, ""), (0.5, "hard"), (0.5, "soft"), (0.9, "hard"), (0.9, "soft")):
            factors: dict[str, Any] = {"dataset.train_size": size, "distillation.alpha": alpha}
            factors |= {"distillation.type": kind} if kind else {}
            taught = DistillationConfig(
                type="soft" if kind == "soft" else "hard",
                alpha=alpha,
                teacher=TeacherConfig(name="vit_digits") if alpha else None,
            )
            configs = tuple(
                TrialConfig(
                    dataset=DatasetConfig(name="digits", train_size=size, val_size=100),
                    model=ModelConfig(name="resnet8"),
                    distillation=taught,
                    seed=seed,
                )
                for seed in range(3)
            )
            base = label({"dataset.train_size": size, "distillation.alpha": 0.0}) if alpha else None
            cells.append(Cell(label(factors), factors, base, (Setting({"optimizer.lr": 0.1}, configs),)))
            for config in configs:
                failed = (size, alpha, kind, config.seed) == (4000, 0.9, "hard", 2)
                effect = {(0.5, "soft"): 1.0, (0.9, "soft"): 4.0, (0.9, "hard"): -2.5}.get((alpha, kind), 0.2)
                top1 = 7 + size / 250 + effect + 0.3 * float(generator.normal())
                trials.append(
                    {
                        "trial_id": config.trial_id,
                        "status": "failed" if failed else "complete",
                        "eval_top1": None if failed else top1,
                        "test_top1": None if failed else top1 - 0.7,
                        "train_time": size / 45 + 9 * alpha,
                        "teacher_top1": 32.4 if alpha else None,
                        "preset": "small",
                        "dataset_variant": "own split",
                    }
                )
                curve = [top1 * (1 - 0.8 / (epoch + 1)) for epoch in range(18)]
                epochs += [{"trial_id": config.trial_id, "epoch": e, "eval_top1": v} for e, v in enumerate(curve)]
    return compare(cells, pl.DataFrame(trials, infer_schema_length=None)), pl.DataFrame(epochs)


def report(folder: Path) -> str:
    results, epochs = sweep()
    sheet = make_sheet(results, "deit_reverse, small, test top-1 (%)", published("deit_reverse"))
    compared = comparison_figure(results, folder / "a.svg", "Does a ViT teacher help a CNN student?", "a sweep")
    curves = curves_figure(epochs, results, folder / "b.svg", "Validation top-1 of the selected settings")
    counts = (
        ("vit_tiny_patch4_32 (patch_size=4, depth=4)", "29", ""),
        ("resnet20", "1", "out of memory: the batch of 64 and a teacher do not fit 1 GiB"),
    )
    parts: list[Part] = [
        Prose("", ("Soft labels at alpha 0.9 gained most.", "Made with `python -m raybench.sweep deit_reverse`.")),
        TablePart(sheet),
        FigurePart("Test top-1 against alpha", compared.read_text(), "Made-up numbers."),
        FigurePart("Validation top-1 against epoch", curves.read_text()),
        PlainTable("Trials", ("model", "trials", "why"), counts, ("Two are due.",)),
        TablePart(replace(sheet, title="a_title_without_any_place_to_break_that_is_wider_than_a_telephone")),
    ]
    return report_page("deit_reverse: small", "30 trials · 2 device-hours", parts, "raybench 0.1.0, commit 0123abc")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    file = folder / "report.html"
    file.write_text(report(folder), encoding="utf-8")
    return file


ORDER = "[...document.querySelectorAll('main table')[0].tBodies[0].rows].map(row => row.textContent)"
HEADS = "[...document.querySelectorAll('main table')[0].tHead.rows[0].cells].map(cell => cell.ariaSort)"
COLUMN = "[...document.querySelectorAll('main table')[0].tBodies[0].rows].map(row => row.cells[{}].textContent)"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_it_is_drawn_whole_and_asks_nothing(
    open_tab: OpenTab, page: Path, size: tuple[int, int], dark: bool, tmp_path: Path
) -> None:
    tab = open_tab(page, size, dark)
    assert tab.complaints() == []
    assert [url for url in tab.requests() if not url.startswith("data:")] == [page.as_uri()]
    width, _ = size
    # Nothing but what stands in a box of its own is wider than the screen.
    # A phone would show a page that is too wide smaller, and then `innerWidth` is more.
    assert tab.read("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)"
    assert tab.read(f"{wide}.filter(e => !e.closest('.scroll') && !e.closest('svg')).map(e => e.outerHTML)") == []
    boxes = tab.read("[...document.querySelectorAll('figure svg')].map(e => [e.clientWidth, e.clientHeight])")
    assert len(boxes) == 2
    assert all(w > 300 and h > 100 for w, h in boxes)
    # Every line, marker and letter of a figure is where it was drawn: none is empty or refers to what is not there.
    used = "[...document.querySelectorAll('svg use')].map(e => document.querySelector(e.getAttribute('href')) !== null)"
    assert all(tab.read(used))
    luminance = tab.read("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(luminance) < 64) is dark
    assert tab.read("getComputedStyle(document.querySelector('figure .card')).backgroundColor") == "rgb(255, 255, 255)"
    assert len(tab.picture(tmp_path / "page.png")) > 20_000


def test_colours_can_be_read_on_their_ground(open_tab: OpenTab, page: Path) -> None:
    contrast = """[...document.querySelectorAll('p, li, h1, h2, td, th, a, figcaption, button')].map(e => {
        const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const ground = (e) => { const c = getComputedStyle(e).backgroundColor;
            return numbers(c)[3] === 0 && e.parentElement ? ground(e.parentElement) : c };
        const light = (colour) => { const [r, g, b] = numbers(colour).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126*r + 0.7152*g + 0.0722*b };
        const pair = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a);
        return [(pair[0] + 0.05) / (pair[1] + 0.05), e.textContent, e.className] })"""
    for dark in (False, True):
        tab = open_tab(page, WIDE, dark)
        found = tab.read(contrast)
        # WCAG 2.2, success criterion 1.4.3.
        assert [each for each in found if each[0] < 4.5 and each[1]] == []
        assert {"better", "worse", "open", "few"} <= {each[2] for each in found}
        assert len(found) > 100


def test_a_title_sorts_up_then_down_then_not(open_tab: OpenTab, page: Path) -> None:
    tab = open_tab(page, WIDE)
    original = tab.read(ORDER)
    titles = tab.read("[...document.querySelectorAll('main table')[0].tHead.rows[0].cells].map(c => c.textContent)")
    assert tab.read(HEADS) == ["none"] * len(titles)
    column = next(index for index, title in enumerate(titles) if title.startswith("validation"))
    orders = []
    for expected in ("ascending", "descending", "none"):
        tab.click(f"main table thead th:nth-child({column + 1}) button")
        orders.append(tab.read(ORDER))
        assert tab.read(HEADS) == [expected if index == column else "none" for index in range(len(titles))]
        if expected != "none":
            values = [float(text) for text in tab.read(COLUMN.format(column))]
            assert values == sorted(values, reverse=expected == "descending")
    assert orders[0] != original
    assert orders[1] != orders[0]
    assert orders[2] == original
    assert all(sorted(order) == sorted(original) for order in orders)
    assert tab.complaints() == []


def test_blanks_come_last_and_another_title_begins_anew(open_tab: OpenTab, page: Path) -> None:
    tab = open_tab(page, WIDE)
    titles = tab.read("[...document.querySelectorAll('main table')[0].tHead.rows[0].cells].map(c => c.textContent)")
    kind, difference = titles.index("kind"), next(i for i, t in enumerate(titles) if t.startswith("difference"))
    tab.click(f"main table thead th:nth-child({kind + 1}) button")
    assert tab.read(COLUMN.format(kind)) == ["hard"] * 4 + ["soft"] * 4 + ["–"] * 2
    for down in (False, True):
        tab.click(f"main table thead th:nth-child({difference + 1}) button")
        texts = tab.read(COLUMN.format(difference))
        assert texts[-2:] == ["", ""]
        numbers = [float(text.split()[0].replace("−", "-")) for text in texts[:-2]]
        assert numbers == sorted(numbers, reverse=down)
    assert [each for each in tab.read(HEADS) if each != "none"] == ["descending"]


def test_keys_sort_too(open_tab: OpenTab, page: Path) -> None:
    tab = open_tab(page, WIDE)
    original = tab.read(ORDER)
    tab.read("document.querySelectorAll('main table thead button')[1].focus()")
    tab.press("Enter")
    assert tab.read(HEADS)[:3] == ["none", "ascending", "none"]
    tab.press(" ")
    assert tab.read(HEADS)[:3] == ["none", "descending", "none"]
    assert tab.read(ORDER) != original


def scale(tab: Tab) -> float:
    return tab.box("dialog svg")[2] / float(tab.read("document.querySelector('figure .card').dataset.width"))


def test_a_figure_opens_larger_and_closes_again(open_tab: OpenTab, page: Path) -> None:
    tab = open_tab(page, WIDE)
    before = tab.box("figure svg")[2:]
    tab.click("figure button.enlarge")
    assert tab.read("document.querySelector('dialog').open")
    left, top, width, height = tab.box("dialog svg")
    assert width > before[0]
    assert left >= 0
    assert top >= 0
    assert left + width <= WIDE[0]
    assert top + height <= WIDE[1]
    opened = scale(tab)
    tab.mouse("mouseWheel", 400, 300, deltaX=0, deltaY=-200)
    assert scale(tab) > opened * 1.2
    moved_from = tab.box("dialog svg")[0]
    tab.mouse("mousePressed", 600, 400)
    tab.mouse("mouseMoved", 560, 400, buttons=1)
    tab.mouse("mouseReleased", 560, 400)
    assert tab.box("dialog svg")[0] == pytest.approx(moved_from - 40, abs=1)
    assert tab.read("document.querySelector('dialog').open")
    tab.press("0")
    assert scale(tab) == pytest.approx(opened, rel=0.01)
    tab.press("+", times=2)
    assert scale(tab) == pytest.approx(opened * 1.25**2, rel=0.01)
    tab.press("Escape")
    assert not tab.read("document.querySelector('dialog').open")
    assert tab.box("figure svg")[2:] == pytest.approx(before)
    # The keyboard stands where it stood.
    assert tab.read("document.activeElement.className") == "enlarge"
    tab.press("Enter")
    assert tab.read("document.querySelector('dialog').open")
    tab.click("dialog button.close")
    assert not tab.read("document.querySelector('dialog').open")
    assert tab.complaints() == []


def test_two_fingers_zoom_on_a_phone(open_tab: OpenTab, page: Path) -> None:
    tab = open_tab(page, PHONE)
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    before = tab.box("figure svg")[2]
    tab.click("figure button.enlarge")
    # Large enough to be read, which is wider than a phone.
    assert scale(tab) == pytest.approx(1, rel=0.01)
    assert tab.box("dialog svg")[2] > before

    def touch(kind: str, *points: tuple[int, int]) -> None:
        touching = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        tab.call("Input.dispatchTouchEvent", type=kind, touchPoints=touching)

    touch("touchStart", (150, 300), (250, 300))
    touch("touchMove", (100, 300), (300, 300))
    touch("touchEnd")
    assert scale(tab) == pytest.approx(2, rel=0.05)
    touch("touchStart", (100, 300), (300, 300))
    touch("touchMove", (190, 300), (210, 300))
    touch("touchEnd")
    # Not smaller than the whole of it.
    assert 0 < scale(tab) < 1
    assert tab.box("dialog svg")[2] == pytest.approx(PHONE[0] - 24, abs=1)
    assert tab.complaints() == []


def test_the_choice_of_dark_is_remembered(open_tab: OpenTab, page: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    tab = open_tab(page, WIDE)
    light = tab.read(ground)
    tab.click("header button.theme")
    dark = tab.read(ground)
    assert dark != light
    again = open_tab(page, WIDE)
    assert again.read(ground) == dark
    again.click("header button.theme")
    assert again.read(ground) == light
    # Back with the system, it follows it again.
    assert again.read("localStorage.length") == 0
    again.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert again.read(ground) == dark


def test_storage_that_is_refused_does_no_harm(open_tab: OpenTab, page: Path) -> None:
    # As a browser does for a file that was opened from a disk, where it is set up so.
    refuse = (
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError') } })"
    )
    tab = open_tab(page, WIDE, first=refuse)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.read(ground)
    for dark in (True, False):
        tab.click("header button.theme")
        assert (tab.read(ground) != light) is dark
    tab.click("figure button.enlarge")
    assert tab.read("document.querySelector('dialog').open")
    assert tab.complaints() == []


def test_without_scripts_tables_and_figures_are_there(open_tab: OpenTab, page: Path, tmp_path: Path) -> None:
    tab = open_tab(page, PHONE, script=False)
    assert tab.complaints() == []
    count = "document.querySelectorAll({}).length"
    assert tab.read(count.format("'button'")) == 0
    assert tab.read(count.format("'main table tbody tr'")) == 22
    boxes = tab.read("[...document.querySelectorAll('figure svg')].map(e => [e.clientWidth, e.clientHeight])")
    assert all(w > 300 and h > 100 for w, h in boxes)
    assert len(tab.picture(tmp_path / "page.png")) > 20_000


def test_it_prints_on_paper(open_tab: OpenTab, page: Path) -> None:
    tab = open_tab(page, WIDE, dark=True)
    data = base64.b64decode(tab.call("Page.printToPDF", printBackground=True)["data"])
    assert data.startswith(b"%PDF")
    tab.call("Emulation.setEmulatedMedia", media="print")
    # Paper is white, whatever the screen is.
    assert tab.read("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.read("getComputedStyle(document.querySelector('header button')).display") == "none"


def test_what_is_forbidden_does_not_run(open_tab: OpenTab, tmp_path: Path) -> None:
    """The rule holds even where a text should ever come in unescaped."""
    text = report_page("a", "b", [])
    evil = '<script>document.title = "ran"</script><img src="https://example.invalid/x.png" onerror="alert(1)">'
    file = tmp_path / "evil.html"
    file.write_text(text.replace("<main>", f"<main>{evil}"), encoding="utf-8")
    tab = open_tab(file, WIDE)
    assert tab.read("document.title") == "a"
    refused = [each["entry"]["text"] for each in tab.complaints() if "entry" in each]
    assert len(refused) >= 2
    assert all("Content Security Policy" in each for each in refused)
