"""``worker score``: the live engine on files, no Kafka."""

import csv
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from contract.alert import Alert, AnyAlert, CameraAlert, ModelAlert
from contract.clip import Clip, require_end
from contract.errors import ConfigError, FootageError
from contract.frame import FrameLimits
from contract.kafka_source import CAMERA_ID
from worker.cores import Crew
from worker.engine import Engine
from worker.frames import IncomingFrame
from worker.profile import BatchScorer

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


def check_request(clips: Sequence[Clip], *, camera_id: str | None, out: Path, events: Path | None) -> None:
    """Refuse, before any work, what `score_clips` and `write_scores` could not finish.

    Raises:
        ConfigError: The camera id is none, a clip has no end, or a path is a folder, lies in none, is no regular file
            or is named twice.
    """
    if camera_id is not None and not CAMERA_ID.fullmatch(camera_id):
        raise ConfigError(f"--camera-id {camera_id!r} is not 1 to 128 of A-Z a-z 0-9 . _ -")
    for path in (out, events):
        if path is not None:
            check_file(path)
    if events is not None and (events.resolve() == out.resolve() or _are_one_file(events, out)):
        raise ConfigError(f"--events {events} is the file of --out too; name another")
    require_end(clips)


def check_file(path: Path) -> None:
    """Refuse, before any work, a path at which no file can be written.

    Raises:
        ConfigError: It is a folder, lies in none, or is no regular file.
    """
    dangling = path.is_symlink() and not path.exists()
    if dangling or (path.exists() and not path.is_dir() and not path.is_file()):
        raise ConfigError(f"{path} is no regular file; name a new one")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise ConfigError(f"{path} is a folder or its folder is missing; name a file in a folder that exists")


def _are_one_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def score_clips(
    detector: BatchScorer, clips: Sequence[Clip], *, camera_id: str | None, threshold: float | None, batch: int,
    limits: FrameLimits, crew: Crew | None = None,
) -> Iterator[ScoreRow | AnyAlert]:  # fmt: skip
    """Score every frame as ``worker run`` would, each clip as a camera of its own, and tell its events.

    Args:
        detector: Scores clips of frames.
        clips: Footage.
        camera_id: Camera in the output; the clip's name where None.
        threshold: In place of the bundle's.
        batch: Frames in a batch.
        limits: What a frame may declare.
        crew: Decodes, measures motion and scores; the caller's thread where not given.

    Yields:
        A row a frame, and alerts as they come.

    Raises:
        FootageError: A frame cannot be decoded.
    """
    for clip in clips:
        camera = camera_id or _as_camera_id(clip.name)
        engine = Engine(detector, threshold=threshold, limits=limits, crew=crew)
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


def write_scores(rows: Iterator[ScoreRow | AnyAlert], out: Path, events: Path | None) -> tuple[int, list[Alert]]:
    """Write ``scores.csv``, and alerts as JSON lines where asked; whole or not at all.

    Returns:
        The number of rows, and the alerts that end events, without their pictures.
    """
    count, ended = 0, []
    with ExitStack() as stack:
        # Left in the other order, so that scores stand only where their alerts do.
        file = stack.enter_context(whole_file(out))
        alerts = stack.enter_context(whole_file(events)) if events is not None else None
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            if not isinstance(row, Alert | CameraAlert | ModelAlert):
                writer.writerow(row)
                count += 1
                continue
            if alerts is not None:
                alerts.write(json.dumps(row.model_dump(mode="json")) + "\n")
            if isinstance(row, Alert) and row.type.endswith("ended.v1"):
                data = row.data.model_copy(update={"heat_map": None, "snapshot": None})
                ended.append(row.model_copy(update={"data": data}))
    return count, ended


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Give a text file to write, which takes its place when the block ends without an error."""
    path = path.resolve()
    with tempfile.TemporaryDirectory(prefix=".framewatch-", dir=path.parent) as folder:
        part = Path(folder) / "part"
        with part.open("w", newline="", encoding="utf-8") as file:
            yield file
        part.replace(path)


def _score_batch(engine: Engine, clip: Clip, frames: list[IncomingFrame]) -> Iterator[ScoreRow | AnyAlert]:
    for outcome in engine.process(frames):
        frame = outcome.frame
        if outcome.error is not None or outcome.anomaly_score is None or outcome.threshold is None:
            raise FootageError(f"{clip.name} frame {frame.offset} cannot be scored: {outcome.error}") from outcome.error
        # Nine digits give back the float32 exactly.
        score = float(f"{outcome.anomaly_score:.9g}")
        yield ScoreRow(
            frame.camera_id, clip.name, frame.offset, frame.captured_at_ms, score, outcome.threshold,
            int(outcome.is_anomalous),
        )  # fmt: skip
        yield from outcome.alerts


def _as_camera_id(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)[:128] or "camera"
