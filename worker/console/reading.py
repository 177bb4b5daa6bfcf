"""From records of anyone's making to rows that can be stored and shown. Pure: no client and no file is touched.

Whoever may write to the topics chose every byte, so each size is bounded, control characters are escaped, times that
cannot be true do not decide the order, and a picture is a JPEG of a bounded size or it is left out.
"""

import base64
import binascii
import json
import re
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.alert import CAMERA_ID_PATTERN, MODEL_CHANGED_TYPE, Alert, Picture
from contract.command_line import printable
from contract.errors import FrameError
from contract.feedback import Feedback
from contract.frame import FrameLimits, read_frame_header
from worker.records import MAX_SCORE_BYTES

MAX_ALERT_BYTES: Final = 12 * 2**20
MAX_SMALL_BYTES: Final = 8 * 2**10
MAX_PICTURE_BYTES: Final = 4 * 2**20
MAX_TEXT: Final = 256
MAX_BOXES: Final = 100
_MAX_FACTS: Final = 16
_MAX_INTEGER: Final = 2**63 - 1
_YEAR_2000_MS: Final = 946_684_800_000
_CLOCKS_DIFFER_MS: Final = 60_000
_EARLIEST_MS, _LATEST_MS = -62_135_596_800_000, 253_402_300_799_000
_LIMITS: Final = FrameLimits(max_frame_bytes=MAX_PICTURE_BYTES, max_frame_pixels=4096 * 4096)
_ANOMALY: Final = re.compile(r"framewatch\.anomaly\.(started|updated|ended)\.v1")
_CAMERA_STATE: Final = re.compile(r"framewatch\.camera\.([a-z0-9_-]{1,32})\.v1")
_UPDATE: Final = re.compile(r"updated\.([0-9]{1,9})")
_RANK_OF_END: Final = 2**40

PictureKind = Literal["snapshot", "heat-map"]


class MalformedError(ValueError):
    """A record that is not what its topic should hold; the message is a short stable code of the reason."""


class AlertRow(NamedTuple):
    """An anomaly's alert; ``rank`` orders the alerts of an event, ``sorted_at_ms`` the events."""

    event_id: str
    camera_id: str
    alert_id: str
    state: str
    rank: int
    told_at_ms: int
    sorted_at_ms: int
    started_at_ms: int
    peak_at_ms: int
    ended_at_ms: int | None
    peak_score: float
    threshold: float
    p_value: float
    severity: str
    area_percent: float
    facts: str
    snapshot: bytes | None
    heat_map: bytes | None


class NoticeRow(NamedTuple):
    """Any other alert, such as one of a camera's health; ``state`` is None where it is none of those."""

    notice_id: str
    type: str
    camera_id: str
    state: str | None
    told_at_ms: int
    sorted_at_ms: int
    ended_at_ms: int | None
    facts: str


class ScoreRow(NamedTuple):
    """One frame's score; ``counts`` is whether it counts for events, which that of an unwell camera does not."""

    camera_id: str
    at_ms: int
    partition: int
    offset: int
    score: float
    threshold: float
    counts: bool = True


class VerdictRow(NamedTuple):
    """What someone said of an event."""

    event_id: str
    camera_id: str
    verdict: str
    note: str
    at_ms: int
    by: str
    told_at_ms: int


Row = AlertRow | NoticeRow | ScoreRow | VerdictRow


