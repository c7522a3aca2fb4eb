"""The comparison as a table: for a terminal (rich), as plain lines of any width, as markdown. No number is ever cut."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raybench.report.comparison import CellResult
from raybench.report.sheet import Column, Sheet, make_sheet
from raybench.results.published import PublishedRow

GAP = "  "
PROSE_WIDTH = 120
STYLES = {"better": "green", "worse": "red", "too few seeds": "yellow"}


def comparison_table(
    results: Sequence[CellResult], title: str, published: Sequence[PublishedRow] = (), width: int | None = None
) -> Table:
    """The table for a terminal of `width` columns; what does not fit is left out from the right and named below."""
    return sheet_table(make_sheet(results, title, published), width)


def sheet_table(sheet: Sheet, width: int | None = None) -> Table:
    """A sheet for a terminal of `width` columns; what does not fit is left out from the right and named below."""
    shown = len(sheet.columns)
    table = _rich(sheet, shown)
    # Wide enough that measuring is never limited by the terminal that happens to be there.
    measuring = Console(width=100_000, color_system=None)
    while width is not None and shown > 1 and measuring.measure(table).maximum > width:
        shown -= 1
        table = _rich(sheet, shown)
    left_out = [" ".join(column.title.split()) for column in sheet.columns[shown:]]
    notes = [f"left out at this width: {', '.join(left_out)}"] * bool(left_out)
    # Rich wraps a caption at the table's width, and would lose the indents.
    prose = measuring.measure(table).maximum
    table.caption = Text("\n".join(_wrapped([*notes, *sheet.footnotes, *sheet.published], prose)))
    return table


def comparison_lines(
    results: Sequence[CellResult], title: str, published: Sequence[PublishedRow] = (), width: int | None = None
) -> list[str]:
    """The table as plain lines. Columns that do not fit `width` follow in another table; below that, a block a cell."""
    return sheet_lines(make_sheet(results, title, published), width)


def sheet_lines(sheet: Sheet, width: int | None = None) -> list[str]:
    """A sheet as plain lines. Columns that do not fit `width` follow in another table; below that, a block a row."""
    bands = _bands(sheet, width)
    prose = min(width or PROSE_WIDTH, PROSE_WIDTH)
    lines = [*_wrapped([each for each in (sheet.title, sheet.subtitle) if each], prose), ""]
    if bands is None:
        lines += _records(sheet, prose)
    else:
        for band in bands:
            lines += [*_plain(sheet, (*sheet.keys, *band)), ""]
    return [*lines, *_wrapped([*sheet.footnotes, *sheet.published], prose)]


def comparison_markdown(results: Sequence[CellResult], title: str, published: Sequence[PublishedRow] = ()) -> str:
    """The table as GitHub's markdown; the best of each group, where it is really better, is bold."""
    return sheet_markdown(make_sheet(results, title, published))


def sheet_markdown(sheet: Sheet) -> str:
    """A sheet as GitHub's markdown; the best of each group, where it is really better, is bold."""
    columns = (*sheet.keys, *sheet.columns)
    lines = [f"**{_escaped(sheet.title)}**", ""]
    if sheet.subtitle:
        lines += [_escaped(sheet.subtitle), ""]
    lines.append(_markdown_row(" ".join(column.title.split("\n")).strip() for column in columns))
    lines.append(_markdown_row("---:" if column.right else "---" for column in columns))
    for row, best in enumerate(sheet.best):
        texts = [" ".join(column.texts[row].split()) for column in columns]
        if best:
            starred = len(sheet.keys)
            texts[starred] = f"**{texts[starred].removesuffix(' *')}**"
        lines.append(_markdown_row(texts))
    lines += ["", *(f"- {_escaped(note)}" for note in sheet.bold_footnotes)]
    if sheet.published:
        lines += ["", *_markdown_list(sheet.published)]
    return "\n".join(lines) + "\n"


def _rich(sheet: Sheet, shown: int) -> Table:
    title = Text(sheet.title, style="bold")
    if sheet.subtitle:
        title.append(f"\n{sheet.subtitle}", style="not bold dim")
    table = Table(title=title, title_justify="left", caption_justify="left", caption_style="", box=box.SIMPLE_HEAD)
    columns = (*sheet.keys, *sheet.columns[:shown])
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=True, min_width=column.width)
    for row, verdict in enumerate(sheet.verdicts):
        texts = []
        for column in columns:
            style = STYLES.get(verdict, "") if column.title.strip() == "verdict" else ""
            texts.append(Text(column.texts[row], style="yellow" if column.title == "not\ncomplete" else style))
        table.add_row(*texts, style="bold" if sheet.best[row] else "", end_section=sheet.ends_group[row])
    return table


def _bands(sheet: Sheet, width: int | None) -> list[list[Column]] | None:
    """Columns in tables that fit, the keys repeated in each; none where not even one column fits beside the keys."""
    if width is None:
        return [list(sheet.columns)]
    left = width - sum(column.width + len(GAP) for column in sheet.keys)
    bands: list[list[Column]] = [[]]
    used = 0
    for column in sheet.columns:
        if column.width > left:
            return None
        if used + column.width > left:
            bands.append([])
            used = 0
        bands[-1].append(column)
        used += column.width + len(GAP)
    return bands


def _plain(sheet: Sheet, columns: Sequence[Column]) -> list[str]:
    tall = max((column.title.count("\n") for column in columns), default=0)
    titles = [["", *column.title.split("\n")][-1 - tall :] for column in columns]
    lines = [_plain_row(columns, [title[line] for title in titles]) for line in range(tall + 1)]
    lines = [line for line in lines if line]
    lines.append("-" * (sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)))
    for row, ends in enumerate(sheet.ends_group):
        lines.append(_plain_row(columns, [column.texts[row] for column in columns]))
        if ends and row + 1 < len(sheet.ends_group):
            lines.append("")
    return lines


def _plain_row(columns: Sequence[Column], texts: Sequence[str]) -> str:
    padded = [t.rjust(c.width) if c.right else t.ljust(c.width) for c, t in zip(columns, texts, strict=True)]
    return GAP.join(padded).rstrip()


def _records(sheet: Sheet, width: int) -> list[str]:
    lines = []
    for row, name in enumerate(sheet.labels):
        lines += _wrapped([name], width)
        for column in sheet.columns:
            if text := " ".join(column.texts[row].split()):
                # A number and its interval may be parted at a space, never inside a number.
                lines += _wrapped([f"  {' '.join(column.title.split())}: {text}"], width)
        lines.append("")
    return lines


def _wrapped(paragraphs: Iterable[str], width: int) -> list[str]:
    lines = []
    for paragraph in paragraphs:
        indent = " " * (len(paragraph) - len(paragraph.lstrip()))
        lines += textwrap.wrap(
            paragraph.lstrip(),
            width,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _markdown_row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(_escaped(text, keep='*') for text in texts)} |"


def _markdown_list(lines: Sequence[str]) -> list[str]:
    head, *rest = lines
    indents = [" " * (len(line) - len(line.lstrip()) - 2) for line in rest]
    return [_escaped(head), "", *(f"{i}- {_escaped(line.lstrip())}" for i, line in zip(indents, rest, strict=True))]


def _escaped(text: str, keep: str = "") -> str:
    for mark in ("\\", "|", "<", "*", "_"):
        if mark not in keep:
            text = text.replace(mark, f"\\{mark}")
    return text
