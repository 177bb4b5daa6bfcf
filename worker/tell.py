"""Alerts, made of what is known of a camera's event, of its health, or of its model."""

from dataclasses import dataclass
from typing import NamedTuple

from contract.alert import (
    Alert,
    AnomalyData,
    BundleReference,
    CameraAlert,
    CameraData,
    DriftData,
    FrameReference,
    ModelAlert,
    ModelChangedData,
    Picture,
    PlaceReference,
    StretchReference,
    make_alert,
    make_camera_alert,
    make_event_id,
    make_model_alert,
)
from contract.drift import DRIFT_VERSION
from contract.drift_tracker import Drift
from contract.event import Event, Transition
from contract.scoring import FloatArray, Severity, anomalous_area, anomalous_boxes
from worker.camera_health import Told
from worker.pictures import heat_map, snapshot
from worker.profile import Terms
from worker.state import Place
from worker.zones import Region, map_within


class Where(NamedTuple):
    """Whose frames they are, and where they come from.

    Attributes:
        topic: Topic, or the clip's name.
        partition: Partition.
        camera_id: The camera.
    """

    topic: str
    partition: int
    camera_id: str


@dataclass(slots=True)
class Peak:
    """The frame of an event's highest score.

    Attributes:
        data: As it came; empty where it was large.
        small: Picture of a large one.
        anomaly_map: Its map, float32 of shape (rows, columns), as far as it counts.
    """

    data: bytes
    small: Picture | None
    anomaly_map: FloatArray

    @classmethod
    def of(cls, data: bytes, anomaly_map: FloatArray, region: Region | None, max_bytes: int) -> "Peak":
        """Keep of a peak the map, a copy, for it is a view that would keep its whole batch's, and the picture.

        A large frame is made small at once, since each camera may have a peak pending.
        """
        counting = map_within(anomaly_map, region).copy()
        return cls(data, None, counting) if len(data) <= max_bytes else cls(b"", snapshot(data, max_bytes), counting)

    def snapshot(self, max_bytes: int) -> Picture | None:
        """A small picture of the frame; None where there is none."""
        return snapshot(self.data, max_bytes) if self.data else self.small


class EventPlaces(NamedTuple):
    """Where an event's frames stand.

    Attributes:
        first: Its first frame.
        peak: That of the highest score.
        last: Its last anomalous one so far.
    """

    first: Place
    peak: Place
    last: Place


def tell_event(
    where: Where, transition: Transition, event: Event, places: EventPlaces, terms: Terms,
    rarity: tuple[float, Severity], peak: Peak | None, at_ms: int, max_bytes: int,
) -> Alert:  # fmt: skip
    """Make the alert of an event.

    Args:
        where: Whose it is.
        transition: What happened.
        event: As it stands.
        places: Of its frames.
        terms: Under which it is told.
        rarity: P-value and severity of the peak.
        peak: Its frame; None where there is no picture of it.
        at_ms: Capture time of the frame at which it happened, ms since 1970.
        max_bytes: Size up to which pictures travel.
    """
    first, highest, last = places
    data = AnomalyData(
        event_id=make_event_id(*where[:2], first.offset, where.camera_id, terms.bundle.digest, terms.rule_version),
        camera_id=where.camera_id,
        started_at_ms=first.captured_at_ms,
        peak_at_ms=highest.captured_at_ms,
        ended_at_ms=last.captured_at_ms if transition == "ended" else None,
        peak_score=event.peak_score,
        threshold=terms.threshold,
        p_value=rarity[0],
        severity=rarity[1],
        anomalous_area_percent=anomalous_area(peak.anomaly_map, terms.threshold) if peak else 0.0,
        boxes=tuple(anomalous_boxes(peak.anomaly_map, terms.threshold)) if peak else (),
        heat_map=heat_map(peak.anomaly_map, terms.threshold, max_bytes) if peak else None,
        snapshot=peak.snapshot(max_bytes) if peak else None,
        frames=FrameReference(
            topic=where.topic, partition=where.partition, first_offset=first.offset, peak_offset=highest.offset,
            last_offset=last.offset,
        ),
        bundle=terms.bundle,
        rule_version=terms.rule_version,
    )  # fmt: skip
    return make_alert(transition, event.updates, at_ms, data)


def tell_health(
    where: Where, told: Told, at_ms: int, bundle: BundleReference, rule_version: str, data: bytes | None, max_bytes: int
) -> CameraAlert:
    """Make the alert of a camera's health.

    Args:
        where: Whose it is.
        told: What became of a condition.
        at_ms: Capture time of the frame at which it is said, ms since 1970.
        bundle: Whose usual picture frames were compared with.
        rule_version: Of the rule for this condition.
        data: The frame at which it is said; None where no picture is to travel.
        max_bytes: Size up to which it does.
    """
    first, last, is_over = told.first, told.last, told.transition == "ended"
    # A drift may outlast the rule that it began under, and ends under its id.
    named = DRIFT_VERSION if told.state == "drift" else rule_version
    said = CameraData(
        event_id=make_event_id(*where[:2], first.offset, where.camera_id, bundle.digest, named),
        camera_id=where.camera_id,
        state=told.state,
        started_at_ms=first.captured_at_ms,
        ended_at_ms=last.captured_at_ms if is_over else None,
        snapshot=snapshot(data, max_bytes) if data and not is_over else None,
        frames=StretchReference(
            topic=where.topic, partition=where.partition, first_offset=first.offset, last_offset=last.offset
        ),
        bundle=bundle,
        rule_version=rule_version,
        drift=_drift_data(told.drift) if told.drift is not None else None,
    )
    return make_camera_alert(at_ms, said)


def tell_model_change(where: Where, place: Place, before: BundleReference, after: BundleReference) -> ModelAlert:
    """Make the alert of another model.

    Args:
        where: Whose it is.
        place: Of the first frame that it scored.
        before: The bundle that scored the frame before.
        after: The bundle that scored this one.
    """
    said = ModelChangedData(
        event_id=make_event_id(*where[:2], place.offset, where.camera_id, after.digest, before.digest),
        camera_id=where.camera_id,
        changed_at_ms=place.captured_at_ms,
        before=before,
        after=after,
        frames=PlaceReference(topic=where.topic, partition=where.partition, offset=place.offset),
    )
    return make_model_alert(said)


def _drift_data(drift: Drift) -> DriftData:
    return DriftData(
        measure=drift.measure,
        direction=drift.direction,
        spreads=round(drift.spreads, 2),
        share_percent=round(100 * drift.share, 1),
        p_value=float(f"{drift.p_value:.3g}"),
    )
