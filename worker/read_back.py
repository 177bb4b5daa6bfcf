"""Frames read back from their topic, for a worker that goes on where another one ended."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Final

from kafka import TopicPartition

from contract.errors import FrameError
from contract.steady_consumer import NoRecordsError, SteadyConsumer
from worker.frames import IncomingFrame
from worker.kafka_clients import mapped_errors, open_reader
from worker.records import camera_of, read_frame
from worker.settings import KafkaSettings

_PATIENCE_SECONDS: Final = 30.0
_log = logging.getLogger(__name__)


ReadRange = Callable[[int, int], Iterator[IncomingFrame]]
"""Reads a partition's frames from one offset to before another, as far as they are still on the topic."""


class ReadBack:
    """Reads ranges of a partition through a consumer of no group.

    Args:
        kafka: The broker.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    @contextmanager
    def __call__(self, partition: TopicPartition) -> Iterator[ReadRange]:
        """Give what reads ranges of a partition, all of them through one consumer, opened for the first.

        What is no frame is left out, and reading ends where no record comes for 30 s.

        Raises:
            BrokerUnavailableError: No broker answers.
        """
        with mapped_errors(self._kafka), ExitStack() as stack:
            opened: list[SteadyConsumer] = []

            def read(first: int, end: int) -> Iterator[IncomingFrame]:
                if first >= end:
                    return
                if not opened:
                    opened.append(stack.enter_context(closing(open_reader(self._kafka))))
                    opened[0].assign([partition])
                yield from _read(opened[0], partition, first, end)

            yield read


def _read(reader: SteadyConsumer, partition: TopicPartition, first: int, end: int) -> Iterator[IncomingFrame]:
    begins_at = max(first, reader.beginning_offsets([partition])[partition])
    ends_at = min(end, reader.end_offsets([partition])[partition])
    if begins_at >= ends_at:
        return
    try:
        for record in reader.read_range(partition, begins_at, ends_at, _PATIENCE_SECONDS):
            try:
                yield read_frame(record)
            except FrameError as error:
                where = {"camera": camera_of(record), "partition": record.partition, "offset": record.offset}
                _log.debug("left out: %s", error, extra=where)
    except NoRecordsError:
        _log.warning("reading back ends early: no record comes", extra={"partition": partition.partition})
