"""The LaTeX table: its structure always, and that it compiles where there is a LaTeX."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.report.latex import latex_table, latex_text
from raybench.report.sheet import Column, Sheet

NASTY = r"""% & _ # { } ~ ^ \ < > $ | " ' ` [x] * -- ,, `` '' ± – — · − × ≤ α Δ µ é Ü ç ł 中 🙂 \end{table} \input{x}"""
SHEET = Sheet(
    title="deit_reverse, small, test top-1 (%)",
    subtitle="preset small · epochs 20",
    keys=(
        Column("\ntrain", ("500", "500", "1,000", "1,000"), right=True),
        Column("\nkind", ("–", "soft", "–", "hard")),
    ),
    columns=(
        Column("test\ntop-1 (%)", ("70.0 ± 1.0 (3)  ", "73.1 ± 1.0 (3) *", " 9.2 ± 0.4 (2)  ", "79.9       (1)  ")),
        Column("difference\n95 % interval", ("", "+3.1 [ +2.8, +3.4]", "", "+0.9 [-14.5, +5.7]")),
        Column("\nverdict", ("student alone", "better", "student alone", "not distinguishable")),
        Column("seeds\nto tell", ("", "", "", "99"), right=True),
        Column("validation\ntop-1 (%)", ("71.0", "74.1", "80.2", "80.9"), right=True),
        Column("not\ncomplete", ("", "", "", "1 failed, 1 pruned, 1 due of 3")),
        Column("teacher\ntop-1 (%)", ("", "96.2", "", "96.2–97.1"), right=True),
        Column("train\n(s)", ("12", "1,234", "12", "12"), right=True),
    ),
    labels=("a", "b", "c", "d"),
    verdicts=("", "better", "", "not distinguishable"),
    best=(False, True, False, False),
    ends_group=(False, True, False, True),
    footnotes=("test: mean ± sample sd (n seeds).", "* best mean of those better than the student alone."),
    published=("published:", '  Jeong and Arnoud, "Transferring Vision"', "    ResNet-50 (200 epochs): about 72 %"),
)


def tabulars(text: str) -> list[list[list[str]]]:
    """The cells of each tabular, by row."""
    bodies = re.findall(r"\\begin\{tabular\}\{[^\n]*\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    rows = [[line for line in body.split("\n") if line.endswith(r" \\")] for body in bodies]
    return [[re.split(r" ?(?<!\\)& ?", line.removesuffix(r" \\")) for line in lines] for lines in rows]


def test_plain_words_stay_as_they_are() -> None:
    assert latex_text("a-b, c (d): 1.5 'e' a--b ") == "a-b, c (d): 1.5 'e' a-{}-b"


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50 % of A&B_c #1 {x} $", r"50 \% of A\&B\_c \#1 \{x\} \$"),
        ("~ ^ \\ < >", r"\textasciitilde{} \textasciicircum{} \textbackslash{} \textless{} \textgreater{}"),
        ("70.0 ± 1.0 · –", r"70.0 $\pm$ 1.0 $\cdot$ --"),
        ("-0.6 [-4.5, +5.7] top-1 1e-3 3-4", r"$-$0.6 {[}$-$4.5, +5.7{]} top-1 1e-3 3-4"),
        ("α τ Δ λ Λ µ", r"$\alpha$ $\tau$ $\Delta$ $\lambda$ $\Lambda$ $\mu$"),
        ("é Ü ç ł", r"\'{e} \"{U} \c{c} \l{}"),
        ("中 Å", r"{[}U+4E2D{]} \r{A}"),
        ("a\n\t b", "a b"),
        ('"a b" ("c"), 3" d', "``{}a b'' (``{}c''), 3'' d"),
    ],
)
def test_escapes(text: str, latex: str) -> None:
    assert latex_text(text) == latex


def test_nothing_of_a_text_is_a_command() -> None:
    text = latex_text(NASTY)
    assert text.isascii()
    assert r"\textbackslash{}end\{table\}" in text
    # Braces pair up, and every special letter is in a command of ours.
    assert text.replace(r"\{", "").replace(r"\}", "").count("{") == text.replace(r"\{", "").replace(r"\}", "").count(
        "}"
    )
    assert not re.search(r"(?<!\\)[%&_#]", text)


def test_every_row_has_every_column_once_and_the_keys_in_each_tabular() -> None:
    found = tabulars(latex_table(SHEET))
    assert len(found) == 2
    assert sum(len(rows[0]) - len(SHEET.keys) for rows in found) == len(SHEET.columns)
    for rows in found:
        assert len(rows) == 2 + len(SHEET.labels)
        assert [row[1].strip() for row in rows[2:]] == ["--", "soft", "--", "hard"]
        assert len({len(row) for row in rows}) == 1
    numbers = re.findall(r"\d[\d,.]*\d|\d", re.sub(r"\\phantom\{[^}]*\}", "", latex_table(SHEET)))
    for column in SHEET.columns:
        for number in re.findall(r"\d[\d,.]*\d|\d", " ".join(column.texts)):
            assert number in numbers


