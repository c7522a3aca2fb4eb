"""requirements.lock: names and exact versions only, whole, and what is installed."""

from __future__ import annotations

import re
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==(\d+(?:\.\d+)*(?:(?:a|b|rc|\.post)\d+)?)")
# What the Makefile runs and installs with, and what the tests and the type checker import.
TOOLS = {"uv", "hatchling", "editables", "pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "import-linter"}
TOOLS |= {"moto", "flask", "flask-cors"}  # the object store of the tests
TOOLS |= {"duckdb"}  # the ready queries of docs/results.md

in_own_environment = pytest.mark.skipif(
    Path(sys.prefix).resolve() != (ROOT / ".venv").resolve(), reason="not run by the .venv that the lock describes"
)


def lines() -> list[str]:
    return [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    return dict(line.split("==") for line in lines())


def wanted(name: str, requirements: list[Requirement], locked: dict[str, str]) -> list[str]:
    """Those of `requirements` that the lock lacks or holds in a version they refuse, each with who asks."""
    return [
        f"{name} needs {requirement}; locked: {locked.get(canonicalize_name(requirement.name), 'nothing')}"
        for requirement in requirements
        if (version := locked.get(canonicalize_name(requirement.name))) is None
        or not requirement.specifier.contains(version, prereleases=True)
    ]


def declared() -> list[Requirement]:
    """Everything pyproject.toml asks for, to run, to build and to develop."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = [*content["build-system"]["requires"], *content["project"]["dependencies"]]
    for group in (content["project"].get("optional-dependencies", {}), content.get("dependency-groups", {})):
        texts += [text for texts_of_one in group.values() for text in texts_of_one if isinstance(text, str)]
    return [Requirement(text) for text in texts]


def test_each_line_is_a_name_and_an_exact_version() -> None:
    # So no address, hash, option or path: the lock serves with any package index.
    assert [line for line in lines() if not LINE.fullmatch(line)] == []


def test_names_are_sorted_and_appear_once() -> None:
    names = [line.split("==")[0] for line in lines()]
    assert names == sorted(set(names))


def test_it_satisfies_what_pyproject_asks_for(locked: dict[str, str]) -> None:
    assert wanted("pyproject.toml", declared(), locked) == []


def test_it_holds_the_tools(locked: dict[str, str]) -> None:
    assert TOOLS - locked.keys() == set()
    # pip comes with Python's own venv and installs uv: pinning it would make it replace itself.
    assert "pip" not in locked


@in_own_environment
def test_it_holds_what_its_packages_need(locked: dict[str, str]) -> None:
    due = [(name, "") for name in locked]
    due += [(canonicalize_name(asked.name), extra) for asked in declared() for extra in asked.extras]
    seen = set()
    problems = []
    while due:
        name, extra = due.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        requirements = [Requirement(text) for text in metadata.requires(name) or []]
        needed = [asked for asked in requirements if asked.marker is None or asked.marker.evaluate({"extra": extra})]
        problems += wanted(f"{name}[{extra}]" if extra else name, needed, locked)
        due += [(canonicalize_name(asked.name), more) for asked in needed for more in asked.extras]
    assert problems == []


@in_own_environment
def test_every_python_that_raybench_allows_can_install_it(locked: dict[str, str]) -> None:
    # The first release of each, not only the one at hand: a Linux distribution's own is often early (Debian: 3.11.2).
    asked = {name: metadata.metadata(name)["Requires-Python"] or "" for name in locked}
    refused = [
        f"{name} needs Python {specifier}: {python} is refused"
        for name, specifier in asked.items()
        for python in ("3.11.0", "3.12.0")
        if python not in SpecifierSet(specifier)
    ]
    assert refused == []


@in_own_environment
def test_it_is_what_is_installed(locked: dict[str, str]) -> None:
    # In site-packages alone: ray puts a folder of its own copies on sys.path.
    folder = [sysconfig.get_path("purelib")]
    installed = {canonicalize_name(found.name): found.version for found in metadata.distributions(path=folder)}
    # Not locked: raybench itself, and pip (see above).
    for name in ("raybench", "pip"):
        installed.pop(canonicalize_name(name), None)
    assert installed == locked, "after a change of the lock: make install"
