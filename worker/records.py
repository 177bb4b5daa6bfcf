"""From Kafka records to frames, and from outcomes to records. Pure: no client is touched."""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from contract.alert import CONTENT_TYPE, AnyAlert, read_alert
from contract.errors import FrameError
from contract.feedback import Feedback
from contract.kafka_source import CAMERA_ID, CAPTURED_AT_HEADER, MAX_TIME_DIGITS, captured_at_ms
from worker.frames import IncomingFrame, Outcome
from worker.settings import KafkaSettings

TRACEPARENT_HEADER: Final = "traceparent"
_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
REASON_HEADER: Final = "framewatch-reason"
_LEFT_OUT_HEADER: Final = "framewatch-value-left-out"
_MAX_HEADERS: Final = 100
_YEAR_2000_MS: Final = 946_684_800_000
_CLOCKS_DIFFER_MS: Final = 60_000
_MAX_BARE_KEY_BYTES: Final = 1024
_CONTENT_TYPE_HEADER: Final = ("content-type", CONTENT_TYPE.encode())
UNKNOWN_CAMERA: Final = "unknown"
MAX_SCORE_BYTES: Final = 256 * 2**10
"""Size of a record of the scores topic at the most: that of the largest map which a model can have, 256x256 cells."""


class OutgoingRecord(NamedTuple):
    """A record to send.

    Attributes:
        topic: Topic.
        key: Camera id, or the key as it came.
        value: The bytes.
        headers: Name and value.
        timestamp_ms: Record timestamp, ms since 1970, or None for the time of sending. A capture time is none of ours
            to send: a broker refuses those of the future and soon deletes those of long ago.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    timestamp_ms: int | None = None


class UnreadableRecord(NamedTuple):
    """Stands in for a record that the client could not read; it has the fields of one, all of them empty.

    Attributes:
        topic: Topic.
        partition: Partition.
        offset: Offset.
        cause: What the client said.
    """

    topic: str
    partition: int
    offset: int
    cause: str
    key: None = None
    value: None = None
    headers: tuple[()] = ()
    timestamp: None = None


def read_frame(record: Any) -> IncomingFrame:  # noqa: ANN401 - the client's record type has no public name
    """Read a consumed record as a frame; only the key's form is judged here.

    Raises:
        FrameError: The key is missing or no camera id (``bad_camera_id``), there are too many headers, or the client
            could not read the record (``unreadable_record``).
    """
    if isinstance(record, UnreadableRecord):
        raise FrameError("unreadable_record", record.cause)
    key = record.key
    try:
        camera_id = key.decode() if key is not None else ""
    except UnicodeDecodeError as error:
        raise FrameError("bad_camera_id", "the key is not UTF-8; expected a camera id") from error
    if not CAMERA_ID.fullmatch(camera_id):
        raise FrameError("bad_camera_id", f"the key {camera_id[:140]!r} is not 1 to 128 of A-Z a-z 0-9 . _ -")
    if len(record.headers) > _MAX_HEADERS:
        raise FrameError("too_many_headers", f"{len(record.headers)} headers, at most {_MAX_HEADERS} are taken")
    return IncomingFrame(
        camera_id,
        record.topic,
        record.partition,
        record.offset,
        captured_at_ms(record),
        record.value,
        traceparent_of(record.headers),
    )


def traceparent_of(headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    """Trace that a record's headers name, as W3C's Trace Context writes it; None where they name none."""
    for name, value in headers:
        if name == TRACEPARENT_HEADER and value is not None and _TRACEPARENT.fullmatch(value):
            return value.decode()
    return None


def camera_of(record: Any) -> str | None:  # noqa: ANN401
    """Camera id that a record's key is; None where it is none."""
    try:
        camera_id = record.key.decode() if record.key is not None else ""
    except UnicodeDecodeError:
        return None
    return camera_id if CAMERA_ID.fullmatch(camera_id) else None


def record_bytes(record: Any) -> int:  # noqa: ANN401
    """Bytes that a record, consumed or to be sent, holds: its key, value and headers."""
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def capture_time_oddity(record: Any, now_ms: float) -> str | None:  # noqa: ANN401
    """Say what is odd about a record's capture time; None where nothing is.

    Args:
        record: As consumed.
        now_ms: The clock, ms since 1970; a minute beyond it is not odd yet.

    Returns:
        ``capture_time_absent``, ``capture_time_negative``, ``capture_time_implausible`` (no number, or before the year
        2000), ``capture_time_future``, or None.
    """
    stated = next((value or b"" for name, value in record.headers if name == CAPTURED_AT_HEADER), None)
    if stated is None and (record.timestamp is None or record.timestamp < 0):
        return "capture_time_absent"
    if stated is not None and not stated.isdigit():
        return "capture_time_negative" if stated[:1] == b"-" and stated[1:].isdigit() else "capture_time_implausible"
    if stated is not None and len(stated) > MAX_TIME_DIGITS:
        return "capture_time_implausible"
    captured_ms = captured_at_ms(record)
    if captured_ms > now_ms + _CLOCKS_DIFFER_MS:
        return "capture_time_future"
    return None if captured_ms >= _YEAR_2000_MS else "capture_time_implausible"


