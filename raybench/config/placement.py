"""Which trials run where: how many workers fit on a node at a time, and how small a share of a GPU a trial may have.

Arithmetic only. It counts as Ray does, in ten-thousandths and GPU by GPU, so that as many trials are handed out as Ray
has room for: one more would wait, and two trials of several workers that wait for each other would wait for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from raybench.config.names import nearest

UNIT = 10_000
"""Ray counts every resource in whole parts of so many, rounded to the nearest."""
MARGIN = 0.10
"""Of the measured memory, added to it: other batches, and what the allocator cannot use again."""
CONTEXT_MIB = 600.0
"""What a process takes of a GPU beside torch's tensors: its context and the libraries' code. Assumed: torch does not
count it, and it differs between GPUs and drivers."""


@dataclass(frozen=True)
class Node:
    """A machine, as far as trials are placed by it."""

    name: str
    cpu: float
    gpu: float = 0.0
    kinds: frozenset[str] = frozenset()
    """Ray's names of the kinds of its GPUs."""
    memory_mib: float | None = field(default=None, compare=False)
    """All of its memory; none where nobody has said."""

    def has_gpu(self, kind: str | None) -> bool:
        """Whether there is a whole GPU, of that kind where one is asked for."""
        return self.gpu >= 1 and (kind is None or kind in self.kinds)

    def __str__(self) -> str:
        kinds = f" {'/'.join(sorted(self.kinds))}" if self.kinds else ""
        return f"{self.cpu:g} CPU and {self.gpu:g} GPU{kinds}"


@dataclass(frozen=True)
class Share:
    """What one worker of a trial occupies, all known, and the workers of a trial."""

    cpu: float = 1.0
    gpu: float = 0.0
    kind: str | None = None
    """Of the GPU, by Ray's name; none takes any."""
    workers: int = 1
    limit_mib: float | None = None
    """What torch may allocate for a trial on its share of a GPU; none where nobody has measured."""
    why: str = ""
    """Where the share of a GPU comes from, if it was not asked for."""

    def __str__(self) -> str:
        kind = f" {self.kind}" if self.kind else ""
        return f"{self.cpu:g} CPU" + (f" and {self.gpu:g} GPU{kind}" if self.gpu else "")


def room(node: Node, share: Share) -> int:
    """Workers with this share that run on a node at a time."""
    if share.kind is not None and share.kind not in node.kinds:
        return 0
    fits = _units(node.cpu) // _units(share.cpu)
    if share.gpu == 0:
        return fits
    # Each worker's share is of one GPU: what is left over of two makes no third.
    return min(fits, int(node.gpu) * (UNIT // _units(share.gpu)))


def at_a_time(nodes: Sequence[Node], share: Share) -> int:
    """Trials that run at a time on these nodes; 0 where none ever can.

    The workers of a trial may lie on several nodes. All ask for the same, so that none is left without a place that
    others keep in parts.
    """
    return sum(room(node, share) for node in nodes) // share.workers


def lack(nodes: Sequence[Node], share: Share) -> str | None:
    """Why no trial can ever run on these nodes, in words; none where one can."""
    if at_a_time(nodes, share):
        return None
    have = "; ".join(counted([str(node) for node in nodes])) or "none"
    kinds = sorted({kind for node in nodes for kind in node.kinds})
    if share.kind is not None and share.kind not in kinds:
        near = nearest(share.kind, kinds)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"resources.accelerator_type = {share.kind}: no node has such a GPU (nodes: {have}){hint}"
    asked = f"resources.cpu = {share.cpu:g} and resources.gpu = {share.gpu:g}"
    if (found := sum(room(node, share) for node in nodes)) and share.workers > 1:
        return f"resources.workers = {share.workers} with {asked} each: there is room for {found} (nodes: {have})"
    return f"{asked}: no node has so many (nodes: {have})"


def counted(texts: Sequence[str]) -> list[str]:
    """Equal texts once each, with how many there are: `3 x 8 CPU and 1 GPU`."""
    return [text if times == 1 else f"{times} x {text}" for text, times in Counter(texts).items()]


def gpu_share(trials: int) -> float:
    """The largest share of a GPU of which so many fit on one, as Ray counts."""
    return (UNIT // trials) / UNIT


@dataclass(frozen=True)
class Packed:
    """How many trials share a GPU, by the memory that they take."""

    trials: int
    """On a GPU at a time, at least one."""
    needed_mib: float
    """What a trial is given: measured, with the margin and the context."""
    gpu_mib: float

    @property
    def gpu(self) -> float:
        """Each one's share of a GPU."""
        return gpu_share(self.trials)

    @property
    def limit_mib(self) -> float:
        """What torch may allocate for a trial, so that none takes what others were promised."""
        return self.gpu_mib / self.trials - CONTEXT_MIB

    @property
    def fits(self) -> bool:
        """Whether one trial has what it needs."""
        return self.needed_mib <= self.gpu_mib


def pack(peak_mib: float, gpu_mib: float) -> Packed:
    """As many trials of this measured peak (MiB of tensors) as a GPU of `gpu_mib` holds with a margin."""
    needed = peak_mib * (1 + MARGIN) + CONTEXT_MIB
    return Packed(max(1, int(gpu_mib // needed)), needed, gpu_mib)


def _units(amount: float) -> int:
    # At least one: what Ray rounds to nothing would be no request at all.
    return max(1, int(amount * UNIT + 0.5))
