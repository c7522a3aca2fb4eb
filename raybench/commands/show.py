"""`raybench show TRIAL_ID [WHAT …]`: score a finished trial's weights again, draw what they do, write them as files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raybench.commands.arguments import add_plugin
from raybench.commands.endings import EXIT_COMPLETE, EXIT_TROUBLE, ended
from raybench.commands.given import load_plugins
from raybench.commands.one_trial import find_trial
from raybench.config.folders import at_home, made_at, named_data_root, results_root
from raybench.config.names import nearest
from raybench.errors import ConfigError, RaybenchError

if TYPE_CHECKING:
    from raybench.commands.finished import Finished

WHAT = {
    "score": "the best weights on the test set again, against the stored numbers",
    "predictions": "test images with the predicted class and its confidence, and the surest mistakes",
    "confusion": "the confusion matrix",
    "attention": "self-attention by layer and head, of a transformer",
    "rollout": "attention rollout, of a vision transformer",
    "merging": "the patches that token merging has made one",
    "reconstruction": "what an image codec keeps of an image",
    "files": "metrics.csv, config.json, best.safetensors, last.safetensors",
}
"""What can be shown, in the order in which it is."""


def parser(prog: str = "raybench show") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description=(__doc__ or "").partition(": ")[2],
        epilog="\n".join(
            [
                "WHAT, none for all that a trial has:",
                *(f"  {name:<15} {text}" for name, text in WHAT.items()),
                "",
                "exit codes: 0 shown; 1 the score is not the stored one; 2 bad input, or no such thing in this trial.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("trial", metavar="TRIAL_ID", help="12 hex digits, or the first few")
    parse.add_argument("what", metavar="WHAT", nargs="*", help="see below")
    add_plugin(parse)
    parse.add_argument("--results", default=results_root(), metavar="ROOT", help="folder, or s3://BUCKET/PREFIX")
    parse.add_argument("--out", type=Path, metavar="DIR", help="folder of what is written (shown/TRIAL_ID)")
    parse.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the data sets (RAYBENCH_DATA, ./data)")
    parse.add_argument(
        "--weights-root", type=Path, metavar="DIR", help="folder of weight files (default: where the data are)"
    )
    parse.add_argument("--image", type=int, nargs="+", default=[], metavar="N", help="test examples, counted from 0")
    return parse


def main(argv: Sequence[str]) -> int:
    """Show it; exit code 0, or 1 where the score is not the stored one."""
    # Intermixed, so that WHAT may also stand behind an option.
    args = parser().parse_intermixed_args(argv)
    return ended(lambda: _show(args))


def _show(args: argparse.Namespace) -> int:
    from raybench.results.storage import folder_at

    if strange := [name for name in args.what if name not in WHAT]:
        known = ", ".join(WHAT)
        near = {name: nearest(name, tuple(WHAT), n=1) for name in strange}
        hints = {name: f" (did you mean {found[0]}?)" if found else "" for name, found in near.items()}
        raise ConfigError([f'"{name}": nothing of that name is shown{hints[name]}. Known: {known}' for name in strange])
    load_plugins(args.plugin)
    found = find_trial(folder_at(args.results), args.trial)
    root = named_data_root(args.data_root)

    from raybench.commands.finished import Finished

    shown = Finished(
        found,
        made_at(args.out or Path("shown") / found.trial_id),
        at_home(root).absolute() if root else None,
        tuple(args.image),
        at_home(args.weights_root).absolute() if args.weights_root else None,
    )
    for line in said(shown, [name for name in WHAT if name in args.what], named=bool(args.what)):
        print(line, flush=True)
    return EXIT_COMPLETE if shown.equal else EXIT_TROUBLE


def said(shown: Finished, what: Sequence[str], *, named: bool) -> Iterator[str]:
    """Show it, and say of each what there is or, where nothing was named, why there is none.

    Raises ConfigError, with every reason and before anything is shown, where a trial has none of what was named.
    """
    from raybench.commands.showing import VIEWS

    shown.check_chosen()
    wanted = {name: VIEWS[name] for name in (what if named else WHAT)}
    lacking = {name: fault for name, view in wanted.items() if (fault := view.why_not(shown)) is not None}
    if named and lacking:
        raise ConfigError([f"{shown.found.trial_id}: no {name}: {fault}" for name, fault in lacking.items()])
    for name, view in wanted.items():
        if name in lacking:
            continue
        try:
            first, *rest = view.show(shown)
        except RaybenchError as error:
            if named:
                raise
            lacking[name] = str(error)
            continue
        yield f"{name}: {first}"
        yield from (f"  {line}" for line in rest)
    # What lacks for one reason is said in one line.
    for fault in dict.fromkeys(lacking.values()):
        yield f"no {', no '.join(name for name, why in lacking.items() if why == fault)}: {fault}"
