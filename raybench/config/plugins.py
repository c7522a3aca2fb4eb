"""What comes from outside the repository, by name: models, data sets, kinds of distillation, sweeps.

There are two ways in. A plugin is a Python file, or an importable module, named on the command line; it defines one or
more of the mappings of `KINDS` from names to functions. An installed package names its functions in entry points, one a
name, which are imported when they are used.

Code that decides numbers has an identity, `code`, which enters that of the trials that use it: the SHA-256 of the
plugin's text, of a module in a package that of all the package's Python files. A plugin that defines `RECIPE_VERSION`
has that for its identity instead, and whoever wrote it raises it when the numbers change.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from raybench.config.faults import COMMAND_LINE, printable
from raybench.config.folders import at_home, cache_root
from raybench.errors import ConfigError, DataError, RaybenchError

KINDS = {
    "MODELS": "raybench.models",
    "TEXT_MODELS": "raybench.text_models",
    "DATASETS": "raybench.datasets",
    "TEXT_DATASETS": "raybench.text_datasets",
    "LOSSES": "raybench.losses",
}
"""Mapping that a plugin may define -> group of entry points in which a package names the same."""
SWEEPS = "raybench.sweeps"
"""Group of entry points whose values are packages with sweep files in their folder."""
WORDS = {
    "MODELS": "model",
    "TEXT_MODELS": "text model",
    "DATASETS": "data set",
    "TEXT_DATASETS": "text data set",
    "LOSSES": "kind of distillation",
}
DISTILLATION = ("none", "hard", "soft", "both")
"""The kinds of distillation that raybench has."""
DIGITS = 12


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded, as it travels to the workers and is written down."""

    name: str
    """Of the file, or of the module."""
    code: str
    """What its code is, in trials' identities."""
    source: str | None = None
    """The text of a file. Of a module none: it must be installed wherever it is used."""


@dataclass(frozen=True)
class Extra:
    """One thing that comes from outside."""

    kind: str
    name: str
    origin: str
    """Where from, in words."""
    code: str
    root: Path
    """The file, or the package's folder, that its code lies in."""
    get: Callable[[], Any]

    def load(self) -> Callable[..., Any]:
        """The function. Raises ConfigError where importing it fails, or where it is none."""
        try:
            found = self.get()
        except (Exception, SystemExit) as error:
            raise ConfigError([f"{self}: {blamed(error, self.root)}; mend it, or uninstall it"]) from error
        if not callable(found):
            raise ConfigError([f"{self}: is a {type(found).__name__}; it must be a function or a class"])
        function: Callable[..., Any] = found
        return function

    def __str__(self) -> str:
        return f"{WORDS[self.kind]} {self.name} of {self.origin}"


_loaded: dict[str, Plugin] = {}
_paths: dict[str, Path] = {}
"""Of the files among them."""
_defined: dict[str, dict[str, Extra]] = {kind: {} for kind in KINDS}


def load(names: Sequence[str]) -> tuple[Plugin, ...]:
    """Load plugins: files by their paths, modules by their names. One that is loaded already stays as it is, unless its
    file has changed.

    Raises ConfigError with what is wrong with each: absent, raising, of no use, or giving a name twice.
    """
    faults: list[str] = []
    found: list[Plugin] = []
    for name in dict.fromkeys(names):
        try:
            found.append(_load(name))
        except ConfigError as error:
            faults += [printable(f"{COMMAND_LINE}: --plugin {name}: {problem}") for problem in error.problems]
    if faults:
        raise ConfigError(faults)
    return tuple(found)


def receive(plugins: Sequence[Plugin]) -> None:
    """Load what the driver of a worker has loaded. Raises ConfigError where a module is not installed here, or another.

    Files come as text and are kept in the cache folder, so that tracebacks show their lines.
    """
    for plugin in plugins:
        if _loaded.get(plugin.name) == plugin:
            continue
        if plugin.source is None:
            own = _load(plugin.name)
            if own.code != plugin.code:
                raise ConfigError([f"plugin {plugin.name}: another version here than where the sweep was started"])
            continue
        path = cache_root() / "plugins" / _digest(plugin.source.encode()) / plugin.name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_text(plugin.source, encoding="utf-8")
            draft.replace(path)
        _load(str(path))


def loaded() -> tuple[Plugin, ...]:
    """The plugins of this process."""
    return tuple(_loaded.values())


