"""Every command on the pages: each is one that its program takes, and each that can run here is run.

A page's commands stand in fences marked `sh`. The fast tests hold each against the parser of its command, and a sweep's
keys against its file. The slow ones run a page from top to bottom, each line as it is written, by `sh` in an empty
folder with an empty home: on embedded data, and on generated files in the layouts of real data sets. Only epochs,
levels and seeds are fewer: `./sweeps` of that folder comes before raybench's own, and has the same sweeps made short.
Trials that a page names by an id have another one there.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.__main__ import COMMANDS
from raybench.config.load import load_sweep
from raybench.config.plan import make_plan

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md", "examples/blobs/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

OTHERS = {
    ".": "the shell's own: activates an environment",
    "umask": "the shell's own",
    "mkdir": "of every Linux",
    "grep": "of every Linux",
    "ss": "of every Linux",
    "pip": "pip's own",
    "uv": "uv's own",
    "ray": "Ray's own; tests/cluster/lab runs `ray up` of the same file",
    "tensorboard": "TensorBoard's own; tests/results/test_tensorboard.py starts it",
    "pip-audit": "not among the dependencies, as its page says",
}
"""Programs that are not raybench's, and whose they are."""

NOT_RUN = {
    r"make sweep|make test|make docs": "makes .venv first; CI begins with it in a fresh clone",
    r"make lock|\.venv/bin/uv |pip |raybench (list models patch_mlp|sweep blobs)": "changes the environment; "
    "tests/test_examples.py installs the example and runs its sweep",
    r"\. \.venv": "the environment of the tests is active already",
    r"tensorboard": "serves until it is stopped; tests/results/test_tensorboard.py starts it",
    r"ss ": "looks at a sweep while it runs",
    r"\(umask": "the key of a cluster; tests/cluster/lab runs it",
    r"\S*raybench cluster|\S*ray |RAY_UP": "needs machines; tests/cluster/lab runs it on three hosts",
    r".* --address": "needs a cluster; tests/cluster runs it on nodes of its own",
    r".* --preset paper --yes": "needs a GPU",
    r"raybench sweep deit_reverse --preset paper --dry-run": "needs the published weights, and says so",
    r".*(MODEL…|TRIAL_ID)": "a form to be filled in",
}
"""What the slow tests leave out, by how it begins, and why."""


@dataclass(frozen=True)
class Command:
    """A line of a fence, or a span of text, that is a command."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} {self.text}"

    def simple(self) -> Iterator[list[str]]:
        """The words of each simple command in it; what is redirected goes without."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        into = False
        for word in [*lexer, ";"]:
            if set(word) <= set("();|&"):
                if words:
                    yield words
                words = []
            elif set(word) <= set("<>"):
                into = True
            elif into:
                into = False
            else:
                words.append(word)


def fences(page: Path) -> Iterator[tuple[int, str, str]]:
    """Line, language and text of each fenced block."""
    text = page.read_text()
    for found in re.finditer(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE):
        yield text[: found.start()].count("\n") + 2, found[2], found[3]


def commands(page: Path) -> list[Command]:
    """The commands of a page's `sh` and `console` fences, in order."""
    found = []
    for first, language, text in fences(page):
        for number, line in enumerate(text.splitlines(), first):
            if language == "console" and line.startswith("$ "):
                found.append(Command(page, number, line[2:]))
            elif language == "sh" and line.strip():
                found.append(Command(page, number, line.strip()))
    return found


def spoken(page: Path) -> list[Command]:
    """Commands within a page's sentences: those in backticks that begin as one of ours does."""
    found = []
    fence = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
    text = fence.sub(lambda block: "\n" * block[0].count("\n"), page.read_text())
    for span in re.finditer(r"`([^`\n]+)`", text):
        named = re.match(r"(raybench|make|python|tensorboard)( -m raybench\.\w+| \S)", span[1])
        if named and span[1] != "raybench cluster":  # which stands for all of its own
            words = re.sub(r"[\[\]…]|\\(?=\|)", "", span[1])  # [NAME] may be left out, and … may follow
            found.append(Command(page, text[: span.start()].count("\n") + 1, words.strip()))
    return found