def test_groups_are_parted_and_the_best_is_bold_once() -> None:
    text = latex_table(SHEET)
    assert text.count(r"\textbf{") == 1
    assert r"\textbf{73.1 $\pm$ 1.0 (3)}" in text
    assert "bold: best mean" in text
    # One beneath the titles and one between the two groups, in each tabular.
    assert text.count(r"\midrule") == 2 * 2


def test_parts_of_a_number_line_up() -> None:
    text = latex_table(SHEET)
    assert r"\phantom{7}9.2" in text
    assert r"79.9\phantom{ $\pm$ 1.0 }(1)" in text
    assert r"{[}\phantom{0}+2.8" in text


def test_a_sheet_of_nothing_has_no_tabular() -> None:
    text = latex_table(Sheet("none", "", (Column("cell", ()),), (), (), (), (), (), ("no cells",), ()))
    assert "tabular" not in text
    assert "no cells" in text


def nasty() -> Sheet:
    return replace(
        SHEET,
        title=NASTY,
        subtitle=NASTY,
        keys=(Column(NASTY, ("[x]", "*", NASTY, "")),),
        footnotes=(NASTY, "[x]"),
        published=(NASTY, f"  {NASTY}", f"    {NASTY}"),
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
@pytest.mark.parametrize("encoding", ["OT1", "T1"])
@pytest.mark.parametrize(
    "sheets", [[SHEET, replace(SHEET, footnotes=(), published=())], [nasty()]], ids=["plain", "nasty"]
)
def test_it_compiles(tmp_path: Path, sheets: list[Sheet], encoding: str) -> None:
    packages = f"\\usepackage[{encoding}]{{fontenc}}\n\\usepackage{{booktabs}}\n"
    tables = "".join(map(latex_table, sheets))
    document = f"\\documentclass{{article}}\n{packages}\\begin{{document}}\n{tables}\\end{{document}}\n"
    (tmp_path / "page.tex").write_text(document, encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
    log = (tmp_path / "page.log").read_text(errors="replace")
    assert "Missing character" not in log
    # A title as long as a line cannot fit; what is found in sweeps does.
    assert "Overfull" not in log or NASTY in sheets[0].title


def long_sheet(rows: int) -> Sheet:
    """As the published results of a sweep: long names without a space, words where numbers stand, many rows."""
    name = "deit_base_distilled_patch16_224"
    words = "hard distillation from RegNetY-16GF, the paper's first experiment; no figure carried over here"
    return Sheet.plain(
        title="ci2p, published against measured",
        subtitle="published: as printed in the source, not measured here",
        keys=[Column("\npublished of", (name,) * rows), Column("\nquantity", ("top1",) * rows)],
        columns=[
            Column("\npublished", (words, *["77.91 % [77.5, 78.3]"] * (rows - 1)), right=True),
            Column("measured\nhere", ("55.33 ± 0.7 (3)",) * rows, right=True),
            Column("\nour cell", ("ci2p_vit (weights=sweep:ci2p_codec/f79671d0ca7f, encoder_channels=32)",) * rows),
            Column("\ntheir setting", (f"{name} (teacher regnety_160.deit_in1k, cifar100, 300 epochs)",) * rows),
        ],
        labels=[str(number) for number in range(rows)],
        footnotes=["(a) data set image_folder, theirs not stated; epochs 20, theirs not stated"] * rows,
    )


@pytest.mark.parametrize(("rows", "environment"), [(2, "tabular"), (40, "longtable")])
def test_what_is_longer_than_a_page_may_break(rows: int, environment: str) -> None:
    text = latex_table(long_sheet(rows))
    assert f"\\begin{{{environment}}}" in text
    assert ("\\begin{table}" in text) == (environment == "tabular")
    assert text.count("\\caption{") == 1
    assert text.count("77.91") == rows - 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_nothing_runs_off_the_page(tmp_path: Path) -> None:
    packages = "\\usepackage[T1]{fontenc}\\usepackage{booktabs,longtable}"
    tables = "".join(latex_table(long_sheet(rows)) for rows in (2, 40))
    document = f"\\documentclass{{article}}{packages}\\begin{{document}}{tables}\\end{{document}}"
    (tmp_path / "page.tex").write_text(document, encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "page.tex"]
    for _ in range(2):  # a longtable is set from the widths of the run before
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout[-3000:]
    log = (tmp_path / "page.log").read_text(errors="replace")
    assert [points for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(points) > 20] == []
    assert "Float too large" not in log
