"""Whether a sweep can run on this machine, as one JSON object: `python -m raybench.commands.ready NAME [key=value …]`.

`raybench cluster check NAME` has every machine of a cluster run it. What is not there and can be downloaded is, with
--fetch, once a machine and under a lock.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any


def main(argv: Sequence[str]) -> int:
    """Print `faults`, `fingerprints` of the data and their `variants`; exit code 1 where there are faults."""
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
    try:
        config = load_sweep(args.name, args.preset, args.overrides)
        folder = folder_at(results_root()) / config.name
        config, unlent = with_best_trials(config, folder.parent)
        checked = check(
            make_plan(config),
            Setup(data_root=data_root, results=folder),
            lambda key: config.places.get(key, config.name),
            download=args.fetch,
            unlent={each.weights: str(each) for each in unlent},
        )
    except ConfigError as error:
        return {"faults": list(error.problems)}
    except RaybenchError as error:
        return {"faults": str(error).splitlines()}
    return {"faults": [], "fingerprints": checked.fingerprints, "variants": checked.variants}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
