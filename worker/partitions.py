"""Which partitions are this worker's, where each began, and how far each is scored and committed."""

import logging
import threading
from collections.abc import Iterable

from kafka import TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener

_log = logging.getLogger(__name__)


class Losses(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Notes the partitions that were taken away, for the loop to act on between batches; commits nothing itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: set[TopicPartition] = set()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Note what is taken away."""
        with self._lock:
            self._lost |= set(revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Log what is given."""
        if assigned:
            _log.info("partitions assigned", extra={"partitions": sorted(tp.partition for tp in assigned)})

    def take(self) -> set[TopicPartition]:
        """The partitions lost since the last call, those that came back since included.

        The cooperative protocol never takes what it leaves, so whatever is named here was another worker's for a time.
        """
        with self._lock:
            lost, self._lost = self._lost, set()
        return lost


class Progress:
    """Offsets of the assigned partitions: after the last finished frame, and which of them are not yet committed."""

    def __init__(self) -> None:
        self._finished: dict[TopicPartition, int] = {}
        self._uncommitted: dict[TopicPartition, int] = {}

    @property
    def finished(self) -> dict[TopicPartition, int]:
        """Offset after the last finished frame, or where the partition began; a copy."""
        return dict(self._finished)

    @property
    def uncommitted(self) -> dict[TopicPartition, int]:
        """Offsets that are to be committed; a copy."""
        return dict(self._uncommitted)

    def begin(self, partition: TopicPartition, offset: int) -> None:
        """Note where a partition begins, so that this is committed before any frame of it is finished."""
        self._finished[partition] = self._uncommitted[partition] = offset

    def finish(self, partition: TopicPartition, offset: int) -> None:
        """Note that the record at an offset is finished and all it told is confirmed."""
        self._finished[partition] = self._uncommitted[partition] = offset + 1

    def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Note that offsets are committed."""
        for partition, offset in offsets.items():
            if self._uncommitted.get(partition) == offset:
                del self._uncommitted[partition]

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop what is known of partitions that were lost."""
        for partition in partitions:
            self._finished.pop(partition, None)
            self._uncommitted.pop(partition, None)
