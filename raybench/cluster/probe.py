"""What a machine of a cluster says of itself. Sent there as text and run by whichever Python 3 (3.7 or later) there is.

So nothing but the standard library is imported, and nothing of raybench, which may not be installed there yet. What
`raybench doctor` asks of this machine as well, it asks here.

    python3 - '{"role": "write", "mark": "1f0c", "address": "192.168.1.10", "seek": []}' < probe.py

write leaves a file of that mark and address on the shared storage, and says what else is to be known; read looks for
the files of the addresses in `seek`; clear removes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PROJECT = Path.home() / "raybench"
PYTHON = PROJECT / ".venv" / "bin" / "python"
PACKAGES = ("torch", "ray")
ROUTES = Path("/proc/net/fib_trie")
# Results in an object store are reached with what raybench itself reaches them.
STORE = "import os, sys; from raybench.results.storage import *; place = folder_at(os.environ['RAYBENCH_RESULTS']); "
LEAVE = STORE + "write_atomically(place / sys.argv[1], sys.argv[2].encode())"
LOOK = STORE + "print(read(place / sys.argv[1]).decode())"
CLEAR = STORE + "remove([place / sys.argv[1]])"


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer."""
    results, name = os.environ.get("RAYBENCH_RESULTS", ""), file_of(asked["mark"], asked["address"])
    answer: dict[str, Any] = {"name": socket.gethostname(), "results": results}
    answer["addresses"] = addresses(ROUTES)
    answer["depot"] = os.environ.get("RAYBENCH_DEPOT", "")
    if asked["role"] == "clear":
        clear(results, name)
    if asked["role"] == "read":
        wanted = {each: file_of(asked["mark"], each) for each in asked["seek"]}
        answer["seen"] = [each for each, file in wanted.items() if look(results, file) == asked["mark"]]
    if asked["role"] == "write":
        answer["unwritable"] = leave(results, name, asked["mark"]) if results else None
        answer["versions"], answer["gpus"] = versions(), gpus()
        answer["cpus"] = os.cpu_count()
        answer["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
        places = [Path.home(), *([Path(results)] if results and "://" not in results else [])]
        answer["free_gib"] = {str(place): free_gib(place) for place in places}
    answer["time"] = time.time()
    return answer


def versions() -> dict[str, str | None]:
    """Of Python and packages, and hashes of raybench's own files and of the sweeps; none for what is not installed."""
    found: dict[str, str | None] = {
        "python": said([str(PYTHON), "-c", "import platform; print(platform.python_version())"])
    }
    places = [str(place) for place in PROJECT.glob(".venv/lib/python3*/site-packages")]
    for package in PACKAGES:
        known = [each.version for each in metadata.distributions(name=package, path=places)]
        found[package] = known[0] if known else None
    return {**found, "raybench": tree_hash(PROJECT / "raybench"), "sweeps": tree_hash(PROJECT / "sweeps")}


def tree_hash(folder: Path) -> str | None:
    """First 12 hex digits of the SHA-256 over names and contents of a folder's files; none where there are none."""
    digest, count = hashlib.sha256(), 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        count += 1
    return digest.hexdigest()[:12] if count else None


def gpus(patience_s: float = 60.0) -> list[dict[str, Any]] | str:
    """Name, driver and memory (MiB, all and free; none where the driver does not say) of each GPU.

    Where there seem to be some and the driver does not tell of them: why.
    """
    if not any(Path("/dev").glob("nvidia[0-9]*")) and shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=patience_s, check=False)
    except FileNotFoundError:
        return "nvidia-smi is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error).splitlines()[0]
    if done.returncode or not done.stdout.strip():
        return (done.stderr or done.stdout).strip().partition("\n")[0] or f"exit code {done.returncode}"
    rows = ([part.strip() for part in (*line.split(","), "", "", "")] for line in done.stdout.strip().splitlines())
    return [{"name": row[0], "driver": row[1], "memory_mib": mib(row[2]), "free_mib": mib(row[3])} for row in rows]


def mib(text: str) -> int | None:
    """A number of nvidia-smi; none where it says [N/A], as of memory that GPU and CPU share."""
    return int(text) if text.isdecimal() else None


def said(command: list[str]) -> str | None:
    """What a program prints; none where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def addresses(routes: Path) -> list[str]:
    """The machine's own addresses (IPv4, no loopback), as the kernel's table of routes has them; none without one."""
    try:
        lines = routes.read_text().split("\n")
    except OSError:
        return []
    # An address stands in the line above what is said of it.
    own = {lines[place - 1].split()[-1] for place, line in enumerate(lines) if line.strip() == "/32 host LOCAL"}
    return sorted(each for each in own if not each.startswith("127."))


def free_gib(place: Path) -> float | None:
    """Free space at a place; none where it is not there."""
    try:
        return round(shutil.disk_usage(place).free / 2**30, 1)
    except OSError:
        return None


def file_of(mark: str, address: str) -> str:
    """The name of the file that the machine of that address leaves."""
    return f".check-{mark}-{address}"


def leave(results: str, name: str, mark: str) -> str | None:
    """What is wrong with the storage of the results; none where the file was left there."""
    if "://" in results:
        return None if said([str(PYTHON), "-c", LEAVE, name, mark]) is not None else f"{results}: cannot be written"
    try:
        with (Path(results) / name).open("w") as file:
            file.write(mark)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{results}: {error.strerror}"
    return None


def look(results: str, name: str) -> str | None:
    """The content of another machine's file; none where it is not seen."""
    if "://" in results:
        return said([str(PYTHON), "-c", LOOK, name])
    try:
        return (Path(results) / name).read_text()
    except OSError:
        return None


def clear(results: str, name: str) -> None:
    """Remove this machine's file."""
    if "://" in results:
        said([str(PYTHON), "-c", CLEAR, name])
    elif results:
        try:
            (Path(results) / name).unlink()
        except OSError:
            return


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
