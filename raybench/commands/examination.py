"""What `raybench doctor` looks at. Each look is quick: neither torch nor Ray is imported, and nothing is decoded."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement

import raybench
from raybench.cluster import probe
from raybench.config.folders import at_home, cache_root, weight_folders
from raybench.errors import RaybenchError

State = Literal["ok", "note", "fault"]
GIB = 2**30
SMI_TIMEOUT_S = 15.0
"""A driver that hangs answers never; a busy machine with many GPUs within seconds."""
LOCKED_PYTHONS = ((3, 11), (3, 12))
LEAST_FREE_GIB = 1.0
LITTLE_FREE_GIB = 5.0
FULL_DISK = 0.95
"""Share of a disk in use from which on Ray keeps no objects there."""
LEAST_MEMORY_GIB = 1.0
LITTLE_MEMORY_GIB = 2.0
LITTLE_SHARED_GIB = 1.0
FEW_FILES = 1024
"""Open files that a process may have: each worker takes some of Ray's."""
CLUSTER_PORTS = {6379: "a Ray head", 8265: "Ray's dashboard", 10001: "Ray's client server"}
WEIGHT_FILES = ("*.safetensors", "*.th", "*.pth", "*.pt", "*.bin", "*.tar")
EXTRAS = {
    "codec": "for the model bmshj2018_factorized and the sweep ci2p_codec",
    "text": "for the data set multi30k and BLEU",
    "s3": "for results in an object store",
    "completion": "for raybench completion",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: State
    """A fault is in the way of any sweep; a note may be in the way of some, or cost something."""
    area: str
    text: str
    cure: str = ""
    """What to do about it."""


def examine(data_root: Path, results: str) -> list[Finding]:
    """Everything, in the order in which a sweep would meet it."""
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        python,
        packages,
        variables,
        processors,
        gpus,
        memory,
        shared_memory,
        lambda: disks(results),
        lambda: data_sets(data_root),
        lambda: weights(data_root),
        ray_ports,
    )
    return [finding for look in looks for finding in look()]


def python() -> Iterator[Finding]:
    """Version and platform."""
    text = f"raybench {raybench.__version__} in {Path(raybench.__file__).parent}, Python {platform.python_version()}"
    if sys.version_info[:2] in LOCKED_PYTHONS:
        yield Finding("ok", "python", text)
    else:
        yield Finding("note", "python", text, "the versions in requirements.lock have wheels for Python 3.11 and 3.12")