class _Score(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    camera_id: Annotated[str, Field(pattern=CAMERA_ID_PATTERN)]
    partition: Annotated[int, Field(ge=0, le=2**31)]
    offset: Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
    captured_at_ms: int
    anomaly_score: float
    threshold: float
    counts: bool = True


class _Envelope(BaseModel):
    """A CloudEvent of any type."""

    id: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    type: Annotated[str, Field(min_length=1, max_length=128)]
    subject: str = ""
    data: dict[str, Any] = Field(default_factory=dict)


def read_alert(record: Any, now_ms: int) -> AlertRow | NoticeRow:  # noqa: ANN401 - the client's record has no public name
    """Read a record of the alerts topic.

    Args:
        record: As consumed.
        now_ms: The clock, ms since 1970; bounds what the record says of its own time.

    Raises:
        MalformedError: It is no alert.
    """
    value = _bounded(record, MAX_ALERT_BYTES)
    told_at_ms = _told_at_ms(record, now_ms)
    try:
        alert = Alert.model_validate_json(value)
    except ValidationError:
        return _read_notice(value, told_at_ms)
    return _anomaly(alert, told_at_ms)


def read_score(record: Any, now_ms: int) -> ScoreRow:  # noqa: ANN401
    """Read a record of the scores topic; a map in it is passed over.

    Raises:
        MalformedError: It is no score.
    """
    try:
        score = _Score.model_validate_json(_bounded(record, MAX_SCORE_BYTES))
    except ValidationError as error:
        raise MalformedError("score") from error
    at_ms = _plausible_ms(score.captured_at_ms, _told_at_ms(record, now_ms))
    return ScoreRow(
        score.camera_id, at_ms, score.partition, score.offset, score.anomaly_score, score.threshold, score.counts
    )


def read_verdict(record: Any, now_ms: int) -> VerdictRow:  # noqa: ANN401
    """Read a record of the feedback topic.

    Raises:
        MalformedError: It is no verdict, or its key is not the camera it names: the order of verdicts on an event is
            that of its camera's partition.
    """
    try:
        said = Feedback.model_validate_json(_bounded(record, MAX_SMALL_BYTES))
    except ValidationError as error:
        raise MalformedError("verdict") from error
    if record.key != said.camera_id.encode():
        raise MalformedError("verdict_key")
    told_at_ms = _told_at_ms(record, now_ms)
    return VerdictRow(
        said.event_id, said.camera_id, said.verdict, printable(said.note), said.at_ms, printable(said.by), told_at_ms
    )


def _anomaly(alert: Alert, told_at_ms: int) -> AlertRow:
    data = alert.data
    state, rank = _rank(alert)
    texts = (data.frames.topic, data.bundle.name, data.bundle.version, data.rule_version)
    offsets = (data.frames.partition, data.frames.first_offset, data.frames.peak_offset, data.frames.last_offset)
    if alert.subject != data.camera_id or max(map(len, texts)) > MAX_TEXT or max(offsets) > _MAX_INTEGER:
        raise MalformedError("alert")
    facts = {
        "boxes": [box.model_dump() for box in data.boxes[:MAX_BOXES]],
        "frames": {**data.frames.model_dump(), "topic": printable(data.frames.topic)},
        "bundle": {name: printable(text) for name, text in data.bundle.model_dump().items()},
        "rule_version": printable(data.rule_version),
    }
    started, peak = _bounded_ms(data.started_at_ms), _bounded_ms(data.peak_at_ms)
    return AlertRow(
        data.event_id, data.camera_id, alert.id, state, rank, told_at_ms, _plausible_ms(started, told_at_ms), started,
        peak, None if data.ended_at_ms is None else _bounded_ms(data.ended_at_ms), data.peak_score, data.threshold,
        data.p_value, data.severity, data.anomalous_area_percent, json.dumps(facts),
        _jpeg(data.snapshot), _jpeg(data.heat_map),
    )  # fmt: skip


def _rank(alert: Alert) -> tuple[str, int]:
    """State and place of an alert among those of its event, from its type and its id, which must agree."""
    kind = _ANOMALY.fullmatch(alert.type)
    event_id, _, suffix = alert.id.partition(".")
    update = _UPDATE.fullmatch(suffix)
    state = kind[1] if kind else ""
    if event_id != alert.data.event_id or (suffix != state and not (update and state == "updated")):
        raise MalformedError("alert_id")
    return state, {"started": 0, "ended": _RANK_OF_END}.get(state, 1 + int(update[1]) if update else 1)


def _read_notice(value: bytes, told_at_ms: int) -> NoticeRow:
    try:
        told = _Envelope.model_validate_json(value)
    except ValidationError as error:
        raise MalformedError("alert") from error
    if told.type.startswith("framewatch.anomaly."):
        raise MalformedError("alert")
    # Another model is no trouble of a camera's, and never ends.
    is_model = told.type == MODEL_CHANGED_TYPE
    camera_state = None if is_model else _CAMERA_STATE.fullmatch(told.type)
    data = {**told.data, **_models_in(told.data)} if is_model else told.data
    camera_id, event_id = data.get("camera_id"), data.get("event_id")
    at_ms, ended_at_ms = _time_in(data, "changed_at_ms" if is_model else "started_at_ms"), _time_in(data, "ended_at_ms")
    return NoticeRow(
        notice_id=_short(event_id if isinstance(event_id, str) and event_id else told.id),
        type=_short(told.type),
        camera_id=_short(camera_id if isinstance(camera_id, str) and camera_id else told.subject),
        state=camera_state[1] if camera_state else None,
        told_at_ms=told_at_ms,
        sorted_at_ms=told_at_ms if at_ms is None else _plausible_ms(at_ms, told_at_ms),
        ended_at_ms=ended_at_ms,
        facts=json.dumps(_plain_facts(data)),
    )


def _models_in(data: dict[str, Any]) -> dict[str, Any]:
    """Names and versions of the bundles that an alert of another model says."""
    said = {when: data[when] for when in ("before", "after") if isinstance(data.get(when), dict)}
    return {f"{when} {part}": one.get(part) for when, one in said.items() for part in ("name", "version")}


def _plain_facts(data: dict[str, Any]) -> dict[str, str]:
    """The first short values of an unknown alert, as text."""
    plain = (
        (name, value)
        for name, value in data.items()
        if isinstance(value, str | float) or (isinstance(value, int) and abs(value) <= _MAX_INTEGER)
    )
    return {
        _short(name)[:40]: _short(value if isinstance(value, str) else json.dumps(value))
        for name, value in list(plain)[:_MAX_FACTS]
    }


def _time_in(data: dict[str, Any], name: str) -> int | None:
    value = data.get(name)
    return _bounded_ms(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _short(text: str) -> str:
    # Escapes are longer than what they stand for, so cut before and after.
    return printable(text[:MAX_TEXT])[:MAX_TEXT]


def _bounded(record: Any, most: int) -> bytes:  # noqa: ANN401
    value: bytes | None = record.value
    if not value:
        raise MalformedError("empty")
    if len(value) > most:
        raise MalformedError("too_large")
    return value


def _told_at_ms(record: Any, now_ms: int) -> int:  # noqa: ANN401
    """When a record was sent: what it says of itself, where that lies between 2000 and now."""
    stated: int | None = record.timestamp
    return stated if stated is not None and _YEAR_2000_MS <= stated <= now_ms else now_ms


def _plausible_ms(at_ms: int, told_at_ms: int) -> int:
    """A capture time, or the time of sending where the capture time cannot be true."""
    return at_ms if _YEAR_2000_MS <= at_ms <= told_at_ms + _CLOCKS_DIFFER_MS else told_at_ms


def _bounded_ms(at_ms: int) -> int:
    return min(max(at_ms, _EARLIEST_MS), _LATEST_MS)


def _jpeg(picture: Picture | None) -> bytes | None:
    """A picture's bytes where they are a JPEG of a size that a browser may be given, otherwise None."""
    if picture is None or len(picture.base64) > MAX_PICTURE_BYTES * 4 // 3 + 4:
        return None
    try:
        data = base64.b64decode(picture.base64, validate=True)
        if not data.startswith(b"\xff\xd8\xff"):
            return None
        read_frame_header(data, _LIMITS)
    except (binascii.Error, ValueError, FrameError):
        return None
    return data
