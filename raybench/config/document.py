"""Sweep files: where they lie, and how their YAML is read as plain data that knows its lines, and written."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from raybench.config import plugins
from raybench.config.faults import COMMAND_LINE, printable
from raybench.config.names import NAME, nearest
from raybench.config.sweep import TOP_KEYS
from raybench.errors import ConfigError

MAX_BYTES = 256 * 1024
"""A sweep file larger than this is no sweep file; PyYAML would read it for seconds."""
MAX_DEPTH = 20
"""Mappings and lists inside each other; a sweep needs 8."""
UNFIT = re.compile("[\0\ud800-\udfff]")
"""The end of a C string, and halves of a character."""
STR, INT, FLOAT, BOOL, NULL = (f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null"))


class SweepLoader(yaml.SafeLoader):
    """Plain YAML data only, in bounded time and memory.

    Scalars are read as YAML 1.2 reads them: `1e-3` is a number, `on`, `yes` and dates are text, `010` is ten. Tags,
    aliases and a key that stands twice are faults.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One node, with all that is inside."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            # A few lines of aliases to aliases can stand for billions of values.
            raise _refused(f"*{event.anchor}: aliases are refused; write the value out", event.start_mark)
        if tag := getattr(event, "tag", None):
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise _refused(f"{shown}: tags are refused; a sweep file holds plain data only", event.start_mark)
        if self.depth > MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH}", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are words, each once."""
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != STR:
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise _refused(f"key {shown or 'nothing'}: must be a word", key_node.start_mark)
            if key_node.value in seen:
                raise _refused(f"{key_node.value}: stands here twice", key_node.start_mark)
            seen.add(key_node.value)
        if "sweep" in seen <= {"sweep", "trial"}:  # both are names, though some read as numbers: 012345678912
            for _, value in node.value:
                if value.tag in (INT, FLOAT, BOOL):
                    value.tag = STR
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """A scalar's text, which can be printed, stored and part of a path."""
        text = super().construct_scalar(node)
        if found := UNFIT.search(text):
            raise _refused(f"text with {found[0]!r}, which no file can hold", node.start_mark)
        return text

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        """A whole number in decimal digits, leading zeros and all."""
        try:
            return int(node.value.replace("_", ""))
        except ValueError:
            raise _refused("a number with too many digits", node.start_mark) from None


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, mark)


SweepLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    (NULL, r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    (BOOL, r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    (INT, r"[-+]?[0-9][0-9_]*\Z", list("-+0123456789")),
    (
        FLOAT,
        r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
        list("-+.0123456789"),
    ),
):
    SweepLoader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
SweepLoader.add_constructor(INT, SweepLoader.construct_decimal)
OLDER: dict[str, Any] = yaml.SafeLoader.yaml_implicit_resolvers
"""How YAML 1.1 tells numbers from text: `1e-3` is text there, `on` is true."""
NEWER = SweepLoader.yaml_implicit_resolvers
EITHER = {first: [*OLDER.get(first, []), *NEWER.get(first, [])] for first in OLDER.keys() | NEWER.keys()}


class WrittenLoader(SweepLoader):
    """What `dump` wrote, and what was written before there was one, by YAML 1.1, which left digits such as
    `12345e678901` bare."""

    yaml_implicit_resolvers = OLDER


class SweepDumper(yaml.SafeDumper):
    """Text that any version of YAML would take for something else is quoted."""

    yaml_implicit_resolvers = EITHER

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Whether a value that stands twice is written twice: always."""
        return True

    def text(self, value: str) -> yaml.ScalarNode:
        """A line as it is; what has breaks or cannot be seen, escaped."""
        return self.represent_scalar(STR, value, None if value.isprintable() else '"')


SweepDumper.add_representer(str, SweepDumper.text)


@dataclass(frozen=True)
class Document:
    """A sweep file as read: its content, the line of each key, and the question in its first comment."""

    path: Path
    content: dict[str, Any]
    lines: dict[tuple[str, ...], int]
    question: str

    def place(self, path: Sequence[str]) -> str:
        """`file:line` of a key, or of the nearest key above it."""
        for end in range(len(path), 0, -1):
            if line := self.lines.get(tuple(path[:end])):
                return f"{self.path.name}:{line}"
        return self.path.name


def sweep_folders() -> list[Path]:
    """Where sweeps are looked for by name, in order."""
    folders = [Path("sweeps")]
    folders += [Path(part) for part in os.environ.get("RAYBENCH_SWEEPS", "").split(os.pathsep) if part]
    shipped = Path(str(resources.files("raybench") / "sweeps"))
    return [*folders, *plugins.sweep_folders(), shipped, Path(__file__).parents[2] / "sweeps"]


def list_sweeps() -> dict[str, Path]:
    """Every sweep that can be run by name; where two folders have one of a name, the first counts."""
    found: dict[str, Path] = {}
    for folder in sweep_folders():
        for path in sorted(folder.glob("*.yaml")):
            if NAME.fullmatch(path.stem):
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_sweep(name: str) -> Path:
    """The file of a sweep given by name or by path. Raises ConfigError naming where it looked and the nearest names."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not os.path.isfile(name):  # noqa: PTH113 - unlike Path's, this one is false for what the system refuses
            raise _fault(f"{COMMAND_LINE}: {name}: no such file")
        if not NAME.fullmatch(path.stem):
            rule = "a sweep's file name names its results folder; use letters, digits, _ and - only"
            raise _fault(f"{COMMAND_LINE}: {name}: {rule}")
        return path
    if not NAME.fullmatch(name):
        rule = "a sweep's name has letters, digits, _ and - only (a file ends in .yaml)"
        raise _fault(f"{COMMAND_LINE}: {name!r}: {rule}")
    known = list_sweeps()
    if name not in known:
        near = nearest(name, known)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        listed = f"Known: {', '.join(known) or 'none'} (raybench list sweeps)"
        raise _fault(f'{COMMAND_LINE}: "{name}": unknown sweep{hint}. {listed}')
    return known[name]


def _fault(text: str) -> ConfigError:
    return ConfigError([printable(text)])


def read_document(path: Path) -> Document:
    """Read a sweep file as plain data. Raises ConfigError with file and line for anything that is not."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise _fault(f"{path}: larger than {MAX_BYTES // 1024} KiB; that is no sweep file")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise _fault(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _fault(f"{path.name}:{line}: not UTF-8 text") from None
    try:
        node, value = parse(text)
    except yaml.YAMLError as error:
        line_, problem = problem_of(error)
        raise _fault(f"{path.name}{f':{line_}' if line_ else ''}: {problem}") from None
    if not isinstance(value, dict):
        what = "is empty" if value is None else "is not a mapping"
        raise _fault(f"{path.name}: {what}; a sweep file is a mapping with the keys {', '.join(TOP_KEYS)}")
    first = text.lstrip().splitlines()[0]
    question = first.lstrip("# ").strip() if first.startswith("#") else ""
    return Document(path, value, dict(_lines(node, ())), question)


def parse(text: str, kind: type[SweepLoader] = SweepLoader) -> tuple[yaml.Node | None, Any]:
    """The one YAML document in a text, as nodes and as data. Raises yaml.YAMLError for anything but plain data."""
    loader = kind(text)
    try:
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except (
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:  # of PyYAML, for letters and versions too large
        raise _refused(f"not readable as YAML ({error})", loader.get_mark()) from None
    finally:
        loader.dispose()


def load(text: str | bytes) -> Any:
    """What a YAML file that is not our own holds. Raises yaml.YAMLError, whatever PyYAML stumbles over."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise
    except Exception as error:
        raise yaml.YAMLError(f"not readable as YAML ({type(error).__name__}: {error})") from None


def dump(content: Any, *, flow: bool = False) -> str:
    """Plain data as YAML that every version reads as the same; `flow`: in one line, without its end."""
    text = yaml.dump(
        content, None, SweepDumper, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return text.removesuffix("\n...\n").removesuffix("\n") if flow else text


def problem_of(error: yaml.YAMLError) -> tuple[int | None, str]:
    """(line, what is wrong there) of an error of `parse`."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if problem.startswith("but "):
        problem = f"{getattr(error, 'context', '')}, {problem}"
    return (mark.line + 1 if mark else None), problem


def _lines(node: yaml.Node | None, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
