"""A consumer that notices when it has stopped fetching.

kafka-python 3.0 can keep returning empty polls although its partitions hold more records (its issue 3106 describes one
way there: a partition that waits for its offset to be validated is not fetched). By its polls alone an idle consumer
cannot be told from a stalled one, so this one asks the broker.
"""

import logging
import time
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

CHECK_EVERY_SECONDS: Final = 5.0
_REQUEST_MS: Final = 5_000
_log = logging.getLogger(__name__)


class StalledConsumerError(KafkaError):  # type: ignore[misc]
    """The consumer does not fetch although there are records, also after it was told to seek."""


class SteadyConsumer(KafkaConsumer):  # type: ignore[misc]
    """kafka-python's consumer with a watch over idle polls; use it as the original."""

    def __init__(self, *topics: str, **configs: Any) -> None:  # noqa: ANN401 - kafka-python's own signature
        super().__init__(*topics, **configs)
        self._heard_at = time.monotonic()
        self._stalled: dict[TopicPartition, int] = {}

    def poll(
        self,
        timeout_ms: int = 0,
        max_records: int | None = None,
        update_offsets: bool = True,  # noqa: FBT001, FBT002
    ) -> dict[TopicPartition, list[Any]]:
        """Next records by partition; blocks up to the timeout, and every five idle seconds for a request more.

        Raises:
            StalledConsumerError: There are records that fetching does not bring; open another consumer.
        """
        polled: dict[TopicPartition, list[Any]] = super().poll(timeout_ms, max_records, update_offsets)
        if polled:
            self._heard_at = time.monotonic()
            self._stalled = {}
        elif time.monotonic() - self._heard_at >= CHECK_EVERY_SECONDS:
            self._heard_at = time.monotonic()
            self._look()
        return polled

    def _look(self) -> None:
        """Compare positions with the ends of the partitions; a partition behind by as much as last time is stalled."""
        partitions = self.assignment() - self.paused()
        try:
            ends = self.end_offsets(list(partitions), timeout_ms=_REQUEST_MS) if partitions else {}
            places = {tp: self.position(tp, timeout_ms=_REQUEST_MS) for tp in partitions}
        except KafkaError as error:
            # A broker that does not answer is nothing to seek for; the client reconnects by itself.
            _log.debug("ends not known: %s", error)
            return
        behind = {tp: place for tp, place in places.items() if place is not None and place < ends.get(tp, 0)}
        again = {tp for tp, place in behind.items() if self._stalled.get(tp) == place}
        if again:
            tp = min(again)
            raise StalledConsumerError(f"{tp.topic}[{tp.partition}]@{behind[tp]} is not fetched, its end is {ends[tp]}")
        for tp, place in behind.items():
            _log.warning("fetching stalled, seeking", extra={"partition": tp.partition, "offset": place})
            self.seek(tp, place)
        self._stalled = behind
