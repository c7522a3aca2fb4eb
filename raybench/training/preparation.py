"""Teachers made ready once, on the whole training part, and shared by all trials, seeds and sweeps that ask for one.

A prepared teacher is a folder in the cache: `weights.safetensors` (with the normalisation and size of its input),
`teacher.json` (written last) and, for each set of views, a folder of logits.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from raybench.config.folders import cache_root
from raybench.config.trial import TrialConfig
from raybench.data import ImageData
from raybench.data.splits import split
from raybench.data.views import BLOCK
from raybench.distillation.cache import MARKS, Rows, ViewCache, cache_key
from raybench.distillation.packing import KEPT, Packing, packing_of
from raybench.distillation.teacher import RECORD, Teacher, TeacherRecord
from raybench.errors import RaybenchError
from raybench.models import count_parameters
from raybench.models.builder import BuiltModel
from raybench.models.macs import count_macs
from raybench.results.depot import MARK, depot
from raybench.results.storage import Stamp, stamp
from raybench.training.batches import TrainingImages, views_of
from raybench.training.checkpoints import Checkpoints
from raybench.training.device import Device, choose_device, out_of_memory, where_computed, workers
from raybench.training.ingredients import as_planned, gather, load_data, make_model, scored_images
from raybench.training.limits import Limits
from raybench.training.loop import Epoch, Run, evaluate, signed, train
from raybench.training.recorder import Setup
from raybench.training.tasks import CachedTeacher, Classification, LiveTeacher, TeacherLogits
from raybench.training.watchdog import Watchdog

Progress = Callable[[str], None]

WORTH_THREADS_MACS = 1_000_000_000
"""Multiply-adds of a step's forward pass below which threads wait for each other longer than they compute. A rule of
the model's size, not of a clock, so that the same machine prepares the same bits again."""
WEIGHTS = "weights.safetensors"
logger = logging.getLogger(__name__)
LOGITS = ("rows.i16", MARKS)
"""Files of a cache of logits that are copied from machine to machine, the marks last."""


@dataclass(frozen=True)
class TeacherWanted:
    """A teacher that due trials need: an example of them, and the most images any of them trains on."""

    example: TrialConfig
    images: int


def teacher_key(config: TrialConfig) -> str:
    """Identity of a prepared teacher: its own trial, its weight file, and how it is prepared.

    Of a trial `as_planned`: its data and that file are told by what they hold.
    """
    own, teacher = config.teacher_trial(), config.canonical().distillation.teacher
    assert own is not None
    assert teacher is not None
    # Its own identity holds the digest of a file named by its path, not of one found by its published name.
    weights = {"weights": teacher.digest} if teacher.digest and not teacher.from_file else {}
    return cache_key(trial=own.trial_id, prepare=teacher.prepare, **weights)


def teacher_folder(config: TrialConfig) -> Path:
    """Where the teacher of this trial is or will be."""
    return cache_root() / "teachers" / teacher_key(config)


def ensure_teacher(
    config: TrialConfig, setup: Setup, say: Progress = lambda _: None, check: Callable[[], None] = lambda: None
) -> TeacherRecord:
    """The record of this trial's teacher, prepared now if nobody has yet. Others wait for whoever prepares it.

    `check` is called in every step.
    """
    config = as_planned(config, setup)
    folder = teacher_folder(config)
    if (record := _ready(folder)) is not None and _agreed(folder):
        return record
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        record = _ready(folder) or _fetched(folder)
        if record is None:
            _forget(folder)
            threads = torch.get_num_threads()
            try:
                record = _prepare(config, setup, folder, say, check)
            finally:
                # The trial that had to prepare its teacher must train like those that found it.
                torch.set_num_threads(threads)
        return _shared(folder, record)


def find_teacher(config: TrialConfig) -> TeacherRecord | None:
    """The record of a teacher that was prepared, here or on another machine of the cluster; none where none was."""
    folder = teacher_folder(config)
    record = _ready(folder)
    if record is not None or depot() is None:
        return record
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        return _ready(folder) or _fetched(folder)


def _agreed(folder: Path) -> bool:
    """Whether this machine's teacher is the one of the whole cluster."""
    store = depot()
    return store is None or store.agrees(_in_depot(folder), folder)


