"""Footage as a model scored it: one causal pass over every clip, frame by frame, as the worker would make it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from rich.console import Console

from contract.clip import Clip, SourceFrame, require_end
from contract.errors import FootageError, FrameError
from contract.event import EventRule
from contract.frame import FrameLimits, Preprocessing, decode_frame
from contract.scoring import Calibration, FloatArray
from contract.window import ClipWindow
from trainer.labels import Labels
from trainer.metrics import FoundEvent, track_events
from trainer.progress import StageProgress
from trainer.yardsticks import YARDSTICK_INPUT, FlowMagnitude, FrameDifference

_LIMITS: Final = FrameLimits()
_MAX_BATCH: Final = 32
_MAX_BATCH_BYTES: Final = 64 * 2**20
_WORST_SHOWN: Final = 6
_WORST_APART_FRAMES: Final = 50


class ScoringModel(Protocol):
    """What an evaluation needs of a model, be it a run or a bundle."""

    @property
    def name(self) -> str:
        """How reports name it."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How a frame becomes its input."""

    @property
    def clip_frames(self) -> int:
        """Consecutive frames that make one input."""

    @property
    def calibration(self) -> Calibration:
        """Its thresholds."""

    @property
    def event_rule(self) -> EventRule:
        """How its scores become events."""

    def score(self, frames: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Score clips.

        Args:
            frames: uint8 of shape (batch, clip_frames, height, width, channels).

        Returns:
            Scores, float32 of shape (batch,), and maps, float32 of shape (batch, rows, columns).
        """


@dataclass(frozen=True)
class ScoredStretch:
    """An unbroken stretch of one clip; every array has one row a frame.

    Attributes:
        clip: Name of the clip.
        indices: Places in the whole clip, int64.
        captured_at_ms: Capture times, int64.
        scores: Of the model, float64.
        maps: Of the model, float16 of shape (frames, rows, columns).
        difference: Of the frame-difference yardstick, float64; empty where there are no labels.
        flow: Of the optical-flow yardstick, float64; empty where there are no labels.
        labels: True where anomalous; None where there are no labels.
        events: What the event rule found.
    """

    clip: str
    indices: npt.NDArray[np.int64]
    captured_at_ms: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    maps: npt.NDArray[np.float16]
    difference: npt.NDArray[np.float64]
    flow: npt.NDArray[np.float64]
    labels: npt.NDArray[np.bool_] | None
    events: Sequence[FoundEvent]


@dataclass(frozen=True)
class WorstFrame:
    """A frame of a high score, kept to be looked at.

    Attributes:
        clip: Name of the clip.
        index: Place in the whole clip.
        score: Its score.
        data: JPEG or PNG.
        anomaly_map: float16 of shape (rows, columns).
    """

    clip: str
    index: int
    score: float
    data: bytes
    anomaly_map: npt.NDArray[np.float16]


@dataclass(frozen=True)
class ScoredFootage:
    """All that is kept of the footage: a few numbers and a small map a frame.

    Attributes:
        stretches: In the order of the source.
        worst: Frames of the highest scores, highest first, no two of them close together.
    """

    stretches: Sequence[ScoredStretch]
    worst: Sequence[WorstFrame]

    @property
    def clips(self) -> list[str]:
        """Names of the clips, each once, in order."""
        return list(dict.fromkeys(stretch.clip for stretch in self.stretches))


def score_footage(model: ScoringModel, clips: Sequence[Clip], labels: Labels | None, console: Console) -> ScoredFootage:
    """Decode and score every frame from itself and earlier ones only; both yardsticks too where there are labels.

    Windows and events begin anew with each clip and after each gap in its frames.

    Raises:
        ConfigError: A clip is a camera, which has no end.
        FootageError: A frame cannot be decoded, or there is none.
        LabelError: The labels do not describe the frames.
    """
    require_end(clips)
    stretches: list[ScoredStretch] = []
    worst: list[WorstFrame] = []
    with StageProgress("Scoring", console) as progress:
        for number, clip in enumerate(clips):
            share = number / len(clips) if len(clips) > 1 else None
            building = list(_score_clip(model, clip, worst, share, progress, compared=labels is not None))
            stretches += _label(model, clip, building, labels)
    if not stretches:
        raise FootageError("SOURCE gave no frame; there is nothing to evaluate")
    return ScoredFootage(stretches, worst)


@dataclass
class _Building:
    """A stretch while it is scored, and the frames that wait for their batch."""

    window: ClipWindow
    waiting: list[tuple[SourceFrame, npt.NDArray[np.uint8]]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    captured_at_ms: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    maps: list[npt.NDArray[np.float16]] = field(default_factory=list)
    by_difference: FrameDifference = field(default_factory=FrameDifference)
    by_flow: FlowMagnitude = field(default_factory=FlowMagnitude)
    difference: list[float] = field(default_factory=list)
    flow: list[float] = field(default_factory=list)


def _score_clip(
    model: ScoringModel, clip: Clip, worst: list[WorstFrame], share: float | None, progress: StageProgress,
    *, compared: bool,
) -> Iterator[_Building]:  # fmt: skip
    preprocessing = model.preprocessing
    clip_bytes = model.clip_frames * preprocessing.height * preprocessing.width * preprocessing.input_channels
    batch = max(1, min(_MAX_BATCH, _MAX_BATCH_BYTES // clip_bytes))
    building: _Building | None = None
    for frame in clip.frames():
        if building is None or frame.index != building.indices[-1] + 1:
            if building is not None:
                _score_waiting(model, clip, building, worst)
                yield building
            building = _Building(ClipWindow(model.clip_frames, preprocessing))
        building.indices.append(frame.index)
        building.captured_at_ms.append(frame.captured_at_ms)
        building.waiting.append((frame, building.window.push(_decode(clip, frame, preprocessing))))
        if compared:
            pixels = _decode(clip, frame, YARDSTICK_INPUT)
            building.difference.append(building.by_difference.push(pixels))
            building.flow.append(building.by_flow.push(pixels))
        if len(building.waiting) == batch:
            _score_waiting(model, clip, building, worst)
            progress.update(share, f"{clip.name} frame {frame.index}")
    if building is not None:
        _score_waiting(model, clip, building, worst)
        yield building


def _decode(clip: Clip, frame: SourceFrame, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    try:
        return decode_frame(frame.data, preprocessing, _LIMITS)
    except FrameError as error:
        raise FootageError(f"clip {clip.name} frame {frame.index} cannot be decoded: {error}") from error


def _score_waiting(model: ScoringModel, clip: Clip, building: _Building, worst: list[WorstFrame]) -> None:
    if not building.waiting:
        return
    scores, maps = model.score(np.stack([window for _, window in building.waiting]))
    # Float16 halves what is kept a frame; values beyond its range would turn into infinities.
    limit = float(np.finfo(np.float16).max)
    small = np.clip(maps, -limit, limit).astype(np.float16)
    for (frame, _), score, anomaly_map in zip(building.waiting, scores.tolist(), small, strict=True):
        building.scores.append(score)
        building.maps.append(anomaly_map)
        _offer(worst, WorstFrame(clip.name, frame.index, score, frame.data, anomaly_map))
    building.waiting.clear()


def _offer(worst: list[WorstFrame], frame: WorstFrame) -> None:
    """Keep a frame if it is among the worst, one a neighbourhood: six frames of one second would show one thing."""
    if len(worst) == _WORST_SHOWN and frame.score <= worst[-1].score:
        return
    near = [kept for kept in worst if kept.clip == frame.clip and abs(kept.index - frame.index) < _WORST_APART_FRAMES]
    if any(kept.score >= frame.score for kept in near):
        return
    kept = [other for other in worst if not any(other is neighbour for neighbour in near)]
    # A copy, so that the frame does not keep its whole batch of maps alive.
    own = WorstFrame(frame.clip, frame.index, frame.score, frame.data, frame.anomaly_map.copy())
    worst[:] = sorted([*kept, own], key=lambda one: -one.score)[:_WORST_SHOWN]


def _label(
    model: ScoringModel, clip: Clip, buildings: Sequence[_Building], labels: Labels | None
) -> Iterator[ScoredStretch]:
    calibration = model.calibration
    indices = [index for building in buildings for index in building.indices]
    known = None if labels is None else labels.of_frames(clip.name, indices, whole=not getattr(clip, "ranges", ()))
    start = 0
    for building in buildings:
        stop = start + len(building.indices)
        scores = np.array(building.scores, np.float64)
        yield ScoredStretch(
            clip=clip.name,
            indices=np.array(building.indices, np.int64),
            captured_at_ms=np.array(building.captured_at_ms, np.int64),
            scores=scores,
            maps=np.stack(building.maps),
            difference=np.array(building.difference, np.float64),
            flow=np.array(building.flow, np.float64),
            labels=None if known is None else known[start:stop],
            events=track_events(scores, model.event_rule, calibration.threshold, calibration.release_threshold),
        )
        start = stop
