"""The consumer of a replay: reads one stretch of each partition, and knows when all of it is done.

It is a member of a group as the live worker's is, so several share the partitions, each goes on where one that was
killed ended, and exactly-once holds. Only where a partition begins and ends is a matter of its own.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from kafka import TopicPartition
from kafka.errors import NoOffsetForPartitionError
from kafka.structs import OffsetAndMetadata

from contract.steady_consumer import UnreadableRecordError
from worker.frames_consumer import FramesConsumer
from worker.state_text import pack_clips_alone

_POSITION_MS: Final = 1_000


class Stretch(NamedTuple):
    """What a replay reads of a partition.

    Attributes:
        begins_at: Offset from which frames are scored.
        first: Offset from which they are told of.
        end: Offset to stop before.
    """

    begins_at: int
    first: int
    end: int


_NOTHING: Final = Stretch(0, 0, 0)
"""Of a partition that was added since the stretches were looked up."""


class ReplayConsumer(FramesConsumer):
    """Gives the records of a replay, from what the group committed, or from where the stretch begins.

    Args:
        stretches: Of each partition.
        configs: As `FramesConsumer` takes them.
    """

    def __init__(self, stretches: Mapping[TopicPartition, Stretch], **configs: Any) -> None:  # noqa: ANN401
        super().__init__(**configs)
        self._stretches = stretches
        # Partitions that are read to the ends of their stretches.
        self._read: set[TopicPartition] = set()
        # Offsets after the last record given of each partition since it was last sought.
        self._given: dict[TopicPartition, int] = {}

    def poll(
        self,
        timeout_ms: int = 0,
        max_records: int | None = None,
        update_offsets: bool = True,  # noqa: FBT001, FBT002
    ) -> dict[TopicPartition, list[Any]]:
        """Next records of the stretches by partition; those behind are left out.

        Raises:
            StalledConsumerError: There are records that fetching does not bring; open another consumer.
            UnreadableRecordError: A record cannot be read; poll again to go on behind it.
        """
        try:
            polled = super().poll(timeout_ms, max_records, update_offsets)
        except UnreadableRecordError as error:
            if error.offset >= self._stretch(error.partition).end:
                return {}
            self._given[error.partition] = error.offset + 1
            raise
        kept = {partition: self._kept(partition, records) for partition, records in polled.items()}
        return {partition: records for partition, records in kept.items() if records}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on from another offset."""
        super().seek(partition, offset)
        self._given.pop(partition, None)
        self._read.discard(partition)
        self.resume(partition)

    def resume(self, *partitions: TopicPartition) -> None:
        """Fetch partitions again that were paused; not those whose stretches are read."""
        super().resume(*(partition for partition in partitions if partition not in self._read))

    def committed(
        self,
        partition: TopicPartition,
        metadata: bool = False,  # noqa: FBT001, FBT002
        timeout_ms: int | None = None,
    ) -> Any:  # noqa: ANN401
        """Committed offset, and its metadata where so asked; where there is none, those with which a stretch begins."""
        found = super().committed(partition, metadata=True, timeout_ms=timeout_ms)
        if found is None:
            begins_at, _, end = self._stretch(partition)
            found = OffsetAndMetadata(begins_at, pack_clips_alone(begins_at) if begins_at < end else "", -1)
        return found if metadata else found.offset

    def highwater(self, partition: TopicPartition) -> int | None:
        """Offset after the last record of a partition's stretch, as last heard."""
        end: int | None = super().highwater(partition)
        return None if end is None else min(end, self._stretch(partition).end)

    def is_over(self) -> bool:
        """Whether the stretches of all assigned partitions are read and what was given of them is committed.

        False where none is assigned yet.
        """
        assigned = self.assignment()
        return bool(assigned) and all(self._is_over(partition) for partition in assigned)

    def _is_over(self, partition: TopicPartition) -> bool:
        # The position, unlike the committed offset, also passes the markers of transactions.
        position = self.position(partition, timeout_ms=_POSITION_MS)
        if position is None or position < self._stretch(partition).end:
            return False
        given = self._given.get(partition)
        return given is None or self.committed(partition) >= given

    def _kept(self, partition: TopicPartition, records: list[Any]) -> list[Any]:
        end = self._stretch(partition).end
        kept = [record for record in records if record.offset < end]
        if kept:
            self._given[partition] = kept[-1].offset + 1
        if records[-1].offset + 1 >= end and partition in self.assignment():
            # What is behind would be fetched in place of what other partitions still have to give.
            self._read.add(partition)
            self.pause(partition)
        else:
            # It was lost since it was read, and came back with less of it committed.
            self._read.discard(partition)
        return kept

    def _begin(self, error: NoOffsetForPartitionError) -> None:
        for partition in error.args[0]:
            self.seek(partition, self._stretch(partition).begins_at)

    def _stretch(self, partition: TopicPartition) -> Stretch:
        return self._stretches.get(partition, _NOTHING)
