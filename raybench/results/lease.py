"""One driver a sweep where no kernel sees both: a lease on an object store, renewed while its holder lives."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybench.errors import ResultsError
from raybench.results.storage import create, entries, read, remove

if TYPE_CHECKING:
    from upath import UPath

RENEW_S = 5.0
EXPIRES_S = 30.0
"""A lease that nobody has renewed for so long, as its watcher's own clock measures it, is taken over."""

logger = logging.getLogger(__name__)


class Lease:
    """A series of numbered notes, each put only if there is none of its number; the highest says who holds the lease.

    Renewing, taking over and giving back are all the next number, so of any two who try one wins, and a holder who
    slept through a take-over finds a number that is not its own. No clocks are compared: a newcomer waits until the
    number changes (then its holder lives, and the newcomer is refused) or has stood still for `expires_s`. A holder on
    this machine whose process is gone is followed at once. The last note stays, for the numbers must go on.
    """

    def __init__(self, folder: UPath, renew_s: float = RENEW_S, expires_s: float = EXPIRES_S) -> None:
        """`folder` is that of the sweep."""
        self.folder = folder
        self.renew_s = renew_s
        self.expires_s = expires_s
        self.lost: str | None = None
        """Why the lease is no longer held."""
        self._notes = folder / ".lease"
        self._about = {
            "holder": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(),
            "machine": _machine(),
            "born": _born(os.getpid()),
        }
        self._number = 0
        self._renewed = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self) -> None:
        """Hold the lease, waiting where its last holder may be dead. Raises ResultsError while another holds it."""
        seen, since = -1, 0.0
        while True:
            number, note = self._newest()
            if number == 0 or note.get("released") or _is_gone(note):
                pass
            elif number != seen:
                if seen >= 0 or note.get("machine") == self._about["machine"]:
                    raise ResultsError(self._held(note))
                seen, since = number, time.monotonic()
                logger.warning(
                    f"{self.folder}: looking for up to {self.expires_s:g} s whether {_named(note)} still runs the sweep"
                )
                continue
            elif time.monotonic() - since < self.expires_s:
                time.sleep(min(1.0, self.renew_s / 2))
                continue
            if self._put(number + 1):
                break
        self._check_refusal()
        self._thread.start()

    def check(self) -> None:
        """Raises ResultsError when another driver may have taken over, because renewing failed for too long."""
        if self.lost is None and time.monotonic() - self._renewed > self.expires_s:
            self.lost = f"it could not be renewed for {self.expires_s:g} s"
        if self.lost is not None:
            raise ResultsError(
                f"the lease on {self.folder} is lost: {self.lost}; the rows are safe, run the same command again"
            )

    def release(self) -> None:
        """Give it back, if it is still held and the storage answers; else it expires."""
        self._end.set()
        self._thread.join(self.renew_s)
        try:
            self.check()
            if not self._thread.is_alive():
                self._put(self._number + 1, released=True)
        except ResultsError as error:
            logger.warning(f"the lease was not given back: {error}")

    def _renew(self) -> None:
        while not self._end.wait(self.renew_s):
            try:
                if not self._put(self._number + 1):
                    self.lost = f"{_named(self._newest()[1])} has taken over"
                    return
            except ResultsError:
                continue  # not answering just now: `check` tells when that has been so for too long

    def _put(self, number: int, **further: Any) -> bool:
        """Make note `number` ours; False when somebody else is, or was, as far as that."""
        asked = time.monotonic()
        create(self._notes / f"{number:012d}.json", json.dumps({**self._about, **further}).encode())
        # Looked at whatever the answer was: a put may be repeated below us, and refused the second time; and one
        # who slept may have made a number anew that others passed and removed long ago.
        newest, note = self._newest()
        if newest != number or note.get("holder") != self._about["holder"]:
            return False
        remove(self._notes / name for name in entries(self._notes) if name < f"{number:012d}")
        self._number, self._renewed = number, asked
        return True

    def _newest(self) -> tuple[int, dict[str, Any]]:
        """The highest number and its note; 0 where there is none, an empty note where it cannot be parsed."""
        while True:
            names = [name for name in entries(self._notes) if name.removesuffix(".json").isdigit()]
            if not names:
                return 0, {}
            try:
                note = json.loads(read(self._notes / names[-1]))
            except FileNotFoundError:  # renewed since the listing
                continue
            except (ValueError, RecursionError):
                note = None
            return int(names[-1].removesuffix(".json")), note if isinstance(note, dict) else {}

    def _check_refusal(self) -> None:
        if create(self._notes / f"{self._number:012d}.json", json.dumps(self._about).encode()):
            raise ResultsError(
                f"{self.folder}: this storage overwrites where it is asked not to (If-None-Match), so two drivers of "
                "one sweep could not be kept apart; choose another with --results"
            )

    def _held(self, note: dict[str, Any]) -> str:
        return (
            f"the sweep in {self.folder} is being run by {_named(note)}; wait for it, stop it, or give --results ROOT "
            "for a run of its own"
        )


def _named(note: dict[str, Any]) -> str:
    if "pid" not in note:
        return "another driver"
    return f"process {note['pid']} on host {note.get('host')} since {note.get('started')}"


def _machine() -> str:
    """Names this machine's table of processes, a container's own included: who shares it sees the same pids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return secrets.token_hex(8)  # not Linux: like no other machine, so nobody is taken for gone


def _born(pid: int) -> int | None:
    """When a process started, in ticks of the kernel, which no change of the clock moves; None when it is gone."""
    try:
        state, *further = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(further[18])


def _is_gone(note: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and does not any more."""
    pid, born = note.get("pid"), note.get("born")
    return note.get("machine") == _machine() and isinstance(pid, int) and (born is None or _born(pid) != born)
