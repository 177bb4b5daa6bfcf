"""What a worker counts, and says in a line, of frames that it finished and of those that wait."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from contract.alert import Alert, AnyAlert
from contract.errors import FrameError
from worker.challenger import agreement
from worker.frames import IncomingFrame, Outcome
from worker.records import UNKNOWN_CAMERA, camera_of, capture_delay_seconds, capture_time_oddity, traceparent_of
from worker.telemetry import Metrics

_STARTED: Final = "framewatch.anomaly.started.v1"
_UNKNOWN_MS: Final = -1
_log = logging.getLogger(__name__)


class Tally:
    """Counts into a worker's metrics.

    Args:
        metrics: The metrics.
        is_live: Whether delays are worth telling: all that a replay reads is old.
        clock: Seconds since 1970.
    """

    def __init__(self, metrics: Metrics, *, is_live: bool, clock: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._is_live = is_live
        self._clock = clock

    def frame(self, outcome: Outcome, record: Any) -> None:  # noqa: ANN401 - the client's record type has no name
        """Count a finished frame, and what was told with it.

        Args:
            outcome: What became of it.
            record: It came as.
        """
        metrics, frame, now_ms = self._metrics, outcome.frame, self._clock() * 1000
        camera = metrics.camera_label(frame.camera_id)
        kind = "dead_letter" if outcome.error else "anomalous" if outcome.is_anomalous else "normal"
        metrics.frames.labels(camera, kind).inc()
        delay = capture_delay_seconds(frame.captured_at_ms, now_ms) if self._is_live else None
        if delay is not None:
            metrics.delay_seconds.observe(delay)
        if outcome.error is None:
            is_drifting = outcome.is_drifting
            metrics.observe_drift(frame.camera_id, frame.partition, outcome.drift_share, is_drifting=is_drifting)
        for oddity in (capture_time_oddity(record, now_ms), "trailing_bytes" if outcome.trailing_bytes else None):
            if oddity is not None:
                metrics.oddities.labels(oddity).inc()
        agreed = agreement(outcome)
        if agreed is not None:
            metrics.challenger_frames.labels(camera, agreed).inc()
        for alert in outcome.alerts:
            self.alert(alert, frame.partition, frame.offset, frame.traceparent)
            if delay is not None and alert.type == _STARTED:
                metrics.alert_delay_seconds.observe(delay)

    def alert(self, alert: AnyAlert, partition: int, offset: int, traceparent: str | None = None) -> None:
        """Count and log an alert that the broker has.

        Args:
            alert: The alert.
            partition: Of the frame with which it was told.
            offset: Of that.
            traceparent: Its trace, if it belongs to one.
        """
        self._metrics.alerts.labels(alert.type).inc()
        said: dict[str, object] = {
            "alert": alert.id, "type": alert.type, "camera": alert.subject, "partition": partition, "offset": offset,
        }  # fmt: skip
        if isinstance(alert, Alert):
            said |= {"score": round(alert.data.peak_score, 3), "severity": alert.data.severity}
        _log.info("alert", extra={**said, **_trace(traceparent)})

    def letters(self, letters: Iterable[tuple[Any, FrameError]]) -> None:
        """Count and log records that became dead letters, each with its reason."""
        for record, error in letters:
            self._metrics.dead_letters.labels(error.reason).inc()
            where = {"partition": record.partition, "offset": record.offset, "reason": error.reason}
            camera = camera_of(record)
            whose = {"camera": camera} if camera is not None else {}
            trace = _trace(traceparent_of(record.headers))
            _log.warning("dead letter: %s", error, extra={**whose, **where, **trace})

    def strangers(self, count: int) -> None:
        """Count frames of no camera that is known or allowed."""
        self._metrics.frames.labels(UNKNOWN_CAMERA, "dead_letter").inc(count)

    def skipped(self, frame: IncomingFrame) -> None:
        """Count a frame that was passed over for its age."""
        self._metrics.skipped.labels(self._metrics.camera_label(frame.camera_id), "late").inc()


def _trace(traceparent: str | None) -> dict[str, str]:
    return {"trace_id": traceparent.split("-")[1]} if traceparent is not None else {}


class Ages:
    """Knows how old the oldest frame of a partition is that was fetched and is not finished.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # Offsets and capture times, ms since 1970, of each partition's records from its oldest unfinished one on.
        self._fetched: dict[int, deque[tuple[int, int]]] = {}

    def note(self, records: Iterable[Any]) -> None:
        """Take in records that were fetched; offsets that go back say that a partition is read again from there."""
        for record in records:
            fetched = self._fetched.setdefault(record.partition, deque())
            if fetched and record.offset <= fetched[-1][0]:
                fetched.clear()
            at_ms = getattr(record, "timestamp", None)
            fetched.append((record.offset, at_ms if at_ms is not None else _UNKNOWN_MS))

    def forget(self, partition: int) -> None:
        """Know nothing of a partition that was lost."""
        self._fetched.pop(partition, None)

    def oldest_seconds(self, partition: int, next_offset: int) -> float:
        """Age of the oldest frame whose record has a timestamp that can be true; 0 where there is none.

        Args:
            partition: Whose.
            next_offset: All before it is finished.
        """
        fetched = self._fetched.get(partition, deque())
        while fetched and fetched[0][0] < next_offset:
            fetched.popleft()
        now_ms = self._clock() * 1000
        ages = (capture_delay_seconds(at_ms, now_ms) for _, at_ms in fetched)
        return next((age for age in ages if age is not None), 0.0)