def _fetched(folder: Path) -> TeacherRecord | None:
    """The teacher that another machine has brought to the cluster's depot, copied here; the caller holds the lock."""
    store = depot()
    if store is None:
        return None
    _forget(folder)
    return _ready(folder) if store.fetch(_in_depot(folder), folder) else None


def _shared(folder: Path, record: TeacherRecord) -> TeacherRecord:
    """The one teacher of the whole cluster: this machine's, unless another has brought its own to the depot before."""
    store = depot()
    if store is None or _agreed(folder) or store.publish(_in_depot(folder), folder, (WEIGHTS, RECORD)):
        return record
    return _fetched(folder) or record


def _in_depot(folder: Path) -> str:
    return f"teachers/{folder.name}"


def _forget(folder: Path) -> None:
    """Remove what speaks of an earlier teacher here, whose weights are gone: the next one may have other bits."""
    (folder / RECORD).unlink(missing_ok=True)
    (folder / MARK).unlink(missing_ok=True)
    for logits in folder.glob("logits-*"):
        shutil.rmtree(logits)


def _ready(folder: Path) -> TeacherRecord | None:
    """The record of a teacher whose weights are there as they were written."""
    record, weights = TeacherRecord.load(folder), folder / WEIGHTS
    version = stamp(weights)
    if record is None or version is None:
        return None
    try:
        if not record.weights_digest or record.weights_digest == _digest_of(weights, version):
            return record
    except FileNotFoundError:  # gone since
        return None
    logger.warning(f"{weights} is damaged (SHA-256); the teacher is prepared again")
    return None


@functools.lru_cache
def _digest_of(path: Path, _version: Stamp | None) -> str:
    """SHA-256 of a file, read once a process and version."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prepare(
    config: TrialConfig, setup: Setup, folder: Path, say: Progress, check: Callable[[], None]
) -> TeacherRecord:
    own, teacher = config.teacher_trial(), config.canonical().distillation.teacher
    assert own is not None
    assert teacher is not None
    start = time.perf_counter()
    device = choose_device(own.precision, setup.gpu)
    device.set_products()
    ingredients = gather(own, setup, device)
    torch.set_num_threads(setup.threads if worth_threads(own, ingredients.built, ingredients.data) else 1)
    task = Classification(ingredients.built, device.device, own.label_smoothing, head_only=teacher.prepare == "head")
    if teacher.prepare != "none":
        run = Run(own, task, ingredients.training, ingredients.validation, device, None, check)
        every_s, every_epochs = setup.checkpoint_every_s, setup.checkpoint_every_epochs
        _train(run, Checkpoints(folder / "checkpoints", every_s=every_s, every_epochs=every_epochs), say)
    scores = {
        "eval": evaluate(task, ingredients.validation, device),
        "test": evaluate(task, scored_images(ingredients, own.dataset, device), device),
    }
    _save_weights(task, folder)
    record = TeacherRecord(
        key=folder.name,
        name=teacher.name,
        prepare=teacher.prepare,
        eval_top1=scores["eval"]["top1"],
        test_top1=scores["test"]["top1"],
        chance_top1=100 / len(ingredients.data.classes),
        param_count=count_parameters(task.module) / 1e6,
        prepare_time=time.perf_counter() - start,
        weights_digest=_digest_of(folder / WEIGHTS, stamp(folder / WEIGHTS)),
    )
    record.save(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return record


def worth_threads(own: TrialConfig, built: BuiltModel, data: ImageData) -> bool:
    """Whether a teacher is large enough to be prepared with all the threads there are."""
    macs = count_macs(built.module, data.train_images.shape[1], built.image_size)
    return macs * own.batch_size >= WORTH_THREADS_MACS


def _save_weights(task: Classification, folder: Path) -> None:
    """The teacher's weights and how its input is made, there whole or not at all."""
    about = {"mean": json.dumps(task.mean), "std": json.dumps(task.std), "image_size": json.dumps(task.image_size)}
    draft = folder / ".weights.tmp"
    save_file({name: tensor.cpu().contiguous() for name, tensor in task.module.state_dict().items()}, draft, about)
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.replace(folder / WEIGHTS)


