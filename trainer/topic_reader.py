"""Looks up and reads stretches of one camera's frames on a topic."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, Final

from kafka import TopicPartition

from contract.errors import FootageError
from contract.kafka_source import MAX_TIME_MS, KafkaClip
from contract.steady_consumer import SteadyConsumer

_PATIENCE_SECONDS: Final = 30.0


class TopicReader:
    """Reads a topic by time.

    The part of a partition that belongs to a time goes from its first record of the beginning or later to before its
    first one of the end or later, so that stretches that meet share no record and leave none out, in whatever order
    timestamps come. Errors of the client pass through.

    Args:
        reader: A consumer of no group.
        address: Topic and camera.

    Raises:
        FootageError: The topic is not there.
    """

    def __init__(self, reader: SteadyConsumer, address: KafkaClip) -> None:
        numbers = reader.partitions_for_topic(address.topic)
        if not numbers:
            raise FootageError(
                f"topic {address.topic} is not on {address.bootstrap_servers}, or its user may not see it; "
                "is its name right?"
            )
        self._reader = reader
        self._key = address.name.encode()
        self._partitions = {number: TopicPartition(address.topic, number) for number in sorted(numbers)}
        self._ends = reader.end_offsets(list(self._partitions.values()))
        self._places = {number: _Places() for number in self._partitions}

    @property
    def partitions(self) -> frozenset[int]:
        """Numbers of the topic's partitions."""
        return frozenset(self._partitions)

    def oldest_ms(self) -> int | None:
        """Timestamp of the first record of a partition that has one, the earliest of them; None where none has."""
        return min(self._first_times(0), default=None)

    def newest_ms(self) -> int:
        """Highest timestamp of a record, found by halving; there is one."""
        low, high = 0, MAX_TIME_MS
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._first_times(middle) else (low, middle - 1)
        return low

    def is_silent(self, start_ms: int, end_ms: int, partition: int) -> bool:
        """Whether a stretch of a partition holds no record of anybody, which costs no reading to know."""
        return self._offset_at(partition, start_ms) >= self._offset_at(partition, end_ms)

    def records(self, start_ms: int, end_ms: int, partition: int) -> Iterator[Any]:
        """The camera's records of a stretch that stand in a partition; blocks while the broker answers slowly."""
        where = self._partitions[partition]
        first, end = self._offset_at(partition, start_ms), self._offset_at(partition, end_ms)
        if first >= end:
            return
        self._reader.assign([where])
        for record in self._reader.read_range(where, first, end, _PATIENCE_SECONDS):
            if record.key == self._key:
                yield record

    def _first_times(self, at_ms: int) -> list[int]:
        found = self._reader.offsets_for_times(dict.fromkeys(self._partitions.values(), at_ms))
        return [place.timestamp for place in found.values() if place is not None]

    def _offset_at(self, partition: int, at_ms: int) -> int:
        places, where = self._places[partition], self._partitions[partition]
        known = places.at(at_ms)
        if known is None:
            found = self._reader.offsets_for_times({where: at_ms})[where]
            until_ms, known = (MAX_TIME_MS, self._ends[where]) if found is None else (found.timestamp, found.offset)
            places.learn(at_ms, until_ms, known)
        return min(known, int(self._ends[where]))


class _Places:
    """Times of which the offset is known: the first record of a time or later is that of every time between the two."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._known: list[tuple[int, int]] = []

    def at(self, at_ms: int) -> int | None:
        """Offset of the first record of a time or later, where it is known."""
        place = bisect_right(self._starts, at_ms) - 1
        if place < 0 or at_ms > self._known[place][0]:
            return None
        return self._known[place][1]

    def learn(self, at_ms: int, until_ms: int, offset: int) -> None:
        """Keep that the first record of a time or later has a later time and an offset."""
        place = bisect_right(self._starts, at_ms)
        self._starts.insert(place, at_ms)
        self._known.insert(place, (until_ms, offset))
