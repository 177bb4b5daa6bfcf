"""When a camera saw what was out of the ordinary, from the alerts topic, and what people said of it, from feedback's.

Whoever may write to the topics chose every byte, so each size is bounded, and what is no alert or no verdict is counted
and passed over.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from kafka import TopicPartition
from pydantic import ValidationError

from contract.alert import Alert, read_alert
from contract.errors import FootageError
from contract.feedback import Feedback, Verdict
from contract.steady_consumer import SteadyConsumer

_MAX_ALERT_BYTES: Final = 12 * 2**20
_MAX_FEEDBACK_BYTES: Final = 8 * 2**10
_MAX_EVENTS: Final = 100_000
_MS_A_DAY: Final = 24 * 3_600_000
_PATIENCE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class EventSpan:
    """One event of a camera.

    Attributes:
        event_id: Its id.
        start_ms: Capture time of the first anomalous frame, ms since 1970.
        end_ms: Capture time of the last, ms since 1970; None where no alert tells the end.
        verdict: The last word on it; None where nobody has judged it.
    """

    event_id: str
    start_ms: int
    end_ms: int | None = None
    verdict: Verdict | None = None


def read_event_spans(
    reader: SteadyConsumer,
    camera_id: str,
    from_ms: int,
    to_ms: int,
    *,
    alerts_topic: str,
    feedback_topic: str | None,
    days_before: float,
    passed_over: Counter[str],
) -> list[EventSpan]:
    """Read the events of a camera that reach into a time range, in the order of their starts.

    Alerts and verdicts are sent after the frames were captured, so both topics are read to their ends, and from
    some days before the range, since an event that goes on at the same score is not told of again. Blocks; the reader
    must be assigned nothing that is still needed.

    Args:
        reader: A consumer of no group.
        camera_id: The camera.
        from_ms: Beginning of the range, capture time, ms since 1970.
        to_ms: End of the range, which is left out.
        alerts_topic: Topic of alerts, which is there.
        feedback_topic: Topic of verdicts, which is there; None where there are none.
        days_before: How long before the range an event may have begun that still goes on, days; at least the day by
            which clocks may differ.
        passed_over: Counts what was passed over, by what it is not: ``alert`` or ``verdict``.

    Raises:
        FootageError: The topic holds more events of the camera than can be right.
        KafkaError: The broker failed.
    """
    since = max(0, from_ms - round(max(1.0, days_before) * _MS_A_DAY))
    spans = merge_alerts(_alerts(reader, alerts_topic, since, camera_id, passed_over))
    if feedback_topic is not None:
        verdicts = last_verdicts(_verdicts(reader, feedback_topic, since, camera_id, passed_over))
        spans = [replace(span, verdict=verdicts.get(span.event_id)) for span in spans]
    ends = [last for _, last in bounds(spans, to_ms)]
    return [span for span, end in zip(spans, ends, strict=True) if span.start_ms < to_ms and end >= from_ms]


def merge_alerts(alerts: Iterable[Alert]) -> list[EventSpan]:
    """Join what the alerts of each event say, in whatever order and however often they come.

    Raises:
        FootageError: There are more events than a camera can have.
    """
    spans: dict[str, EventSpan] = {}
    for alert in alerts:
        data = alert.data
        known = spans.get(data.event_id)
        start, ends = data.started_at_ms, [data.ended_at_ms]
        if known is not None:
            start, ends = min(start, known.start_ms), [*ends, known.end_ms]
        spans[data.event_id] = EventSpan(
            data.event_id, start, max((end for end in ends if end is not None), default=None)
        )
        if len(spans) > _MAX_EVENTS:
            raise FootageError(
                f"camera {data.camera_id} has over {_MAX_EVENTS} events on the alerts topic; choose a shorter range"
            )
    return sorted(spans.values(), key=lambda span: (span.start_ms, span.event_id))


def last_verdicts(said: Iterable[tuple[int, Feedback]]) -> dict[str, Verdict]:
    """The last verdict on each event.

    Args:
        said: Record timestamps, ms since 1970, and verdicts, in the order of a partition each.
    """
    last: dict[str, tuple[int, Verdict]] = {}
    for told_at_ms, feedback in said:
        # By timestamp, since a camera has records in two partitions once some were added.
        if feedback.event_id not in last or told_at_ms >= last[feedback.event_id][0]:
            last[feedback.event_id] = told_at_ms, feedback.verdict
    return {event_id: verdict for event_id, (_, verdict) in last.items()}


def bounds(spans: Sequence[EventSpan], to_ms: int) -> list[tuple[int, int]]:
    """First and last moment of each event, ms since 1970.

    One whose end nothing tells is still open, or its end was lost. A worker follows one event of a camera at a time, so
    it was over when the camera's next one began, and lasts until then, else to the end of the range. Alerts say no
    sooner end: an event that goes on at the same score is not told of again.

    Args:
        spans: Events of one camera, in the order of their starts.
        to_ms: End of the range.
    """
    found: list[tuple[int, int]] = []
    next_start = to_ms
    for number in range(len(spans) - 1, -1, -1):
        span = spans[number]
        found.append((span.start_ms, span.end_ms if span.end_ms is not None else max(next_start, span.start_ms)))
        if number and spans[number - 1].start_ms < span.start_ms:
            next_start = span.start_ms
    return found[::-1]


def _alerts(
    reader: SteadyConsumer, topic: str, since_ms: int, camera_id: str, passed_over: Counter[str]
) -> Iterator[Alert]:
    for record in _records(reader, topic, since_ms, camera_id):
        try:
            alert = read_alert(_bounded(record, _MAX_ALERT_BYTES))
        except (ValidationError, ValueError):
            passed_over["alert"] += 1
            continue
        if not isinstance(alert, Alert):
            continue
        data = alert.data
        is_whole = data.ended_at_ms is None or data.ended_at_ms >= data.started_at_ms
        if data.camera_id == alert.subject == camera_id and is_whole and data.started_at_ms >= 0:
            yield alert
        else:
            passed_over["alert"] += 1


def _verdicts(
    reader: SteadyConsumer, topic: str, since_ms: int, camera_id: str, passed_over: Counter[str]
) -> Iterator[tuple[int, Feedback]]:
    for record in _records(reader, topic, since_ms, camera_id):
        try:
            feedback = Feedback.model_validate_json(_bounded(record, _MAX_FEEDBACK_BYTES))
        except (ValidationError, ValueError):
            passed_over["verdict"] += 1
            continue
        if feedback.camera_id == camera_id:
            yield record.timestamp or 0, feedback
        else:
            passed_over["verdict"] += 1


def _records(reader: SteadyConsumer, topic: str, since_ms: int, camera_id: str) -> Iterator[Any]:
    """Records with the camera's key, from the first of a time or later to the topic's present end."""
    partitions = [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic))]
    ends = reader.end_offsets(partitions)
    firsts = reader.offsets_for_times(dict.fromkeys(partitions, since_ms))
    for partition in partitions:
        found = firsts[partition]
        if found is None or found.offset >= ends[partition]:
            continue
        reader.assign([partition])
        for record in reader.read_range(partition, found.offset, ends[partition], _PATIENCE_SECONDS):
            if record.key == camera_id.encode():
                yield record


def _bounded(record: Any, most: int) -> bytes:  # noqa: ANN401 - the client's record type has no public name
    value: bytes | None = record.value
    if not value or len(value) > most:
        raise ValueError("empty or too large")
    return value
