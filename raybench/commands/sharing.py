"""How a sweep's trials share the machines: which there are, what a trial occupies, how many run at a time and where."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raybench.commands.examination import memory_here
from raybench.config.placement import Node, Packed, Share, at_a_time, lack, pack, room
from raybench.config.plan import Plan, first_values, trial_at
from raybench.config.sweep import ResourcesConfig, SweepConfig
from raybench.config.trial import TrialConfig
from raybench.errors import ConfigError, RaybenchError

if TYPE_CHECKING:
    from raybench.training.gpu_memory import Measured
    from raybench.training.recorder import Setup

NODES_SHOWN = 6
SIZES_SHOWN = 3


@dataclass(frozen=True)
class Machines:
    """The nodes that trials run on."""

    nodes: tuple[Node, ...]
    address: str | None = None
    """Of the cluster; none where it is this machine alone."""

    @property
    def gpus(self) -> float:
        """Of all nodes."""
        return sum(node.gpu for node in self.nodes)


def machines_at(address: str) -> Machines:
    """The nodes of a running cluster. Raises RaybenchError where it cannot be joined."""
    from raybench.cluster.session import nodes_at

    return Machines(tuple(nodes_at(address)), address)


def this_machine(resources: ResourcesConfig) -> Machines:
    """This machine; its GPUs are looked for only where some are asked for, since that imports torch."""
    found = 0
    if resources.gpu != 0:
        import torch

        found = torch.cuda.device_count()
    # Of which kind they are Ray tells once it runs; until then they are taken for those that are asked for.
    kinds = frozenset([resources.accelerator_type] if found and resources.accelerator_type is not None else [])
    memory, _ = memory_here()
    return Machines((Node("this machine", os.cpu_count() or 1, found, kinds, memory / 2**20),))


def check_fits(config: SweepConfig, machines: Machines) -> None:
    """Refuse at once what these machines can never run. Raises ConfigError."""
    wanted = config.resources
    share = Share(wanted.cpu, 0.0 if isinstance(wanted.gpu, str) else wanted.gpu, kind_of_gpu(wanted), wanted.workers)
    if machines.address is not None:
        faults = [fault] if (fault := lack(machines.nodes, share)) else []
    else:
        faults = _faults_here(share, machines.nodes[0])
    if faults:
        raise ConfigError([f"{config.places.get(fault.split()[0], config.name)}: {fault}" for fault in faults])


def _faults_here(share: Share, here: Node) -> list[str]:
    faults = []
    if share.cpu > here.cpu:
        faults.append(f"resources.cpu = {share.cpu:g}: this machine has {here.cpu:g}")
    if share.gpu > here.gpu:
        found = f"{here.gpu:g}" if here.gpu else "none"
        faults.append(f"resources.gpu = {share.gpu:g}: this machine has {found} (resources.gpu=0 trains on the CPU)")
    if not faults and share.workers > (have := room(here, share)):
        faults.append(f"resources.workers = {share.workers} with {share} each: this machine has room for {have}")
    return faults


def kind_of_gpu(resources: ResourcesConfig) -> str | None:
    """The kind of GPU that is asked for; none on the CPU."""
    return resources.accelerator_type if resources.gpu != 0 else None


def check_workers(config: SweepConfig, plan: Plan) -> None:
    """Refuse what several workers cannot share. Raises ConfigError."""
    workers = config.resources.workers
    if workers == 1:
        return
    trials = examples(plan)
    where = config.places.get("resources.workers", config.name)
    faults = []
    if small := sorted({trial.batch_size for trial in trials if trial.batch_size < workers}):
        sizes = ", ".join(map(str, small[:SIZES_SHOWN]))
        faults.append(f"{where}: resources.workers = {workers}: each needs a part of every batch; batch_size = {sizes}")
    if any(trial.compile for trial in trials):
        faults.append(
            f"{where}: resources.workers = {workers}: compile = true is for one process; several with a compiled step "
            "have not been tried"
        )
    if faults:
        raise ConfigError(faults)


def examples(plan: Plan) -> list[TrialConfig]:
    """The trials of a plan, or of a cell whose settings are not known yet one like them."""
    found = list(plan.trials())
    for cell in plan.cells:
        if not cell.settings:
            found.append(trial_at(plan.sweep, cell.point | first_values(plan.sweep)))
    return found


def settle(
    config: SweepConfig, machines: Machines, wanted_trials: Callable[[], Sequence[TrialConfig]], setup: Setup
) -> Share:
    """What one worker occupies; for `gpu: auto` the trials are measured. Raises RaybenchError."""
    wanted = config.resources
    kind = kind_of_gpu(wanted)
    if not isinstance(wanted.gpu, str):
        return Share(wanted.cpu, wanted.gpu, kind, wanted.workers)
    fitting = [node for node in machines.nodes if node.has_gpu(kind)]
    if not fitting:
        return Share(wanted.cpu, why="gpu: auto, and there is no GPU: on the CPU")
    if not (trials := wanted_trials()):
        return Share(wanted.cpu, 1.0, kind)  # nothing is to run
    measured = _measure(trials, setup, machines, kind)
    if (peak := measured.largest) is None:
        raise RaybenchError(
            f"resources.gpu = auto: the memory of a step could not be measured ({measured.fault}); give each trial a "
            "share, such as resources.gpu=0.5"
        )
    packed = pack(peak.mib, measured.gpu_mib)
    return Share(wanted.cpu, packed.gpu, kind, limit_mib=packed.limit_mib, why=packed_text(packed, peak.what, peak.mib))


def _measure(trials: Sequence[TrialConfig], setup: Setup, machines: Machines, kind: str | None) -> Measured:
    from raybench.training.gpu_memory import asked, measure_apart

    question = asked(trials, setup)
    if machines.address is None:
        return measure_apart(question)
    from raybench.cluster.measuring import measure_at

    return measure_at(machines.address, machines.nodes, kind, question)


def packed_text(packed: Packed, what: str, peak_mib: float) -> str:
    """How the share of a GPU came about."""
    text = (
        f"gpu: auto: {packed.trials} trial{'s' if packed.trials != 1 else ''} a GPU of {packed.gpu_mib:,.0f} MiB; "
        f"{what}, took most: {peak_mib:,.0f} MiB in a step, {packed.needed_mib:,.0f} MiB with a margin and its context"
    )
    return text if packed.fits else f"{text}: more than there is, so that its batches may have to be halved"


def placement_text(machines: Machines, share: Share, max_concurrent: int | None) -> str:
    """Trials at a time, and on a cluster where: `12 at a time: 3 nodes x 4`."""
    fits = at_a_time(machines.nodes, share)
    width = min(fits, max_concurrent) if max_concurrent else fits
    each = f"{share} each" if share.workers == 1 else f"{share.workers} workers of {share} each"
    if machines.address is None:
        return f"{max(1, width)} at a time, {each}"
    return f"{width} at a time on the cluster at {machines.address}, {each} ({_by_node(machines.nodes, share)})"


def _by_node(nodes: Sequence[Node], share: Share) -> str:
    """`gpu-1, gpu-2: 4; head: none`; workers where a trial has several."""
    by_room: dict[int, list[str]] = {}
    for node in nodes:
        by_room.setdefault(room(node, share), []).append(node.name)
    parts = []
    for fits, names in sorted(by_room.items(), reverse=True):
        counts = Counter(names)  # nodes of one machine, as tests make them, share a name
        shown = [name if times == 1 else f"{times} x {name}" for name, times in counts.items()]
        more = f" and {len(shown) - NODES_SHOWN} more" if len(shown) > NODES_SHOWN else ""
        unit = f" worker{'s' if fits > 1 else ''}" if share.workers > 1 else ""
        each = " each" if len(names) > 1 else ""
        parts.append(f"{', '.join(shown[:NODES_SHOWN])}{more}: {f'{fits}{unit}{each}' if fits else 'none'}")
    return "; ".join(parts)


def workers_text(plan: Plan) -> str:
    """How several workers share a batch; empty for one."""
    workers = plan.sweep.resources.workers
    if workers == 1:
        return ""
    sizes = sorted({trial.batch_size for trial in examples(plan)})
    shown = ", ".join(f"{size} = {workers} x {size / workers:g}" for size in sizes[:SIZES_SHOWN])
    return (
        f"{workers} workers a trial share each batch ({shown}); batch and learning rate stay as written, and the "
        "trials the same as with one worker"
    )
