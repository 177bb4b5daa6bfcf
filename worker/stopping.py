"""Stopping on signals: orderly, within a bound, and at once when asked twice."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from contract.errors import DeliveryError

_CLOSING_SHARE: Final = 0.3
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Asks for a stop on SIGTERM or SIGINT while it is entered, and ends what takes too long; the main thread's alone.

    What waits for a broker that does not answer is interrupted by an error, for neither kafka-python's delivery nor its
    commit can be told of a bound once it has begun.

    Args:
        stop: Called at the first signal; must return at once.
        seconds: Time from the first signal to the process's end. Three tenths of it are kept for closing clients.
    """

    def __init__(self, stop: Callable[[], None], seconds: float) -> None:
        self._stop = stop
        self._seconds = seconds
        self._ends_at: float | None = None
        self._timer: threading.Timer | None = None
        self._is_late = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def seconds_left(self, most: float) -> float:
        """Time left for closing, at the most so much, at the least half a second; so much where nothing was asked."""
        if self._ends_at is None:
            return most
        return max(0.5, min(most, self._ends_at - time.monotonic()))

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_late:
            raise DeliveryError(
                "stopped before the broker confirmed what was finished; nothing unconfirmed is committed, "
                "raise stop_seconds if it needs longer"
            )
        if self._ends_at is not None:
            raise KeyboardInterrupt
        self._ends_at = time.monotonic() + self._seconds
        self._timer = threading.Timer(self._seconds * (1 - _CLOSING_SHARE), self._interrupt)
        self._timer.daemon = True
        self._timer.start()
        self._stop()

    def _interrupt(self) -> None:
        self._is_late = True
        main = threading.main_thread().ident
        if main is not None:
            # A signal to the main thread ends its wait; its handler, above, raises there.
            signal.pthread_kill(main, signal.SIGTERM)