def packages(name: str = "raybench") -> Iterator[Finding]:
    """Whether what an installed package asks for is installed, in versions it takes."""
    try:
        requirements = [Requirement(text) for text in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        yield Finding("note", "packages", f"{name} runs from its source and is not installed", "pip install -e .")
        return
    asked = [(each, _extra_of(each)) for each in requirements]
    due = [(each, extra) for each, extra in asked if each.marker is None or each.marker.evaluate({"extra": extra})]
    lacking = [(each, extra, fault) for each, extra in due if (fault := _unmet(each))]
    if own := [(each, fault) for each, extra, fault in lacking if not extra]:
        names = " ".join(f'"{str(each).partition(";")[0].strip()}"' for each, _ in own)
        yield Finding("fault", "packages", "; ".join(fault for _, fault in own), f"pip install {names}")
    known = ", ".join(f"{each} {version}" for each in ("torch", "ray", "timm") if (version := _version(each)))
    met = sum(not extra for _, extra in due) - len(own)
    yield Finding("ok", "packages", f"{met} as required ({known})")
    for extra in dict.fromkeys(extra for _, extra, _ in lacking if extra):
        faults = "; ".join(fault for _, other, fault in lacking if other == extra)
        text = f"{faults}: {EXTRAS.get(extra, 'optional')}"
        yield Finding("note", "packages", text, f'pip install "{name}[{extra}]"')


def _extra_of(requirement: Requirement) -> str:
    found = re.search(r"extra == ['\"]([^'\"]+)['\"]", str(requirement.marker or ""))
    return found[1] if found else ""


def _unmet(requirement: Requirement) -> str:
    """What is wrong with an installed package; empty where nothing is."""
    version = _version(requirement.name)
    if version is None:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is installed, {requirement.specifier} is needed"
    return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def variables() -> Iterator[Finding]:
    """Environment variables that name what is not there."""
    for name in ("RAYBENCH_DATA", "RAYBENCH_SWEEPS"):
        for part in filter(None, os.environ.get(name, "").split(os.pathsep)):
            if not at_home(part).is_dir():
                yield Finding(
                    "note", "variables", f"{name} names {part}, which is no folder", f"make it, or unset {name}"
                )
    if address := os.environ.get("RAY_ADDRESS"):
        text = f"RAY_ADDRESS is {address}; a sweep without --address starts a Ray of its own all the same"
        yield Finding("note", "variables", text, "give --address auto to run there")


def processors() -> Iterator[Finding]:
    """Cores, and how many of them this process may use."""
    cores = os.cpu_count() or 1
    usable = float(len(os.sched_getaffinity(0)))
    if (share := _cpu_share()) is not None:
        usable = min(usable, share)
    text = f"{cores} core{'s' if cores != 1 else ''} ({platform.machine()})"
    if usable >= cores:
        yield Finding("ok", "cpu", text)
    else:
        yield Finding(
            "note",
            "cpu",
            f"{text}, of which this process may use {usable:g}",
            f"--max-concurrent {max(1, int(usable))} keeps trials from sharing them",
        )


def _cpu_share(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that the container may use; none where nothing limits them."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def gpus() -> Iterator[Finding]:
    """GPUs, their driver, and whether torch was built for them."""
    cards = probe.gpus(SMI_TIMEOUT_S)
    if not cards:
        yield Finding("note", "gpu", "none", "the presets quick and small are meant for a CPU (resources.gpu=0)")
        return
    if isinstance(cards, str):
        cure = "mend the driver; in a container, give it the GPUs (docker run --gpus all)"
        devices = any(Path("/dev").glob("nvidia[0-9]*"))
        yield Finding("fault" if devices else "note", "gpu", f"the driver does not answer: {cards}", cure)
        return
    yield Finding("ok", "gpu", "; ".join(_card(card) for card in cards))
    built, newest = _torch_cuda(), _driver_cuda()
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield Finding(
            "note", "gpu", "CUDA_VISIBLE_DEVICES is empty: none of them is used", "unset CUDA_VISIBLE_DEVICES"
        )
    if _version("torch") is None:
        return
    if built is None:
        cure = "install torch from an index of its CUDA builds (pytorch.org says which)"
        yield Finding("fault", "gpu", f"torch {_version('torch')} is built for a CPU alone", cure)
    elif newest is not None and int(built.split(".")[0]) > int(newest.split(".")[0]):
        text = f"torch is built for CUDA {built}, the driver knows CUDA {newest}"
        yield Finding("fault", "gpu", text, f"update the driver, or install torch for CUDA {newest.split('.')[0]}")


def _torch_cuda() -> str | None:
    """The CUDA version that torch was built for, read from its text; none for a build without."""
    spec = importlib.util.find_spec("torch")
    places = list(spec.submodule_search_locations or []) if spec else []
    try:
        text = (Path(places[0]) / "version.py").read_text()
    except (OSError, IndexError):
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def _card(card: dict[str, Any]) -> str:
    free, total = (card[name] if card[name] is not None else "?" for name in ("free_mib", "memory_mib"))
    return f"{card['name']}, {free} of {total} MiB free, driver {card['driver']}"


def _driver_cuda() -> str | None:
    """The newest CUDA that the driver knows, which only its table for people says; none where that is not to be had."""
    try:
        table = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"CUDA Version:\s*([\d.]+)", table.stdout)
    return found[1] if found else None


def memory() -> Iterator[Finding]:
    """What may still be allocated."""
    total, free = memory_here()
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    cure = "end what else runs, run fewer trials at a time (--max-concurrent 1), or set limits.memory_mib"
    yield _judged("memory", text, free / GIB, LEAST_MEMORY_GIB, LITTLE_MEMORY_GIB, cure)


def memory_here() -> tuple[int, int]:
    """(all, free) memory of this machine, or of the container where that may have less; bytes."""
    found = psutil.virtual_memory()
    total, free = found.total, found.available
    limit = _number("memory.max")
    if limit is not None and limit < total:
        return limit, min(free, limit - (_number("memory.current") or 0))
    return total, free


def _number(name: str, root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the container's own accounts say, bytes; none where there is no such limit."""
    try:
        return int((root / name).read_text())
    except (OSError, ValueError):
        return None


def _judged(area: str, text: str, have: float, least: float, little: float, cure: str) -> Finding:
    if have < least:
        return Finding("fault", area, text, cure)
    return Finding("note", area, text, cure) if have < little else Finding("ok", area, text)


def shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Where Ray keeps objects."""
    try:
        found = shutil.disk_usage(folder)
    except OSError:
        yield Finding("note", "shared", f"no {folder}: Ray keeps its objects on the disk, which is slower")
        return
    text = f"{found.free / GIB:.1f} of {found.total / GIB:.1f} GiB free in {folder}"
    cure = "Ray then keeps its objects on the disk, which is slower; in a container: docker run --shm-size=2g"
    if found.free < LITTLE_SHARED_GIB * GIB:
        yield Finding("note", "shared", text, cure)
    else:
        yield Finding("ok", "shared", text)


def disks(results: str) -> Iterator[Finding]:
    """Free room, and the right to write, where a sweep writes."""
    places = {
        "the cache": cache_root(),
        "Ray's temporary folder": Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()),
    }
    if "://" not in results:
        places = {"results": Path(results).absolute(), **places}
    elsewhere = {
        "results": "give --results ROOT on another disk, or free space",
        "the cache": "set RAYBENCH_CACHE to another disk, or free space",
        "Ray's temporary folder": "set RAY_TMPDIR to another disk, or free space",
    }
    for what, path in places.items():
        there = next(folder for folder in (path, *path.parents) if os.path.exists(folder))  # noqa: PTH110
        cure = elsewhere[what]
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
            found = shutil.disk_usage(there)
        except OSError as error:
            yield Finding("fault", "disk", f"{what}: {path} cannot be written: {error.strerror or error}", cure)
            continue
        text = f"{what}: {found.free / GIB:.1f} GiB free in {path}"
        judged = _judged("disk", text, found.free / GIB, LEAST_FREE_GIB, LITTLE_FREE_GIB, cure)
        full = what.startswith("Ray") and found.used / max(1, found.used + found.free) > FULL_DISK
        if full and judged.state == "ok":
            yield Finding("note", "disk", f"{text}, more than {FULL_DISK:.0%} in use, so that Ray complains", cure)
        else:
            yield judged


def data_sets(root: Path) -> Iterator[Finding]:
    """Which data sets are there. Their content is not looked at: `raybench data check NAME`."""
    from raybench import data

    found, absent = [], []
    for name in data.names():
        try:
            if data.kind_of(name) == "text":
                data.find_pairs(name, root)
            else:
                data.find_source(data.Request(name), root)
        except RaybenchError as error:
            # Those of one's own files need to be told which.
            if "needs dataset.path" not in str(error) and "set dataset.image_size" not in str(error):
                absent.append(name)
        except ImportError:
            absent.append(name)
        else:
            found.append(name)
    yield Finding("ok", "data", f"{', '.join(found) or 'none'} found (looked in {root})")
    if absent:
        cure = f"raybench data get {absent[0]}; or name the folder they are in: --data-root DIR or RAYBENCH_DATA"
        yield Finding("note", "data", f"{', '.join(absent)} not found", cure)


def weights(root: Path) -> Iterator[Finding]:
    """Which weight files are there, and which of timm's are in the cache of the Hugging Face hub."""
    files = [
        path for folder in weight_folders(root) for pattern in WEIGHT_FILES for path in sorted(folder.glob(pattern))
    ]
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
    fetched = sorted(path.name.removeprefix("models--timm--") for path in hub.glob("models--timm--*"))
    shown = ", ".join([*(path.name for path in files), *(f"{name} (timm)" for name in fetched)])
    if shown:
        yield Finding("ok", "weights", f"{shown} found")
        return
    places = " and ".join(map(str, (*weight_folders(root), hub)))
    cure = "only models with weights: pretrained need them; timm's are fetched when there is a network"
    yield Finding("note", "weights", f"none found (looked in {places})", cure)


def ray_ports() -> Iterator[Finding]:
    """Whether Ray's processes can talk to each other, and who holds a cluster's usual ports."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FEW_FILES:
        text = f"a process may open {soft} files; Ray's need more"
        yield Finding("note", "ray", text, "ulimit -n 65536")
    try:
        with socket.socket() as listening, socket.socket() as calling:
            listening.bind(("127.0.0.1", 0))
            listening.listen(1)
            calling.settimeout(2.0)
            calling.connect(listening.getsockname())
    except OSError as error:
        cure = "allow connections of this machine to itself in its firewall or sandbox"
        yield Finding("fault", "ray", f"no connection to 127.0.0.1: {error.strerror or error}", cure)
        return
    taken = [f"{port} ({whose})" for port, whose in CLUSTER_PORTS.items() if _listens(port)]
    if taken:
        text = f"ports in use: {', '.join(taken)}; a sweep of its own takes others"
        yield Finding("note", "ray", text, "--address auto joins a Ray that runs; ray start --port N starts another")
    else:
        yield Finding("ok", "ray", "127.0.0.1 answers; a cluster's usual ports are free")


def _listens(port: int) -> bool:
    with socket.socket() as calling:
        calling.settimeout(0.5)
        return calling.connect_ex(("127.0.0.1", port)) == 0
