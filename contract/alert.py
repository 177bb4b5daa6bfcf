"""The alert as it stands on the wire: CloudEvents 1.0 in the Kafka binding's structured mode, data in JSON.

Sources: CloudEvents 1.0.2 specification; its Kafka protocol binding, section 3.3; its JSON format. The JSON Schema of
an alert is committed as ``docs/schemas/alert.v1.json`` and made by ``python -m contract.alert alert``, that of an alert
of a camera's health as ``docs/schemas/camera.v1.json`` by ``python -m contract.alert camera``, that of an alert of
another model as ``docs/schemas/model_changed.v1.json`` by ``python -m contract.alert model_changed``.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic import Field, TypeAdapter

from contract.drift import Direction, Measure
from contract.event import Transition
from contract.scoring import Box, Severity
from contract.settings import FrozenModel

CONTENT_TYPE: Final = "application/cloudevents+json; charset=UTF-8"
SCHEMA_PATH: Final = "docs/schemas/alert.v1.json"
CAMERA_ID_PATTERN: Final = r"^[A-Za-z0-9._-]{1,128}$"

HealthState = Literal["black", "overexposed", "covered", "moved", "frozen", "infrared", "silent", "drift"]
CameraAlertType = Literal[
    "framewatch.camera.black.v1", "framewatch.camera.overexposed.v1", "framewatch.camera.covered.v1",
    "framewatch.camera.moved.v1", "framewatch.camera.frozen.v1", "framewatch.camera.infrared.v1",
    "framewatch.camera.silent.v1", "framewatch.camera.drift.v1",
]  # fmt: skip
MODEL_CHANGED_TYPE: Final = "framewatch.camera.model_changed.v1"
AlertType = Literal["framewatch.anomaly.started.v1", "framewatch.anomaly.updated.v1", "framewatch.anomaly.ended.v1"]


class Picture(FrozenModel):
    """A JPEG that travels inside the alert."""

    content_type: Literal["image/jpeg"] = "image/jpeg"
    """Media type."""

    height: int = Field(ge=1)
    """Rows, pixels."""

    width: int = Field(ge=1)
    """Columns, pixels."""

    base64: str
    """The file, base64 (RFC 4648 section 4)."""


class FrameReference(FrozenModel):
    """Where frames of the event stand on the frames topic."""

    topic: str
    """Topic; the clip's name where the frames did not come from Kafka."""

    partition: int = Field(ge=0)
    """Partition."""

    first_offset: int = Field(ge=0)
    """Offset of the event's first frame."""

    peak_offset: int = Field(ge=0)
    """Offset of the frame with the highest score so far; snapshot and heat map show it."""

    last_offset: int = Field(ge=0)
    """Offset of the event's last anomalous frame so far."""


class BundleReference(FrozenModel):
    """The model that scored the frames."""

    name: str
    """Name of the bundle."""

    version: str
    """Version of the bundle."""

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    """Digest of its manifest, which holds the digests of its files."""


class AnomalyData(FrozenModel):
    """What an anomaly alert says."""

    event_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Same in every alert of one event, and again when the frames are replayed."""

    camera_id: str = Field(pattern=CAMERA_ID_PATTERN)
    """Key of the frames."""

    started_at_ms: int
    """Capture time of the first anomalous frame, ms since 1970."""

    peak_at_ms: int
    """Capture time of the frame with the highest score so far, ms since 1970."""

    ended_at_ms: int | None
    """Capture time of the last anomalous frame, ms since 1970; null until the event has ended."""

    peak_score: float
    """Highest anomaly score so far."""

    threshold: float
    """Score from which a frame is anomalous."""

    p_value: float = Field(ge=0, le=1)
    """Probability that a normal frame scores as high as the peak."""

    severity: Severity
    """How much rarer than the threshold the peak is."""

    anomalous_area_percent: float = Field(ge=0, le=100)
    """Share of the peak frame that is anomalous, percent."""

    boxes: tuple[Box, ...]
    """Anomalous places in the peak frame, largest first."""

    heat_map: Picture | None
    """The peak frame's anomaly map, coloured; null where it would be too large."""

    snapshot: Picture | None
    """The peak frame; null where it would be too large: read it at ``frames.peak_offset``."""

    frames: FrameReference
    """Where the frames stand."""

    bundle: BundleReference
    """The model."""

    rule_version: str
    """Version of the rule that made events of scores, with a digest of the rule and the thresholds in force."""


