"""A small process that outlives the driver by a moment, and ends what a killed one leaves behind.

The raylet dies with its driver, and workers with their raylet, but Ray's agents first try for a minute to reach the
head, which is dead as well. Every process of a run carries the run's mark in its environment, so they are found by that
and ended by id, whoever their parent is by now. It knows of the driver's end by the end of its standard input.

python -m raybench.cluster.reaper MARK
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

MARK = "RAYBENCH_RUN"
"""Variable that Ray's processes inherit from the driver that starts them."""
ROUNDS = 5
"""Looks for what is left, since a dying raylet may just have started another worker."""
BETWEEN_S = 0.5


@contextlib.contextmanager
def reaper() -> Iterator[None]:
    """Whatever this process starts inside, and does not end itself, is ended when it dies, however it dies."""
    mark = secrets.token_hex(8)
    # Ray's processes name themselves, by default over their environment, where the mark is looked for.
    os.environ |= {MARK: mark, "SPT_NOENV": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "raybench.cluster.reaper", mark], stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    last_word = b"ended\n"
    try:
        yield
    except SystemExit:  # of Ray's own handler, in the midst of its start: what had started by then is nobody's
        last_word = b""
        raise
    finally:
        del os.environ[MARK]
        with contextlib.suppress(OSError):
            process.stdin.write(last_word)
            process.stdin.close()
        process.wait()


def end_run(mark: str | None = None) -> int:
    """Kill every process that bears the mark of this process's run, or the one given, by id; how many there were."""
    mark = mark or os.environ.get(MARK)
    found = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # A driver's own environment, as others see it, is that of its start: it does not bear its own mark.
            if mark and process.pid != os.getpid() and process.environ().get(MARK) == mark:
                process.kill()
                found += 1
    return found


def main(mark: str) -> None:
    """Wait for the driver's end; kill what it left unless it says that it ended in order."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.read() == "":
        for _ in range(ROUNDS):
            end_run(mark)
            time.sleep(BETWEEN_S)


if __name__ == "__main__":
    main(sys.argv[1])
