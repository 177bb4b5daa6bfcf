"""The past done again: ``worker run --from TIME --to TIME``.

The frames of a range are scored as they were live, so that events get the ids they got then, and what they tell goes to
topics of the replay's own. Frames before the range are scored too and not told of: an event that began among them has
its first frame there.
"""

import logging
from collections.abc import Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from contract.alert import Alert
from worker.frames import IncomingFrame, Outcome
from worker.kafka_clients import mapped_errors, open_reader, require_topics
from worker.records import camera_of
from worker.replay_consumer import Stretch
from worker.replay_range import ReplayRange
from worker.settings import KafkaSettings

_log = logging.getLogger(__name__)


class Replay:
    """What a replay reads and tells of, and how much that was.

    Args:
        stretches: Of each partition.

    Attributes:
        stretches: The same.
        is_over: Whether all was done when the worker ended.
    """

    def __init__(self, stretches: dict[TopicPartition, Stretch]) -> None:
        self.stretches = stretches
        self.is_over = False
        self._frames = self._letters = 0
        self._events: set[str] = set()
        self._conditions: set[str] = set()
        # Offsets after the last record counted of each camera, whose order frames keep: what is done again after an
        # aborted transaction is counted once.
        self._counted: dict[tuple[TopicPartition, str | None], int] = {}

    def holds(self, record: Any) -> bool:  # noqa: ANN401
        """Whether a record, or a frame, lies in the range and not before it."""
        partition = TopicPartition(record.topic, record.partition)
        return partition in self.stretches and record.offset >= self.stretches[partition].first

    def count(self, outcomes: Sequence[Outcome], letters: Sequence[Any]) -> None:
        """Count what a batch told.

        Args:
            outcomes: Of its frames.
            letters: Records that could not be scored, those of outcomes with an error included.
        """
        before = dict(self._counted)
        scored = [outcome for outcome in outcomes if outcome.error is None]
        self._frames += sum(self._is_new(outcome.frame, before) for outcome in scored)
        news = sum(self._is_new(record, before) for record in letters)
        self._frames, self._letters = self._frames + news, self._letters + news
        for alert in (alert for outcome in scored for alert in outcome.alerts):
            (self._events if isinstance(alert, Alert) else self._conditions).add(alert.data.event_id)

    def _is_new(self, record: Any, before: dict[tuple[TopicPartition, str | None], int]) -> bool:  # noqa: ANN401
        camera = record.camera_id if isinstance(record, IncomingFrame) else camera_of(record)
        key = TopicPartition(record.topic, record.partition), camera
        self._counted[key] = max(self._counted.get(key, 0), record.offset + 1)
        return bool(record.offset >= before.get(key, 0))

    def summary(self, kafka: KafkaSettings) -> str:
        """Say in one line what was done."""
        done = (
            f"{self._frames} frames, {len(self._events)} events, {len(self._conditions)} conditions of cameras on "
            f"{kafka.alerts_topic}, {self._letters} dead letters"
        )
        if not self.is_over:
            return f"stopped before the end of the range: {done}; the same command goes on"
        if not any(stretch.first < stretch.end for stretch in self.stretches.values()):
            return f"{kafka.frames_topic} holds no frame of this range"
        if not self._frames:
            return f"nothing is left of this range for group {kafka.group_id}; another --group-id begins it anew"
        return done


def find_replay(kafka: KafkaSettings, wanted: ReplayRange) -> Replay:
    """Look up which frames a range is of; warns of those that the topic does not hold any more.

    A partition's part is one stretch, from its first record with a timestamp of FROM or later to before its first one
    of TO or later, so that ranges that meet share no frame and leave none out, in whatever order timestamps come.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: A topic is not there.
    """
    with mapped_errors(kafka), open_reader(kafka) as reader:
        topics = [topic for topic in kafka.topics if topic != kafka.dead_letter_topic]
        require_topics(reader, topics, kafka)
        numbers = sorted(reader.partitions_for_topic(kafka.frames_topic))
        partitions = [TopicPartition(kafka.frames_topic, number) for number in numbers]
        oldest = reader.beginning_offsets(partitions)
        ends = reader.end_offsets(partitions)
        begins, firsts = (_offsets_at(reader, at_ms, oldest, ends) for at_ms in (wanted.begins_at_ms, wanted.from_ms))
        lasts = _offsets_at(reader, wanted.to_ms, ends, ends)
    stretches = {}
    for partition in partitions:
        first, end = min(firsts[partition], lasts[partition]), lasts[partition]
        begins_at = min(begins[partition], first) if first < end else end
        stretches[partition] = Stretch(begins_at, first, end)
        if wanted.from_ms is not None and 0 < begins_at == oldest[partition] < end:
            where = {"partition": partition.partition, "offset": begins_at}
            _log.warning("the topic may have held more of this range, retention deleted what was before", extra=where)
    return Replay(stretches)


def _offsets_at(
    reader: KafkaConsumer,
    at_ms: int | None,
    unasked: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """Offsets of the first records with a timestamp or a later one; the end where there is none."""
    if at_ms is None:
        return unasked
    found = reader.offsets_for_times(dict.fromkeys(unasked, at_ms))
    return {tp: min(place.offset, ends[tp]) if place is not None else ends[tp] for tp, place in found.items()}
