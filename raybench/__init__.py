"""raybench: which vision model, which distillation setup, under which budget? Sweeps that answer with evidence.

From Python: `run_sweep`, `load_results` (raybench.api), which are imported when they are used.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts an older one shall be told, rather than see it break
    sys.exit(
        "raybench needs Python 3.11 or newer, and this is %d.%d (%s); "  # noqa: UP031
        "make install finds one, or: make install PYTHON=/path/to/python3.11" % (*sys.version_info[:2], sys.executable)
    )

from raybench.errors import ConfigError, DataError, RaybenchError, ResultsError, WeightsError

__version__ = "0.1.0"
FROM_API = ("Comparison", "Results", "load_results", "run_sweep")
__all__ = ["ConfigError", "DataError", "RaybenchError", "ResultsError", "WeightsError", "__version__", *FROM_API]


def __getattr__(name: str) -> object:
    if name in FROM_API:
        from importlib import import_module

        return getattr(import_module("raybench.api"), name)
    raise AttributeError(f"module 'raybench' has no attribute {name!r}")
