"""Who is told how far a download or the decoding of a data set is: nobody, unless a command asks to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""(what is done, how much of it, of how much; 0 where that is not known)."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def told(listener: Listener) -> Iterator[None]:
    """Whatever this thread does inside is told."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str, done: int, total: int) -> None:
    """Say how far something is."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total)
