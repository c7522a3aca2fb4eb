"""Sweep files as plain data: YAML 1.2 numbers, no tags, no aliases, a line for every fault."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from raybench.config.document import (
    MAX_BYTES,
    MAX_DEPTH,
    WrittenLoader,
    dump,
    find_sweep,
    list_sweeps,
    parse,
    read_document,
)
from raybench.errors import ConfigError


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "some.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("010", 10),
        ("007", 7),
        ("0", 0),
        ("-3", -3),
        ("on", "on"),
        ("yes", "yes"),
        ("Off", "Off"),
        ("true", True),
        ("False", False),
        ("trueish", "trueish"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nullable", "nullable"),
        ("0x1f", "0x1f"),
        ("0o17", "0o17"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("<<", "<<"),
        ("=", "="),
        (".inf", float("inf")),
        ("[1, 2.5, all]", [1, 2.5, "all"]),
        ("{a: {b: [c]}}", {"a": {"b": ["c"]}}),
        ("{sweep: 2024, trial: 012345678912}", {"sweep": "2024", "trial": "012345678912"}),
        ("{trial: 12345e678901, sweep: s}", {"trial": "12345e678901", "sweep": "s"}),
        ("{sweep: 1, other: 2}", {"sweep": 1, "other": 2}),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text: str, value: Any) -> None:
    read = parse(text)[1]
    assert read == value
    assert type(read) is type(value)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.from_regex(
    r"[-+.]?[0-9]{1,6}[e._:x0-9-]?[0-9]{0,6}", fullmatch=True
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)


@given(plain, st.booleans())
@example("12345e678901", True)
@example({"a": "012345678912", "1e-3": "08"}, False)
@example(["a\x85 b", "a\n\n b ", "\u2028", "\U0001f600", "...", "--- a", "\ufeff", "", "<<", "="], False)
def test_what_is_dumped_is_read_as_the_same(content: Any, flow: bool) -> None:
    text = dump(content, flow=flow)
    assert parse(text)[1] == parse(text, WrittenLoader)[1] == yaml.safe_load(text) == content
    assert not flow or "\n" not in text


def test_question_lines_and_places(tmp_path: Path) -> None:
    text = "# Does it help?\n#   details\nbase:\n  dataset: {name: digits}\n  optimizer:\n    lr: 0.1\nseeds: [0]\n"
    document = read_document(written(tmp_path, "\ufeff" + text))
    assert document.question == "Does it help?"
    assert document.place(["base", "optimizer", "lr"]) == "some.yaml:6"
    assert document.place(["base", "optimizer", "momentum"]) == "some.yaml:5"
    assert document.place(["tune"]) == "some.yaml"
    assert read_document(written(tmp_path, "seeds: [0]\n")).question == ""


@pytest.mark.scenario(21)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "some.yaml: is empty"),
        ("# only a comment\n", "some.yaml: is empty"),
        ("- a\n- b\n", "some.yaml: is not a mapping"),
        ("just text", "some.yaml: is not a mapping"),
        ("seeds: [0]\nseeds: [1]\n", "some.yaml:2: seeds: stands here twice"),
        ("base:\n  a: 1\n  a: 2\n", "some.yaml:3: a: stands here twice"),
        ("seeds:\n  1: 2\n", "some.yaml:2: key 1: must be a word"),
        ("? [a, b]\n: 1\n", "some.yaml:1: key a list or mapping: must be a word"),
        ("? {a: b}\n: 1\n", "some.yaml:1: key a list or mapping: must be a word"),
        ("? \n: 1\n", "some.yaml:1: key nothing: must be a word"),
        ("a: 1\nb: !!python/object:os.system x\n", "some.yaml:2: !!python/object:os.system: tags are refused"),
        ("a: !!python/object/apply:os.system ['true']\n", "tags are refused"),
        ("a: !!int abc\n", "tags are refused"),
        ("a: !!bool maybe\n", "tags are refused"),
        ("a: !!timestamp x\n", "tags are refused"),
        ("a: !!set {b}\n", "tags are refused"),
        ("a: ! b\n", "tags are refused"),
        ("a: !other b\n", "tags are refused"),
        ("a: &x 1\nb: *x\n", "some.yaml:2: *x: aliases are refused; write the value out"),
        ("a: &x [*x]\n", "aliases are refused"),
        ("? &x [*x]\n: 1\n", "aliases are refused"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "aliases are refused"),
        ("a: *nothing\n", "aliases are refused"),
        ("a: [1,\n", "some.yaml:2: "),
        ('a: 1\nb: "\\UFFFFFFFF"\n', "some.yaml:2: not readable as YAML ("),
        ('a: "\\U00110000"\n', "some.yaml:1: not readable as YAML"),
        (f"%YAML 1.{'9' * 5000}\n---\na: 1\n", "some.yaml:1: not readable as YAML"),
        ('a: 1\nb: {c: ["\\ud800"]}\n', "some.yaml:2: text with '\\ud800', which no file can hold"),
        ('a: "x\\0y"\n', "some.yaml:1: text with '\\x00', which no file can hold"),
        ('"a\\0": 1\n', "some.yaml:1: text with '\\x00', which no file can hold"),
        ("a: 'open\n", "some.yaml:2: found unexpected end of stream"),
        ("a: b: c\n", "some.yaml:1: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "some.yaml:2: expected a single document in the stream, but found another document"),
        ("\ta: 1\n", "some.yaml:1: found character '\\t' that cannot start any token"),
        ("a: \x07\n", "some.yaml: unacceptable character #x0007"),
        ("%YAML 9.9\n---\na: 1\n", "found incompatible YAML document"),
        ("a: " + "1" * 5000, "some.yaml:1: a number with too many digits"),
        ("a: " + "[" * 400 + "]" * 400, f"some.yaml:1: nested deeper than {MAX_DEPTH}"),
        ("a: " + "{b: " * 400 + "}" * 400, f"some.yaml:1: nested deeper than {MAX_DEPTH}"),
        (b"a: 1\nb: \xff\xfe\n", "some.yaml:2: not UTF-8 text"),
        ("a: 1".encode("utf-16"), "some.yaml:1: not UTF-8 text"),
        (b"\x00\x00", "some.yaml: unacceptable character #x0000"),
    ],
)
def test_faults_are_one_line_with_a_place(tmp_path: Path, text: str | bytes, said: str) -> None:
    told = problem(written(tmp_path, text))
    assert said in told
    assert told.startswith("some.yaml")
    assert "\n" not in told


@pytest.mark.scenario(21)
def test_a_yaml_bomb_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    started = time.monotonic()
    assert "some.yaml:2: *a0: aliases are refused" in problem(written(tmp_path, "\n".join(lines)))
    assert time.monotonic() - started < 1  # reading it takes milliseconds


def test_a_file_that_is_no_sweep_by_its_size_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, b"a: [" + b"1, " * MAX_BYTES + b"]")
    assert "larger than 256 KiB; that is no sweep file" in problem(path)


def test_unreadable_files(tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in problem(tmp_path)
    assert "cannot be read: No such file or directory" in problem(tmp_path / "absent.yaml")


@pytest.mark.scenario(29)
@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        "-x",
        "x y",
        "$(id)",
        "x;id",
        "x\0y",
        "ü",
        "a" * 101,
        "../x.yaml",
        "/no/such.yaml",
        "a" * 5000 + ".yaml",
        "x\0.yaml",
        "\n",
    ],
)
def test_names_that_are_no_sweep(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^command line: "):
        find_sweep(name)


def test_sweeps_are_found_in_order_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours, theirs = tmp_path / "sweeps", tmp_path / "theirs"
    for folder, names in ((ours, ["mine", "both"]), (theirs, ["both", "other", "not a name"])):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.yaml").write_text("seeds: [0]\n")
    monkeypatch.setenv("RAYBENCH_SWEEPS", f":{theirs}:{tmp_path / 'absent'}")
    assert find_sweep("both") == Path("sweeps/both.yaml")
    assert find_sweep("other") == theirs / "other.yaml"
    assert find_sweep("theirs/both.yaml") == Path("theirs/both.yaml")
    assert {"mine", "both", "other", "deit_reverse"} <= set(list_sweeps())
    assert "not a name" not in list_sweeps()
    with pytest.raises(ConfigError, match='"deit_revers": unknown sweep; nearest: deit_reverse'):
        find_sweep("deit_revers")
    with pytest.raises(ConfigError, match="names its results folder"):
        find_sweep("theirs/not a name.yaml")


def test_every_shipped_sweep_is_readable_and_asks_a_question() -> None:
    for path in list_sweeps().values():
        assert read_document(path).question.endswith("?")


def test_parse_raises_only_yaml_errors() -> None:
    for text in (
        "\ud800",
        '"\\UFFFFFFFF"',
        '"\\ud800"',
        "a: 'b",
        "%TAG ! x\n---\n!a b",
        "&a",
        "*",
        "!",
        "- - - -\n",
        "\x85",
        "{a: b",
        "? ? ?",
    ):
        try:
            parse(text)
        except yaml.YAMLError:
            continue
