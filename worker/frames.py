"""What goes into the engine, and what comes out of it."""

from dataclasses import dataclass, field

from contract.alert import AnyAlert, BundleReference
from contract.errors import FrameError
from contract.scoring import FloatArray


@dataclass(frozen=True, slots=True)
class IncomingFrame:
    """One encoded frame and where it stands.

    Attributes:
        camera_id: Who sent it.
        topic: Topic, or the clip's name.
        partition: Partition.
        offset: Offset, or the frame's index in the clip.
        captured_at_ms: Capture time, ms since 1970 (since the clip's start for files).
        data: JPEG or PNG; None where the record had no value.
        traceparent: Trace to which it belongs, as W3C's Trace Context writes it; None where to none.
    """

    camera_id: str
    topic: str
    partition: int
    offset: int
    captured_at_ms: int
    data: bytes | None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one frame: a score, or the reason why there is none.

    Attributes:
        frame: The frame.
        anomaly_score: None where the frame was rejected.
        threshold: Score from which it is anomalous; None where the frame was rejected.
        is_anomalous: Whether the score reached the threshold and counts.
        counts: Whether it counts for events; not where its camera was unwell or warms up.
        error: Why the frame was rejected.
        alerts: What this frame told about events.
        trailing_bytes: Bytes after the picture's end marker; they were ignored.
        is_drifting: Whether its camera is told of as changed for good.
        drift_share: Share of a window of its scores' blocks beyond normal ones, where one of them ended; else None.
        anomaly_map: A copy of the whole map, float32 of shape (rows, columns); None where maps are not kept.
        bundle: The model that scored it; None where the frame was rejected.
        challenger: What its camera's challenger makes of the same frame, an error where it gave no score; None where
            there is no challenger.
    """

    frame: IncomingFrame
    anomaly_score: float | None = None
    threshold: float | None = None
    is_anomalous: bool = False
    counts: bool = True
    error: FrameError | None = None
    alerts: tuple[AnyAlert, ...] = ()
    trailing_bytes: int = 0
    is_drifting: bool = False
    drift_share: float | None = None
    anomaly_map: FloatArray | None = field(default=None, compare=False)
    bundle: BundleReference | None = None
    challenger: "Outcome | None" = None
