"""Which partitions are this worker's, where each began, and how far each is scored and committed."""

import logging
import threading
from collections.abc import Iterable, Mapping

from kafka import TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.structs import OffsetAndMetadata

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
    """Offsets of the assigned partitions: up to which all is finished, and which of them are not yet committed.

    One thread reads frames and another finishes them, so a partition may be lost, and come back, while frames of it are
    under way. Each time it begins it is a new tenure, and what was read in an earlier one no longer counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._finished: dict[TopicPartition, int] = {}
        self._uncommitted: dict[TopicPartition, OffsetAndMetadata] = {}
        self._tenures: dict[TopicPartition, int] = {}
        self._begun = 0
        self._is_taken_back = False

    @property
    def finished(self) -> dict[TopicPartition, int]:
        """Offset up to which all is finished, or where the partition began; a copy."""
        with self._lock:
            return dict(self._finished)

    @property
    def uncommitted(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """Offsets that are to be committed, and the state that goes with each; a copy."""
        with self._lock:
            return dict(self._uncommitted)

    def uncommitted_of(self, tenures: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndMetadata] | None:
        """What is to be committed; None where one of some tenures is over."""
        with self._lock:
            if any(self._tenures.get(partition) != tenure for partition, tenure in tenures.items()):
                return None
            return dict(self._uncommitted)

    @property
    def tenures(self) -> dict[TopicPartition, int]:
        """Number of each partition's tenure; a copy."""
        with self._lock:
            return dict(self._tenures)

    def begin(self, partition: TopicPartition, offset: int, state: str = "") -> None:
        """Note where a partition begins, so that this is committed before any frame of it is finished.

        Does nothing while what was done is taken back, see `take_back`.

        Args:
            partition: The partition.
            offset: Of the first record that will be read.
            state: That was committed last.
        """
        with self._lock:
            if not self._is_taken_back:
                self._begun += 1
                self._tenures[partition] = self._begun
                self._note(partition, offset, state)

    def take_back(self) -> None:
        """End every tenure, because what was done since the last commit is not so: the thread that reads must go back.

        Until it knows, see `heed`, no partition begins.
        """
        with self._lock:
            self._is_taken_back = True
            for known in (self._finished, self._uncommitted, self._tenures):
                known.clear()

    def heed(self) -> bool:
        """Say whether something was taken back since the last call; partitions can begin again."""
        with self._lock:
            was, self._is_taken_back = self._is_taken_back, False
        return was

    def finish(self, partition: TopicPartition, next_offset: int, tenure: int | None, state: str = "") -> None:
        """Note that all before an offset is finished and all it told confirmed, unless the partition's tenure is over.

        Args:
            partition: The partition.
            next_offset: The offset; it may be the one noted last, where only what lies ahead of it was finished since.
            tenure: In which the records were read.
            state: What is kept of its cameras, and which offsets ahead are finished too.
        """
        with self._lock:
            if tenure is not None and self._tenures.get(partition) == tenure:
                self._note(partition, next_offset, state)

    def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        """Note that offsets are committed."""
        with self._lock:
            for partition, committed in offsets.items():
                if self._uncommitted.get(partition) == committed:
                    del self._uncommitted[partition]

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop what is known of partitions that were lost; their tenure is over."""
        with self._lock:
            for partition in partitions:
                self._finished.pop(partition, None)
                self._uncommitted.pop(partition, None)
                self._tenures.pop(partition, None)

    def _note(self, partition: TopicPartition, next_offset: int, state: str) -> None:
        self._finished[partition] = next_offset
        self._uncommitted[partition] = OffsetAndMetadata(next_offset, state, -1)
