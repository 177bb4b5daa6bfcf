"""``worker score``: the live engine on files, no Kafka."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from contract.alert import Alert
from contract.clip import Clip
from contract.errors import ConfigError, FootageError
from contract.frame import FrameLimits
from worker.engine import BatchScorer, Engine, IncomingFrame

COLUMNS = ("camera_id", "clip", "frame", "captured_at_ms", "anomaly_score", "threshold", "is_anomalous")


class ScoreRow(NamedTuple):
    """One line of ``scores.csv``; the fields are its columns."""

    camera_id: str
    clip: str
    frame: int
    captured_at_ms: int
    anomaly_score: float
    threshold: float
    is_anomalous: int


def score_clips(
    detector: BatchScorer, clips: Sequence[Clip], *, camera_id: str | None, threshold: float | None, batch: int,
    limits: FrameLimits,
) -> Iterator[ScoreRow | Alert]:  # fmt: skip
    """Score every frame as ``worker run`` would, each clip as a camera of its own, and tell its events.

    Args:
        detector: Scores clips of frames.
        clips: Footage.
        camera_id: Camera in the output; the clip's name where None.
        threshold: In place of the bundle's.
        batch: Frames in a batch.
        limits: What a frame may declare.

    Yields:
        A row a frame, and alerts as they come.

    Raises:
        FootageError: A frame cannot be decoded.
    """
    for clip in clips:
        camera = camera_id or _as_camera_id(clip.name)
        engine = Engine(detector, threshold=threshold, limits=limits)
        gathered: list[IncomingFrame] = []
        before: int | None = None
        for frame in clip.frames():
            if before is not None and frame.index != before + 1:
                # A gap between frame ranges: what lies beyond it begins anew, as in training and evaluation.
                yield from _score_batch(engine, clip, gathered)
                yield from engine.close_events()
                gathered = []
            before = frame.index
            gathered.append(IncomingFrame(camera, clip.name, 0, frame.index, frame.captured_at_ms, frame.data))
            if len(gathered) == batch:
                yield from _score_batch(engine, clip, gathered)
                gathered = []
        yield from _score_batch(engine, clip, gathered)
        yield from engine.close_events()


def write_scores(rows: Iterator[ScoreRow | Alert], out: Path, events: Path | None) -> tuple[int, list[Alert]]:
    """Write ``scores.csv``, and alerts as JSON lines where asked; whole or not at all.

    Returns:
        The number of rows, and the alerts that end events.

    Raises:
        ConfigError: A path is a folder or its folder is missing.
    """
    for path in (out, events):
        if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
            raise ConfigError(f"{path} is a folder or its folder is missing; name a file in a folder that exists")
    part = out.with_name(out.name + ".part")
    count, alerts = 0, []
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in rows:
                if isinstance(row, Alert):
                    alerts.append(row)
                else:
                    writer.writerow(row)
                    count += 1
        if events is not None:
            lines = [json.dumps(_plain(alert)) + "\n" for alert in alerts]
            events.write_text("".join(lines), encoding="utf-8")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return count, [alert for alert in alerts if alert.type.endswith("ended.v1")]


def _score_batch(engine: Engine, clip: Clip, frames: list[IncomingFrame]) -> Iterator[ScoreRow | Alert]:
    for outcome in engine.process(frames):
        frame = outcome.frame
        if outcome.error is not None or outcome.anomaly_score is None:
            raise FootageError(f"{clip.name} frame {frame.offset} cannot be scored: {outcome.error}") from outcome.error
        # Nine digits give back the float32 exactly.
        score = float(f"{outcome.anomaly_score:.9g}")
        yield ScoreRow(
            frame.camera_id, clip.name, frame.offset, frame.captured_at_ms, score, engine.threshold,
            int(outcome.is_anomalous),
        )  # fmt: skip
        yield from outcome.alerts


def _as_camera_id(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)[:128] or "camera"


def _plain(alert: Alert) -> dict[str, Any]:
    return alert.model_dump(mode="json")
