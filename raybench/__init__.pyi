from raybench.api import Comparison as Comparison
from raybench.api import Results as Results
from raybench.api import load_results as load_results
from raybench.api import run_sweep as run_sweep
from raybench.errors import ConfigError as ConfigError
from raybench.errors import DataError as DataError
from raybench.errors import RaybenchError as RaybenchError
from raybench.errors import ResultsError as ResultsError
from raybench.errors import WeightsError as WeightsError

__version__: str
FROM_API: tuple[str, ...]
__all__ = [
    "Comparison",
    "ConfigError",
    "DataError",
    "RaybenchError",
    "Results",
    "ResultsError",
    "WeightsError",
    "__version__",
    "load_results",
    "run_sweep",
]
