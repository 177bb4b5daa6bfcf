"""From Kafka records to frames, and from outcomes to records. Pure: no client is touched."""

import json
from typing import Any, Final, NamedTuple

from contract.alert import CONTENT_TYPE, Alert
from contract.errors import FrameError
from contract.kafka_source import CAMERA_ID
from worker.engine import IncomingFrame, Outcome
from worker.settings import KafkaSettings

CAPTURED_AT_HEADER: Final = "captured-at-ms"
_MAX_HEADERS: Final = 100
_MAX_TIME_MS: Final = 253_402_300_799_000
UNKNOWN_CAMERA: Final = "unknown"


class OutgoingRecord(NamedTuple):
    """A record to send.

    Attributes:
        topic: Topic.
        key: Camera id, or the key as it came.
        value: The bytes.
        headers: Name and value.
        timestamp_ms: Capture time, ms since 1970, or None for the time of sending.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    timestamp_ms: int | None


def read_frame(record: Any) -> IncomingFrame:  # noqa: ANN401 - the client's record type has no public name
    """Read a consumed record as a frame; only the key's form is judged here.

    Raises:
        FrameError: The key is missing or no camera id (``bad_camera_id``), or there are too many headers.
    """
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
        camera_id, record.topic, record.partition, record.offset, _captured_at_ms(record), record.value
    )


def _captured_at_ms(record: Any) -> int:  # noqa: ANN401
    for name, value in record.headers:
        if name == CAPTURED_AT_HEADER and value is not None and len(value) <= 15 and value.isdigit():
            return min(int(value), _MAX_TIME_MS)
    return min(max(record.timestamp or 0, 0), _MAX_TIME_MS)


def alert_record(alert: Alert, kafka: KafkaSettings) -> OutgoingRecord:
    """The record of an alert, keyed by camera."""
    headers = [("content-type", CONTENT_TYPE.encode())]
    stamp = round(alert.time.timestamp() * 1000)
    return OutgoingRecord(kafka.alerts_topic, alert.subject.encode(), alert.to_json(), headers, stamp)


def score_record(outcome: Outcome, threshold: float, topic: str) -> OutgoingRecord:
    """The small record of one scored frame."""
    frame = outcome.frame
    value = {
        "camera_id": frame.camera_id,
        "topic": frame.topic,
        "partition": frame.partition,
        "offset": frame.offset,
        "captured_at_ms": frame.captured_at_ms,
        "anomaly_score": outcome.anomaly_score,
        "threshold": threshold,
        "is_anomalous": outcome.is_anomalous,
    }
    return OutgoingRecord(topic, frame.camera_id.encode(), json.dumps(value).encode(), [], frame.captured_at_ms)


def dead_letter_record(record: Any, error: FrameError, topic: str) -> OutgoingRecord:  # noqa: ANN401
    """The record as it came, with headers that say why it could not be scored and where it stood."""
    kept = [(name, value) for name, value in record.headers[:_MAX_HEADERS] if not name.startswith("framewatch-")]
    why = {
        "framewatch-reason": error.reason,
        "framewatch-error": str(error)[:500],
        "framewatch-topic": record.topic,
        "framewatch-partition": str(record.partition),
        "framewatch-offset": str(record.offset),
        "framewatch-headers-left-out": str(max(0, len(record.headers) - _MAX_HEADERS)),
    }
    headers = kept + [(name, text.encode()) for name, text in why.items()]
    return OutgoingRecord(topic, record.key, record.value, headers, max(record.timestamp or 0, 0))
