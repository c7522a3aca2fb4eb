"""`python -m raybench.profile MODEL…`: parameters, multiply-adds, speed and memory of models, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from raybench.commands.arguments import add_plugin, positive
from raybench.commands.endings import EXIT_COMPLETE, EXIT_TROUBLE, ended


def parser(prog: str = "python -m raybench.profile") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description="Parameters and multiply-adds of models, counted; their speed and memory, measured side by side on "
        "random images, on the GPU where there is one.",
        epilog="exit codes: 0 all models profiled; 1 some could not be measured; 2 bad input, nothing started.",
    )
    parse.add_argument("models", nargs="+", metavar="MODEL", help="of raybench (raybench list models), or a timm name")
    parse.add_argument(
        "--image-size",
        type=positive,
        metavar="N",
        help="side of the images in pixels (default: what each is meant for)",
    )
    parse.add_argument(
        "--num-classes", type=positive, default=10, metavar="N", help="classes of the head (default: 10)"
    )
    parse.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images a step (default: 32)")
    parse.add_argument(
        "--precision",
        choices=("auto", "amp", "fp32", "tf32", "bf16", "fp16"),
        default="auto",
        help="auto (default): bf16 or fp16 on a GPU, fp32 on a CPU; amp: bf16 there, too, where it is fast",
    )
    parse.add_argument("--threads", type=positive, metavar="N", help="threads on the CPU (default: torch's own choice)")
    parse.add_argument("--repeats", type=positive, default=5, metavar="N", help="repeats of each timing (default: 5)")
    parse.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="arguments of the models, such as depth=6"
    )
    add_plugin(parse)
    parse.add_argument("--no-timing", action="store_true", help="count only, measure nothing")
    parse.add_argument("--json", action="store_true", help="print a list of objects, with exact integers")
    return parse


def main(argv: Sequence[str] | None = None, prog: str = "python -m raybench.profile") -> int:
    """Run the command; returns its exit code."""
    args = parser(prog).parse_intermixed_args(list(sys.argv[1:] if argv is None else argv))
    return ended(lambda: _profile(args))


def _profile(args: argparse.Namespace) -> int:
    from raybench.commands.given import load_plugins
    from raybench.commands.profiling import Request, profile

    load_plugins(args.plugin)
    request = Request(
        models=tuple(args.models),
        options=tuple(args.options),
        image_size=args.image_size,
        num_classes=args.num_classes,
        batch_size=args.batch_size,
        precision=args.precision,
        threads=args.threads,
        repeats=args.repeats,
        timing=not args.no_timing,
    )
    entries = profile(request, lambda line: print(line, file=sys.stderr, flush=True))
    if args.json:
        print(json.dumps(entries, indent=2))
    else:
        from rich.console import Console

        from raybench.commands.profile_text import print_profiles

        print_profiles(entries, Console())
    return EXIT_TROUBLE if any("error" in entry for entry in entries) else EXIT_COMPLETE


if __name__ == "__main__":
    sys.exit(main())