def forget() -> None:
    """Be as if no plugin had been loaded, and look for installed packages anew."""
    _loaded.clear()
    _paths.clear()
    for kind in KINDS:
        _defined[kind].clear()
    _points.cache_clear()
    _installed.cache_clear()
    _code_of.cache_clear()


def extras(kind: str) -> Mapping[str, Extra]:
    """What plugins and installed packages bring of a kind. Raises ConfigError where two bring one name."""
    return {**_installed(kind), **_defined[kind]}


def find(kind: str, name: str) -> Extra | None:
    """One of them; none where there is none."""
    return _defined[kind].get(name) or _installed(kind).get(name)


def codes() -> dict[str, str]:
    """`model NAME` and `loss NAME` -> identity of its code, of all that come from outside."""
    models = {name: extra.code for kind in ("MODELS", "TEXT_MODELS") for name, extra in extras(kind).items()}
    losses = {name: extra.code for name, extra in extras("LOSSES").items()}
    return {f"model {name}": code for name, code in models.items()} | {
        f"loss {name}": code for name, code in losses.items()
    }


def losses() -> tuple[str, ...]:
    """Every kind of distillation there is."""
    return (*DISTILLATION, *sorted(extras("LOSSES")))


def check_code(kinds: Sequence[str], name: str, planned: str) -> None:
    """Raise ConfigError where a trial was planned with other code than what has the name here."""
    if not planned:
        return
    here = next((extra for kind in kinds if (extra := find(kind, name)) is not None), None)
    if here is None or here.code != planned:
        found = f"that of {here.origin} is {here.code}" if here else "no plugin here has it"
        raise ConfigError(
            [
                f"{WORDS[kinds[0]]} {name}: the trial was made with code {planned}, and {found}; give what it was made "
                f"with (--plugin FILE; copies lie in the sweep's folder, in plugins/)"
            ]
        )


