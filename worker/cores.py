"""Threads that share a worker's cores."""

import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import cv2

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_SWITCH_SECONDS: Final = 0.0005
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/cpu.max")
_OLD_QUOTA: Final = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_OLD_PERIOD: Final = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def cores_given() -> int:
    """Cores that this process may use: those it may run on, and no more than its container is given time of."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, math.ceil(_container_cores(allowed))))


def _container_cores(otherwise: float) -> float:
    try:
        if _CGROUP_LIMIT.exists():
            quota, period = _CGROUP_LIMIT.read_text(encoding="ascii").split()
        else:
            quota, period = (file.read_text(encoding="ascii").strip() for file in (_OLD_QUOTA, _OLD_PERIOD))
        return otherwise if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return otherwise


def share_interpreter() -> None:
    """Let threads that come back from decoding or inference have the interpreter soon, and keep OpenCV to their number.

    Next to a thread that runs Python, decoding falls to a tenth with Python's own interval of 5 ms.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    cv2.setNumThreads(1)


class Started(Generic[ItemT, ResultT]):
    """Calls that a crew has begun.

    Args:
        call: Made for each item.
        items: In their order.
        by_caller: Whether whoever asks for the results makes them.
    """

    def __init__(self, call: Callable[[ItemT], ResultT], items: Sequence[ItemT], *, by_caller: bool) -> None:
        self._call = call
        self._items = items
        self._by_caller = by_caller
        self._places = iter(range(len(items)))
        self._left = len(items)
        self._is_done = threading.Event()
        self._results: dict[int, ResultT] = {}
        self._errors: dict[int, Exception] = {}

    def results(self) -> list[ResultT]:
        """Wait for all of them, and give what they returned in the order of the items.

        Raises:
            Exception: The first that a call raised, in the order of the items; all the others were made too.
        """
        if self._by_caller:
            for place in self._places:
                self.make(place)
        elif self._items:
            self._is_done.wait()
        if self._errors:
            raise self._errors[min(self._errors)]
        return [self._results[place] for place in range(len(self._items))]

    def take(self) -> int | None:
        """Take the place of an item that no thread has taken; None where there is none."""
        return next(self._places, None)

    def make(self, place: int) -> None:
        """Make the call for an item."""
        try:
            self._results[place] = self._call(self._items[place])
        except Exception as error:  # noqa: BLE001 - raised by `results`, in its turn
            self._errors[place] = error

    def note_made(self) -> None:
        """Note that a call was made; one thread at a time."""
        self._left -= 1
        if not self._left:
            self._is_done.set()


class Crew:
    """Runs calls that let go of the interpreter (decoding, flow, inference) on a number of threads; a context manager.

    Each thread takes the next item when it is done with one, an urgent one first, so that none waits for another while
    there is anything to do.

    Args:
        threads: How many; with one, everything runs on the caller's thread.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._changed = threading.Condition()
        self._urgent: deque[Started[Any, Any]] = deque()
        self._others: deque[Started[Any, Any]] = deque()
        self._is_closed = False
        for number in range(threads if threads > 1 else 0):
            threading.Thread(target=self._work, name=f"crew-{number}", daemon=True).start()

    def start(
        self, call: Callable[[ItemT], ResultT], items: Sequence[ItemT], *, urgent: bool = False
    ) -> Started[ItemT, ResultT]:
        """Begin to call for each item, in any order.

        Args:
            call: Made for each item.
            items: In the order in which the results come.
            urgent: Whether they go before those that are not, begun earlier or not.
        """
        started = Started(call, items, by_caller=self.threads == 1)
        if self.threads > 1 and items:
            with self._changed:
                (self._urgent if urgent else self._others).append(started)
                self._changed.notify(len(items))
        return started

    def map(self, call: Callable[[ItemT], ResultT], items: Sequence[ItemT], *, urgent: bool = False) -> list[ResultT]:
        """Call for each item and wait for the results; raises as `Started.results` does."""
        return self.start(call, items, urgent=urgent).results()

    def _work(self) -> None:
        made: Started[Any, Any] | None = None
        while True:
            with self._changed:
                if made is not None:
                    made.note_made()
                while (taken := self._take()) is None:
                    if self._is_closed:
                        return
                    self._changed.wait()
            made, place = taken
            made.make(place)

    def _take(self) -> tuple[Started[Any, Any], int] | None:
        for begun in (self._urgent, self._others):
            while begun:
                place = begun[0].take()
                if place is not None:
                    return begun[0], place
                begun.popleft()
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._urgent.clear()
            self._others.clear()
            self._changed.notify_all()