def capture_delay_seconds(captured_at_ms: int, now_ms: float) -> float | None:
    """Time since capture; None where the capture time cannot be true.

    Args:
        captured_at_ms: Capture time, ms since 1970.
        now_ms: The clock, ms since 1970; a capture time up to a minute beyond it is a delay of 0.
    """
    if not _YEAR_2000_MS <= captured_at_ms <= now_ms + _CLOCKS_DIFFER_MS:
        return None
    return max(0.0, now_ms - captured_at_ms) / 1000


def feedback_record(feedback: Feedback, topic: str) -> OutgoingRecord:
    """The record of a verdict, keyed by camera."""
    return OutgoingRecord(topic, feedback.camera_id.encode(), feedback.model_dump_json().encode(), [])


def alert_record(alert: AnyAlert, kafka: KafkaSettings, traceparent: str | None = None) -> OutgoingRecord:
    """The record of an alert, keyed by camera.

    Args:
        alert: The alert.
        kafka: Names its topic.
        traceparent: Trace to which it belongs.
    """
    headers = [_CONTENT_TYPE_HEADER]
    if traceparent is not None:
        headers.append((TRACEPARENT_HEADER, traceparent.encode()))
    return OutgoingRecord(kafka.alerts_topic, alert.subject.encode(), alert.to_json(), headers)


def score_record(outcome: Outcome, topic: str) -> OutgoingRecord:
    """The small record of one scored frame, with its anomaly map where the outcome holds it.

    Of a map stand the ``shape``, rows and columns, and base64 of the cells as ``float16``, little-endian, row by row.
    """
    frame = outcome.frame
    value: dict[str, Any] = {
        "camera_id": frame.camera_id,
        "topic": frame.topic,
        "partition": frame.partition,
        "offset": frame.offset,
        "captured_at_ms": frame.captured_at_ms,
        "anomaly_score": outcome.anomaly_score,
        "threshold": outcome.threshold,
        "is_anomalous": outcome.is_anomalous,
        "counts": outcome.counts,
    }
    if outcome.bundle is not None:
        value["bundle_digest"] = outcome.bundle.digest
    if outcome.anomaly_map is not None:
        cells = outcome.anomaly_map.astype("<f2")
        value["anomaly_map"] = {"shape": cells.shape, "float16": base64.b64encode(cells.tobytes()).decode()}
    return OutgoingRecord(topic, frame.camera_id.encode(), json.dumps(value).encode(), [])


def dead_letter_record(record: Any, error: FrameError, topic: str) -> OutgoingRecord:  # noqa: ANN401
    """The record as it came, with headers that say why it could not be scored and where it stood.

    A producer can send neither a header without a value nor a record with neither key nor value: such a header becomes
    an empty one that ``framewatch-null-headers`` names, such a value an empty one beside ``framewatch-null-value``.
    """
    kept = [(name, value) for name, value in record.headers[:_MAX_HEADERS] if not name.startswith("framewatch-")]
    why = {
        REASON_HEADER: error.reason,
        "framewatch-error": str(error)[:500],
        "framewatch-topic": record.topic,
        "framewatch-partition": str(record.partition),
        "framewatch-offset": str(record.offset),
        "framewatch-headers-left-out": str(max(0, len(record.headers) - _MAX_HEADERS)),
    }
    if record.timestamp is not None:
        why["framewatch-timestamp-ms"] = str(record.timestamp)
    null_names = [name for name, value in kept if value is None]
    if null_names:
        why["framewatch-null-headers"] = ",".join(null_names)[:500]
    value = record.value
    if record.key is None and value is None:
        why["framewatch-null-value"], value = "true", b""
    headers = [(name, value or b"") for name, value in kept] + [(name, text.encode()) for name, text in why.items()]
    return OutgoingRecord(topic, record.key, value, headers)


def without_bulk(record: OutgoingRecord) -> OutgoingRecord | None:
    """The record without what can make it too large to send; None where nothing can be left out.

    An alert goes without its pictures. A dead letter goes without its value, its own headers and a key of more than
    1 KiB; ``framewatch-value-left-out`` tells the value's size in bytes.
    """
    names = {name for name, _ in record.headers}
    # A dead letter keeps its sender's headers, which may say anything, but none of this name.
    if REASON_HEADER not in names:
        if _CONTENT_TYPE_HEADER not in record.headers or record.value is None:
            return None
        alert = read_alert(record.value)
        pictures = {"heat_map", "snapshot"} & set(type(alert.data).model_fields)
        data = alert.data.model_copy(update=dict.fromkeys(pictures))
        value = alert.model_copy(update={"data": data}).to_json()
        return record._replace(value=value) if value != record.value else None
    if _LEFT_OUT_HEADER in names:
        return None
    headers = [(name, value) for name, value in record.headers if name.startswith("framewatch-")]
    headers.append((_LEFT_OUT_HEADER, str(len(record.value or b"")).encode()))
    key = record.key if len(record.key or b"") <= _MAX_BARE_KEY_BYTES else None
    return record._replace(key=key, value=b"", headers=headers)
