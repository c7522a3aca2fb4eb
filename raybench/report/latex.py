"""The comparison as a LaTeX table: of booktabs (and longtable over several pages), in ASCII.

So any engine and any font takes it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

from raybench.report.alignment import Piece, pieces
from raybench.report.sheet import Column, Sheet

LINE_WIDTH = 84
"""Characters of footnote size in a line of an article, 345 pt: about 4.1 pt each."""
CHARACTER = 4.1
"""Points."""
WRAP = 30
"""Characters of words beyond which a column is wrapped."""
PAGE_LINES = 46
"""Of footnote size on a page, which a float cannot exceed."""
GAP = 2
"""Characters between two columns."""
MINUS = re.compile(r"(?<![\w.)\]])-(?=\d)")
OPENING = re.compile(r"(?<![^\s(\[])\"(?=\S)")
BREAKS = re.compile(r"(?<=\w)[_/=](?=\w)")
LIGATURES = re.compile(r"(?<=([-,'’]))(?=\1)")
"""Between two marks that would be set as another one."""
ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # An optional argument or a star after the end of a row is part of that end.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{mark: f"\\{mark}" for mark in "%&_#{}$"},
    "\u00a0": "~",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    "←": r"$\leftarrow$",
    "∞": r"$\infty$",
    "°": r"$^{\circ}$",
    "²": r"$^2$",
    "³": r"$^3$",
    "–": "--",
    "—": "---",
    "‘": "`{}",
    "’": "'{}",
    "“": "``{}",
    "”": "''{}",
    "…": r"\ldots{}",
    "µ": r"$\mu$",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}
"""Combining marks that every font encoding has, by the command that sets them."""
GREEK_CAPITALS = frozenset(["gamma", "delta", "theta", "lamda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega"])
GREEK = GREEK_CAPITALS | {"alpha", "beta", "epsilon", "zeta", "eta", "iota", "kappa", "mu", "nu", "rho", "tau", "chi"}
"""Letters that have a command of their own; Unicode names lambda without its b."""


def latex_table(sheet: Sheet) -> str:
    r"""A `table` with caption, rows, footnotes and published results; needs `\usepackage{booktabs,longtable}`.

    Columns that do not fit the line of an article follow in another tabular beneath, the keys repeated, as in the
    printed table; no number is cut, and words are wrapped. What is longer than a page is a `longtable`. The best of
    each group, where it is really better, is bold. A letter that LaTeX has no command for is given by its code point,
    `[U+4E2D]`.
    """
    title = latex_text(f"{sheet.title}. {sheet.subtitle}" if sheet.subtitle else sheet.title)
    bands = [(*sheet.keys, *band) for band in _bands(sheet)] if sheet.labels else []
    notes = [*sheet.bold_footnotes, *sheet.published]
    if bands and _height(sheet, bands, notes) > PAGE_LINES:
        return _over_pages(sheet, title, bands, notes)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{6pt}",
        f"\\caption{{{title}}}",
    ]
    for number, band in enumerate(bands):
        lines += [r"\par\medskip"] * bool(number) + _tabular(sheet, band)
    if notes:
        lines += [r"\par\medskip", r"\begin{minipage}{\linewidth}", *_notes(notes), r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _over_pages(sheet: Sheet, title: str, bands: Sequence[Sequence[Column]], notes: Sequence[str]) -> str:
    """Tables that may break between rows, their titles repeated on each page; a float cannot."""
    lines = [
        "% needs \\usepackage{booktabs,longtable}",
        r"\begingroup\footnotesize\setlength{\tabcolsep}{4pt}\setlength{\LTcapwidth}{\linewidth}",
    ]
    for number, band in enumerate(bands):
        lines.append(f"\\begin{{longtable}}{{{_kinds(band)}}}")
        if not number:
            lines.append(f"\\caption{{{title}}}\\\\")
        lines += [*_head(band), r"\endhead", r"\bottomrule", r"\endfoot", *_body(sheet, band), r"\end{longtable}"]
    if notes:
        lines += [r"\noindent", *_notes(notes)]
    return "\n".join([*lines, r"\endgroup"]) + "\n"


def _height(sheet: Sheet, bands: Sequence[Sequence[Column]], notes: Sequence[str]) -> float:
    """Lines of footnote size, about."""
    rows = [
        max((len(c.texts[row]) / _shown_width(c) for c in band), default=1) for band in bands for row in _rows(sheet)
    ]
    return sum(math.ceil(each) for each in rows) + 4 * len(bands) + sum(0.9 * (len(n) // 100 + 1) for n in notes)


def _rows(sheet: Sheet) -> range:
    return range(len(sheet.labels))


def latex_text(text: str) -> str:
    """`text` so that LaTeX prints it as it stands, in ASCII; white space is one space."""
    marked = OPENING.sub("“", MINUS.sub("−", " ".join(text.replace("\0", "").split())))
    return "{}".join("".join(map(_letter, part)) for part in LIGATURES.sub("\0", marked).split("\0"))


def _bands(sheet: Sheet) -> list[list[Column]]:
    left = LINE_WIDTH - sum(_shown_width(column) + GAP for column in sheet.keys)
    bands: list[list[Column]] = [[]]
    used = 0.0
    for column in sheet.columns:
        if bands[-1] and used + _shown_width(column) > left:
            bands.append([])
            used = 0
        bands[-1].append(column)
        used += _shown_width(column) + GAP
    return bands


def _width(column: Column) -> int:
    return max(len(text.strip()) for text in (*column.title.split("\n"), *column.texts))


def _wraps(column: Column) -> bool:
    return _width(column) > WRAP


def _shown_width(column: Column) -> float:
    """Characters that it takes: where it is wrapped at least its longest word, which may be of wide letters."""
    if not _wraps(column):
        return _width(column)
    words = (word for text in (*column.title.split("\n"), *column.texts) for word in BREAKS.sub(" ", text).split())
    return max(WRAP, 1.3 * max(map(len, words)))


def _breakable(text: str) -> str:
    """Names of models have no spaces: a line may end after their marks."""
    return r"\allowbreak{}".join(latex_text(part) for part in BREAKS.sub("\\g<0>\0", text).split("\0"))


def _kinds(columns: Sequence[Column]) -> str:
    wrapped = [f"p{{{CHARACTER * _shown_width(c):.0f}pt}}" if _wraps(c) else "r" if c.right else "l" for c in columns]
    return f"@{{}}{''.join(wrapped)}@{{}}"


def _tabular(sheet: Sheet, columns: Sequence[Column]) -> list[str]:
    lines = [f"\\begin{{tabular}}{{{_kinds(columns)}}}", *_head(columns), *_body(sheet, columns)]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _head(columns: Sequence[Column]) -> list[str]:
    titles = [column.title.split("\n") for column in columns]
    tall = max(map(len, titles))
    heads = [[""] * (tall - len(title)) + title for title in titles]
    rows = [_row(latex_text(head[line]) for head in heads) for line in range(tall) if any(h[line] for h in heads)]
    return [r"\toprule", *rows, r"\midrule"]


def _body(sheet: Sheet, columns: Sequence[Column]) -> list[str]:
    cells = [pieces(column.texts) for column in columns]
    lines = []
    for row, ends in enumerate(sheet.ends_group):
        texts = [
            f"\\raggedright {_breakable(column.texts[row])}" if _wraps(column) else _cell(found[row])
            for column, found in zip(columns, cells, strict=True)
        ]
        if sheet.best[row] and sheet.columns[0] in columns:
            # Instead of the star that marks it elsewhere.
            texts[len(sheet.keys)] = f"\\textbf{{{texts[len(sheet.keys)].removesuffix(' {*}')}}}"
        lines.append(_row(texts, wrapped=any(map(_wraps, columns))))
        if ends and row + 1 < len(sheet.ends_group):
            lines.append(r"\midrule")
    return lines


def _row(texts: Iterable[str], wrapped: bool = False) -> str:
    # In wrapped text the short form ends a line of the paragraph.
    end = r"\tabularnewline" if wrapped else r"\\"
    return f"{' & '.join(texts)} {end}"


def _cell(found: Sequence[Piece]) -> str:
    return "".join(_spaced(piece) if piece.shown else f"\\phantom{{{_spaced(piece)}}}" for piece in found)


def _spaced(piece: Piece) -> str:
    """A piece with the space at its ends, which joins it to its neighbours."""
    before, after = piece.text[:1].isspace(), piece.text[-1:].isspace()
    return f"{' ' * before}{latex_text(piece.text)}{' ' * after}"


def _notes(notes: Sequence[str]) -> list[str]:
    lines = [r"{\scriptsize\raggedright\setlength{\parindent}{0pt}"]
    for note in notes:
        depth = (len(note) - len(note.lstrip())) / 2
        indent = f"\\leftskip={depth:g}em\\relax " if depth else ""
        lines.append(f"{{{indent}{latex_text(note)}\\par}}")
    return [*lines, "}"]


def _letter(letter: str) -> str:
    if letter in ESCAPES:
        return ESCAPES[letter]
    if letter.isascii() and letter.isprintable():
        return letter
    kind, _, greek = unicodedata.name(letter, "").lower().partition(" letter ")
    if kind == "greek small" and greek in GREEK:
        return f"$\\{greek.replace('lamda', 'lambda')}$"
    if kind == "greek capital" and greek in GREEK_CAPITALS:
        return f"$\\{greek.replace('lamda', 'lambda').capitalize()}$"
    base, *marks = list(unicodedata.normalize("NFD", letter))
    if len(marks) == 1 and marks[0] in ACCENTS and base.isascii() and base.isalpha():
        return f"\\{ACCENTS[marks[0]]}{{{base}}}"
    return f"{{[}}U+{ord(letter):04X}{{]}}"
