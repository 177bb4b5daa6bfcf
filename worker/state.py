"""What is kept of a partition's cameras, small enough to travel in the metadata of a committed offset.

So it is exactly as old as the offset: whoever goes on from there continues the same events. Frames are not part of it;
they are read back from their topic, and the state says from where.

The text is the format's number and the base 85 of compressed JSON. A broker takes 4096 bytes of metadata
(`offset.metadata.max.bytes`), in which about sixty cameras with an event pending fit; one without costs nothing.
"""

import base64
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from contract.alert import HealthState
from contract.event import Event, Following
from contract.kafka_source import CAMERA_ID, MAX_TIME_MS

_FORMAT: Final = "2"
_MAX_UNPACKED_BYTES: Final = 4 * 2**20
_MOST: Final = 2**53
"""Bound of what is counted."""

_MOST_UNWELL: Final = 1000


class Place(NamedTuple):
    """Where a frame stands.

    Attributes:
        offset: Of its record.
        captured_at_ms: Capture time, ms since 1970.
    """

    offset: int
    captured_at_ms: int


@dataclass(frozen=True, slots=True)
class CameraState:
    """A camera with an event pending; positions count its scored frames, the next of which is at 0.

    Attributes:
        camera_id: Whose it is.
        following: What its tracker keeps.
        first: Where the event began.
        peak: Where its highest score is.
        last: Its last anomalous frame.
        peak_from: Offset of the earliest frame that the score of the peak depends on.
    """

    camera_id: str
    following: Following
    first: Place
    peak: Place
    last: Place
    peak_from: int


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a camera that is followed; positions count its scored frames, the next of which is at 0.

    Attributes:
        state: Which.
        is_open: Whether it is told of.
        first_position: Of its first frame.
        last_position: Of the last one so far.
        first: Where the first stands.
        last: Where the last stands.
    """

    state: HealthState
    is_open: bool
    first_position: int
    last_position: int
    first: Place
    last: Place

    @property
    def following(self) -> Following:
        """What its tracker keeps."""
        event = Event(self.first_position, self.last_position, self.first_position, 1.0)
        return Following(event, self.is_open, 1.0, self.first_position)


@dataclass(frozen=True, slots=True)
class UnwellCamera:
    """A camera whose health is followed.

    Attributes:
        camera_id: Whose it is.
        frames_unwell: Next frames whose scores do not count because of what was before.
        conditions: What is wrong.
    """

    camera_id: str
    frames_unwell: int
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What is kept of one partition.

    Attributes:
        bundle: First half of the bundle's digest.
        rule_version: Of the rule for events.
        read_from: Offset of the earliest frame that the next frames' clips depend on.
        cameras: Those with an event pending.
        unwell: Those whose health is followed.
    """

    bundle: str
    rule_version: str
    read_from: int
    cameras: tuple[CameraState, ...] = ()
    unwell: tuple[UnwellCamera, ...] = ()


class _Packed(NamedTuple):
    """A camera's state as it travels: numbers as small as they can be said."""

    camera_id: str
    is_open: bool
    positions: tuple[int, int, int, int]
    scores: tuple[float, float]
    updates: int
    offsets: tuple[int, int, int]
    peak_from: int
    times_ms: tuple[int, int, int]


class _PackedCondition(NamedTuple):
    """A condition as it travels."""

    state: HealthState
    is_open: bool
    positions: tuple[int, int]
    offsets: tuple[int, int]
    times_ms: tuple[int, int]


class _PackedUnwell(NamedTuple):
    """A camera whose health is followed, as it travels."""

    camera_id: str
    frames_unwell: int
    conditions: list[_PackedCondition]


_packed: Final = TypeAdapter(tuple[str, str, int, list[_Packed], list[_PackedUnwell]])


def pack(state: PartitionState, next_offset: int, max_bytes: int) -> tuple[str, int]:
    """Write a state as text.

    Args:
        state: Of the partition.
        next_offset: The offset that is committed with it.
        max_bytes: Size that the text may have.

    Returns:
        The text, and how many cameras' events and conditions it leaves out for want of room: events that are not open
        yet first, then the conditions of cameras, then events that began last.
    """
    cameras = sorted(state.cameras, key=lambda one: (not one.following.is_open, one.first.offset))
    are_open = sum(one.following.is_open for one in cameras)
    ordered: list[CameraState | UnwellCamera] = [*cameras[:are_open], *state.unwell, *cameras[are_open:]]
    kept = len(ordered)
    text = _text(state, ordered, next_offset)
    while len(text) > max_bytes and kept:
        kept = min(kept - 1, kept * max_bytes // len(text))
        text = _text(state, ordered[:kept], next_offset)
    return text if len(text) <= max_bytes else "", len(ordered) - kept


def pack_clips_alone(next_offset: int) -> str:
    """Write a state of no camera, with which an engine only fills its clips, from as far back as it ever reads.

    Args:
        next_offset: The offset that is committed with it.
    """
    return _text(PartitionState("", "", read_from=0), (), next_offset)


def unpack(text: str, next_offset: int) -> PartitionState | None:
    """Read a state from text; None where it is no text of this format.

    Args:
        text: Metadata of the committed offset; anyone who may commit may have written it.
        next_offset: The committed offset.
    """
    if not text.startswith(_FORMAT):
        return None
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b85decode(text[len(_FORMAT) :]), _MAX_UNPACKED_BYTES)
        if not unpacker.eof:
            return None
        bundle, rule_version, read_back, packed, unwell = _packed.validate_json(data)
        cameras = tuple(_unpacked(one, next_offset) for one in packed)
        others = tuple(_unpacked_health(one, next_offset) for one in unwell)
        state = PartitionState(bundle, rule_version, next_offset - read_back, cameras, others)
        if not 0 <= state.read_from <= next_offset or not all(_is_possible(one, next_offset) for one in cameras):
            return None
        if not all(_is_possible_health(one, next_offset) for one in others):
            return None
    except (ValueError, OverflowError, zlib.error, ValidationError):
        return None
    return state


