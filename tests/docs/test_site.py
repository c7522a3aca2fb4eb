"""The site as `make docs` builds it, in a real Chromium: every page, wide and narrow, light and dark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.test_commands import ROOT

if TYPE_CHECKING:
    from tests.report.browser.conftest import OpenTab

pytestmark = pytest.mark.slow

WIDE, PHONE = (1280, 800), (390, 844)
PAGES = sorted(str(page.relative_to(ROOT / "docs").with_suffix(".html")) for page in (ROOT / "docs").rglob("*.md"))
REPORTS = sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.html"))

TOO_WIDE = """[...document.querySelectorAll('main *')].filter(e => {
    const box = e.getBoundingClientRect();
    if (box.width === 0 || box.right <= innerWidth + 0.5 && box.left >= -0.5) return false;
    for (let above = e.parentElement; above; above = above.parentElement)
        if (/auto|scroll|hidden/.test(getComputedStyle(above).overflowX) && above !== document.body) return false;
    return getComputedStyle(e).visibility !== 'hidden' && !e.closest('svg') && !e.closest('[hidden]') })
    .map(e => e.outerHTML.slice(0, 200))"""
"""What stands beyond the edge of the screen and cannot be scrolled to in a box of its own."""
CONTRAST = """[...document.querySelectorAll(SCOPE)].filter(e => e.getClientRects().length &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && !e.closest('svg')).map(e => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const over = (top, below) => { const a = top[3] ?? 1; return [0, 1, 2].map(i => top[i] * a + below[i] * (1 - a)) };
    const ground = (e) => { if (!e) return [255, 255, 255];
        const c = numbers(getComputedStyle(e).backgroundColor); return c[3] === 0 ? ground(e.parentElement)
            : over(c, (c[3] ?? 1) < 1 ? ground(e.parentElement) : [0, 0, 0]) };
    const light = (rgb) => { const [r, g, b] = rgb.map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126*r + 0.7152*g + 0.0722*b };
    const style = getComputedStyle(e), behind = ground(e);
    const pair = [light(over(numbers(style.color), behind)), light(behind)].sort((a, b) => b - a);
    const large = parseFloat(style.fontSize) >= 24 || parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700;
    return [(pair[0] + 0.05) / (pair[1] + 0.05), large ? 3 : 4.5, e.textContent.slice(0, 60), e.className] })
    .filter(([ratio, least]) => ratio < least)"""
"""Text that WCAG 2.2 (success criterion 1.4.3) calls too faint for its ground."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


@pytest.mark.parametrize("name", [*PAGES, *REPORTS])
def test_it_can_be_read(site: Path, open_tab: OpenTab, name: str) -> None:
    wrong = []
    for size in (WIDE, PHONE):
        for dark in (False, True):
            # A page remembers what was chosen, and files share their memory.
            tab = open_tab(site / name, size, dark, first="localStorage.clear()")
            tab.read("document.getAnimations().forEach(each => each.finish())")  # from one colour to another
            where = f"{'dark' if dark else 'light'}, {size[0]} px"
            outside = [url for url in tab.requests() if not url.startswith(("file:", "data:", "blob:"))]
            wrong += [f"{where}: asks for {url}" for url in outside]
            if (whole := tab.read("document.documentElement.scrollWidth")) > size[0]:
                wrong.append(f"{where}: {whole} px wide")
            wrong += [f"{where}: beyond the edge: {each}" for each in tab.read(TOO_WIDE)]
            scope = CONTRAST.replace("SCOPE", "'main *'" if name in REPORTS else "'article *'")
            wrong += [f"{where}: {each[0]:.2f} of contrast: {each[2:]}" for each in tab.read(scope)]
            broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
            wrong += [f"{where}: no picture: {each}" for each in tab.read(broken)]
    assert wrong == []
