"""A partition's state as text, small enough to travel in the metadata of a committed offset.

So it is exactly as old as the offset: whoever goes on from there continues the same events. Frames are not part of it;
they are read back from their topic, and the state says from where. Nor need frames be finished in the order of their
offsets: the state also says which after the committed one are, and that is never left out.

The text is the format's number and the base 85 of compressed JSON. A broker takes 4096 bytes of metadata
(`offset.metadata.max.bytes`), in which about sixty
cameras of one bundle with an event pending fit, or some thirty each with its own; one without costs nothing.
"""

import base64
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Final, NamedTuple, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from contract.alert import BundleReference, HealthState
from contract.event import Event, Following
from contract.kafka_source import CAMERA_ID, MAX_TIME_MS
from contract.scoring import Severity
from worker.profile import Terms
from worker.state import (
    AHEAD_OFFSETS,
    CameraState,
    FollowedCondition,
    PartitionState,
    Place,
    UnwellCamera,
    WarmUpState,
)
from worker.warm_up import BLOCKS, Seen, Thresholds

_FORMAT: Final = "3"
_MAX_UNPACKED_BYTES: Final = 4 * 2**20
_MOST: Final = 2**53
"""Bound of what is counted."""

_MOST_UNWELL: Final = 1000
_MOST_BINS: Final = 10_000
_MOST_FRAMES: Final = 1_000_000
_MOST_SCORE: Final = 100.0
_MOST_NAME: Final = 128
_DIGEST_BEGINS: Final = "sha256:"
_RULE_VERSION: Final = re.compile(r"[0-9A-Za-z.-]{1,64}")
ItemT = TypeVar("ItemT")


class _PackedBundle(NamedTuple):
    """A bundle as it travels; the digest without what all begin with."""

    name: str
    version: str
    digest: str


class _PackedTerms(NamedTuple):
    """Terms as they travel; the bundle by its place among those that travel with them."""

    bundle: int
    rule_version: str
    threshold: float


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
    terms: int
    p_value: float
    severity: Severity


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
    terms: int


class _PackedWarmUp(NamedTuple):
    """A camera with thresholds of its own, as it travels."""

    camera_id: str
    terms: int
    seen: Seen
    thresholds: Thresholds | None


_Row = CameraState | UnwellCamera | WarmUpState
# A bit an offset, the committed one's the lowest, in hexadecimal digits.
_Bits = Annotated[str, Field(pattern=rf"^[0-9a-f]{{0,{AHEAD_OFFSETS // 4}}}$")]
_packed: Final = TypeAdapter(
    tuple[
        list[_PackedBundle], list[_PackedTerms], int, _Bits, list[_Packed], list[_PackedUnwell], list[_PackedWarmUp]
    ]
)  # fmt: skip


