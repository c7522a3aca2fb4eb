"""The page as text: all that was given is in it, escaped, and it needs nothing else; a browser tests how it behaves."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

from raybench.report.page import FigurePart, Part, PlainTable, Prose, TablePart, leading_number, report_page
from raybench.report.sheet import Column, Sheet

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><g id="a"/><use href="#a"/></svg>'
NASTY = """</script><script>alert(1)</script> <img src=x onerror=alert(1)> "'&amp; ']]> <!-- ±–·"""
SHEET = Sheet(
    title="reversed",
    subtitle="preset quick",
    keys=(Column("\ntrain", ("500", "500", "1,000"), right=True), Column("\nkind", ("–", "soft", "hard"))),
    columns=(
        Column("test\ntop-1 (%)", ("70.0 ± 1.0 (3)  ", "73.1 ± 1.0 (3) *", " 9.9       (1)  ")),
        Column("difference\n95 % interval", ("", "+3.1 [ +2.8, +3.4]", "-0.6 [-14.5, +5.7]")),
        Column("\nverdict", ("student alone", "better", "too few seeds")),
    ),
    labels=("a", "b", "c"),
    verdicts=("", "better", "too few seeds"),
    best=(False, True, False),
    ends_group=(False, True, True),
    footnotes=("test: mean ± sample sd.", "* best mean."),
    published=("published:", "  One", "    model a: 72 %", "    model b: 73 %", "  Two", "    model c: 9 %"),
)
PARTS: list[Part] = [
    Prose("", ("No title.",)),
    Prose("What was learned", ("One.", "Run `raybench compare` again.")),
    TablePart(SHEET),
    FigurePart("Curves", SVG, "n = 3"),
    FigurePart("Curves", SVG),
    PlainTable("Counts", ("status", "trials"), (("complete", "1,200"), ("failed", "3")), ("None is due.",)),
]


