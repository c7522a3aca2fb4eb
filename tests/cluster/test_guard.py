"""The thread that ends a driver whose main thread is caught: in processes of their own, which it really ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# The main thread sleeps, as it would inside Ray. The waits are shortened, their order is as in earnest.
DRIVER = """\
import socket, sys, time
from raybench.cluster import guard

guard.LOOK_EVERY_S, guard.HEED_WITHIN_S, guard.END_WITHIN_S = 0.1, 1.0, 1.5
guard.LOCAL_SILENCE_S, guard.REMOTE_SILENCE_S = 1.0, 2.5

class Stop:
    number = None
    at = None

def last_words(reason):
    print(f"{time.monotonic() - begun:.1f}|{reason}", flush=True)
    return 7

ray = socket.create_server(("127.0.0.1", 0))
"""


def _run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DRIVER + script],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def _said(output: str) -> tuple[float, str]:
    seconds, _, reason = output.partition("|")
    return float(seconds), reason


@pytest.mark.scenario(3)
@pytest.mark.parametrize(
    ("local", "least_s", "reason"),
    [("True", 1.0, "Ray's process on this machine is gone"), ("False", 2.5, "Ray at 127.0.0.1:")],
)
def test_ray_that_no_longer_listens_ends_the_driver_after_a_while(local: str, least_s: float, reason: str) -> None:
    done = _run(f"""
with guard.Guard(Stop(), last_words, local={local}) as watching:
    watching.watch([ray.getsockname()])
    time.sleep(0.5)
    ray.close()
    begun = time.monotonic()
    time.sleep(30)
""")
    assert (done.returncode, done.stderr) == (7, ""), done
    after, said = _said(done.stdout.strip())
    # Silence counts from the last answer, which came up to a look and a rounding before the end.
    assert least_s - 0.2 <= after < 10
    assert said.startswith(reason)


@pytest.mark.scenario(4)
def test_a_signal_that_nobody_heeds_ends_the_driver() -> None:
    done = _run("""
stop = Stop()
with guard.Guard(stop, last_words, local=True) as watching:
    watching.watch([ray.getsockname()])
    stop.number, stop.at = 2, (begun := time.monotonic())
    time.sleep(30)
""")
    assert (done.returncode, done.stderr) == (7, ""), done
    after, said = _said(done.stdout.strip())
    assert 1.0 <= after < 10
    assert said == "Ray did not come to an end"


@pytest.mark.scenario(7)
def test_an_end_that_takes_too_long_is_made_short() -> None:
    """With a dead head, Ray's own shutdown waits for ever."""
    done = _run("""
with guard.Guard(Stop(), last_words, local=True) as watching:
    watching.watch([ray.getsockname()])
    ray.close()
    begun = time.monotonic()
    watching.watch(())
    time.sleep(30)
""")
    assert (done.returncode, done.stderr) == (7, ""), done
    after, said = _said(done.stdout.strip())
    assert 1.5 <= after < 10
    assert said == "Ray did not come to an end"


def test_while_ray_answers_and_once_it_is_left_nothing_happens() -> None:
    done = _run("""
begun = time.monotonic()
with guard.Guard(Stop(), last_words, local=True) as watching:
    time.sleep(2)  # Ray has not begun
    watching.watch([ray.getsockname()])
    time.sleep(2)
ray.close()
time.sleep(2)
print("in order")
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "in order\n", ""), done


def test_a_fault_in_the_last_words_still_ends_the_driver() -> None:
    begun = time.monotonic()
    done = _run("""
def last_words(reason):
    raise OSError("no space left")

address = ray.getsockname()
ray.close()
with guard.Guard(Stop(), last_words, local=True) as watching:
    watching.watch([address])
    time.sleep(30)
""")
    assert done.returncode == 1, done
    assert time.monotonic() - begun < 25
