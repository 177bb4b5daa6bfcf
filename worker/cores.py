"""Threads that share a worker's cores."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

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


class Crew:
    """Runs calls that let go of the interpreter (decoding, flow, inference) on a number of threads; a context manager.

    Args:
        threads: How many; with one, everything runs on the caller's thread.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="crew") if threads > 1 else None

    def map(self, call: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
        """Call for each item, in any order.

        Each thread takes the next item when it is done with one, so that none waits for another, and one task of the
        pool a thread is all that it costs.

        Returns:
            The results in the order of the items.

        Raises:
            Exception: The first that a call raised, in the order of the items; all the others were called too.
        """
        if self._pool is None or len(items) < 2:
            return [call(item) for item in items]
        results: dict[int, ResultT] = {}
        errors: dict[int, Exception] = {}
        places = iter(range(len(items)))

        def work() -> None:
            # The interpreter gives each place to one thread alone.
            for place in places:
                try:
                    results[place] = call(items[place])
                except Exception as error:  # noqa: BLE001 - raised below, in its turn
                    errors[place] = error

        wait([self._pool.submit(work) for _ in range(min(self.threads, len(items)))])
        if errors:
            raise errors[min(errors)]
        return [results[place] for place in range(len(items))]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
