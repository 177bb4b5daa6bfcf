"""Steps that overlap: while a batch is published the next is scored and the one after is prepared."""

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

_LOOK_EVERY_SECONDS: Final = 0.1
_CLOSE_SECONDS: Final = 10.0
# A step that never ends is not waited for where something failed already.
_FAILED_CLOSE_SECONDS: Final = 0.5


class Pipeline:
    """Takes items through steps in their order, each step on a thread of its own; a context manager.

    Between two steps one item waits at most, so that no more than two items a step are under way. The first error of a
    step ends the pipeline: what is under way goes no further.

    Args:
        steps: Name of each, and what it makes of what the step before it gave.
        max_weight: Of all items under way together; one that is heavier goes alone.
    """

    def __init__(self, steps: Sequence[tuple[str, Callable[[Any], Any]]], max_weight: float = math.inf) -> None:
        self._queues: list[queue.Queue[tuple[Any, float]]] = [queue.Queue(1) for _ in steps]
        self._max_weight = max_weight
        self._changed = threading.Condition()
        self._under_way = 0
        self._weight = 0.0
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number, step), name=name, daemon=True)
            for number, (name, step) in enumerate(steps)
        ]

    def submit(self, item: Any, weight: float = 0.0) -> None:  # noqa: ANN401 - the steps' own
        """Give the first step an item; waits while it is behind, or while what is under way weighs too much.

        Raises:
            BaseException: What a step raised; nothing is taken any more.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._under_way
                    or self._weight + weight <= self._max_weight
                    # Nothing becomes lighter any more.
                    or self._error is not None
                )
            )
            self._under_way += 1
            self._weight += weight
        self._put(0, item, weight)
        self.check()

    def check(self) -> None:
        """Raise what a step raised."""
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        """Wait until everything submitted has passed the last step.

        Raises:
            BaseException: What a step raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way or self._error is not None)
        self.check()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._ended.set()
        ends_at = time.monotonic() + (_CLOSE_SECONDS if error is None else _FAILED_CLOSE_SECONDS)
        for thread in self._threads:
            thread.join(max(0.0, ends_at - time.monotonic()))

    def _work(self, number: int, step: Callable[[Any], Any]) -> None:
        while not self._ended.is_set():
            try:
                item, weight = self._queues[number].get(timeout=_LOOK_EVERY_SECONDS)
            except queue.Empty:
                continue
            try:
                made = step(item)
            except BaseException as error:  # noqa: BLE001 - raised again where items are submitted
                with self._changed:
                    self._error = self._error or error
                    self._ended.set()
                    self._changed.notify_all()
                return
            if number + 1 < len(self._queues):
                self._put(number + 1, made, weight)
            else:
                with self._changed:
                    self._under_way -= 1
                    self._weight -= weight
                    self._changed.notify_all()

    def _put(self, number: int, item: Any, weight: float) -> None:  # noqa: ANN401
        while not self._ended.is_set():
            try:
                self._queues[number].put((item, weight), timeout=_LOOK_EVERY_SECONDS)
            except queue.Full:
                continue
            return
