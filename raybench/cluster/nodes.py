"""The nodes of the Ray that runs on this machine, as one JSON object: `python -m raybench.cluster.nodes`.

Run on a cluster's head by whoever looks at it from elsewhere.
"""

from __future__ import annotations

import json
import sys

from raybench.cluster.session import session
from raybench.errors import RaybenchError


def main() -> int:
    """Print address -> name of every node that is alive; exit code 1 where no Ray runs."""
    try:
        with session("auto"):
            import ray

            alive = {node["NodeManagerAddress"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    except RaybenchError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(alive))
    return 0


if __name__ == "__main__":
    sys.exit(main())
