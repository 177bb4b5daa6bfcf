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

from contract.event import Event, Following
from contract.kafka_source import CAMERA_ID, MAX_TIME_MS

_FORMAT: Final = "1"
_MAX_UNPACKED_BYTES: Final = 4 * 2**20
_MOST: Final = 2**53
"""Bound of what is counted."""


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
class PartitionState:
    """What is kept of one partition.

    Attributes:
        bundle: First half of the bundle's digest.
        rule_version: Of the rule for events.
        read_from: Offset of the earliest frame that the next frames' clips depend on.
        cameras: Those with an event pending.
    """

    bundle: str
    rule_version: str
    read_from: int
    cameras: tuple[CameraState, ...] = ()


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


_packed: Final = TypeAdapter(tuple[str, str, int, list[_Packed]])


def pack(state: PartitionState, next_offset: int, max_bytes: int) -> tuple[str, int]:
    """Write a state as text.

    Args:
        state: Of the partition.
        next_offset: The offset that is committed with it.
        max_bytes: Size that the text may have.

    Returns:
        The text, and how many cameras it leaves out for want of room: those whose events are not open yet first, then
        those whose events began last.
    """
    cameras = sorted(state.cameras, key=lambda one: (not one.following.is_open, one.first.offset))
    kept = len(cameras)
    text = _text(state, cameras, next_offset)
    while len(text) > max_bytes and kept:
        kept = min(kept - 1, kept * max_bytes // len(text))
        text = _text(state, cameras[:kept], next_offset)
    return text if len(text) <= max_bytes else "", len(cameras) - kept


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
        bundle, rule_version, read_back, packed = _packed.validate_json(data)
        cameras = tuple(_unpacked(one, next_offset) for one in packed)
        state = PartitionState(bundle, rule_version, next_offset - read_back, cameras)
        if not 0 <= state.read_from <= next_offset or not all(_is_possible(one, next_offset) for one in cameras):
            return None
    except (ValueError, OverflowError, zlib.error, ValidationError):
        return None
    return state


def _text(state: PartitionState, cameras: Sequence[CameraState], next_offset: int) -> str:
    rows = [_to_packed(camera, next_offset) for camera in cameras]
    value = [state.bundle, state.rule_version, next_offset - state.read_from, rows]
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
