"""Ends a process that is stuck where nothing else can: what holds it has no timeout, or will never answer."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

_LOOK_EVERY_SECONDS: Final = 0.25
_FAILED: Final = 1
_log = logging.getLogger(__name__)


def end_process() -> None:
    """Leave at once, with exit code 1; nothing is committed, nothing closed."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(_FAILED)


class Watchdog:
    """Watches blocks that must end in time; a context manager with a thread of its own.

    Args:
        end: Ends the process; for tests.
        clock: Monotonic seconds.
    """

    def __init__(self, end: Callable[[], None] = end_process, clock: Callable[[], float] = time.monotonic) -> None:
        self._end = end
        self._clock = clock
        self._lock = threading.Lock()
        self._watched: dict[object, tuple[str, float, float]] = {}
        self._ended = threading.Event()

    @contextmanager
    def limit(self, name: str, seconds: float) -> Iterator[None]:
        """End the process where the block takes longer; the name says what took so long."""
        key = object()
        with self._lock:
            self._watched[key] = name, self._clock() + seconds, seconds
        try:
            yield
        finally:
            with self._lock:
                del self._watched[key]

    def look(self) -> None:
        """End the process if a block is late."""
        with self._lock:
            late = [(name, seconds) for name, ends_at, seconds in self._watched.values() if self._clock() > ends_at]
        if late:
            name, seconds = late[0]
            _log.critical("stuck, the process ends: %s took longer than %g s; nothing is lost", name, seconds)
            self._end()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_SECONDS):
            self.look()
