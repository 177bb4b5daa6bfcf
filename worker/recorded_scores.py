"""Scores as a worker recorded them, read back from the scores topic or from a file of ``worker score``.

Whoever may write to the topic chose every byte, so each size is bounded, and what is no score is counted and passed
over.
"""

import base64
import binascii
import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from kafka import TopicPartition
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.alert import CAMERA_ID_PATTERN
from contract.errors import ConfigError, FramewatchError
from contract.kafka_connection import TOPIC_PATTERN
from contract.kafka_source import CAMERA_ID, MAX_TIME_MS
from contract.scoring import FloatArray
from contract.steady_consumer import NoRecordsError, SteadyConsumer
from worker.kafka_clients import mapped_errors, open_reader, require_topics
from worker.records import MAX_SCORE_BYTES
from worker.score import COLUMNS
from worker.settings import KafkaSettings

_PATIENCE_SECONDS: Final = 15.0
_CLOCKS_DIFFER_MS: Final = 300_000
_MAX_INTEGER: Final = 2**63 - 1
_MAX_NAME: Final = 1024
_MOST_CELLS: Final = 256
_MAX_SCORE: Final = 100.0

Score = Annotated[float, Field(ge=-_MAX_SCORE, le=_MAX_SCORE)]


class ScoredFrame(NamedTuple):
    """One frame as it was scored.

    Attributes:
        camera_id: Who sent it.
        topic: Topic of frames, or the clip's name.
        partition: Partition.
        offset: Offset, or the frame's index in the clip.
        captured_at_ms: Capture time, ms since 1970 (since the clip's start for files).
        score: Its anomaly score.
        threshold: That was in force.
        counts: Whether it counts for events; not where its camera was unwell.
        anomaly_map: float32 of shape (rows, columns); None where it was not asked for or not recorded.
        begins_anew: Whether it does not follow on the frame before.
    """

    camera_id: str
    topic: str
    partition: int
    offset: int
    captured_at_ms: int
    score: float
    threshold: float
    counts: bool = True
    anomaly_map: FloatArray | None = None
    begins_anew: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which frames; all where nothing is named.

    Attributes:
        camera_id: Of this camera alone.
        from_ms: First capture time, ms since 1970.
        to_ms: Capture time to stop before, ms since 1970.
        maps: Whether their anomaly maps are wanted.
    """

    camera_id: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    maps: bool = False

    def has(self, frame: ScoredFrame) -> bool:
        """Whether a frame is among them."""
        at_ms = frame.captured_at_ms
        return (
            self.camera_id in (None, frame.camera_id)
            and (self.from_ms is None or at_ms >= self.from_ms)
            and (self.to_ms is None or at_ms < self.to_ms)
        )


class _Record(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    camera_id: Annotated[str, Field(pattern=CAMERA_ID_PATTERN)]
    topic: Annotated[str, Field(pattern=TOPIC_PATTERN)]
    partition: Annotated[int, Field(ge=0, le=2**31)]
    offset: Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
    captured_at_ms: Annotated[int, Field(ge=0, le=MAX_TIME_MS)]
    anomaly_score: Score
    threshold: Score
    counts: bool = True


class _Map(BaseModel):
    shape: tuple[Annotated[int, Field(ge=1, le=_MOST_CELLS)], Annotated[int, Field(ge=1, le=_MOST_CELLS)]]
    float16: str


class _RecordWithMap(_Record):
    anomaly_map: _Map | None = None


class _NoScoreError(ValueError):
    """A record that is no score; the message is a short code of the reason."""


def read_topic(kafka: KafkaSettings, topic: str, wanted: Wanted, passed_over: Counter[str]) -> Iterator[ScoredFrame]:
    """Read the scores that a topic holds now, a camera's in their order; commits nothing, joins no group.

    Args:
        kafka: The broker.
        topic: Topic of scores.
        wanted: Which frames.
        passed_over: Counts what is no score, by a short code of the reason.

    Raises:
        ConfigError: There is no such topic.
        BrokerUnavailableError: No broker answers.
        FramewatchError: It stops giving records.
    """
    with mapped_errors(kafka), closing(open_reader(kafka)) as reader:
        require_topics(reader, [topic], kafka)
        partitions = [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic))]
        ends = reader.end_offsets(partitions)
        begins = _begins(reader, partitions, wanted.from_ms, ends)
        for partition in partitions:
            reader.assign([partition])
            try:
                for record in reader.read_range(partition, begins[partition], ends[partition], _PATIENCE_SECONDS):
                    frame = _frame(record, wanted, passed_over)
                    if frame is not None and wanted.has(frame):
                        yield frame
            except NoRecordsError as error:
                raise FramewatchError(f"{error} before its end") from error


def _begins(
    reader: SteadyConsumer, partitions: list[TopicPartition], from_ms: int | None, ends: dict[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Where reading begins: at the first record sent after the first capture time, less what clocks may differ."""
    begins: dict[TopicPartition, int] = reader.beginning_offsets(partitions)
    if from_ms is None:
        return begins
    found = reader.offsets_for_times(dict.fromkeys(partitions, max(0, from_ms - _CLOCKS_DIFFER_MS)))
    return {one: found[one].offset if found.get(one) else ends[one] for one in partitions}