class StretchReference(FrozenModel):
    """Where a stretch of frames stands on the frames topic."""

    topic: str
    """Topic; the clip's name where the frames did not come from Kafka."""

    partition: int = Field(ge=0)
    """Partition."""

    first_offset: int = Field(ge=0)
    """Offset of the first frame."""

    last_offset: int = Field(ge=0)
    """Offset of the last frame so far."""


class DriftData(FrozenModel):
    """How the scores of a window differ from those of the footage that the model was calibrated on."""

    measure: Measure
    """What moved most: the ``floor`` of blocks of scores, their 20% quantile, or the ``middle``, their median."""

    direction: Direction
    """Where to."""

    spreads: float
    """How far, in the spread of normal blocks."""

    share_percent: float = Field(ge=0, le=100)
    """Blocks of the window that lie beyond the limit, percent."""

    p_value: float = Field(ge=0, le=1)
    """Probability that so many blocks of a normal window do."""


class CameraData(FrozenModel):
    """What an alert of a camera's health says."""

    event_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Same in both alerts of one condition, and again when the frames are replayed."""

    camera_id: str = Field(pattern=CAMERA_ID_PATTERN)
    """Key of the frames."""

    state: HealthState
    """What is wrong with the camera."""

    started_at_ms: int
    """Capture time of the first such frame, ms since 1970."""

    ended_at_ms: int | None
    """Capture time of the last such frame, ms since 1970; null until the condition has ended."""

    snapshot: Picture | None
    """The frame at which it was told; null at the end, and where it would be too large."""

    frames: StretchReference
    """Where the frames stand."""

    bundle: BundleReference
    """The model whose usual picture the frames were compared with."""

    rule_version: str
    """Version of the rule that made it, with a digest of the rule in force."""

    drift: DriftData | None = None
    """How scores differ, where that is what is told, when it is told; null at the end, and of other states."""


class PlaceReference(FrozenModel):
    """Where one frame stands on the frames topic."""

    topic: str
    """Topic."""

    partition: int = Field(ge=0)
    """Partition."""

    offset: int = Field(ge=0)
    """Offset."""


class ModelChangedData(FrozenModel):
    """What an alert of another model says: from this frame on another bundle scores the camera's frames."""

    event_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Names the change: from the frame's place, the camera and both bundles' digests."""

    camera_id: str = Field(pattern=CAMERA_ID_PATTERN)
    """Key of the frames."""

    changed_at_ms: int
    """Capture time of the first frame that the new bundle scored, ms since 1970."""

    before: BundleReference
    """The model that scored the frame before."""

    after: BundleReference
    """The model that scored this one."""

    frames: PlaceReference
    """Where this one stands."""


class _CloudEvent(FrozenModel):
    specversion: Literal["1.0"] = "1.0"
    """CloudEvents version."""

    id: str
    """Event id, transition and number of the update; equal ids are the same alert sent twice."""

    source: str
    """``/framewatch/TOPIC/PARTITION`` that the frames came from."""

    type: str
    """What happened."""

    subject: str = Field(pattern=CAMERA_ID_PATTERN)
    """Camera id."""

    time: datetime
    """Capture time of the frame at which it happened."""

    datacontenttype: Literal["application/json"] = "application/json"
    """Media type of the data."""

    data: AnomalyData | CameraData | ModelChangedData
    """What it says."""

    def to_json(self) -> bytes:
        """The value of the Kafka record, UTF-8 JSON; the same alert gives the same bytes."""
        return self.model_dump_json().encode()


class Alert(_CloudEvent):
    """One alert, a CloudEvent."""

    type: AlertType
    """What happened."""

    data: AnomalyData
    """What it says."""


class CameraAlert(_CloudEvent):
    """One alert of a camera's health, a CloudEvent; ``data.ended_at_ms`` tells its end from its start."""

    type: CameraAlertType
    """What is wrong."""

    data: CameraData
    """What it says."""


