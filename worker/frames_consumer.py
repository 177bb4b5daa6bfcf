"""The worker's consumer: begins where it is told to, and knows what it missed.

kafka-python goes on at ``auto_offset_reset`` both where a group never committed and where retention has deleted what
it would read next. The second loses frames, and ``latest`` loses all that are held besides, both without a word.
"""

import logging
from typing import Any, Final, Literal

from kafka import TopicPartition
from kafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from contract.steady_consumer import SteadyConsumer

_REQUEST_MS: Final = 5_000
_log = logging.getLogger(__name__)


class FramesConsumer(SteadyConsumer):
    """A steady consumer that goes on with the oldest record held where the one it would read next is gone.

    Args:
        begin_at: Where a partition begins that the group never committed.
        configs: kafka-python's, without ``auto_offset_reset``.
    """

    def __init__(self, begin_at: Literal["earliest", "latest"], **configs: Any) -> None:  # noqa: ANN401
        super().__init__(**configs, auto_offset_reset="none")
        self._begin_at = begin_at
        self._missed: dict[TopicPartition, int] = {}

    def poll(
        self,
        timeout_ms: int = 0,
        max_records: int | None = None,
        update_offsets: bool = True,  # noqa: FBT001, FBT002
    ) -> dict[TopicPartition, list[Any]]:
        """Next records by partition; none where it had to seek first.

        Raises:
            StalledConsumerError: There are records that fetching does not bring; open another consumer.
            UnreadableRecordError: A record cannot be read; poll again to go on behind it.
        """
        try:
            return super().poll(timeout_ms, max_records, update_offsets)
        except NoOffsetForPartitionError as error:
            self._begin(error)
        except OffsetOutOfRangeError as error:
            self._go_on(error)
        return {}

    def position(self, partition: TopicPartition, timeout_ms: int | None = None) -> int | None:
        """Offset of the next record; None where it is not known within the timeout."""
        try:
            offset: int | None = super().position(partition, timeout_ms)
        except NoOffsetForPartitionError as error:
            self._begin(error)
            offset = super().position(partition, timeout_ms)
        return offset

    def is_over(self) -> bool:
        """Whether there is nothing left to read: never, frames go on coming."""
        return False

    def take_missed(self) -> dict[TopicPartition, int]:
        """Number of records, by partition, that retention deleted before they were read, since the last call."""
        missed, self._missed = self._missed, {}
        return missed

    def _begin(self, error: NoOffsetForPartitionError) -> None:
        ends = self.end_offsets if self._begin_at == "latest" else self.beginning_offsets
        for partition, offset in ends(list(error.args[0]), timeout_ms=_REQUEST_MS).items():
            self.seek(partition, offset)

    def _go_on(self, error: OffsetOutOfRangeError) -> None:
        wanted: dict[TopicPartition, int] = error.args[0]
        for partition, first in self.beginning_offsets(list(wanted), timeout_ms=_REQUEST_MS).items():
            gone = max(0, first - wanted[partition])
            where = {"partition": partition.partition, "offset": wanted[partition], "goes_on_at": first}
            if gone:
                self._missed[partition] = self._missed.get(partition, 0) + gone
                _log.error("retention deleted %d frames before they were read", gone, extra=where)
            else:
                _log.error("the topic holds no such offset any more, reading all it holds", extra=where)
            self.seek(partition, first)
