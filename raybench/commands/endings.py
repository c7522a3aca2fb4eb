"""How every command ends: its exit code, and each fault of the user's as a line or two, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from raybench.errors import ConfigError, RaybenchError

EXIT_COMPLETE = 0
EXIT_TROUBLE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def ended(run: Callable[[], int], interrupted: str = "stopped") -> int:
    """Run a command; returns its exit code. `interrupted` is said after Ctrl-C."""
    try:
        return run()
    except RaybenchError as error:
        print_error(error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _unheard()
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or 'no file named'}", file=sys.stderr)
        return EXIT_TROUBLE


def print_error(error: RaybenchError) -> None:
    """One line a fault, on stderr."""
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(error, ConfigError):
        count = len(error.problems)
        print(f"{count} error{'s' if count != 1 else ''}, nothing started:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in lines), file=sys.stderr)
    else:
        print("\n       ".join(["error: " + lines[0], *lines[1:]]), file=sys.stderr)


def _unheard() -> int:
    """Whoever read our output has had enough; Python must not complain of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_TROUBLE
