"""Records that wait for a batch, given by turns: each camera has one, so a camera that floods delays itself alone.

The turns go round as in Nagle, On Packet Switches with Infinite Storage, RFC 970, 1985. A camera's records keep their
order; those of a partition need not, so what is finished of it is a stretch and some offsets ahead of that. How far
ahead is bounded: no record is given that lies further from its partition's oldest than the window.

A partition that has no room for more is full, and to be paused. A camera of it that can be given nothing then leaves
its turn to the partition's oldest record, so what stands in the way of many is served as if it were theirs.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kafka import TopicPartition

from worker.records import camera_of, record_bytes


class Finished(NamedTuple):
    """How far a partition is finished, once all that was taken of it is.

    Attributes:
        next_offset: All before it is finished.
        ahead: Offsets at and after it that are finished too.
    """

    next_offset: int
    ahead: frozenset[int]

    def at_least(self, offset: int) -> "Finished":
        """The same where all before an offset is known to be finished."""
        return self if offset <= self.next_offset else Finished(offset, frozenset(o for o in self.ahead if o >= offset))


@dataclass(slots=True, eq=False)
class _Camera:
    """One camera's turn.

    Attributes:
        name: Its id; None for all records of a partition that name none.
        part: Its partition.
        records: That wait, in their order.
        last_offset: Of the last that came.
    """

    name: str | None
    part: "_Part"
    records: deque[Any] = field(default_factory=deque)
    last_offset: int = -1


@dataclass(slots=True, eq=False)
class _Part:
    """One partition.

    Attributes:
        cameras: Those that have a turn.
        order: Offsets, from the oldest that waits on, and whose they are.
        ahead: Offsets, from there on, that were taken or were finished before.
        end: Offset after the last record that came.
        waiting_bytes: Of the records that wait.
        is_full: Whether there was no room for more when that was asked last.
    """

    cameras: dict[str | None, _Camera] = field(default_factory=dict)
    order: deque[tuple[int, _Camera]] = field(default_factory=deque)
    ahead: set[int] = field(default_factory=set)
    end: int = 0
    waiting_bytes: int = 0
    is_full: bool = False

    @property
    def next_offset(self) -> int:
        """Of the oldest record that waits; where none does, of the next to come."""
        return self.order[0][0] if self.order else self.end


class FairQueue:
    """Holds records until their turn; for one thread.

    Args:
        max_bytes: Size of all that waits; what comes with one poll may come on top.
        window: Offsets from a partition's oldest record on within which records are given.
    """

    def __init__(self, max_bytes: int, window: int) -> None:
        self._max_bytes = max_bytes
        self._window = window
        self._parts: dict[TopicPartition, _Part] = {}
        self._turns: deque[_Camera] = deque()

    def __bool__(self) -> bool:
        """Whether any record waits."""
        return any(part.order for part in self._parts.values())

    def waiting(self, partition: TopicPartition) -> int:
        """Number of records of a partition that wait."""
        part = self._parts.get(partition)
        return sum(len(camera.records) for camera in part.cameras.values()) if part is not None else 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes of all records that wait."""
        return sum(part.waiting_bytes for part in self._parts.values())

    def oldest(self, partition: TopicPartition) -> int | None:
        """Offset of the oldest record of a partition that waits; None where none does."""
        part = self._parts.get(partition)
        return part.order[0][0] if part is not None and part.order else None

    def finished(self, partition: TopicPartition) -> Finished:
        """How far a partition is finished once all that was taken of it so far is."""
        part = self._parts.setdefault(partition, _Part())
        part.ahead = {offset for offset in part.ahead if offset >= part.next_offset}
        return Finished(part.next_offset, frozenset(part.ahead))

    def begin(self, partition: TopicPartition, finished: Iterable[int]) -> None:
        """Note which offsets of a partition were finished before it began; their records are passed over."""
        waiting = self.drop(partition)
        self._parts[partition] = _Part(ahead=set(finished))
        self.add(waiting)

    def add(self, records: Iterable[Any]) -> None:
        """Take in records, those of each partition in their order.

        Offsets that go back say that the topic was cut short or made anew: what waits of that partition is on it no
        more, and is dropped.
        """
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            part = self._parts.setdefault(partition, _Part())
            if record.offset < part.end:
                self.drop(partition)
                part = self._parts[partition] = _Part()
            part.end = record.offset + 1
            if record.offset not in part.ahead:
                self._add(part, record)

    def _add(self, part: _Part, record: Any) -> None:  # noqa: ANN401
        name = camera_of(record)
        camera = part.cameras.get(name)
        if camera is None:
            camera = part.cameras[name] = _Camera(name, part)
            self._turns.append(camera)
        camera.records.append(record)
        camera.last_offset = record.offset
        part.order.append((record.offset, camera))
        part.waiting_bytes += record_bytes(record)

    def take(self, most: int) -> list[Any]:
        """Take so many records at the most, one a turn."""
        taken: list[Any] = []
        passed = 0
        while len(taken) < most and passed < len(self._turns):
            camera = self._turns.popleft()
            served = self._served(camera)
            if served is not None:
                taken.append(self._pop(served))
                passed = 0
            # One that waits for what is behind the records in its way keeps its turn.
            if camera.records or camera.last_offset >= camera.part.next_offset:
                self._turns.append(camera)
                passed += served is None
            else:
                del camera.part.cameras[camera.name]
        return taken

    def _served(self, camera: _Camera) -> _Camera | None:
        """Whose record a camera's turn goes to; None where it is passed over."""
        part = camera.part
        if camera.records and camera.records[0].offset < part.next_offset + self._window:
            return camera
        return part.order[0][1] if part.order and (camera.records or part.is_full) else None

    def _pop(self, camera: _Camera) -> Any:  # noqa: ANN401
        part = camera.part
        record = camera.records.popleft()
        part.waiting_bytes -= record_bytes(record)
        part.ahead.add(record.offset)
        while part.order and part.order[0][0] in part.ahead:
            part.order.popleft()
        return record

    def full(self, assigned: Collection[TopicPartition]) -> set[TopicPartition]:
        """Partitions of which no more should come: as far ahead as may be given, or too large.

        Half of the bytes is for whoever needs it; once that is used, each partition has its share of the other half.
        """
        half = self._max_bytes // 2
        share = half // max(1, len(assigned))
        is_crowded = sum(part.waiting_bytes for part in self._parts.values()) >= half
        for part in self._parts.values():
            is_far = part.end - part.next_offset >= self._window
            part.is_full = is_far or (is_crowded and part.waiting_bytes >= share)
        return {partition for partition, part in self._parts.items() if part.is_full}

    def drop(self, partition: TopicPartition) -> list[Any]:
        """Forget a partition; the records of it that waited, in their order."""
        part = self._parts.pop(partition, None)
        if part is None:
            return []
        self._turns = deque(camera for camera in self._turns if camera.part is not part)
        waiting = [record for camera in part.cameras.values() for record in camera.records]
        return sorted(waiting, key=lambda record: record.offset)