def pack(state: PartitionState, next_offset: int, max_bytes: int) -> tuple[str, int]:
    """Write a state as text.

    Args:
        state: Of the partition.
        next_offset: The offset that is committed with it.
        max_bytes: Size that the text may have; 512 hold what is never left out.

    Returns:
        The text, and how many cameras' events, conditions and thresholds it leaves out for want of room: thresholds of
        their own first after drifts, which last for weeks and are told again, then events that are not open yet, then
        conditions, then events that began last.
    """
    cameras = sorted(state.cameras, key=lambda one: (not one.following.is_open, one.first.offset))
    are_open = sum(one.following.is_open for one in cameras)
    warm_ups = sorted(state.warm_ups, key=lambda one: one.thresholds is None)
    drifts = [one for one in state.unwell if _is_drift_alone(one)]
    unwell = [one for one in state.unwell if one not in drifts]
    ordered: list[_Row] = [*cameras[:are_open], *unwell, *cameras[are_open:], *warm_ups, *drifts]
    kept = len(ordered)
    text = _text(state, ordered, next_offset)
    while len(text) > max_bytes and kept:
        kept = min(kept - 1, kept * max_bytes // len(text))
        text = _text(state, ordered[:kept], next_offset)
    return text, len(ordered) - kept


def _is_drift_alone(one: UnwellCamera) -> bool:
    return not one.frames_unwell and [condition.state for condition in one.conditions] == ["drift"]


def pack_clips_alone(next_offset: int) -> str:
    """Write a state of no camera, with which an engine only fills its clips, from as far back as it ever reads.

    Args:
        next_offset: The offset that is committed with it.
    """
    return _text(PartitionState(read_from=0), (), next_offset)


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
        bundles, packed_terms, read_back, bits, packed, unwell, warm_ups = _packed.validate_json(data)
        terms = [_unpacked_terms(one, bundles) for one in packed_terms]
        state = PartitionState(
            next_offset - read_back,
            tuple(_unpacked(one, next_offset, _at(terms, one.terms)) for one in packed),
            tuple(_unpacked_health(one, next_offset, _at(terms, one.terms)) for one in unwell),
            tuple(
                WarmUpState(one.camera_id, _at(terms, one.terms), _as_scores(one.seen, _score), one.thresholds)
                for one in warm_ups
            ),
            _offsets(bits, next_offset),
        )
    except (ValueError, OverflowError, zlib.error, ValidationError):
        return None
    is_possible = (
        0 <= state.read_from <= next_offset
        and all(map(_is_possible, state.cameras))
        and all(map(_is_possible_health, state.unwell))
        and all(map(_is_possible_warm_up, state.warm_ups))
        and _are_finished(state, next_offset)
    )
    return state if is_possible else None


def _text(state: PartitionState, kept: Sequence[_Row], next_offset: int) -> str:
    terms = list(dict.fromkeys(_key(one.terms) for one in kept))
    bundles = list(dict.fromkeys(bundle for bundle, _, _ in terms))
    number = {key: place for place, key in enumerate(terms)}
    rows = [_to_packed(one, next_offset, number[_key(one.terms)]) for one in kept if isinstance(one, CameraState)]
    unwell = [
        _to_packed_health(one, next_offset, number[_key(one.terms)]) for one in kept if isinstance(one, UnwellCamera)
    ]
    warm_ups = [
        _PackedWarmUp(one.camera_id, number[_key(one.terms)], _as_scores(one.seen, _short), one.thresholds)
        for one in kept
        if isinstance(one, WarmUpState)
    ]
    packed_terms = [(bundles.index(bundle), version, threshold) for bundle, version, threshold in terms]
    bits = _bits(state.ahead, next_offset)
    value = [bundles, packed_terms, next_offset - state.read_from, bits, rows, unwell, warm_ups]
    data = json.dumps(value, separators=(",", ":")).encode()
    return _FORMAT + base64.b85encode(zlib.compress(data, 9)).decode()


def _bits(ahead: Iterable[int], next_offset: int) -> str:
    bits = sum(1 << (offset - next_offset) for offset in ahead)
    return f"{bits:x}" if bits else ""


def _offsets(bits: str, next_offset: int) -> frozenset[int]:
    number = int(bits or "0", 16)
    return frozenset(next_offset + place for place in range(number.bit_length()) if number >> place & 1)


def _key(terms: Terms) -> tuple[_PackedBundle, str, float]:
    bundle = terms.bundle
    packed = _PackedBundle(bundle.name, bundle.version, bundle.digest.removeprefix(_DIGEST_BEGINS))
    return packed, terms.rule_version, terms.threshold


def _unpacked_terms(packed: _PackedTerms, bundles: Sequence[_PackedBundle]) -> Terms:
    name, version, digest = _at(bundles, packed.bundle)
    if not math.isfinite(packed.threshold) or not _RULE_VERSION.fullmatch(packed.rule_version):
        raise ValueError("terms that no engine has")
    bundle = BundleReference(name=name[:_MOST_NAME], version=version[:_MOST_NAME], digest=_DIGEST_BEGINS + digest)
    return Terms(bundle, packed.rule_version, packed.threshold)


def _at(of: Sequence[ItemT], place: int) -> ItemT:
    if not 0 <= place < len(of):
        raise ValueError("there is nothing at that place")
    return of[place]


def _to_packed(camera: CameraState, next_offset: int, terms: int) -> _Packed:
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
        terms,
        camera.p_value,
        camera.severity,
    )


