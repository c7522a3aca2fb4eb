"""A report as one HTML page that needs nothing else: no other file, no network, and no script to be read.

Every text is escaped: `Html` comes from `_text`, which escapes, from `_element`, which takes nothing but `Html`, from
`inline_svg`, which keeps drawings only, and from our own files.
The look is `page.css` and `page_dark.css`; sorting, enlarging and the choice of dark or light are `page.js`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NewType

from raybench.report.alignment import Piece, pieces
from raybench.report.sheet import NOT_APPLICABLE, Column, Sheet
from raybench.report.svg import inline_svg

Html = NewType("Html", str)
NUMBER = re.compile(r"\s*[<>≤≥≈~]?\s*([+\-−]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])")
"""Not what goes on as a name or a version does."""
MINUS = re.compile(r"(?<![\w.)\]])-(?=\.?\d)")
VERDICTS = {"better": "better", "worse": "worse", "not distinguishable": "open", "too few seeds": "few"}
"""The class, which gives the colour, of each verdict; the word stands there too."""
LONG = 40
"""Letters beyond which a text may be broken into lines."""
WIDE_NAME = 16
"""Letters beyond which the name of a row may be on a small screen."""
VOID = frozenset({"br", "link", "meta"})
OWN_LINE = frozenset({"figure", "head", "li", "p", "script", "section", "style", "tbody", "thead", "tr"})


@dataclass(frozen=True)
class Prose:
    """Paragraphs; what stands between `backticks` is set as code. Without a title it is not among the contents."""

    title: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class TablePart:
    """A comparison: sortable, with verdicts, footnotes and published results."""

    sheet: Sheet

    @property
    def title(self) -> str:
        return self.sheet.title


@dataclass(frozen=True)
class FigurePart:
    """A figure; `svg` is the text of an SVG file."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class PlainTable:
    """Any other table, sortable too; each row has a text for each of `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: row {number} has {len(row)} texts, not {len(self.columns)}")


Part = Prose | TablePart | FigurePart | PlainTable


def report_page(title: str, subtitle: str, parts: Sequence[Part], footer: str = "") -> str:
    """The page: title, contents, the parts in their order, and a footer of one paragraph a line.

    It asks no address for anything, which its Content-Security-Policy also forbids, and its one script is allowed by
    its digest; without it tables and figures are there, but not sortable and not enlarged.

    Raises:
        ValueError: a figure is not an SVG with a size.
    """
    anchors = _anchors([part.title for part in parts])
    body = [
        _element("h1", _text(title)),
        *([_element("p", _prose(subtitle), class_="subtitle")] if subtitle else []),
    ]
    return "<!DOCTYPE html>\n" + _element(
        "html",
        _head(title),
        _element(
            "body",
            _element("header", *body),
            *_contents(parts, anchors),
            _element("main", *(_section(part, anchors[number], number) for number, part in enumerate(parts))),
            *([_element("footer", *_paragraphs(footer.splitlines()))] if footer else []),
        ),
        lang="en",
    )


def leading_number(text: str) -> float | None:
    """The number a text begins with, by which its column is sorted; thousands may be parted by commas."""
    found = NUMBER.match(text)
    if found is None:
        return None
    value = float(found[1].replace(",", "").replace("−", "-"))
    return value if math.isfinite(value) else None


def _head(title: str) -> Html:
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = [
        "default-src 'none'",
        f"script-src 'sha256-{digest}'",
        # Figures carry styles in attributes.
        "style-src 'unsafe-inline'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return _element(
        "head",
        _element("meta", charset="utf-8"),
        # Before all that it rules.
        _element("meta", http_equiv="Content-Security-Policy", content="; ".join(allowed)),
        _element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _element("meta", name="referrer", content="no-referrer"),
        # An empty one, so that no browser asks for a file of its own.
        _element("link", rel="icon", href="data:,"),
        _element("title", _text(title)),
        _element("style", Html(_file("page.css"))),
        _element("style", Html(_file("page_dark.css")), class_="dark", media="screen and (prefers-color-scheme: dark)"),
        _element("script", Html(script)),
    )


def _file(name: str) -> str:
    return (files("raybench.report") / name).read_text(encoding="utf-8")


def _anchors(titles: Sequence[str]) -> list[str]:
    """A name of the page for each title; none where there is no title."""
    found: list[str] = []
    for title in titles:
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"
        names = (base if number == 1 else f"{base}-{number}" for number in range(1, len(titles) + 1))
        found.append(next(name for name in names if name not in found) if title else "")
    return found


def _contents(parts: Sequence[Part], anchors: Sequence[str]) -> list[Html]:
    named = [(part.title, anchor) for part, anchor in zip(parts, anchors, strict=True) if anchor]
    if len(named) < 2:
        return []
    links = (_element("li", _element("a", _text(title), href=f"#{anchor}")) for title, anchor in named)
    return [_element("nav", _element("ol", *links), aria_label="Contents")]


def _section(part: Part, anchor: str, number: int) -> Html:
    match part:
        case Prose():
            children = _paragraphs(part.paragraphs)
        case TablePart():
            children = _sheet(part.sheet)
        case FigurePart():
            children = [_figure(part, number)]
        case PlainTable():
            rows = [[" ".join(text.split()) for text in row] for row in part.rows]
            texts = [tuple(row[index] for row in rows) for index in range(len(part.columns))]
            columns = [Column(title, text, _all_numbers(text)) for title, text in zip(part.columns, texts, strict=True)]
            children = [_table(columns, [""] * len(rows), part.title), *_notes(part.notes)]
    heading = [_element("h2", _text(part.title))] if part.title else []
    return _element("section", *heading, *children, id=anchor or None)


def _sheet(sheet: Sheet) -> list[Html]:
    columns = (*sheet.keys, *sheet.columns)
    rows = [
        " ".join(["best"] * best + ["ends"] * (ends and row + 1 < len(sheet.labels)))
        for row, (best, ends) in enumerate(zip(sheet.best, sheet.ends_group, strict=True))
    ]
    return [
        *_paragraphs([sheet.subtitle] if sheet.subtitle else []),
        _table(columns, rows, sheet.title, sheet.verdicts, starred=len(sheet.keys)),
        *_notes(sheet.footnotes),
        *([_published(sheet.published)] if sheet.published else []),
    ]


def _table(
    columns: Sequence[Column], rows: Sequence[str], name: str, verdicts: Sequence[str] = (), starred: int | None = None
) -> Html:
    """A table in a box that scrolls. `rows` are the classes of each; `starred` is the column that shows the best."""
    numeric = [column.right or _mostly_numbers(column.texts) for column in columns]
    cells = [pieces(column.texts) for column in columns]
    heads = (_element("th", _lines(c.title), scope="col", class_="n" if c.right else None) for c in columns)
    body = []
    for row, row_class in enumerate(rows):
        row_cells = []
        for index, column in enumerate(columns):
            words = ["n"] * column.right + ["mean"] * (index == starred)
            words += ["long"] * (len(column.texts[row]) > LONG)
            words += ["wide"] * (index == 0 and len(column.texts[row]) > WIDE_NAME)
            if verdicts and column.title.strip() == "verdict" and verdicts[row] in VERDICTS:
                words.append(VERDICTS[verdicts[row]])
            number = leading_number(column.texts[row]) if numeric[index] else None
            row_cells.append(
                _element(
                    "td" if index else "th",
                    *(_piece(piece, numeric[index]) for piece in cells[index][row]),
                    scope=None if index else "row",
                    class_=" ".join(words) or None,
                    data_number=None if number is None else repr(number),
                )
            )
        body.append(_element("tr", *row_cells, class_=row_class or None))
    table = _element("table", _element("thead", _element("tr", *heads)), _element("tbody", *body))
    # It can be scrolled with the keys, too.
    return _element("div", table, class_="scroll", role="region", aria_label=f"Table: {name}", tabindex="0")


def _figure(part: FigurePart, number: int) -> Html:
    drawing, width = inline_svg(part.svg, f"f{number}_", part.title)
    card = _element("div", Html(drawing), class_="card", style=f"max-width:{width:.0f}px", data_width=f"{width:.0f}")
    captions = [_element("figcaption", _prose(part.caption))] if part.caption else []
    return _element("figure", card, *captions)


def _published(lines: Sequence[str]) -> Html:
    """A line that introduces, and a list whose depth is that of the indent."""
    introduction, *rest = lines
    depths = [len(line) - len(line.lstrip()) for line in rest]
    return _element("div", _element("p", _text(introduction)), *_list(rest, depths), class_="published")


def _list(lines: Sequence[str], depths: Sequence[int]) -> list[Html]:
    if not lines:
        return []
    starts = [index for index, depth in enumerate(depths) if depth <= depths[0]]
    items = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        inner = _list(lines[start + 1 : end], depths[start + 1 : end])
        items.append(_element("li", _text(lines[start].strip()), *inner))
    return [_element("ul", *items)]


def _notes(notes: Iterable[str]) -> list[Html]:
    return [_element("p", _prose(note), class_="note") for note in notes]


def _paragraphs(texts: Iterable[str]) -> list[Html]:
    return [_element("p", _prose(text)) for text in texts]


def _prose(text: str) -> Html:
    """Text with code between backticks."""
    parts = re.split(r"`([^`]+)`", text)
    return _joined(_element("code", _text(part)) if odd % 2 else _text(part) for odd, part in enumerate(parts))


def _lines(text: str) -> Html:
    first, *rest = text.strip().split("\n")
    return _joined([_text(first), *(each for line in rest for each in (_element("br"), _text(line)))])


def _piece(piece: Piece, numeric: bool) -> Html:
    # As wide as a plus; elsewhere a hyphen may belong to a command.
    text = _text(MINUS.sub("−", piece.text) if numeric else piece.text)
    return text if piece.shown else _element("span", text, class_="pad", aria_hidden="true")


def _mostly_numbers(texts: Sequence[str]) -> bool:
    """Whether most of what a column says begins with a number."""
    said = [text for text in texts if text.strip() not in ("", NOT_APPLICABLE)]
    return 2 * sum(leading_number(text) is not None for text in said) > len(said)


def _all_numbers(texts: Sequence[str]) -> bool:
    """Whether a column holds nothing but numbers."""
    said = [text.strip(" %") for text in texts if text.strip() not in ("", NOT_APPLICABLE)]
    return bool(said) and all(NUMBER.fullmatch(text) for text in said)


def _text(text: str) -> Html:
    """`text` as it stands; half a surrogate pair, which no file can hold, becomes a question mark."""
    return Html(html.escape(text.encode("utf-8", "replace").decode("utf-8")))


def _joined(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def _element(name: str, /, *children: Html, **attributes: str | None) -> Html:
    """An element; `class_` is `class`, `aria_label` is `aria-label`, and an attribute that is none is left out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = "".join(f' {key}="{_text(value)}"' for key, value in given.items())
    inner = "" if name in VOID else f"{_joined(children)}</{name}>"
    newline = "\n" if name in OWN_LINE else ""
    return Html(f"<{name}{written}>{inner}{newline}")
