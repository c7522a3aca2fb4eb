"""A wall clock that jumps while a trial trains: durations and the order of epochs follow clocks that cannot jump."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from raybench.results.store import Store

REPOSITORY = Path(__file__).parents[1]
HOUR_S = 3600
DAY_S = 24 * HOUR_S

SHIFTED = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The wall clock is off by as many seconds as the file says at this moment. */
static long shift(void) {
    static volatile long *seconds;
    if (!seconds) {
        int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
        void *mapped = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        if (mapped == MAP_FAILED) abort();
        close(file);
        seconds = mapped;
    }
    return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int failed = syscall(SYS_gettimeofday, now, zone);
    if (!failed) now->tv_sec += shift();
    return failed;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
"""

TRIAL = """
import json, sys, time
from pathlib import Path
from raybench.config.trial import TrialConfig
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

config, folder = TrialConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
setup = Setup(sweep="clock", preset="quick", results=folder, checkpoint_every_s=0)
for until in map(int, sys.argv[3:]):
    begun = time.monotonic()
    outcome = run_trial(config, setup, "a cell", until)
    said = {"status": outcome.status, "took": time.monotonic() - begun, "clock": time.time()}
    print(json.dumps(said), flush=True)
    sys.stdin.readline()
"""

CONFIG = json.dumps(
    {
        "dataset": {"name": "digits", "train_size": 500, "val_size": 100, "augment": ["crop1"], "views": 4},
        "model": {"name": "resnet8"},
        "schedule": {"epochs": 12},
        "batch_size": 32,
    }
)
EPOCHS = 12


class Clock:
    """A wall clock that the test sets, for processes that are started with it."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            pytest.skip("no C compiler here, with which to build a clock that can be set")
        source, self.library, self.file = (folder / name for name in ("shifted.c", "shifted.so", "shift"))
        source.write_text(SHIFTED)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", self.library, source], check=True)
        self.set(0)

    def set(self, seconds: int) -> None:
        """Let it be off by so much from now on."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("l", seconds))

    def start(self, folder: Path, *until: int) -> subprocess.Popen[str]:
        """Start attempts of the trial under this clock, each to that epoch, the next when a line is written to it."""
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        environment |= {"LD_PRELOAD": str(self.library), "CLOCK_SHIFT": str(self.file)}
        command = [sys.executable, "-W", "error", "-c", TRIAL, CONFIG, str(folder), *map(str, until)]
        return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it says when an attempt is through."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it ended before"
    found: dict[str, Any] = json.loads(line)
    return found


def check(folder: Path, took: float, attempt: int) -> dict[str, Any]:
    """The rows of the trial: in order, and no duration longer than all of it took."""
    (row,) = Store(folder).trials().to_dicts()
    assert (row["status"], row["epochs"], row["attempt"]) == ("complete", EPOCHS, attempt)
    epochs = Store(folder).epochs()
    assert epochs["epoch"].to_list() == list(range(1, EPOCHS + 1))
    for name in ("train_time", "eval_time"):
        assert epochs.filter(~pl.col(name).is_between(0, took, closed="right")).is_empty()
    assert 0 < row["train_time"] <= took
    assert 0 < row["device_hours"] <= took / HOUR_S
    assert 0 <= (row["ended"] - row["started"]).total_seconds() <= took
    return dict(row)


@pytest.mark.scenario(11)
@pytest.mark.parametrize("jump_s", [-HOUR_S, DAY_S], ids=["an hour back", "a day on"])
@pytest.mark.slow
def test_the_clock_jumps_while_a_trial_trains(clock: Clock, tmp_path: Path, jump_s: int) -> None:
    folder = tmp_path / "results"
    process = clock.start(folder, EPOCHS)
    while Store(folder).epochs().is_empty():
        assert process.poll() is None
        time.sleep(0.05)
    before = Store(folder).epochs().height
    clock.set(jump_s)
    found = said(process)
    assert before < EPOCHS  # it really jumped in the midst of training …
    assert abs(found["clock"] - time.time() - jump_s) < 60  # … and the trial saw it
    assert found["status"] == "complete"
    check(folder, found["took"], attempt=1)
    process.communicate("\n", timeout=60)


@pytest.mark.scenario(11)
def test_a_later_attempt_counts_though_the_clock_went_back(clock: Clock, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    process = clock.start(folder, EPOCHS // 2, EPOCHS)
    first = said(process)
    assert first["status"] == "running"
    before = Store(folder).epochs().drop("attempt")
    clock.set(-HOUR_S)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    second = said(process)
    assert second["clock"] < first["clock"]
    process.communicate("\n", timeout=60)
    row = check(folder, first["took"] + second["took"], attempt=2)
    assert row["failures"] == 0
    assert Store(folder).epochs().drop("attempt").head(EPOCHS // 2).equals(before)