def _train(run: Run, checkpoints: Checkpoints, say: Progress) -> None:
    """The one loop, on the teacher; its best epoch on validation is kept. Raises RaybenchError when there is none."""
    torch.manual_seed(run.config.seed)
    if (state := checkpoints.newest(run.misfit)) is not None:
        run.restore(state)

    def after_epoch(run: Run, epoch: Epoch) -> bool:
        say(f"epoch {run.epoch}/{run.config.schedule.epochs}, validation top-1 {epoch.metrics['eval_top1']:.1f} %")
        if epoch.finite and checkpoints.due(run.epoch):
            checkpoints.save(run.state())
        return True

    went = train(run, run.config.schedule.epochs, lambda epoch: signed(epoch.metrics["eval_top1"], "max"), after_epoch)
    if not went or not run.best_weights:
        raise RaybenchError(
            f"teacher {run.config.model.name}: its loss is not a number in epoch {run.epoch}; "
            f"lower distillation.teacher.optimizer.lr = {run.config.optimizer.lr:g}"
        )
    run.use_best()


def load_teacher(config: TrialConfig, setup: Setup, device: Device) -> Teacher:
    """The prepared teacher of a trial as a frozen model."""
    config = as_planned(config, setup)
    teacher = config.canonical().distillation.teacher
    assert teacher is not None
    own = config.teacher_trial()
    assert own is not None
    data = load_data(config.dataset, setup)
    path = teacher_folder(config) / WEIGHTS
    with safe_open(path, "pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
    # Those its first weights brought, which need not be here any more.
    mean, std, size = tuple(about["mean"]), tuple(about["std"]), about["image_size"]
    bare = own.model.model_copy(update={"weights": "none", "mean": mean, "std": std, "image_size": size})
    built = make_model(bare, config.dataset, data, setup)
    try:
        built.module.load_state_dict(load_file(path))
    except RuntimeError as error:
        # Whoever asks next prepares it again, or has it from a depot once more.
        path.with_name(RECORD).unlink(missing_ok=True)
        store = depot()
        also = "" if store is None else f", after removing {store.root / _in_depot(path.parent)}"
        raise RaybenchError(
            f"{path} is of another version of {own.model.name} ({str(error).splitlines()[-1].strip()}); "
            f"run the same command again with --rerun failed{also}: the teacher is prepared anew"
        ) from error
    return Teacher(built, device.device, device.autocast_dtype)


class Logits:
    """The cached logits of a trial's teacher for the views its images can show; computed where they are missing.

    Opening it has a part of what others left there computed again, once a machine and version of the file.
    """

    def __init__(self, config: TrialConfig, setup: Setup, device: Device) -> None:
        self.config, self.setup, self.device = (config := as_planned(config, setup)), setup, device
        self._data = load_data(config.dataset, setup)
        parts = split(self._data.train_labels, config.dataset.val_size, "all")
        self._everything = parts.train
        classes = len(self._data.classes)
        packing, whole = packing_of(config.distillation, classes), Packing(classes, whole=True)
        self.cache = _cache(config, self._data, len(self._everything), device, packing)
        self._whole: ViewCache | None = None
        """Where the same logits may be whole, of which those that are kept in part are made without the teacher."""
        if not packing.dense and logits_folder(config, self._data, device, whole).is_dir():
            self._whole = _cache(config, self._data, len(self._everything), device, whole)
        self._made: tuple[TrainingImages, Teacher] | None = None
        self._making = threading.Lock()
        self.cache.verify(self._asked, where_computed(device))

    def fill(self, images: int, check: Callable[[], None] = lambda: None) -> None:
        """Compute what is missing for the first `images` training images. `check` is called before each part."""
        if self.cache.fill(images, self._compute, None, check, workers(self.device)):
            self.cache.mark_verified(where_computed(self.device))
        self._made = None

    def _compute(self, positions: Tensor, slot: int) -> Tensor:
        """float16 logits (B, classes) of the images of one block, the same bits wherever they are from."""
        if self._whole is not None and (known := self._whole.part(int(positions[0]) // BLOCK, slot)) is not None:
            return known.half()
        return self._asked(positions, slot)

    def _asked(self, positions: Tensor, slot: int) -> Tensor:
        """Loads the teacher and the images, which nobody needs where nothing is missing."""
        try:
            with self._making:
                self._made = self._made or self._make()
            training, teacher = self._made
            return teacher.logits(training.render(positions, torch.full_like(positions, slot)))
        except Exception as error:
            if (lack := out_of_memory(error)) is None:
                raise
            # Smaller batches of the student would not help.
            raise RaybenchError(
                f"{lack}, for {len(positions)} images of the teacher; give trials more memory, or the teacher a "
                "smaller image_size"
            ) from None

    def _make(self) -> tuple[TrainingImages, Teacher]:
        # A model is made with random weights before its own are read: whoever trains must not see that in its draws.
        with torch.random.fork_rng(devices=[]):
            training = TrainingImages(self._data, self._everything, self.config.dataset, self.device.device)
            return training, load_teacher(self.config, self.setup, self.device)

    def of_epochs(self, training: TrainingImages) -> CachedTeacher:
        """The teacher of the trial that trains on these images; it computes what an epoch lacks when that begins."""

        def rows(epoch: int, seed: int, check: Callable[[], None]) -> Rows:
            slots = training.block_slots(epoch, seed)
            device = self.device.device
            found, computed = self.cache.take(len(training), self._compute, slots, device, check, workers(self.device))
            if computed:
                self.cache.mark_verified(where_computed(self.device))
            else:
                self._made = None  # by now all that later epochs show is there, or nearly
            return found

        return CachedTeacher(rows)


def logits_folder(config: TrialConfig, data: ImageData, device: Device, packing: Packing) -> Path:
    """Where the teacher's logits for these views, device, precision and packing are or will be."""
    key = cache_key(
        data=data.fingerprint,
        val_size=config.dataset.val_size,
        augment=config.dataset.augment,
        views=views_of(config.dataset),
        image_size=config.dataset.image_size,
        precision=device.precision,
        device=device.device.type,
        packing="whole" if packing.dense else f"top {KEPT}",
    )
    return teacher_folder(config) / f"logits-{key}"


def _cache(config: TrialConfig, data: ImageData, images: int, device: Device, packing: Packing) -> ViewCache:
    """The cache of the teacher's logits, filled or not."""
    folder = logits_folder(config, data, device, packing)
    _fetch_logits(folder)
    return ViewCache(folder, images, views_of(config.dataset), packing)


def _fetch_logits(folder: Path) -> None:
    """Copy the logits that were computed on another machine of the cluster, where none are here."""
    store = depot()
    if store is None or any((folder / file).exists() for file in LOGITS):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
        if not any((folder / file).exists() for file in LOGITS):
            store.fetch(f"{_in_depot(folder.parent)}/{folder.name}", folder)


def _share_logits(folder: Path) -> None:
    """Bring logits to the depot, unless some are there."""
    if (store := depot()) is not None:
        store.publish(f"{_in_depot(folder.parent)}/{folder.name}", folder, LOGITS)


def prepared(config: TrialConfig, setup: Setup, images: int) -> TeacherRecord | None:
    """The record of a teacher that has all it needs on this machine's CPU, its logits too if prefilled; else none."""
    config = as_planned(config, setup)
    record = _ready(teacher_folder(config))
    if record is None or config.distillation.cache != "prefill":
        return record
    data = load_data(config.dataset, setup)
    everything = split(data.train_labels, config.dataset.val_size, "all").train
    packing = packing_of(config.distillation, len(data.classes))
    cache = _cache(config, data, len(everything), choose_device(config.precision, 0), packing)
    return None if cache.missing(images) else record


def teacher_logits(
    config: TrialConfig, setup: Setup, training: TrainingImages, device: Device
) -> tuple[TeacherLogits, TeacherRecord]:
    """Where this trial's teacher logits come from, and what is known of the teacher."""
    record = ensure_teacher(config, setup)
    if config.distillation.cache == "off":
        return LiveTeacher(load_teacher(config, setup, device)), record
    logits = Logits(config, setup, device)
    if config.distillation.cache == "prefill":
        logits.fill(len(training))
    return logits.of_epochs(training), record


def prepare_teacher(config: TrialConfig, setup: Setup, images: int, say: Progress = lambda _: None) -> TeacherRecord:
    """Prepare the teacher and, where the trials use the cache, its logits: what the trials would else wait for."""
    torch.set_num_threads(setup.threads)
    # A worker that hangs, or whose driver is gone, would hold the teacher's lock for ever.
    limits = Limits(stall_s=setup.stall_s)
    with Watchdog(limits) if setup.guarded else contextlib.nullcontext():
        record = ensure_teacher(config, setup, say, limits.check)
        limits.rest()
        if config.distillation.cache == "prefill":
            device = choose_device(config.precision, setup.gpu)
            device.set_products()
            logits = Logits(config, setup, device)
            logits.fill(images)
            _share_logits(logits.cache.folder)
    return record
