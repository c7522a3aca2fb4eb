"""Whether a sweep can run on this machine, as one JSON object: `python -m raybench.commands.ready NAME [key=value …]`.

`raybench cluster check NAME` has every machine of a cluster run it. What is not there and can be downloaded is, with
--fetch, once a machine and under a lock.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raybench.config.plan import Plan


def main(argv: Sequence[str]) -> int:
    """Print `faults`, those of them that are `absent` data, `fingerprints` of the data and their `variants`; exit code
    1 where there are faults."""
    parse = argparse.ArgumentParser(prog="python -m raybench.commands.ready")
    parse.add_argument("name")
    parse.add_argument("overrides", nargs="*")
    parse.add_argument("--preset", required=True)  # as the whole cluster has it, not as this machine would choose
    parse.add_argument("--fetch", action="store_true")
    found = ready(parse.parse_intermixed_args(argv))
    print(json.dumps(found))
    return 1 if found["faults"] else 0


def ready(args: argparse.Namespace) -> dict[str, Any]:
    """What is wrong with running it here, each fault a line, and what the data are."""
    from raybench.commands.borrowed import with_best_trials
    from raybench.config.folders import named_data_root, results_root
    from raybench.config.load import load_sweep
    from raybench.config.plan import make_plan
    from raybench.errors import ConfigError, RaybenchError
    from raybench.results.storage import folder_at
    from raybench.training.preflight import check
    from raybench.training.recorder import Setup

    named = named_data_root()
    data_root = named.absolute() if named else None
    plan = None
    try:
        config = load_sweep(args.name, args.preset, args.overrides)
        folder = folder_at(results_root()) / config.name
        config, unlent = with_best_trials(config, folder.parent)
        plan = make_plan(config)
        checked = check(
            plan,
            Setup(data_root=data_root, results=folder),
            lambda key: config.places.get(key, config.name),
            download=args.fetch,
            unlent={each.weights: str(each) for each in unlent},
        )
    except ConfigError as error:
        return {"faults": list(error.problems), "absent": _absent(plan, data_root)}
    except RaybenchError as error:
        return {"faults": str(error).splitlines(), "absent": _absent(plan, data_root)}
    return {"faults": [], "fingerprints": checked.fingerprints, "variants": checked.variants}


def _absent(plan: Plan | None, data_root: Path | None) -> dict[str, str]:
    """The fault of each data set of images that is not here, and its name: machines have such from the depot, too."""
    from raybench.data import Request, find_source, kind_of
    from raybench.errors import DataError

    found = {}
    for request in {Request.of(trial.dataset) for trial in plan.trials()} if plan else ():
        try:
            if kind_of(request.name) == "image":
                find_source(request, data_root)
        except DataError as error:
            found[str(error)] = request.name
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