def _unpacked(packed: _Packed, next_offset: int, terms: Terms) -> CameraState:
    first, peak, last, told_at = (-back for back in packed.positions)
    peak_score, told_score = map(_score, packed.scores)
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
        terms,
        packed.p_value,
        packed.severity,
    )


def _to_packed_health(camera: UnwellCamera, next_offset: int, terms: int) -> _PackedUnwell:
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
    return _PackedUnwell(camera.camera_id, camera.frames_unwell, conditions, terms)


def _unpacked_health(packed: _PackedUnwell, next_offset: int, terms: Terms) -> UnwellCamera:
    conditions = tuple(
        FollowedCondition(
            one.state,
            one.is_open,
            -one.positions[0],
            -one.positions[1],
            Place(next_offset - one.offsets[0], one.times_ms[0]),
            Place(next_offset - one.offsets[1], one.times_ms[0] + one.times_ms[1]),
        )
        for one in packed.conditions
    )
    return UnwellCamera(packed.camera_id, packed.frames_unwell, conditions, terms)


def _are_finished(state: PartitionState, next_offset: int) -> bool:
    """Whether all frames that a state speaks of were finished when it was written."""
    places = [place for camera in state.cameras for place in (camera.first, camera.peak, camera.last)]
    conditions = [condition for camera in state.unwell for condition in camera.conditions]
    places += [place for condition in conditions for place in (condition.first, condition.last)]
    return all(place.offset < next_offset or place.offset in state.ahead for place in places)


def _is_possible_health(camera: UnwellCamera) -> bool:
    return (
        CAMERA_ID.fullmatch(camera.camera_id) is not None
        and 0 <= camera.frames_unwell <= _MOST_UNWELL
        and len({one.state for one in camera.conditions}) == len(camera.conditions)
        and all(
            -_MOST <= one.first_position <= one.last_position < 0
            and 0 <= one.first.offset <= one.last.offset
            and all(0 <= place.captured_at_ms <= MAX_TIME_MS for place in (one.first, one.last))
            for one in camera.conditions
        )
    )


def _is_possible(camera: CameraState) -> bool:
    """Whether an engine can have kept this: others may commit too, and what they wrote must not stop a worker."""
    event, told_at = camera.following.event, camera.following.told_at
    first, peak, last = camera.first, camera.peak, camera.last
    return (
        CAMERA_ID.fullmatch(camera.camera_id) is not None
        and -_MOST <= event.first <= event.peak <= event.last < 0
        and abs(told_at) <= _MOST
        and 0 <= event.updates <= _MOST
        and 0 <= first.offset <= peak.offset <= last.offset
        and 0 <= camera.peak_from <= peak.offset
        and 0 <= camera.p_value <= 1
        and all(0 <= place.captured_at_ms <= MAX_TIME_MS for place in (first, peak, last))
    )


def _as_scores(seen: Seen, as_score: Callable[[float], float]) -> Seen:
    """What was seen, each score of it written or read as one."""
    return seen._replace(
        recent=tuple(map(as_score, seen.recent)),
        highest=None if seen.highest is None else as_score(seen.highest),
        maxima=tuple(map(as_score, seen.maxima)),
    )


def _score(number: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(number))


def _is_possible_warm_up(camera: WarmUpState) -> bool:
    seen = camera.seen
    numbers = (*seen.recent, *seen.maxima, *(camera.thresholds or ()), seen.highest or 0.0)
    return (
        CAMERA_ID.fullmatch(camera.camera_id) is not None
        and 0 <= seen.frames <= _MOST
        and all(0 <= at_ms <= MAX_TIME_MS for at_ms in (seen.first_ms, seen.last_ms))
        and len(seen.maxima) <= 2 * BLOCKS
        and len(seen.histogram) <= _MOST_BINS
        and all(abs(place) <= _MOST and count > 0 for place, count in seen.histogram)
        and sum(count for _, count in seen.histogram) <= _MOST_FRAMES
        and all(abs(number) <= _MOST_SCORE for number in numbers)
        and (camera.thresholds is None or camera.thresholds.release <= camera.thresholds.threshold)
    )


def _short(score: float) -> float:
    """The shortest decimal that is the same single-precision number, which a score is."""
    return float(str(np.float32(score)))
