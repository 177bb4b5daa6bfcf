"""How the workers are, read from their metrics."""

import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from worker.console.queries import Answer

LOOK_EVERY_SECONDS: Final = 5.0
_TIMEOUT_SECONDS: Final = 2.0
_MAX_BYTES: Final = 8 * 2**20
_KEPT_RATES: Final = 60
_LOOKED_AT_ONCE: Final = 8

Samples = dict[str, list[tuple[dict[str, str], float]]]
"""Labels and value by name of the sample."""


@dataclass(slots=True)
class _Seen:
    """What was last seen of a worker.

    Attributes:
        at_seconds: When, monotonic.
        frames: Frames finished until then.
        delay: Sum and count of delays until then.
        rates: Frames a second between the latest looks.
    """

    at_seconds: float | None = None
    frames: float = 0.0
    delay: tuple[float, float] = (0.0, 0.0)
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_RATES))


class WorkerWatch:
    """Looks at every worker each five seconds, from a thread of its own; a context manager.

    Args:
        addresses: Of their metrics.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._seen = {address: _Seen() for address in addresses}
        self._statuses: list[Answer] = [_down(address, "not looked at yet") for address in addresses]
        self._ended = threading.Event()

    @property
    def statuses(self) -> list[Answer]:
        """What was seen last: of each worker its address, ``is_up``, and its figures where it is."""
        return self._statuses

    def look(self) -> None:
        """Look at every worker once; blocks for two seconds for each eight that do not answer."""
        with ThreadPoolExecutor(_LOOKED_AT_ONCE) as pool:
            self._statuses = list(pool.map(self._look_at, self._addresses))

    def __enter__(self) -> "WorkerWatch":
        if self._addresses:
            threading.Thread(target=self._watch, name="workers", daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.look()
            self._ended.wait(LOOK_EVERY_SECONDS)

    def _look_at(self, address: str) -> Answer:
        try:
            samples = parse_metrics(_fetch(address))
        except (OSError, ValueError) as error:
            self._seen[address] = _Seen()
            reason = getattr(error, "reason", None) or error
            return _down(address, " ".join(str(reason).split())[:200])
        return self._figures(address, samples, time.monotonic())

    def _figures(self, address: str, samples: Samples, now_seconds: float) -> Answer:
        seen = self._seen[address]
        frames = _sum(samples, "framewatch_frames_total")
        delay = tuple(_sum(samples, f"framewatch_capture_to_score_seconds_{part}") for part in ("sum", "count"))
        is_later = seen.at_seconds is not None and frames >= seen.frames
        rate = (frames - seen.frames) / max(1e-3, now_seconds - (seen.at_seconds or 0.0)) if is_later else None
        if rate is not None:
            seen.rates.append(rate)
        scored = delay[1] - seen.delay[1]
        mean_delay = (delay[0] - seen.delay[0]) / scored if is_later and scored > 0 else None
        seen.at_seconds, seen.frames, seen.delay = now_seconds, frames, (delay[0], delay[1])
        about = next((labels for labels, _ in samples.get("framewatch_bundle_info", [])), {})
        return {
            "address": address,
            "is_up": True,
            "bundle": f"{about.get('name', '?')} {about.get('version', '')}".strip()[:200],
            "provider": about.get("provider", "?")[:100],
            "frames": frames,
            "frames_per_second": rate,
            "rates": list(seen.rates),
            "delay_seconds": mean_delay,
            "lag_frames": _sum(samples, "framewatch_lag_frames"),
            "partitions": _sum(samples, "framewatch_assigned_partitions"),
            "dead_letters": _sum(samples, "framewatch_dead_letters_total"),
            "alerts": _sum(samples, "framewatch_alerts_total"),
        }


def parse_metrics(text: str) -> Samples:
    """Read Prometheus' text format.

    Raises:
        ValueError: It is none, or not a worker's.
    """
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((dict(sample.labels), float(sample.value)))
    if "framewatch_assigned_partitions" not in samples:
        raise ValueError("these are not a worker's metrics")
    return samples


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any) -> None:  # noqa: ANN401
        """Go nowhere else."""


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def _fetch(address: str) -> str:
    # The settings let http and https through, nothing else.
    with _opener.open(address, timeout=_TIMEOUT_SECONDS) as answer:
        data: bytes = answer.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES} bytes of metrics")
    return data.decode()


def _sum(samples: Samples, name: str) -> float:
    return sum((value for _, value in samples.get(name, [])), 0.0)


def _down(address: str, reason: str) -> Answer:
    return {"address": address, "is_up": False, "error": reason}