EVERY = [command for page in PAGES for command in commands(page)]
SPOKEN = [command for page in PAGES for command in spoken(page)]


# -- Each is one that its program takes --------------------------------------------------------------------------------


def module_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The command of raybench's that is run, and its arguments; none where another program is."""
    if words[0] == "raybench" and len(words) > 1:
        return words[1], words[2:]
    if words[0] in ("python", "python3") and words[1:2] == ["-m"] and words[2].startswith("raybench."):
        return words[2].removeprefix("raybench."), words[3:]
    return None


def faults(command: Command) -> list[str]:
    """What its program would say against it."""
    found = []
    for words in command.simple():
        while "=" in words[0]:  # variables before it
            words = words[1:]
        words = [words[0].removeprefix(".venv/bin/"), *words[1:]]
        if ours := module_of(words):
            fault = fault_of(*ours)
        elif words[0] == "make":
            fault = fault_of_make(words[1:])
        elif words[0] in ("python", "python3"):
            known = words[1] == "-c" or (ROOT / words[1]).is_file() or words[1] == "benchmarks/NAME.py"
            fault = None if known else f"{words[1]}: no such file"
        else:
            fault = None if words[0] in OTHERS else f"{words[0]}: neither raybench's nor in OTHERS"
        found += [fault] if fault else []
    return found


def fault_of(name: str, arguments: list[str]) -> str | None:
    """What the parser of a command says against its arguments."""
    if name == "--version":
        return None
    if name not in COMMANDS:
        return f"raybench {name}: no such command"
    parser: ArgumentParser = import_module(COMMANDS[name]).parser()
    if name == "cluster":
        known, rest = parser.parse_known_args(arguments)
        parser = import_module("raybench.sweep").parser() if known.what in ("submit", "check") else ArgumentParser()
        parser.add_argument("--fetch", action="store_true")  # of check
        arguments = rest if known.what in ("submit", "check") else []
    args = parser.parse_intermixed_args(arguments)
    return fault_of_keys(args) if name == "sweep" and args.overrides else None


def fault_of_keys(args: Any) -> str | None:
    """What a sweep's file says against overrides. Files are those of the pages."""
    file = Path(args.name)
    name = str(STUDENTS) if file.stem == STUDENTS.stem else args.name
    preset = "quick" if args.preset == "auto" else args.preset
    make_plan(load_sweep(name, preset, args.overrides))
    return None


def fault_of_make(words: list[str]) -> str | None:
    """A target that the Makefile lacks."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lacking = [word for word in words if "=" not in word and word not in targets]
    return f"make {' '.join(lacking)}: no such target" if lacking else None


STUDENTS = Path("students.yaml")
"""The sweep that docs/quickstart.md writes, and other pages go on with."""


def written(page: Path, language: str, having: str) -> str:
    """The text of the one block of a page that holds something."""
    (text,) = [text for _, kind, text in fences(page) if kind == language and having in text]
    return text


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, but for the sweep of the quickstart."""
    monkeypatch.chdir(tmp_path)
    STUDENTS.write_text(written(ROOT / "docs/quickstart.md", "yaml", "resnet20"))
    return tmp_path