def _text(state: PartitionState, kept: Sequence[CameraState | UnwellCamera], next_offset: int) -> str:
    rows = [_to_packed(one, next_offset) for one in kept if isinstance(one, CameraState)]
    unwell = [_to_packed_health(one, next_offset) for one in kept if isinstance(one, UnwellCamera)]
    value = [state.bundle, state.rule_version, next_offset - state.read_from, rows, unwell]
    data = json.dumps(value, separators=(",", ":")).encode()
    return _FORMAT + base64.b85encode(zlib.compress(data, 9)).decode()


def _to_packed(camera: CameraState, next_offset: int) -> _Packed:
    kept, event = camera.following, camera.following.event
    first, peak, last = camera.first, camera.peak, camera.last
    began_ms = first.captured_at_ms
    return _Packed(
        camera.camera_id,
        kept.is_open,
        (-event.first, -event.peak, -event.last, -kept.told_at),
        (_short(event.peak_score), _short(kept.told_score)),
        event.updates,
        (next_offset - first.offset, next_offset - peak.offset, next_offset - last.offset),
        next_offset - camera.peak_from,
        (began_ms, peak.captured_at_ms - began_ms, last.captured_at_ms - began_ms),
    )


def _unpacked(packed: _Packed, next_offset: int) -> CameraState:
    first, peak, last, told_at = (-back for back in packed.positions)
    with np.errstate(over="ignore"):
        peak_score, told_score = (float(np.float32(score)) for score in packed.scores)
    if not (math.isfinite(peak_score) and math.isfinite(told_score)):
        raise ValueError("a score is not finite")
    first_back, peak_back, last_back = packed.offsets
    began_ms, peak_after_ms, last_after_ms = packed.times_ms
    event = Event(first, last, peak, peak_score, packed.updates)
    return CameraState(
        packed.camera_id,
        Following(event, packed.is_open, told_score, told_at),
        Place(next_offset - first_back, began_ms),
        Place(next_offset - peak_back, began_ms + peak_after_ms),
        Place(next_offset - last_back, began_ms + last_after_ms),
        next_offset - packed.peak_from,
    )


def _to_packed_health(camera: UnwellCamera, next_offset: int) -> _PackedUnwell:
    conditions = [
        _PackedCondition(
            one.state,
            one.is_open,
            (-one.first_position, -one.last_position),
            (next_offset - one.first.offset, next_offset - one.last.offset),
            (one.first.captured_at_ms, one.last.captured_at_ms - one.first.captured_at_ms),
        )
        for one in camera.conditions
    ]
    return _PackedUnwell(camera.camera_id, camera.frames_unwell, conditions)


def _unpacked_health(packed: _PackedUnwell, next_offset: int) -> UnwellCamera:
    conditions = tuple(
        Condition(
            one.state,
            one.is_open,
            -one.positions[0],
            -one.positions[1],
            Place(next_offset - one.offsets[0], one.times_ms[0]),
            Place(next_offset - one.offsets[1], one.times_ms[0] + one.times_ms[1]),
        )
        for one in packed.conditions
    )
    return UnwellCamera(packed.camera_id, packed.frames_unwell, conditions)


def _is_possible_health(camera: UnwellCamera, next_offset: int) -> bool:
    return (
        CAMERA_ID.fullmatch(camera.camera_id) is not None
        and 0 <= camera.frames_unwell <= _MOST_UNWELL
        and len({one.state for one in camera.conditions}) == len(camera.conditions)
        and all(
            -_MOST <= one.first_position <= one.last_position < 0
            and 0 <= one.first.offset <= one.last.offset < next_offset
            and all(0 <= place.captured_at_ms <= MAX_TIME_MS for place in (one.first, one.last))
            for one in camera.conditions
        )
    )


def _is_possible(camera: CameraState, next_offset: int) -> bool:
    """Whether an engine can have kept this: others may commit too, and what they wrote must not stop a worker."""
    event, told_at = camera.following.event, camera.following.told_at
    first, peak, last = camera.first, camera.peak, camera.last
    return (
        CAMERA_ID.fullmatch(camera.camera_id) is not None
        and -_MOST <= event.first <= event.peak <= event.last < 0
        and abs(told_at) <= _MOST
        and 0 <= event.updates <= _MOST
        and 0 <= first.offset <= peak.offset <= last.offset < next_offset
        and 0 <= camera.peak_from <= peak.offset
        and all(0 <= place.captured_at_ms <= MAX_TIME_MS for place in (first, peak, last))
    )


def _short(score: float) -> float:
    """The shortest decimal that is the same single-precision number, which a score is."""
    return float(str(np.float32(score)))
