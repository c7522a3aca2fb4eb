"""What an hour of a device costs: as it was given, or as the file of a cluster says."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from raybench.config.document import load, problem_of
from raybench.errors import ConfigError

KEY = "provider.price_per_hour"
"""Ray's schema of a cluster file leaves `provider` open, and no hash that tells it what has changed takes it in."""


@dataclass(frozen=True)
class Price:
    """Of one device for one hour, in whatever currency."""

    per_hour: float
    source: str
    """Where it was said."""

    def of(self, device_hours: float | None) -> float | None:
        """What so many cost; none where they are not known."""
        return None if device_hours is None else device_hours * self.per_hour


def price_in(cluster: Path) -> Price | None:
    """The price in the file of a cluster; none where there is no such file or it names none.

    Raises ConfigError for a file that cannot be read, and for a price that is no number of at least 0.
    """
    try:
        content = load(cluster.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _fault(f"{cluster}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _fault(f"{cluster}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        line, problem = problem_of(error)
        raise _fault(f"{cluster}{f':{line}' if line else ''}: {problem}") from None
    provider = content.get("provider") if isinstance(content, dict) else None
    found = provider.get("price_per_hour") if isinstance(provider, dict) else None
    if found is None:
        return None
    if fault := refused(found):
        raise _fault(f"{cluster}: {fault}")
    return Price(float(found), f"{KEY} of {cluster}")


def refused(price: object) -> str | None:
    """What is wrong with a price as a cluster file has it; none where nothing is."""
    if isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price <= sys.float_info.max:
        return None
    return f"{KEY} = {price!r}: must be a number of at least 0, of one device for one hour"


def _fault(text: str) -> ConfigError:
    return ConfigError([f"{text} (--price-per-hour is taken instead of this file)"])
