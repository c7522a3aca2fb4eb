"""`raybench export TRIAL_ID|--best SWEEP`: a trial's best weights for others: safetensors, timm, ONNX, a card."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from raybench.commands.arguments import add_plugin
from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.commands.given import load_plugins
from raybench.commands.one_trial import OneTrial, find_trial
from raybench.config.folders import at_home, made_at, named_data_root, results_root
from raybench.errors import ConfigError
from raybench.results.storage import Folder, folder_at

FORMS = {
    "timm": "config.json: timm.create_model('local-dir:DIR', pretrained=True) loads it",
    "onnx": "model.onnx, any number of images at a time; its outputs are compared with the model's (extra onnx)",
}
"""What is written beside weights and card, in that order."""


def parser(prog: str = "raybench export") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description=(__doc__ or "").partition(": ")[2],
        epilog="\n".join(
            [
                "Always written: model.safetensors (the best epoch), README.md (the model card), trial.json.",
                "FORM, none for all that the model has:",
                *(f"  {name:<6} {text}" for name, text in FORMS.items()),
                "",
                "exit codes: 0 written; 2 bad input, or a form was named that this model does not have.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("trial", metavar="TRIAL_ID", nargs="?", help="12 hex digits, or the first few")
    parse.add_argument("--best", metavar="SWEEP", help="the trial of this sweep that is best on validation")
    parse.add_argument("--preset", help="of --best: paper, small or quick (default: the one that was run last)")
    parse.add_argument(
        "--out", type=Path, metavar="DIR", help="a folder that is empty or not there (exported/TRIAL_ID)"
    )
    parse.add_argument("--form", action="append", default=[], choices=FORMS, help="this one; may be given again")
    add_plugin(parse)
    parse.add_argument("--results", default=results_root(), metavar="ROOT", help="folder, or s3://BUCKET/PREFIX")
    parse.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the data sets (RAYBENCH_DATA, ./data)")
    parse.add_argument(
        "--weights-root", type=Path, metavar="DIR", help="folder of weight files (default: where the data are)"
    )
    return parse


def main(argv: Sequence[str]) -> int:
    """Write it; exit code 0."""
    args = parser().parse_args(argv)
    return ended(lambda: _export(args))


def _export(args: argparse.Namespace) -> int:
    if faults := _faults(args):
        raise ConfigError(faults)
    load_plugins(args.plugin)
    found = _asked(args, folder_at(args.results))
    out = made_at(args.out or Path("exported") / found.trial_id)
    if fault := occupied(out):
        raise ConfigError([fault])

    from raybench.commands.exporting import export
    from raybench.commands.finished import Finished

    root = named_data_root(args.data_root)
    finished = Finished(
        found,
        out,
        at_home(root).absolute() if root else None,
        weights_root=at_home(args.weights_root).absolute() if args.weights_root else None,
    )
    for line in export(finished, args.form or list(FORMS), named=bool(args.form)):
        print(line, flush=True)
    return EXIT_COMPLETE


def _faults(args: argparse.Namespace) -> list[str]:
    """What is wrong with a command line, before anything is read."""
    faults = []
    if (args.trial is None) == (args.best is None):
        faults.append("name one trial: TRIAL_ID, or --best SWEEP for the best of a sweep")
    if args.preset is not None and args.best is None:
        faults.append(f"--preset {args.preset}: goes with --best SWEEP; a TRIAL_ID has its preset")
    if args.out is not None and (fault := occupied(made_at(args.out))):
        faults.append(fault)
    return faults


def occupied(out: Path) -> str | None:
    """Why a folder cannot be written into, in words; none where it is empty or not there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    what = "is not empty" if out.is_dir() else "is a file"
    return f"--out {out}: {what}, and nothing is overwritten; name a new folder, or remove it first"


def _asked(args: argparse.Namespace, root: Folder) -> OneTrial:
    if args.best is None:
        return find_trial(root, args.trial)

    from raybench.commands.borrowed import best_trial
    from raybench.commands.comparing import check_known

    check_known(root, args.best)
    return find_trial(root, best_trial(root / args.best, args.preset))
