"""How long a sweep still takes: what its jobs are thought to cost, corrected by what those so far have cost.

Jobs of unlike cost are kept apart by the kind of their trials. Of each kind the seconds of an epoch are those of the
epochs seen in this run; of one that has not run yet they are the estimate's, times how far that was off for the others.
What is to come is then played through as the driver would hand it out: cell by cell, rung by rung, so many at a time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from raybench.config.costs import TrialCost
from raybench.config.trial import TrialConfig
from raybench.search.cells import Job, Stages, Stretch

WORKER_S = 8.0
"""Until a new worker begins its first trial: its process, torch, Ray's word to it. Rough."""
TRIALS_SPREAD = 0.2
"""By how much trials of one kind differ in the seconds of an epoch, relative: by what runs beside them."""
OWN_EPOCHS = 8
"""Of a running trial after which its own epochs say as much of it as those of its kind."""
KEPT = 256
"""Epochs and jobs of a kind that are remembered, the latest."""
SHARE_OF_TIME = 0.02
"""Of the driver's time that may go into looking at what is to come."""
LOOK_EVERY_S = 1.0
"""Within which time the answer is only counted down."""

Costs = Callable[[TrialConfig], TrialCost]
Ahead = Callable[[], Sequence[tuple[str, Stages]]]
"""What is to come, cell by cell in the order in which they run (`Search.ahead`)."""


def makespan(
    cells: Sequence[Sequence[Sequence[float]]], width: int, running: Sequence[tuple[int, float]] = ()
) -> float:
    """Seconds until all is done, `width` at a time.

    Who falls free takes the next job of the first cell that has one. `cells`: seconds of each job, by cell and stage; a
    stage begins when all of the one before is over. `running`: (cell, seconds left) of jobs of the first stages.
    """
    later = [deque(deque(stage) for stage in stages) for stages in cells]
    ready: list[deque[float]] = [stages.popleft() if stages else deque() for stages in later]
    busy = [(left, cell) for cell, left in running]
    heapq.heapify(busy)
    open_jobs = Counter(cell for cell, _ in running)
    now, first = 0.0, 0

    def step(cell: int) -> None:
        while not ready[cell] and not open_jobs[cell] and later[cell]:
            ready[cell] = later[cell].popleft()

    for cell in range(len(ready)):
        step(cell)
    while True:
        while first < len(ready) and not ready[first] and not later[first]:
            first += 1
        while len(busy) < max(1, width):
            cell = next((index for index in range(first, len(ready)) if ready[index]), -1)
            if cell < 0:
                break
            heapq.heappush(busy, (now + ready[cell].popleft(), cell))
            open_jobs[cell] += 1
        if not busy:
            return now
        now, cell = heapq.heappop(busy)
        open_jobs[cell] -= 1
        step(cell)


@dataclass
class _Running:
    """A job at work."""

    job: Job
    since: float
    begin: int
    """Epochs behind it when it was handed out."""
    starts_worker: bool
    epochs: int = 0
    """Finished since."""
    seconds: float = 0.0
    """That these took."""
    last: float = 0.0
    """When that was last more."""


