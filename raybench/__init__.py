"""raybench: which vision model, which distillation setup, under which budget? Sweeps that answer with evidence."""

from raybench.errors import ConfigError, DataError, RaybenchError, ResultsError, WeightsError

__version__ = "0.1.0"
__all__ = ["ConfigError", "DataError", "RaybenchError", "ResultsError", "WeightsError", "__version__"]
