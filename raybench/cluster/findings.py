"""What is wrong with a cluster, from what its machines said of themselves. Pure: nothing is asked here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LEAST_FREE_GIB = {"home": 2.0, "results": 1.0}
"""Free disk below which a machine is not fit: the packages are there already, the cache of decoded data is not."""
MAX_SKEW_S = 5.0
"""Clocks further apart make the times in the rows, and the leases of an object store, wrong."""
UP = "`ray up` brings every machine up to date"


@dataclass(frozen=True)
class Said:
    """What one machine said, or why it said nothing."""

    address: str
    asked: float = 0.0
    """Our clock before it was asked, and after it had answered (s)."""
    answered: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)
    silent: str = ""
    """Why nothing was learned; empty where something was."""
    seen: frozenset[str] | None = None
    """Addresses whose files it saw on the shared storage; none where it was not asked."""
    data: Mapping[str, Any] | None = None
    """What it can run: `faults`, those that are `absent` data (fault -> its name), and `fingerprints` of the data; none
    where it was not asked."""

    @property
    def installed(self) -> bool:
        """Whether raybench and its packages are there."""
        versions = self.about.get("versions", {})
        return versions.get("torch") is not None and versions.get("raybench") is not None

    def joined(self, alive: Mapping[str, str]) -> bool:
        """Whether it is a node of Ray, `alive` being address -> name of those.

        By its own addresses: we may reach it by another one, as a cloud's machines from outside, or by a name.
        """
        own = {self.address, *self.about.get("addresses", ())}
        if not own.isdisjoint(alive):
            return True
        return not self.about.get("addresses") and self.about.get("name") in alive.values()

    @property
    def clock(self) -> tuple[float, float]:
        """By how much its clock is ahead of ours, at least and at most (s)."""
        return self.about["time"] - self.answered, self.about["time"] - self.asked


@dataclass(frozen=True)
class Findings:
    """Faults, which make the exit code 1, and notes, which do not."""

    faults: tuple[str, ...]
    notes: tuple[str, ...]


def examine(here: Mapping[str, str | None], machines: Sequence[Said], alive: Mapping[str, str] | None) -> Findings:
    """Everything at once. `here`: the versions of this machine. The first machine is the head.

    `alive`: address -> name of the nodes of the running Ray; none where no Ray runs.
    """
    faults = [f"{each.address}: {each.silent}" for each in machines if each.silent]
    answered = [each for each in machines if not each.silent]
    head = machines[0]
    copied = {each.address: _copied(each, head) for each in answered}
    installed = [each for each in answered if each.installed]
    faults += [
        *_versions(here, installed),
        *_gpus(answered),
        *_clocks(answered),
        *_disks(answered),
        *_storage(answered),
        *_data(answered, copied),
    ]
    notes = [
        f"{address}: has no files of {', '.join(sorted(lacking.values()))}, which it copies from the depot, where the "
        f"sweep brings those of {head.address}"
        for address, lacking in copied.items()
        if lacking
    ]
    notes += [
        f"{each.address}: raybench is not installed there yet; {UP}"
        for each in answered
        if each.about["versions"].get("raybench") is None
    ]
    notes += [
        f"{each.address}: other sweeps than here; `submit` sends the file of the one that it runs, and {UP}"
        for each in installed
        if here.get("sweeps") not in (None, each.about["versions"].get("sweeps"))
    ]
    faults += [
        f"{each.address}: raybench is there, its packages are not; {UP}"
        for each in answered
        if each.about["versions"].get("raybench") is not None and not each.installed
    ]
    if alive is None:
        notes.append("Ray does not run there; start it: ray up")
    else:
        faults += [
            f"{each.address}: answers, but has not joined Ray; `ray up` starts it there"
            for each in answered
            if not each.joined(alive)
        ]
    return Findings(tuple(faults), tuple(notes))


def _versions(here: Mapping[str, str | None], machines: Sequence[Said]) -> Iterator[str]:
    for name, own in here.items():
        for each in machines:
            there = each.about["versions"].get(name)
            if there == own or name == "sweeps":
                continue
            if name == "raybench":
                yield f"{each.address}: other code of raybench than here ({there}, here {own}); {UP}"
            elif name != "python" or minor(there) != minor(own):
                yield f"{each.address}: {name} {there or 'is not installed'}, here {own}; {UP}"


def minor(version: str | None) -> str | None:
    """3.11 of 3.11.7: the releases of one minor version of Python make the same bits."""
    return ".".join(version.split(".")[:2]) if version else None


def _gpus(machines: Sequence[Said]) -> Iterator[str]:
    for each in machines:
        if isinstance(why := each.about["gpus"], str):
            yield f"{each.address}: a GPU is there and its driver does not answer: {why}; mend the driver"
    seen = {each.address: each.about["gpus"] for each in machines}
    drivers = {address: gpus[0]["driver"] for address, gpus in seen.items() if gpus and not isinstance(gpus, str)}
    if len(set(drivers.values())) > 1:
        listed = ", ".join(f"{driver} on {address}" for address, driver in drivers.items())
        yield f"different GPU drivers: {listed}; the same trial may have other bits"


def _clocks(machines: Sequence[Said]) -> Iterator[str]:
    for each in machines[1:]:
        (least, most), (head_least, head_most) = each.clock, machines[0].clock
        # What cannot be told from the time that asking took is no difference.
        apart = max(least - head_most, head_least - most, 0.0)
        if apart > MAX_SKEW_S:
            way = "ahead of" if least > head_most else "behind"
            yield (
                f"{each.address}: its clock is {apart:.0f} s {way} that of {machines[0].address}; "
                "let both follow a time server (timedatectl set-ntp true)"
            )


def _disks(machines: Sequence[Said]) -> Iterator[str]:
    for each in machines:
        for place, free in each.about["free_gib"].items():
            kind = "results" if place == each.about["results"] else "home"
            if free is not None and free < LEAST_FREE_GIB[kind]:
                yield f"{each.address}: {place} has {free:g} GiB free; at least {LEAST_FREE_GIB[kind]:g} are needed"


def _storage(machines: Sequence[Said]) -> Iterator[str]:
    """A file written on one is read on another."""
    places = Counter(each.about["results"] for each in machines if each.about["results"])
    if len(places) > 1:
        yield f"results lie in different places: {', '.join(sorted(places))}; {UP}"
    for each in machines:
        if each.about.get("unwritable"):
            yield f"{each.address}: results cannot be written: {each.about['unwritable']}"
    wrote = {each.address for each in machines if each.about["results"] and not each.about.get("unwritable")}
    for each in machines:
        if each.seen is None or each.address not in wrote:
            continue
        if unseen := sorted(wrote - each.seen - {each.address}):
            yield (
                f"{each.address}: {each.about['results']} is not shared: what {', '.join(unseen)} wrote there is not "
                "seen; mount the same folder on every machine"
            )


def _copied(machine: Said, head: Said) -> dict[str, str]:
    """Fault -> data set of what a machine has not and will have from the cluster's depot, since the head has it."""
    if machine is head or machine.data is None or not machine.about.get("depot"):
        return {}
    has_all = head.data is not None and not head.data.get("faults")
    return dict(machine.data.get("absent", {})) if has_all else {}


def _data(machines: Sequence[Said], copied: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Faults that all have are told once; those of data that are `copied`, by address, are none."""
    asked = [each for each in machines if each.data is not None]
    told: dict[str, list[str]] = {}
    prints: dict[str, dict[str, list[str]]] = {}
    for each in asked:
        assert each.data is not None
        for fault in each.data.get("faults", ()):
            if fault in copied[each.address]:
                continue
            told.setdefault(fault, []).append(each.address)
        for name, found in each.data.get("fingerprints", {}).items():
            prints.setdefault(name, {}).setdefault(found, []).append(each.address)
    for fault, where in told.items():
        yield f"{'every machine' if len(where) == len(asked) > 1 else ', '.join(where)}: {fault}"
    for name, found in prints.items():
        if len(found) > 1:
            listed = "; ".join(f"{fingerprint} on {', '.join(where)}" for fingerprint, where in found.items())
            yield f"{name}: different data: {listed}"
