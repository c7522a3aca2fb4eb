"""Two trials on two cores: both at once with a thread each, against one after the other with two threads.

    python benchmarks/concurrency.py [--json] [--pairs 5] [--images 2560]

A trial is an epoch of 32x32 images in batches of 128 by our own loop, fp32. Each side's processes are started, and have
trained an epoch, before anything is timed.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection

import torch

from benchmarks.peers.pairs import Claim, arguments, interleaved, show
from benchmarks.training_step import images, ours

BAR = 1.5
CORES = 2


def worker(pipe: Connection, count: int, threads: int) -> None:
    """Trains an epoch whenever it is asked to, and says when it is done."""
    torch.set_num_threads(threads)
    run = ours(images(count), count, precision="fp32")
    while pipe.recv():
        run.train_epoch()
        pipe.send(True)


class Worker:
    """A process that trains."""

    def __init__(self, count: int, threads: int) -> None:
        here, there = multiprocessing.get_context("spawn").Pipe()
        self.pipe = here
        process = multiprocessing.get_context("spawn").Process(target=worker, args=(there, count, threads), daemon=True)
        process.start()
        there.close()  # so that a worker that dies is noticed
        self.start()
        self.wait()

    def start(self) -> None:
        """Begin an epoch."""
        self.pipe.send(True)

    def wait(self) -> None:
        """Until it is done."""
        self.pipe.recv()

    def end(self) -> None:
        """No more epochs."""
        self.pipe.send(False)


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=2560, help="images of an epoch")
    args = parser.parse_args()
    both, one = [Worker(args.images, 1) for _ in range(CORES)], Worker(args.images, CORES)

    def at_once() -> None:
        for each in both:
            each.start()
        for each in both:
            each.wait()

    def in_turn() -> None:
        for _ in range(CORES):
            one.start()
            one.wait()

    claim = "two trials of one thread at once, against one of two threads after the other"
    show([Claim(claim, *interleaved(at_once, in_turn, args.pairs), bar=BAR)], args.json, threads=CORES)
    for each in (*both, one):
        each.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
