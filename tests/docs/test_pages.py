"""The pages: every dependency has its line, every page its place, every command is one that raybench takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from raybench.config.load import load_sweep
from raybench.config.plan import make_plan

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def declared() -> set[str]:
    """Names of all that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return {Requirement(text).name for text in texts}


def test_each_dependency_has_its_line_and_no_other() -> None:
    rows = [line.split("|")[1:-1] for line in (ROOT / "docs/dependencies.md").read_text().splitlines() if "|" in line]
    named = {cell.strip() for row in rows for cell in row[:2]}
    assert declared() - named == set()
    first = {row[0].strip() for row in rows if len(row) == 3} - {"package", "---"}
    assert first <= declared(), "a line of something that is no dependency"


def _pages(entry: object) -> list[str]:
    """Paths in a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    parts = entry if isinstance(entry, list) else list(entry.values()) if isinstance(entry, dict) else []
    return [page for part in parts for page in _pages(part)]


def test_each_page_has_its_place() -> None:
    listed = _pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_table_of_the_readme_is_one_of_its_sweep() -> None:
    """A row a cell of the plan, differences that are those of the means, and a teacher that is the same everywhere."""
    text = (ROOT / "README.md").read_text()
    block = text.partition("<!-- table:quick -->")[2].partition("<!-- /table -->")[0]
    assert re.search(r"\d{4}-\d\d-\d\d, at commit [0-9a-f]{7}", block)
    lines = [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith("|")]
    rows = [dict(zip(lines[0], (cell.strip() for cell in line), strict=True)) for line in lines[2:]]
    cells = make_plan(load_sweep("deit_reverse", "quick")).cells
    assert len(rows) == len(cells)
    shown = {(row["train"].replace(",", ""), row["alpha"], row["kind"].replace("–", "")) for row in rows}
    keys = ("dataset.train_size", "distillation.alpha", "distillation.type")
    assert shown == {tuple(str(cell.factors.get(key, "")) for key in keys) for cell in cells}
    alone = {row["train"]: float(row["test top-1 (%)"].split()[0]) for row in rows if row["kind"] == "–"}
    for row in rows:
        if row["kind"] != "–":
            difference, low, high = map(float, re.findall(r"[-+]?\d+\.\d", row["difference 95 % interval"]))
            assert difference == pytest.approx(float(row["test top-1 (%)"].split()[0]) - alone[row["train"]], abs=0.11)
            assert low <= difference <= high


def test_questions_quote_what_is_printed() -> None:
    files = [ROOT / "Makefile", *(ROOT / "raybench").rglob("*.py")]
    # As it is printed: pieces of a text that stand in two lines of the source are one.
    said = re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in files))
    page = (ROOT / "docs/faq.md").read_text().partition("## What one asks")[0]
    headings = re.findall(r"^\*\*(.*?)\*\*", page, re.MULTILINE)
    quoted = [span for heading in headings for span in re.findall(r"`([^`]+)`", heading)]
    pieces = [piece.strip() for span in quoted for piece in re.split("…|cifar100", span) if piece.strip(" ?")]
    assert len(pieces) > 15
    assert [piece for piece in pieces if piece not in said] == []