@dataclass
class _Kind:
    """What the trials of one kind have cost in this run."""

    epochs: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Seconds of each."""
    fixed: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Seconds of each job beside its epochs."""
    seen: float = 0.0
    """Trials of which these epochs are, in whole ones."""
    share: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Of the epochs that each was to take, how many it took: fewer where it diverged or ran out of patience."""

    def add(self, seconds: Sequence[float], trial: TrialConfig) -> None:
        """Epochs that were seen."""
        self.epochs.extend(seconds)
        self.seen += len(seconds) / trial.schedule.epochs

    @property
    def epoch_s(self) -> float:
        """Mean of an epoch."""
        return statistics.fmean(self.epochs)

    @property
    def variance(self) -> float:
        """Of that mean, relative: epochs of one trial share what runs beside it, so that only trials count."""
        return TRIALS_SPREAD**2 / self.seen


class TimeLeft:
    """Told of a run as it goes; says how long it still takes. May be asked by another thread than tells it."""

    def __init__(
        self,
        costs: Costs,
        clock: Callable[[], float] = time.monotonic,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`costs` is the estimate of each trial, made before the start; `stopwatch` times the reckoning itself."""
        self._stopwatch = stopwatch
        self._costs = costs
        self._ahead: Ahead = lambda: ()
        self._clock = clock
        self._lock = threading.RLock()
        self._known: dict[str, TrialCost] = {}
        self._kinds: dict[str, _Kind] = {}
        self._priors: dict[str, TrialCost] = {}
        self._running: dict[tuple[str, ...], _Running] = {}
        self._ended = 0
        self._over: list[tuple[str, ...]] = []
        """Jobs that ended since what is to come was last looked at."""
        self._to_come: list[tuple[str, Stages]] = []
        self._begins: dict[tuple[str, ...], int] = {}
        self._looked, self._look_took = -float("inf"), 0.0
        self._judged = self._passed = 0
        """Rungs at which jobs were judged while they ran, and those they passed."""
        self._teachers: dict[str, float] = {}
        self._teacher: tuple[str, float] | None = None
        self._teacher_ratios: list[float] = []
        self.teachers_took_s = 0.0
        """Spent on teachers so far."""
        self._said: tuple[float, float] | None = None
        """When it was last reckoned, and what came out."""
        self._reckoned: dict[tuple[str, int, tuple[int, ...], int], float] = {}
        """Kind, trials, rungs and begin of a job -> its seconds, within one reckoning."""
        self._reckoning_took = 0.0
        self._news = True

    # -- what is told --------------------------------------------------------------------------------------------------

    def follow(self, ahead: Ahead, teachers: Mapping[str, float]) -> None:
        """What is to come, and the teachers to be prepared before the first trial, each with its estimate, s."""
        with self._lock:
            self._ahead, self._teachers = ahead, dict(teachers)
            self._look(now=True)

    def teacher_started(self, key: str) -> None:
        """A teacher is being prepared."""
        with self._lock:
            self._teacher, self._news = (key, self._clock()), True

    def teacher_ready(self, key: str) -> None:
        """A teacher is ready."""
        with self._lock:
            thought = self._teachers.pop(key, 0.0)
            if self._teacher and self._teacher[0] == key:
                took = self._clock() - self._teacher[1]
                self.teachers_took_s += took
                if thought > 0:
                    self._teacher_ratios.append(took / thought)
            self._teacher, self._news = None, True

    def started(self, job: Job) -> None:
        """A job was handed out."""
        with self._lock:
            now = self._clock()
            self._teachers.clear()
            begin = self._begins.get(job.key, 0)
            self._running[job.key] = _Running(job, now, begin, starts_worker=self._ended == 0, last=now)
            self._look()

    def seen(self, trial: TrialConfig, seconds: Sequence[float]) -> None:
        """The epochs of a running trial so far, each with its seconds."""
        with self._lock:
            ids = ((each, {one.trial_id for one in each.job.trials}) for each in self._running.values())
            job = next((each for each, known in ids if trial.trial_id in known), None)
            new = len(seconds) - job.begin if job else 0
            if job and len(job.job.trials) == 1 and new > job.epochs:
                kind = self._kind(trial)
                # The first warms up; it counts where there is no other.
                fresh = seconds[job.begin + job.epochs :]
                kind.add(fresh[1:] if job.epochs == 0 and len(fresh) > 1 else fresh, trial)
                job.epochs, job.seconds, job.last = new, sum(seconds[job.begin :]), self._clock()

    def ended(self, job: Job, seconds: Sequence[Sequence[float]] | None, over: bool = True) -> None:
        """A job came back; `seconds` of each epoch of each of its trials so far, where that is known.

        `over`: whether its trials are settled, or paused at a rung as planned; one that broke tells nothing.
        """
        with self._lock:
            running = self._running.pop(job.key, None)
            if running is None:
                return
            self._ended += 1
            if over:
                self._over.append(job.key)
                self._learn(running, seconds)
            self._look()

    def _learn(self, running: _Running, seconds: Sequence[Sequence[float]] | None) -> None:
        job, kind = running.job, self._kind(running.job.trials[0])
        planned = len(job.trials) * (job.rungs[-1] - running.begin)
        trained = planned * self._epoch_s(job.trials[0])
        if seconds is not None:
            took = [each for one in seconds for each in one[running.begin :]]
            trained = sum(took)
            kind.add(took[running.epochs :], job.trials[0])
            self._judge(job, running.begin, len(took) // len(job.trials))
            if planned and len(job.rungs) == 1:
                kind.share.append(min(1.0, len(took) / planned))
        if not running.starts_worker:
            kind.fixed.append(max(0.0, self._clock() - running.since - trained))

    def _judge(self, job: Job, begin: int, epochs: int) -> None:
        for rung in job.rungs[:-1]:
            if begin < rung <= begin + epochs:
                self._judged += 1
                self._passed += begin + epochs > rung

    # -- what is asked -------------------------------------------------------------------------------------------------

    def left(self, width: int) -> float:
        """Seconds, with `width` trials at a time."""
        with self._lock:
            now = self._clock()
            rest = max(0.0 if self._news else LOOK_EVERY_S, self._reckoning_took / SHARE_OF_TIME)
            if self._said is not None and now - self._said[0] < rest:
                return max(0.0, self._said[1] - (now - self._said[0]))
            begun = self._stopwatch()
            left = self._teachers_left(now) + self._trials_left(now, width)
            self._reckoning_took = self._stopwatch() - begun
            self._said, self._news = (now, left), False
            return left

    def _teachers_left(self, now: float) -> float:
        ratio = statistics.fmean(self._teacher_ratios) if self._teacher_ratios else 1.0
        left = sum(self._teachers.values()) * ratio
        if self._teacher:
            left -= min(now - self._teacher[1], self._teachers.get(self._teacher[0], 0.0) * ratio)
        return left

    def _trials_left(self, now: float, width: int) -> float:
        self._reckoned.clear()
        cells = {label: index for index, (label, _) in enumerate(self._to_come)}
        running = [
            (cells.get(each.job.cell, 0), self._running_left(each, now)) for each in list(self._running.values())
        ]
        due = [[[self._job_s(each) for each in stage] for stage in stages] for stages in self._waiting()]
        anew = WORKER_S if not self._running and self._ended == 0 else 0.0
        return anew + makespan(due or [[[]]], width, running)

    def work(self) -> float:
        """Seconds of all trials that are to come, one after the other."""
        with self._lock:
            self._reckoned.clear()
            return sum(self._job_s(each) for stages in self._waiting() for stage in stages for each in stage)

    def _waiting(self) -> Iterator[list[list[Stretch]]]:
        """What is to come without what runs or is over by now. Only first stages hold that: later ones are examples."""
        gone = Counter([*self._running, *self._over])
        for _, stages in self._to_come:
            first = []
            for each in stages[0]:
                if gone[each.job.key] > 0:
                    gone[each.job.key] -= 1
                else:
                    first.append(each)
            yield [first, *stages[1:]]

    def _job_s(self, stretch: Stretch) -> float:
        """Seconds of a job that waits; reckoned once for all of its kind."""
        job, trial = stretch.job, stretch.job.trials[0]
        key = (self._cost(trial).kind, len(job.trials), job.rungs, stretch.begin)
        if key not in self._reckoned:
            epochs = len(job.trials) * self._expected(job, stretch.begin)
            self._reckoned[key] = self._fixed_s(trial) + epochs * self._epoch_s(trial)
        return self._reckoned[key]

    def _running_left(self, each: _Running, now: float) -> float:
        """Seconds of a job at work: by its own epochs, the more so the more there are."""
        job, trial = each.job, each.job.trials[0]
        epoch_s, fixed_s = self._epoch_s(trial), self._fixed_s(trial)
        epochs = len(job.trials) * self._expected(job, each.begin + each.epochs)
        if not each.epochs:
            start = WORKER_S if each.starts_worker else 0.0
            return max(fixed_s + epochs * epoch_s + start - (now - each.since), epochs * epoch_s)
        own = each.epochs / (each.epochs + OWN_EPOCHS)
        epoch_s = own * each.seconds / each.epochs + (1 - own) * epoch_s
        return max(0.0, epochs * epoch_s - min(now - each.last, epoch_s)) + fixed_s / 2

    def _expected(self, job: Job, begin: int) -> float:
        """Epochs that each trial of a job will still take."""
        total, alive = 0.0, 1.0
        for before, rung in itertools.pairwise((begin, *(rung for rung in job.rungs if rung > begin))):
            total += alive * (rung - before)
            alive *= self._pass_share(job)
        share = self._kinds[kind].share if (kind := self._cost(job.trials[0]).kind) in self._kinds else ()
        return total * (statistics.fmean(share) if share else 1.0)

    def _pass_share(self, job: Job) -> float:
        """How many jobs pass a rung: at first one in the reduction factor, then as in this run."""
        factor = job.rungs[1] / job.rungs[0] if len(job.rungs) > 1 else 1.0
        return (self._passed + 1) / (self._judged + max(1.0, factor))

    def _epoch_s(self, trial: TrialConfig) -> float:
        """What was seen of its kind and what was estimated, each by how sure it is."""
        cost = self._cost(trial)
        thought = cost.epoch_s * self._ratio()
        kind = self._kinds.get(cost.kind)
        if not kind or not kind.epochs:
            return thought
        trust = cost.spread**2 / (cost.spread**2 + kind.variance)
        return trust * kind.epoch_s + (1 - trust) * thought

    def _ratio(self) -> float:
        """How many times as long as estimated an epoch takes, over the kinds that have run."""
        total = weights = 0.0
        for name, kind in self._kinds.items():
            thought = self._priors[name]
            if any(kind.epochs) and thought.epoch_s > 0:
                weight = 1 / (thought.spread**2 + kind.variance)
                total += weight * math.log(kind.epoch_s / thought.epoch_s)
                weights += weight
        return math.exp(total / weights) if weights else 1.0

    def _fixed_s(self, trial: TrialConfig) -> float:
        cost = self._cost(trial)
        own = self._kinds[cost.kind].fixed if cost.kind in self._kinds else ()
        if own:
            return statistics.median(own)
        others = [statistics.median(kind.fixed) for kind in self._kinds.values() if kind.fixed]
        return statistics.median(others) if others else cost.fixed_s

    # -- what is to come -----------------------------------------------------------------------------------------------

    def _look(self, now: bool = False) -> None:
        """Look again at what is to come, where that has not just been done: of a large sweep it takes a while."""
        at = self._clock()
        self._news = True
        if not now and at - self._looked < self._look_took / SHARE_OF_TIME:
            return
        begun = self._stopwatch()
        self._to_come = [(label, list(stages)) for label, stages in self._ahead()]
        shared: dict[tuple[str, ...], int] = {}
        for cell, (_, stages) in enumerate(self._to_come):  # a job that two cells want runs once
            stages[0] = [each for each in stages[0] if shared.setdefault(each.job.key, cell) == cell]
        self._begins = {each.job.key: each.begin for _, stages in self._to_come for each in stages[0]}
        self._looked, self._look_took = at, self._stopwatch() - begun
        self._over.clear()

    def _kind(self, trial: TrialConfig) -> _Kind:
        return self._kinds.setdefault(self._cost(trial).kind, _Kind())

    def _cost(self, trial: TrialConfig) -> TrialCost:
        if trial.setting_id not in self._known:
            cost = self._costs(trial)
            self._known[trial.setting_id] = self._priors[cost.kind] = cost
        return self._known[trial.setting_id]