class ModelAlert(_CloudEvent):
    """Told once where a camera's frames go over to another bundle that a running worker loaded, a CloudEvent."""

    type: Literal["framewatch.camera.model_changed.v1"]
    """What happened."""

    data: ModelChangedData
    """What it says."""


AnyAlert = Alert | CameraAlert | ModelAlert
"""What stands on the alerts topic."""

_any_alert: Final = TypeAdapter[AnyAlert](AnyAlert)


def read_alert(value: bytes) -> AnyAlert:
    """Read a record's value.

    Raises:
        ValidationError: It is no alert.
    """
    return _any_alert.validate_json(value)


def make_event_id(
    topic: str, partition: int, first_offset: int, camera_id: str, bundle_digest: str, rule_version: str
) -> str:
    """Name an event by where its first frame stands, the model and the rule: 32 hexadecimal digits."""
    text = json.dumps([topic, partition, first_offset, camera_id, bundle_digest, rule_version])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def make_alert(transition: Transition, update: int, at_ms: int, data: AnomalyData) -> Alert:
    """Wrap what is said in a CloudEvent.

    Args:
        transition: What happened.
        update: Number of the update, 0 where it is none.
        at_ms: Capture time of the frame at which it happened, ms since 1970.
        data: What is said.
    """
    suffix = f"{transition}.{update}" if transition == "updated" else transition
    return Alert.model_validate(_envelope(suffix, f"framewatch.anomaly.{transition}.v1", at_ms, data))


def make_camera_alert(at_ms: int, data: CameraData) -> CameraAlert:
    """Wrap what is said of a camera in a CloudEvent.

    Args:
        at_ms: Capture time of the frame at which it is said, ms since 1970.
        data: What is said.
    """
    suffix = "started" if data.ended_at_ms is None else "ended"
    return CameraAlert.model_validate(_envelope(suffix, f"framewatch.camera.{data.state}.v1", at_ms, data))


def make_model_alert(data: ModelChangedData) -> ModelAlert:
    """Wrap what is said of another model in a CloudEvent."""
    return ModelAlert.model_validate(_envelope("changed", MODEL_CHANGED_TYPE, data.changed_at_ms, data))


def _envelope(suffix: str, kind: str, at_ms: int, data: AnomalyData | CameraData | ModelChangedData) -> dict[str, Any]:
    return {
        "id": f"{data.event_id}.{suffix}",
        "source": f"/framewatch/{data.frames.topic}/{data.frames.partition}",
        "type": kind,
        "subject": data.camera_id,
        "time": utc(at_ms),
        "data": data,
    }


def utc(milliseconds: int) -> datetime:
    """Milliseconds since 1970 as a time in UTC; those beyond year 9999 or before year 1 give the nearest bound."""
    bounded = min(max(milliseconds, -62_135_596_800_000), 253_402_300_799_000)
    return datetime.fromtimestamp(bounded // 1000, UTC).replace(microsecond=bounded % 1000 * 1000)


def alert_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an alert."""
    schema = Alert.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Framewatch alert, version 1",
    }


def camera_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an alert of a camera's health."""
    schema = CameraAlert.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Framewatch alert of a camera's health, version 1",
    }


def model_changed_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an alert of another model."""
    schema = ModelAlert.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Framewatch alert of another model, version 1",
    }


if __name__ == "__main__":
    import sys

    schemas = {"alert": alert_schema, "camera": camera_schema, "model_changed": model_changed_schema}
    sys.stdout.write(json.dumps(schemas[sys.argv[1]](), indent=2) + "\n")