def _frame(record: Any, wanted: Wanted, passed_over: Counter[str]) -> ScoredFrame | None:  # noqa: ANN401
    if wanted.camera_id is not None and record.key != wanted.camera_id.encode():
        return None
    try:
        return read_score(record, with_map=wanted.maps)
    except _NoScoreError as error:
        passed_over[str(error)] += 1
        return None


def read_score(record: Any, *, with_map: bool) -> ScoredFrame:  # noqa: ANN401 - the client's record has no public name
    """Read a record of the scores topic.

    Raises:
        ValueError: It is no score, or its key is not its camera: the order of a camera's scores is that of a partition.
    """
    value: bytes = record.value or b""
    if len(value) > MAX_SCORE_BYTES:
        raise _NoScoreError("too large")
    try:
        told = (_RecordWithMap if with_map else _Record).model_validate_json(value)
    except ValidationError as error:
        raise _NoScoreError("no score") from error
    if record.key != told.camera_id.encode():
        raise _NoScoreError("of another key")
    held = told.anomaly_map if isinstance(told, _RecordWithMap) else None
    return ScoredFrame(
        told.camera_id, told.topic, told.partition, told.offset, told.captured_at_ms, told.anomaly_score,
        told.threshold, told.counts, _unpack(held) if held is not None else None,
    )  # fmt: skip


def _unpack(held: _Map) -> FloatArray:
    try:
        cells = np.frombuffer(base64.b64decode(held.float16, validate=True), "<f2").astype(np.float32)
        cells = cells.reshape(held.shape)
    except (binascii.Error, ValueError) as error:
        raise _NoScoreError("no map") from error
    if not np.isfinite(cells).all():
        raise _NoScoreError("no map")
    return cells


def read_file(path: Path, wanted: Wanted) -> Iterator[ScoredFrame]:
    """Read a file that ``worker score`` wrote.

    It does not say which frames of an unwell camera do not count, but for those at or above the threshold.

    Raises:
        ConfigError: It is no such file; the line is named.
        OSError: It cannot be opened.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        before: tuple[str, str, int] | None = None
        try:
            if tuple(next(rows, ())) != COLUMNS:
                raise ConfigError(f"--scores {path}: expected the columns {','.join(COLUMNS)}, as worker score writes")
            for row in rows:
                frame = _row(path, rows.line_num, row)
                follows = before is not None and before == (frame.camera_id, frame.topic, frame.offset - 1)
                before = frame.camera_id, frame.topic, frame.offset
                if wanted.has(frame):
                    yield frame if follows else frame._replace(begins_anew=True)
        except csv.Error as error:
            raise ConfigError(f"--scores {path}, line {rows.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"--scores {path} is not UTF-8 text") from error


def _row(path: Path, line: int, row: list[str]) -> ScoredFrame:
    try:
        camera_id, clip, frame, at_ms, score, threshold, is_anomalous = row
        told = ScoredFrame(camera_id, clip, 0, int(frame), int(at_ms), float(score), float(threshold))
        _require_sane(told)
    except ValueError as error:
        raise ConfigError(f"--scores {path}, line {line} is no line of worker score: {error}") from error
    # Nine digits give back the float32 exactly.
    exact = float(np.float32(told.score))
    return told._replace(score=exact, counts=is_anomalous == "1" or exact < told.threshold)


def _require_sane(frame: ScoredFrame) -> None:
    if not CAMERA_ID.fullmatch(frame.camera_id) or len(frame.topic) > _MAX_NAME:
        raise ValueError(f"camera {frame.camera_id[:140]!r} or its clip has no such name")
    if not (0 <= frame.offset <= _MAX_INTEGER and 0 <= frame.captured_at_ms <= MAX_TIME_MS):
        raise ValueError("its frame or its capture time is out of range")
    # What is not a number is within no range.
    if not (abs(frame.score) <= _MAX_SCORE and abs(frame.threshold) <= _MAX_SCORE):
        raise ValueError(f"its score or threshold is not between -{_MAX_SCORE:g} and {_MAX_SCORE:g}")