@dataclass
class Element:
    """One element of a page: its attributes and all the text inside."""

    tag: str
    attributes: dict[str, str]
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Outline(HTMLParser):
    """Every element of a page in its order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in ("meta", "link", "br"):
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        # Nothing is left open, or closed by something else.
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.texts.append(data)

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]


def outline(parts: list[Part], title: str = "A report", subtitle: str = "of a sweep", footer: str = "") -> Outline:
    found = Outline(report_page(title, subtitle, parts, footer))
    assert found.open == []
    return found


def test_a_page_of_nothing() -> None:
    page = outline([], subtitle="")
    assert [element.text for element in page.all("title", "h1")] == ["A report"] * 2
    assert page.all("nav", "section", "footer") == []


def test_the_same_parts_give_the_same_page() -> None:
    assert report_page("a", "b", PARTS, "c") == report_page("a", "b", PARTS, "c")


def test_every_part_is_there_in_its_order_and_among_the_contents() -> None:
    page = outline(PARTS, footer="raybench 0.1.0\ncommit abc")
    titles = ["What was learned", "reversed", "Curves", "Curves", "Counts"]
    assert [element.text for element in page.all("h2")] == titles
    links = page.all("a")
    assert [link.text for link in links] == titles
    anchors = [element.attributes["id"] for element in page.all("section") if "id" in element.attributes]
    assert [link.attributes["href"] for link in links] == [f"#{anchor}" for anchor in anchors]
    assert anchors == ["what-was-learned", "reversed", "curves", "curves-2", "counts"]
    (footer,) = page.all("footer")
    assert footer.text.split("\n")[:2] == ["raybench 0.1.0", "commit abc"]
    assert [element.text for element in page.all("code")] == ["raybench compare"]


def test_names_are_unique_and_whatever_is_named_is_there() -> None:
    text = report_page("a", "b", PARTS)
    ids = [e.attributes["id"] for e in Outline(text).elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    body = text[text.index("<body") :]
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', body)) <= set(ids)


def test_no_text_becomes_an_element() -> None:
    texts = tuple(column.texts for column in (*SHEET.keys, *SHEET.columns))
    nasty = Sheet(
        title=NASTY,
        subtitle=NASTY,
        keys=(Column(NASTY, (NASTY,) * 3),),
        columns=(Column(f"{NASTY}\n{NASTY}", texts[0], right=True), Column("verdict", (NASTY,) * 3)),
        labels=(NASTY,) * 3,
        verdicts=(NASTY,) * 3,
        best=SHEET.best,
        ends_group=SHEET.ends_group,
        footnotes=(NASTY,),
        published=(NASTY, f"  {NASTY}", f"    {NASTY}"),
    )
    parts: list[Part] = [
        Prose(NASTY, (NASTY, f"`{NASTY}`")),
        TablePart(nasty),
        FigurePart(NASTY, SVG, NASTY),
        PlainTable(NASTY, (NASTY,), ((NASTY,),), (NASTY,)),
    ]
    page = outline(parts, title=NASTY, subtitle=NASTY, footer=NASTY)
    clean = outline([Prose("a", ("b", "`c`")), TablePart(SHEET), *PARTS[3:4], *PARTS[5:]], footer="x")
    assert {element.tag for element in page.elements} <= {element.tag for element in clean.elements}
    assert len(page.all("script")) == len(clean.all("script")) == 1
    names = {name for element in page.elements for name in element.attributes}
    assert names <= {name for element in clean.elements for name in element.attributes}
    # All of it is read as it was given.
    (footer, h1) = page.all("footer", "h1")[::-1]
    assert footer.text.strip() == h1.text == NASTY
    assert all(element.text == NASTY for element in page.all("h2", "code"))
    titles, cells = 2, 3 + 3 + 1
    assert sum(element.text == NASTY for element in page.all("td", "th")) == titles + cells


def test_half_a_surrogate_pair_can_be_written() -> None:
    assert "a?b" in report_page("a\ud800b", "", []).encode().decode()


def test_nothing_is_asked_of_any_address() -> None:
    text = report_page("a", "b", PARTS, "c")
    page = Outline(text)
    (rules,) = [e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes]
    assert rules.startswith("default-src 'none'; ")
    (script,) = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in rules
    assert not re.search(r"https?:|@import|url\((?!#)", text.replace("http-equiv", ""))
    assert not any({"src", "srcset", "action", "style-src"} & set(element.attributes) for element in page.elements)
    assert all(e.attributes["href"].startswith(("#", "data:,")) for e in page.elements if "href" in e.attributes)


def test_a_sheet_keeps_every_text_beside_its_title() -> None:
    page = outline([TablePart(SHEET)])
    columns = (*SHEET.keys, *SHEET.columns)
    heads = [element for element in page.all("th") if element.attributes["scope"] == "col"]
    assert [head.text for head in heads] == ["train", "kind", "testtop-1 (%)", "difference95 % interval", "verdict"]
    rows = page.all("tr")[1:]
    assert [row.attributes.get("class", "") for row in rows] == ["", "best ends", ""]
    cells = [element for element in page.all("th", "td") if element not in heads]
    assert [cell.tag for cell in cells] == ["th", "td", "td", "td", "td"] * 3
    padding = {id(text) for element in page.all("span") for text in element.texts}
    shown = ["".join(text for text in cell.texts if id(text) not in padding) for cell in cells]
    given = [column.texts[row] for row in range(3) for column in columns]
    assert [text.replace("−", "-").replace(" ", "") for text in shown] == [text.replace(" ", "") for text in given]
    # Padding has the width of what stands in its place elsewhere.
    assert [element.text for element in page.all("span")] == ["0", "7", " ± 1.0 "]


def test_classes_tell_the_best_and_the_verdicts() -> None:
    cells = outline([TablePart(SHEET)]).all("td")
    told = {cell.text: cell.attributes.get("class") for cell in cells if cell.text in SHEET.columns[2].texts}
    assert told == {"student alone": None, "better": "better", "too few seeds": "few"}
    assert [cell.text[:4] for cell in cells if cell.attributes.get("class") == "mean"] == ["70.0", "73.1", "79.9"]


def test_published_lines_are_a_list_as_deep_as_their_indents() -> None:
    page = outline([TablePart(SHEET)])
    assert len(page.all("ul")) == 3
    assert [item.text.split("\n")[0] for item in page.all("li")] == [
        "Onemodel a: 72 %",
        "model a: 72 %",
        "model b: 73 %",
        "Twomodel c: 9 %",
        "model c: 9 %",
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12),
        (" 1,234,567.5 (3)", 1234567.5),
        ("+3.1 [+2.8, +3.4]", 3.1),
        ("-0.6", -0.6),
        ("−0.6", -0.6),
        (".5", 0.5),
        ("1e-05", 1e-5),
        ("< 0.001", 0.001),
        ("72 %", 72),
        ("96.2–97.1", 96.2),
        ("1 failed, 2 due of 3", 1),
        ("2026-11-21", 2026),
        # A list is no thousands.
        ("1,2", 1),
        ("1,2345", 1),
        ("", None),
        ("–", None),
        ("-", None),
        ("all", None),
        ("resnet20", None),
        ("3f2a", None),
        ("3.10.2", None),
        ("1.5M", None),
        ("nan", None),
        ("1e999", None),
    ],
)
def test_numbers_by_which_columns_are_sorted(text: str, number: float | None) -> None:
    assert leading_number(text) == number


def test_only_columns_of_numbers_are_sorted_by_them() -> None:
    rows = (("resnet8", "all", "1,000", "--seed -1"), ("3 more", "500", "–", "x"), ("vit", "", "20", "y"))
    page = outline([PlainTable("Any", ("name", "train", "count", "option"), rows)])
    cells = [cell for cell in page.all("th", "td") if cell.attributes.get("scope") != "col"]
    numbers = [cell.attributes.get("data-number") for cell in cells]
    assert numbers == [None, None, "1000.0", None] + [None] * 4 + [None, None, "20.0", None]
    assert [cell.attributes.get("class") for cell in cells][2::4] == ["n"] * 3
    assert cells[3].text == "--seed -1"


def test_a_row_must_fit_its_titles() -> None:
    with pytest.raises(ValueError, match="table 'Any': row 1 has 1 texts, not 2"):
        PlainTable("Any", ("a", "b"), (("1", "2"), ("3",)))


def test_empty_tables_are_tables() -> None:
    empty = Sheet("none", "", (Column("cell", ()),), (), (), (), (), (), ("no cells",), ())
    page = outline([TablePart(empty), PlainTable("Any", ("a", "b"), ())])
    assert [len(page.all(tag)) for tag in ("table", "tr", "th", "td")] == [2, 2, 3, 0]


def test_a_figure_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="figure 'Curves'"):
        report_page("a", "b", [FigurePart("Curves", "<p>")])
