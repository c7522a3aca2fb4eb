"""Profiling models: everything checked and counted first, then memory and speed measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import yaml

from raybench.config.document import parse, problem_of
from raybench.config.faults import reason
from raybench.config.trial import ModelConfig, Option
from raybench.errors import ConfigError, RaybenchError
from raybench.models import names
from raybench.models.builder import meant_size
from raybench.models.counts import Counts, count
from raybench.results.manifest import environment
from raybench.training.device import choose_device
from raybench.training.footprint import ON_GPU, RESIDENT, footprint
from raybench.training.speed import Load, Rate, compare_speeds

SENTENCES = {"source_vocabulary": 8317, "target_vocabulary": 6384, "length": 72}
"""Words and tokens of the sentences a text model is fed with: those of the published run on Multi30k. Options change
them."""

Entry = dict[str, Any]
"""What is known of one model, under the names of the JSON output; `error` only where it could not be measured."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for; the same for every model."""

    models: tuple[str, ...]
    options: tuple[str, ...]
    """`key=value`, arguments of the models' constructors."""
    image_size: int | None
    """Side in pixels; none takes the size each model is meant for."""
    num_classes: int
    batch_size: int
    precision: str
    threads: int | None
    repeats: int
    timing: bool


def profile(request: Request, say: Callable[[str], None]) -> list[Entry]:
    """An entry for each model, in the order asked for. `say` is told what goes on while it is measured.

    Raises ConfigError with all that is wrong before anything is measured.
    """
    found = _checked(request)
    entries = {name: _entry(request, load, counts) for name, (load, counts) in found.items()}
    if request.timing:
        _measure({name: load for name, (load, _) in found.items()}, entries, request.repeats, say)
    return list(entries.values())


def _checked(request: Request) -> dict[str, tuple[Load, Counts]]:
    """Each model counted, which builds it and feeds it an image."""
    problems: list[str] = []
    options = _options(request.options, problems)
    found: dict[str, tuple[Load, Counts]] = {}
    for name in dict.fromkeys(request.models):
        config = ModelConfig(name=name, options=options, image_size=request.image_size)
        try:
            found[name] = _counted(config, request)
        except ConfigError as error:
            problems += [line if name in line else f"model {name}: {line}" for line in error.problems]
        except RaybenchError as error:
            problems.append(str(error))
        except Exception as error:  # as in preflight: from options that a constructor never thought of
            text = reason(error)
            given = f" with options {options}" if options else ""
            size = request.image_size or meant_size(name)
            problems.append(f"model {name}: cannot be built{given} and fed an image of {size}x{size} px: {text}")
    if problems:
        raise ConfigError(problems)
    return found


def _options(written: Sequence[str], problems: list[str]) -> dict[str, Option]:
    options: dict[str, Option] = {}
    for text in written:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            problems.append(f"--options {text!r}: must be KEY=VALUE, such as depth=6 (models come before --options)")
            continue
        try:
            parsed = parse(value)[1]
        except yaml.YAMLError as error:
            problems.append(f"--options {key}: {problem_of(error)[1]}")
            continue
        if isinstance(parsed, int | float | bool | str) or (isinstance(parsed, list) and _numbers(parsed)):
            options[key] = parsed
        else:
            problems.append(f"--options {text}: must be a number, true, false, text or a list of numbers")
    return options


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _counted(config: ModelConfig, request: Request) -> tuple[Load, Counts]:
    config, sentences = _sentences(config)
    load = Load(
        model=config,
        num_classes=request.num_classes,
        image_size=meant_size(config.name),
        batch_size=request.batch_size,
        precision=request.precision,
        threads=request.threads or torch.get_num_threads(),
        sentences=sentences,
    )
    torch.manual_seed(0)
    # Without memory for what may be large; what our own freeze is made on the CPU.
    with torch.device("cpu" if config.name in names() else "meta"):
        module, image_size = load.build()
        load = replace(load, image_size=image_size)
        counts = count(module, *load.example(1))
    return load, counts


def _sentences(config: ModelConfig) -> tuple[ModelConfig, tuple[int, int, int] | None]:
    """The configuration without what its data set would decide, and that: vocabularies and tokens of a text model."""
    if config.name not in names("text"):
        return config, None
    options = dict(config.options)
    sizes = [options.pop(key, default) for key, default in SENTENCES.items()]
    if faults := [
        f"model {config.name}: {key} = {size!r} must be a whole number >= 4"
        for key, size in zip(SENTENCES, sizes, strict=True)
        if type(size) is not int or size < 4
    ]:
        raise ConfigError(faults)
    return config.model_copy(update={"options": options, "image_size": None}), tuple(sizes)  # type: ignore[return-value]


def _entry(request: Request, load: Load, counts: Counts) -> Entry:
    env = environment()
    device = choose_device(load.precision, gpu=1.0)
    image = {"image_size": load.image_size, "num_classes": load.num_classes}
    return {
        "model": load.model.name,
        "options": load.model.options,
        **(image if load.sentences is None else dict(zip(SENTENCES, load.sentences, strict=True))),
        **asdict(counts),
        "batch_size": load.batch_size,
        "precision": device.precision,
        "hardware": {"cpu": env["cpu"], "cpu_count": env["cpu_count"], "threads": load.threads, "gpu": device.name},
        "versions": {name: env[name] for name in ("raybench", "git_commit", "python", "torch", "timm")},
        **({"repeats": request.repeats} if request.timing else {}),
    }


def _measure(loads: dict[str, Load], entries: dict[str, Entry], repeats: int, say: Callable[[str], None]) -> None:
    """Adds what is measured, or an `error`, to each entry."""
    for name in list(loads):
        say(f"memory of {name}: two steps in a process of its own")
        taken = footprint(loads[name])
        if isinstance(taken, str):
            entries[name]["error"] = taken
            del loads[name]
        else:
            entries[name]["peak_memory"] = round(taken.peak_mib, 1)
            entries[name]["memory_before_model"] = round(taken.before_mib, 1)
            entries[name]["peak_memory_is"] = ON_GPU if entries[name]["hardware"]["gpu"] else RESIDENT
    if not loads:
        return
    say(f"speed of {', '.join(loads)}: {repeats} repeats, turn by turn")
    for name, speed in compare_speeds(loads, repeats).items():
        if isinstance(speed, str):
            entries[name]["error"] = speed
        else:
            entries[name] |= _rate("train", speed.train) | _rate("infer", speed.infer)


def _rate(what: str, rate: Rate) -> Entry:
    low, high = _rounded(rate.low), _rounded(rate.high)
    return {f"{what}_samples_per_sec": _rounded(rate.median), f"{what}_samples_per_sec_range": [low, high]}


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")
