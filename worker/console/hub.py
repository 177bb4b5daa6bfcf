"""What has changed, from the threads that follow topics to every page that is open."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

MAX_LISTENERS: Final = 200
_MAX_WAITING: Final = 256


class Told(NamedTuple):
    """One piece of news.

    Attributes:
        name: Its kind: ``event``, ``notices``, ``status``, or ``resync``, after which a page must read all anew.
        data: What becomes JSON.
    """

    name: str
    data: Any


class Hub:
    """Passes news on; a page that takes none for too long is told to read all anew in place of what it missed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Queue[Told], asyncio.AbstractEventLoop] = {}

    @property
    def is_heard(self) -> bool:
        """Whether any page listens."""
        return bool(self._listeners)

    @property
    def is_full(self) -> bool:
        """Whether no further page can listen."""
        return len(self._listeners) >= MAX_LISTENERS

    def tell(self, name: str, data: Any) -> None:  # noqa: ANN401 - whatever JSON can say
        """Pass a piece of news on, from any thread; never blocks."""
        with self._lock:
            for queue, loop in self._listeners.items():
                # A loop that has ended takes nothing more, and nobody listens there.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_put, queue, Told(name, data))

    @contextlib.contextmanager
    def listen(self) -> Iterator["asyncio.Queue[Told]"]:
        """Queue the news from now on, as long as the block runs."""
        queue: asyncio.Queue[Told] = asyncio.Queue(_MAX_WAITING)
        with self._lock:
            self._listeners[queue] = asyncio.get_running_loop()
        try:
            yield queue
        finally:
            with self._lock:
                del self._listeners[queue]


def _put(queue: "asyncio.Queue[Told]", told: Told) -> None:
    if queue.full():
        while not queue.empty():
            queue.get_nowait()
        told = Told("resync", None)
    queue.put_nowait(told)
