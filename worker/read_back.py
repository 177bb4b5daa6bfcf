"""Frames read back from their topic, for a worker that goes on where another one ended."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from kafka import KafkaConsumer, TopicPartition

from contract.errors import FrameError
from contract.steady_consumer import UnreadableRecordError
from worker.engine import IncomingFrame
from worker.kafka_clients import mapped_errors, open_reader
from worker.records import read_frame
from worker.settings import KafkaSettings

_POLL_MS: Final = 200
_PATIENCE_SECONDS: Final = 30.0
_log = logging.getLogger(__name__)


class ReadBack:
    """Reads ranges of a partition through a consumer of no group.

    Args:
        kafka: The broker.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    def __call__(self, partition: TopicPartition, first: int, end: int) -> Iterator[IncomingFrame]:
        """Read the frames from one offset to before another, as far as they are still on the topic.

        What is no frame is left out, and reading ends where no record comes for 30 s.

        Raises:
            BrokerUnavailableError: No broker answers.
        """
        if first >= end:
            return
        with mapped_errors(self._kafka), closing(open_reader(self._kafka)) as reader:
            reader.assign([partition])
            begins_at = max(first, reader.beginning_offsets([partition])[partition])
            ends_at = min(end, reader.end_offsets([partition])[partition])
            if begins_at >= ends_at:
                return
            reader.seek(partition, begins_at)
            yield from _read(reader, partition, ends_at)


def _read(reader: KafkaConsumer, partition: TopicPartition, end: int) -> Iterator[IncomingFrame]:
    heard_at = time.monotonic()
    # The position, unlike a record's offset, also passes the markers of transactions.
    while reader.position(partition) < end:
        try:
            records = reader.poll(timeout_ms=_POLL_MS).get(partition, [])
        except UnreadableRecordError:
            continue
        for record in records:
            if record.offset < end:
                try:
                    yield read_frame(record)
                except FrameError as error:
                    _log.debug("left out: %s", error)
        if records:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > _PATIENCE_SECONDS:
            _log.warning("reading back ends early: no record comes", extra={"partition": partition.partition})
            return
