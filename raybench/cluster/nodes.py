"""The nodes of the Ray that runs on this machine, as one JSON object: `python -m raybench.cluster.nodes`.

Run on a cluster's head by whoever looks at it from elsewhere.
"""

from __future__ import annotations

import json
import sys

from raybench.cluster.session import alive_nodes, session
from raybench.errors import RaybenchError


def main() -> int:
    """Print `alive`, address -> name of every node that is, and `gpus`, those of the cluster with what it may start;
    exit code 1 where no Ray runs."""
    try:
        with session("auto"):
            import ray

            gpus = sum(node.gpu for node in alive_nodes())
            alive = {node["NodeManagerAddress"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    except RaybenchError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"alive": alive, "gpus": gpus}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
