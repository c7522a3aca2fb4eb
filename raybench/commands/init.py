"""`raybench init NAME`: a commented sweep to start from, in ./sweeps, checked as soon as it is written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.config.folders import at_home
from raybench.errors import ConfigError, RaybenchError, ResultsError

TEMPLATE = """\
# Which learning rate suits each of two students, and does a teacher help them?
#
#   raybench sweep {name} --preset quick --dry-run     what would run, and at what cost
#   raybench sweep {name} --preset quick               {quick_data}, no GPU needed
#   raybench sweep {name} --preset paper               {data}
#
# The first line is the question; this file's name is the sweep's. Keys: docs/sweeps.md.
metric: {{name: eval_top1}}          # by which settings are selected; always validation, never the test set
base:                              # a trial before any axis below is applied
  dataset:
{dataset}
  model: {{name: resnet20}}          # raybench list models; any timm name
  distillation:
    type: soft                     # none, hard, soft, both
    alpha: 0.5                     # weight of the teacher's term; 0 is the student alone
    tau: 2.0                       # temperature of the soft term
    teacher: {{name: resnet56, epochs: 30, batch_size: 128, optimizer: {{lr: 0.1, weight_decay: 0.0005}}}}
  optimizer: {{name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 0.0005}}
  schedule: {{name: cosine, epochs: 30, warmup_epochs: 1}}
  batch_size: 128
factors:                           # the full grid; each point is a row of the final table
  model.name: [resnet8, resnet20]
  distillation.alpha: [0.0, 0.5]
tune:                              # tried inside each row, the best on validation is selected
  algorithm: grid                  # or random, tpe: with num_samples, and distributions in the space
  space: {{optimizer.lr: [0.03, 0.1]}}
seeds: [0, 1, 2]                   # repeats; they give the intervals of the table
resources: {{cpu: 1, gpu: 0}}        # of one trial; gpu: 0.5 lets two share one

presets:                           # only what differs from the above, which is the preset `paper`
  quick:
    base:
      dataset: {{{quick}}}
      model: {{name: resnet8}}
      distillation:
        teacher: {{name: vit_micro_patch2_8, epochs: 8, batch_size: 32, optimizer: {{name: adamw, lr: 0.002}}}}
      schedule: {{epochs: 8}}
      batch_size: 64
    factors: {{distillation.alpha: [0.0, 0.5]}}
    tune: {{space: {{optimizer.lr: [0.03, 0.1]}}}}
"""
OF_CIFAR = """\
    name: cifar10                  # raybench list datasets; raybench data get cifar10
    train_size: 10000              # of those that validation leaves; all: every one
    val_size: 5000                 # images cut for validation
    image_size: 32                 # side in pixels
    augment: [crop4, hflip]
    views: 8                       # fixed views of each image, so that the teacher's answers are computed once"""
OF_PHOTOS = """\
    name: image_folder             # <class>/<photo>, or train/<class>/<photo> with test/ beside it
    path: {path}
    val_size: {val_size}
    image_size: 32                 # side in pixels at which the model sees them
    decode_size: 40                # side of the squares that are kept, from which crops are cut
    augment: [crop4, hflip]
    views: 8                       # fixed views of each photo, so that the teacher's answers are computed once"""
OF_DIGITS = "name: digits, train_size: 500, val_size: 200, image_size: 8, augment: [crop1], views: all"


def parser(prog: str = "raybench init") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description="Write a commented sweep to start from: sweeps/NAME.yaml.",
        epilog="exit codes: 0 written and valid; 2 nothing written.",
    )
    parse.add_argument("name", metavar="NAME", help="of the sweep: letters, digits, _ and -")
    parse.add_argument("--photos", type=Path, metavar="DIR", help="on photos of your own: DIR/<class>/<photo>")
    return parse


def main(argv: Sequence[str]) -> int:
    """Write and check it."""
    args = parser().parse_args(argv)
    return ended(lambda: _init(args.name, args.photos))


def _init(name: str, photos: Path | None) -> int:
    from raybench.config.document import list_sweeps
    from raybench.config.names import NAME

    if not NAME.fullmatch(name):
        raise ConfigError([f"command line: {name!r}: a sweep's name has letters, digits, _ and - only"])
    path = Path("sweeps") / f"{name}.yaml"
    if (known := list_sweeps().get(name)) is not None or path.exists():
        raise ConfigError(
            [f"command line: {name}: there is such a sweep already, {known or path}; choose another name"]
        )
    text = written(name, photos)
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        said = checked(path)
    except RaybenchError:
        path.unlink()
        raise
    print(f"{path}: {said}")
    print(f"next:  raybench sweep {name} --preset quick --dry-run")
    return EXIT_COMPLETE


def written(name: str, photos: Path | None) -> str:
    """The sweep's text. Raises DataError where there are no photos in classes."""
    if photos is None:
        data = "CIFAR-10 (raybench data get cifar10)"
        return TEMPLATE.format(name=name, data=data, dataset=OF_CIFAR, quick=OF_DIGITS, quick_data="embedded digits")
    from raybench.config.document import dump
    from raybench.data import Request, find_source

    path = at_home(photos).absolute()
    if not path.is_dir():
        raise ConfigError([f"command line: --photos {photos}: no such folder"])
    source = find_source(Request("image_folder", path=str(path), image_size=32, decode_size=40), path.parent)
    val_size = max(len(source.classes), len(source.files) // 10)
    dataset = OF_PHOTOS.format(path=dump(str(path), flow=True), val_size=val_size)
    data = f"{len(source.files):,} photos of {len(source.classes)} classes"
    quick = f"{OF_DIGITS}, path: null, decode_size: null"
    return TEMPLATE.format(name=name, data=data, dataset=dataset, quick=quick, quick_data="embedded digits")


def checked(path: Path) -> str:
    """How large each preset's plan is. Raises ConfigError where one is none."""
    from raybench.config.load import load_sweep
    from raybench.config.plan import make_plan

    plans = {preset: make_plan(load_sweep(str(path), preset)) for preset in ("paper", "quick")}
    return "; ".join(f"{preset}, {len(list(plan.trials()))} trials" for preset, plan in plans.items())
