"""The comparison as a LaTeX table: of booktabs and nothing else, in ASCII, so that any engine and any font takes it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from raybench.report.alignment import Piece, pieces
from raybench.report.sheet import Column, Sheet

LINE_WIDTH = 84
"""Characters of footnote size in a line of an article, 345 pt: about 4.1 pt each."""
GAP = 2
"""Characters between two columns."""
MINUS = re.compile(r"(?<![\w.)\]])-(?=\d)")
OPENING = re.compile(r"(?<![^\s(\[])\"(?=\S)")
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
    r"""A `table` with caption, rows, footnotes and published results; needs `\usepackage{booktabs}`.

    Columns that do not fit the line of an article follow in another tabular beneath, the keys repeated, as in the
    printed table; no number is cut. The best of each group, where it is really better, is bold. A letter that LaTeX has
    no command for is given by its code point, `[U+4E2D]`.
    """
    title = f"{sheet.title}. {sheet.subtitle}" if sheet.subtitle else sheet.title
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{6pt}",
        f"\\caption{{{latex_text(title)}}}",
    ]
    if sheet.labels:
        for number, band in enumerate(_bands(sheet)):
            lines += [r"\par\medskip"] * bool(number) + _tabular(sheet, (*sheet.keys, *band))
    lines += _notes([*sheet.bold_footnotes, *sheet.published])
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def latex_text(text: str) -> str:
    """`text` so that LaTeX prints it as it stands, in ASCII; white space is one space."""
    marked = OPENING.sub("“", MINUS.sub("−", " ".join(text.replace("\0", "").split())))
    return "{}".join("".join(map(_letter, part)) for part in LIGATURES.sub("\0", marked).split("\0"))


def _bands(sheet: Sheet) -> list[list[Column]]:
    left = LINE_WIDTH - sum(_width(column) + GAP for column in sheet.keys)
    bands: list[list[Column]] = [[]]
    used = 0
    for column in sheet.columns:
        if bands[-1] and used + _width(column) > left:
            bands.append([])
            used = 0
        bands[-1].append(column)
        used += _width(column) + GAP
    return bands


def _width(column: Column) -> int:
    return max(len(text.strip()) for text in (*column.title.split("\n"), *column.texts))


def _tabular(sheet: Sheet, columns: Sequence[Column]) -> list[str]:
    cells = [pieces(column.texts) for column in columns]
    lines = [f"\\begin{{tabular}}{{@{{}}{''.join('r' if c.right else 'l' for c in columns)}@{{}}}}", r"\toprule"]
    titles = [column.title.split("\n") for column in columns]
    tall = max(map(len, titles))
    heads = [[""] * (tall - len(title)) + title for title in titles]
    lines += [_row(latex_text(head[line]) for head in heads) for line in range(tall) if any(h[line] for h in heads)]
    lines.append(r"\midrule")
    for row, ends in enumerate(sheet.ends_group):
        texts = [_cell(column[row]) for column in cells]
        if sheet.best[row] and sheet.columns[0] in columns:
            # Instead of the star that marks it elsewhere.
            texts[len(sheet.keys)] = f"\\textbf{{{texts[len(sheet.keys)].removesuffix(' {*}')}}}"
        lines.append(_row(texts))
        if ends and row + 1 < len(sheet.ends_group):
            lines.append(r"\midrule")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _row(texts: Iterable[str]) -> str:
    return f"{' & '.join(texts)} \\\\"


def _cell(found: Sequence[Piece]) -> str:
    return "".join(_spaced(piece) if piece.shown else f"\\phantom{{{_spaced(piece)}}}" for piece in found)


def _spaced(piece: Piece) -> str:
    """A piece with the space at its ends, which joins it to its neighbours."""
    before, after = piece.text[:1].isspace(), piece.text[-1:].isspace()
    return f"{' ' * before}{latex_text(piece.text)}{' ' * after}"


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    lines = [r"\par\medskip", r"\begin{minipage}{\linewidth}\scriptsize\raggedright\setlength{\parindent}{0pt}"]
    for note in notes:
        depth = (len(note) - len(note.lstrip())) / 2
        indent = f"\\leftskip={depth:g}em\\relax " if depth else ""
        lines.append(f"{{{indent}{latex_text(note)}\\par}}")
    return [*lines, r"\end{minipage}"]


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