@pytest.mark.usefixtures("in_a_folder")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_program_takes_it(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for command in [*commands(page), *spoken(page)]:
        try:
            wrong += [f"{command}: {fault}" for fault in faults(command)]
        except SystemExit:  # what argparse does after it has said why
            wrong.append(f"{command}: {capsys.readouterr().err.splitlines()[-1]}")
    assert wrong == []


def test_commands_are_found() -> None:
    assert len(EVERY) > 50
    assert len(SPOKEN) > 40
    assert {name for each in EVERY for words in each.simple() if (ours := module_of(words)) for name in ours[:1]} >= {
        "init", "sweep", "compare", "show", "why", "reproduce", "profile", "list", "data", "doctor",
    }  # fmt: skip


def test_a_wrong_command_is_told() -> None:
    def told(text: str) -> str:
        return faults(Command(ROOT / "README.md", 1, text))[0]

    assert told("make swep") == "make swep: no such target"
    assert told("raybench swepe deit") == "raybench swepe: no such command"
    assert told("mkdir a && frobnicate a").startswith("frobnicate: ")
    assert told("python benchmarks/gone.py") == "benchmarks/gone.py: no such file"
    with pytest.raises(SystemExit):
        told("raybench compare deit_reverse --fromat html")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_fence_says_what_it_is(page: Path) -> None:
    kinds = {"sh", "console", "text", "python", "sql", "yaml", "toml"}
    assert [(line, kind) for line, kind, _ in fences(page) if kind not in kinds] == []
    begins = re.compile(r"^\s*(\$ )?(\.venv/bin/)?(raybench|make|python|pip) ", re.MULTILINE)
    assert [line for line, kind, text in fences(page) if kind == "text" and begins.search(text)] == []


def test_each_option_named_on_a_page_is_one() -> None:
    known = {"--help", "--version", "--fetch", "--summary"}
    known |= {"--bind_all", "--logdir", "--no-deps", "--strict"}  # of other programs
    known |= {  # of benchmarks
        option
        for script in (ROOT / "benchmarks").glob("*.py")
        for option in re.findall(r"add_argument\(\s*\"(--[a-z][a-z_-]*)\"", script.read_text())
    }
    known |= {
        option
        for module in COMMANDS.values()
        for action in import_module(module).parser()._actions
        for option in action.option_strings
    }
    lacking = [
        f"{page.relative_to(ROOT)}: {option}"
        for page in PAGES
        for span in re.findall(r"`([^`\n]+)`", page.read_text())
        for option in re.findall(r"(?<![\w-])--[a-z][a-z_-]*", span)
        if option not in known
    ]
    assert lacking == []


def test_every_reason_has_its_command() -> None:
    unused = [reason for reason in NOT_RUN if not any(re.match(reason, each.text) for each in EVERY)]
    assert unused == []


# -- Each that can run here is run -------------------------------------------------------------------------------------


BEFORE = {
    "README.md": ["deit_reverse --preset quick"],
    "docs/results.md": ["deit_reverse --preset quick", "deit_reverse_pairs --preset quick", "deit --preset quick"],
}
"""Sweeps that a page takes for run."""
TRIALS = {"3f9a0c1be2d4": ("deit_reverse", 0), "a81c77d0934e": ("deit_reverse", 1), "5d20e7b1c94f": ("deit", 0)}
"""What a page calls a trial, and the sweep of which it is the first complete one, or the second."""
PATIENCE_S = 1800
"""Of the longest sweep on a busy machine."""


def left_out(text: str) -> str | None:
    """Why a command is not run; none where it is."""
    return next((reason for begins, reason in NOT_RUN.items() if re.match(begins, text)), None)


RUN = {page: [each for each in commands(page) if left_out(each.text) is None] for page in PAGES}


@dataclass(frozen=True)
class Reader:
    """Someone who follows a page: an empty folder, an empty home, and nothing else in the environment."""

    folder: Path
    home: Path

    def does(self, text: str) -> str:
        """What a line prints, typed into a shell; it must succeed."""
        for name, (sweep, number) in TRIALS.items():
            if name in text:
                text = text.replace(name, self.trials(sweep)[number])
        text = re.sub(r"\bDIR\b", "data", text)
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        environment = {"HOME": str(self.home), "PATH": path, "LANG": "C.UTF-8"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            ["sh", "-c", text], env=environment, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, f"$ {text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def trials(self, sweep: str) -> list[str]:
        """Complete trials of a sweep."""
        from raybench.results.store import Store

        rows = Store(self.folder / "results" / sweep).trials(["trial_id", "status"]).sort("trial_id")
        return [trial_id for trial_id, status in rows.iter_rows() if status == "complete"]


def shortened(content: Any) -> Any:
    """A sweep, or a part of one: one epoch, two levels of a factor, one value of what is tuned."""
    if not isinstance(content, dict):
        return content
    short: dict[str, Any] = {"epochs": 1, "warmup_epochs": 0, "warmup_steps": 10}
    short = {key: short[key] if key in short else shortened(value) for key, value in content.items()}
    for key, levels in (("factors", 2), ("space", 1)):
        if key in short:
            axes = short[key].items()
            short[key] = {name: axis[:levels] if isinstance(axis, list) else axis for name, axis in axes}
    return short


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Someone with short sweeps, and with data in the layouts of the real ones."""
    reader = Reader(tmp_path / "here", tmp_path / "home")
    (reader.folder / "sweeps").mkdir(parents=True)
    reader.home.mkdir()
    for file in (ROOT / "sweeps").glob("*.yaml"):
        first, rest = file.read_text().split("\n", 1)
        content = shortened(yaml.safe_load(rest)) | {"seeds": [0, 1]}
        for preset in content.get("presets", {}).values():
            preset.pop("seeds", None)
        (reader.folder / "sweeps" / file.name).write_text(f"{first}\n{yaml.safe_dump(content, sort_keys=False)}")
    return reader


def make_data(reader: Reader) -> None:
    """Parquet of both CIFARs, photos, and sentence pairs; of noise, and few."""
    import gzip
    import io

    import numpy as np
    import polars as pl
    from PIL import Image

    draw = np.random.default_rng(0)

    def image(side: int) -> bytes:
        held = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(held, "png")
        return held.getvalue()

    data = reader.folder / "data"
    (data / "multi30k").mkdir(parents=True)
    for classes in (10, 100):
        for part, count in (("train", 6000), ("test", 500)):
            labels = [number % classes for number in range(count)]
            frame = pl.DataFrame({"image": [image(32) for _ in labels], "label": labels})
            frame.write_parquet(data / f"cifar{classes}_{part}.parquet")
    for number in range(60):
        photo = reader.home / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(image(80))
    words = {
        "de": ("ein", "Hund", "Mann", "Kind", "rennt", "sitzt", "am", "Strand"),
        "en": ("a", "dog", "man", "child", "runs", "sits", "at", "sea"),
    }
    for part, count in (("train", 7200), ("val", 50), ("test_2016_flickr", 50)):
        said = [draw.integers(0, 8, 5) for _ in range(count)]
        for language, known in words.items():
            lines = "".join(" ".join(known[word] for word in each) + ".\n" for each in said)
            (data / "multi30k" / f"{part}.{language}.gz").write_bytes(gzip.compress(lines.encode()))


def write_files(page: Path, reader: Reader) -> None:
    """What a page says to write before its commands."""
    sweep = written(ROOT / "docs/quickstart.md", "yaml", "resnet20").replace("epochs: 12", "epochs: 1")
    for place in ("sweeps", "path/to"):
        (reader.folder / place).mkdir(parents=True, exist_ok=True)
        (reader.folder / place / "students.yaml").write_text(sweep)
    if page.name == "extending.md":
        (reader.folder / "my_model.py").write_text(written(page, "python", '"my_net"'))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]], ids=lambda page: str(page.relative_to(ROOT)))
def test_it_runs(page: Path, reader: Reader) -> None:
    pytest.importorskip("ray")
    make_data(reader)
    write_files(page, reader)
    name = str(page.relative_to(ROOT))
    for sweep in BEFORE.get(name, []):
        reader.does(f"raybench sweep {sweep}")
    shown = {text.splitlines()[0][2:]: text for _, language, text in fences(page) if language == "console"}
    for command in RUN[page]:
        said = reader.does(command.text)
        if command.text in shown:
            assert said.strip() == shown[command.text].split("\n", 1)[1].strip(), command
    for _, language, text in fences(page):
        if language == "python" and re.search(r"run_sweep|run_trial", text):
            (reader.folder / "block.py").write_text(text)
            reader.does("python block.py")


@pytest.mark.slow
def test_code_for_the_repository_does_what_its_page_says(reader: Reader) -> None:
    """The model and the data set of docs/extending.md, as plugins."""
    page = ROOT / "docs/extending.md"
    (reader.folder / "mlp.py").write_text(written(page, "python", "class Mlp"))
    assert "mlp_small" in reader.does("raybench list models mlp_small --plugin mlp.py")
    named = "DATASETS = {'halves': load_source}\n"
    (reader.folder / "some_halves.py").write_text(written(page, "python", "below five") + named)
    assert "halves (embedded)" in reader.does("raybench data check halves --plugin some_halves.py")