def sweep_folders() -> list[Path]:
    """Folders with the sweeps of installed packages."""
    found = []
    for point in _points().select(group=SWEEPS):
        try:
            spec = importlib.util.find_spec(point.value)
        except (ImportError, ValueError, AttributeError):
            continue
        found += [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    return found


def blamed(error: BaseException, root: Path) -> str:
    """`my_model.py, line 7: NameError: …`: the deepest line below `root` that an error went through."""
    text = str(error).strip().partition("\n")[0] or "no message"
    if isinstance(error, SyntaxError):
        where = f"{Path(error.filename or '').name}, line {error.lineno}: "
        return f"{where}{type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if Path(frame.filename) == root or root in Path(frame.filename).parents]
    where = f"{Path(inside[-1].filename).name}, line {inside[-1].lineno}: " if inside else ""
    return f"{where}{type(error).__name__}: {text}"


def called(extra: Extra, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function from outside. For whatever it raises, ConfigError, or DataError of a data set, names its line."""
    try:
        return function(*arguments, **named)
    except RaybenchError:
        raise
    except Exception as error:
        text = f"{extra}: {blamed(error, extra.root)}; mend it there"
        raise DataError(text) if extra.kind.endswith("DATASETS") else ConfigError([text]) from error


def _load(name: str) -> Plugin:
    path = at_home(name)
    if path.suffix == ".py":
        return _load_file(path)
    if name in _loaded:
        return _loaded[name]
    if os.sep in name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(["must be the path of a .py file, or the name of a module"])
    root = _place(name)
    if root is None:
        beside = path.with_suffix(".py")
        hint = f"did you mean {beside}?" if beside.is_file() else "install it, or name a file that ends in .py"
        raise ConfigError([f"no such module; {hint}"])
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError([_why(error, root)]) from error
    return _register(Plugin(name, _code_of(name)), module, root)


def _load_file(path: Path) -> Plugin:
    if not os.path.isfile(path):  # noqa: PTH113 - unlike Path's, this one is false for what the system refuses
        raise ConfigError(["no such file"])
    path = path.absolute()
    try:
        source = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"]) from error
    plugin = Plugin(path.name, _stated_version(source, path.stem) or _digest(source.encode()), source)
    if (known := _loaded.get(plugin.name)) is not None:
        if known == plugin:
            return known
        if _paths.get(plugin.name) != path:
            raise ConfigError(["another file of this name is loaded already; give each a name of its own"])
        _drop(known)  # edited since, as between two calls in a notebook
    module_name = f"raybench_plugin_{path.stem}_{_digest(str(path).encode())}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        # The text that was read: bytecode beside it passes for current after an edit within the same second.
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise ConfigError([_why(error, path)]) from error
    _paths[plugin.name] = path
    return _register(plugin, module, path)


def _drop(plugin: Plugin) -> None:
    del _loaded[plugin.name]
    for kind, defined in _defined.items():
        _defined[kind] = {name: extra for name, extra in defined.items() if extra.origin != plugin.name}


def _why(error: BaseException, root: Path) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{blamed(error, root)}; what a plugin imports must be installed: a plugin is one file, or a package"
    return f"{blamed(error, root)}; mend it, or leave --plugin out"


def _register(plugin: Plugin, module: ModuleType, root: Path) -> Plugin:
    """Take over what a module defines, all or nothing."""
    faults: list[str] = []
    found: list[Extra] = []
    for kind in KINDS:
        declared = getattr(module, kind, {})
        if not isinstance(declared, Mapping) or not all(isinstance(name, str) for name in declared):
            faults.append(f"{kind} must be a mapping from names to functions, not {type(declared).__name__}")
            continue
        for name, function in declared.items():
            extra = Extra(kind, name, plugin.name, plugin.code, root, partial(_same, function))
            if not callable(function):
                faults.append(f"{kind}: {name} is a {type(function).__name__}; it must be a function or a class")
            elif fault := _taken(extra):
                faults.append(fault)
            found.append(extra)
    if not faults and not found:
        faults.append(f"defines none of {', '.join(KINDS)}, so that nothing of it can be used (docs/extending.md)")
    if faults:
        raise ConfigError(faults)
    for extra in found:
        _defined[extra.kind][extra.name] = extra
    _loaded[plugin.name] = plugin
    return plugin


def _same(value: Any) -> Any:
    return value


def _taken(extra: Extra) -> str | None:
    """Whose the name is already, in words; none where it is free. Whoever knows raybench's own names asks for those."""
    if extra.kind == "LOSSES" and extra.name in DISTILLATION:
        return f"{WORDS[extra.kind]} {extra.name} is raybench's own; give yours another name"
    other = find(extra.kind, extra.name)
    return f"{other} is there already; give one of them another name" if other else None


@cache
def _points() -> Any:
    """The entry points of every installed package (`metadata.EntryPoints`), read once."""
    return metadata.entry_points()


@cache
def _installed(kind: str) -> Mapping[str, Extra]:
    """What installed packages bring; nothing is imported."""
    found: dict[str, Extra] = {}
    for point in _points().select(group=KINDS[kind]):
        origin = f"package {point.dist.name} {point.dist.version}" if point.dist else f"entry point {point.value}"
        root = _place(point.module) or Path(point.module)
        extra = Extra(kind, point.name, origin, _code_of(point.module), root, point.load)
        if point.name in found or (kind == "LOSSES" and point.name in DISTILLATION):
            whose = found[point.name].origin if point.name in found else "raybench itself"
            raise ConfigError([f"{extra}: {whose} has that name too; uninstall one of them"])
        found[point.name] = extra
    return found


def _place(module: str) -> Path | None:
    """The folder of the package that a module lies in, or the file of one that lies in none; none where it is absent.

    Only the package's own spec is looked for, so that nothing is imported.
    """
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None


@cache
def _code_of(module: str) -> str:
    """The identity of the code of a module that may be imported."""
    root = _place(module)
    if root is None:
        return "absent"
    if root.is_file():
        source = root.read_bytes()
        return _stated_version(source.decode("utf-8", "replace"), module) or _digest(source)
    own = root.joinpath(*module.split(".")[1:])
    for file in (own.with_suffix(".py"), own / "__init__.py"):
        if file.is_file() and (version := _stated_version(file.read_text("utf-8", "replace"), module)):
            return version
    return code_digest(root)


def code_digest(root: Path) -> str:
    """First 12 hex digits of the SHA-256 over the names and contents of all Python files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:DIGITS]


def _stated_version(source: str, name: str) -> str | None:
    """The `RECIPE_VERSION` that a module's text states; none where it states none, or cannot be parsed."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return None
    for node in body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, int | str)
            and any(isinstance(target, ast.Name) and target.id == "RECIPE_VERSION" for target in node.targets)
        ):
            return f"{name} {node.value.value}"
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]
