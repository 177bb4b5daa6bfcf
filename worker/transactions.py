"""Exactly once: alerts, dead letters, scores, offsets and the state with them, in one transaction or not at all.

Every transaction is of one generation of the group, whose membership was noted when its first records were polled and
is never asked for again (KIP-447): so a worker that was evicted meanwhile is refused by the broker. kafka-python 3.0
leaves four traps, each of which a test holds shut. A producer that aborted carries the offsets it was given into its
next transaction, so it is discarded. A commit succeeds although a batch has expired, so every record's own confirmation
is waited for first. The membership of an evicted consumer is empty, which a broker takes for one that is not to be
fenced, so it is refused here. And ending a transaction knows no timeout, so a watchdog ends the process.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NoReturn

from kafka import TopicPartition
from kafka.errors import FencedInstanceIdError, KafkaError
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata

from contract.errors import DeliveryError
from contract.kafka_reader import describe_error
from worker.delivery import TOO_LARGE, Sizes, too_large
from worker.kafka_clients import open_producer
from worker.records import OutgoingRecord
from worker.settings import KafkaSettings

_TRIES: Final = 3
_log = logging.getLogger(__name__)

Watch = Callable[[str, float], AbstractContextManager[None]]
"""Ends the process where the block, which has a name, takes longer than so many seconds."""


class AbortedError(Exception):
    """The transaction did not come about; all it held is to be done again from what is committed."""


class Transactions:
    """One transaction after another, through a producer that is replaced after every failure.

    Args:
        kafka: The broker.
        watch: Guards what has no timeout of its own.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: The client refuses the settings.
        DeliveryError: The broker refuses transactions.
    """

    def __init__(self, kafka: KafkaSettings, watch: Watch) -> None:
        self._kafka = kafka
        self._watch = watch
        self._timeout_seconds = kafka.delivery_timeout_ms / 1000
        self._id = f"{kafka.group_id}-{kafka.group_instance_id or uuid.uuid4().hex}"
        self._membership: ConsumerGroupMetadata | None = None
        self._sent: list[tuple[OutgoingRecord, Any]] = []
        self._sizes = Sizes()
        self._began_at = 0.0
        self._failures = 0
        self._producer = self._open()

    @property
    def is_open(self) -> bool:
        """Whether something waits for the next commit."""
        return self._membership is not None

    @property
    def age_seconds(self) -> float:
        """Time since the open transaction began; 0 where none is open."""
        return time.monotonic() - self._began_at if self.is_open else 0.0

    def belongs(self, membership: ConsumerGroupMetadata | None) -> bool:
        """Whether records polled under a membership, or none polled at all, may go into the open transaction."""
        return self._membership is None or membership is None or self._membership == membership

    def send(self, records: Sequence[OutgoingRecord], membership: ConsumerGroupMetadata) -> None:
        """Add records to the open transaction, or to one that begins with them.

        Args:
            records: May be none: what is committed next belongs to the transaction all the same.
            membership: Of the group, when what the records tell of was polled.

        Raises:
            AbortedError: The transaction is lost.
            DeliveryError: It was lost three times in a row.
        """
        try:
            if self._membership is None:
                self._producer.begin_transaction()
                self._membership, self._began_at = membership, time.monotonic()
            for record in map(self._sizes.fitted, records):
                self._sent.append((record, self._send(record)))
        except (KafkaError, TypeError, ValueError) as error:
            raise self._lost(error) from error

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Wait for every record's confirmation, then commit them with offsets.

        Raises:
            AbortedError: The transaction is lost.
            DeliveryError: It was lost three times in a row.
        """
        if self._membership is None:
            return
        ends_at = time.monotonic() + self._timeout_seconds
        try:
            for record, future in self._sent:
                self._confirm(record, future, ends_at)
            with self._watch("commit of a transaction", self._timeout_seconds):
                if offsets:
                    self._producer.send_offsets_to_transaction(dict(offsets), self._membership)
                self._producer.commit_transaction()
        except KafkaError as error:
            raise self._lost(error) from error
        self._membership, self._sent, self._failures = None, [], 0

    def abort(self) -> NoReturn:
        """Give up the open transaction, because not all that it tells of is this worker's any more.

        Raises:
            AbortedError: Always.
            DeliveryError: The broker refuses another.
        """
        _log.info("transaction given up, partitions of it were lost")
        self._renew()
        raise AbortedError

    def close(self, timeout_seconds: float) -> None:
        """Close the producer within a time; what was not committed is not there."""
        self._producer.close(timeout=timeout_seconds)

    def _send(self, record: OutgoingRecord) -> Any:  # noqa: ANN401
        try:
            return self._producer.send(
                record.topic, record.value, key=record.key, headers=record.headers, timestamp_ms=record.timestamp_ms
            )
        except TOO_LARGE:
            self._sizes.refuse(record)
            raise

    def _confirm(self, record: OutgoingRecord, future: Any, ends_at: float) -> None:  # noqa: ANN401
        try:
            future.get(timeout=max(0.0, ends_at - time.monotonic()))
        except TOO_LARGE as error:
            if not self._sizes.refuse(record):
                raise too_large(record) from error
            raise

    def _lost(self, error: Exception) -> Exception:
        """Discard the producer, open another, and say how to go on."""
        self._failures += 1
        if isinstance(error, FencedInstanceIdError):
            return DeliveryError("another worker runs under this group_instance_id; this one stops")
        if self._failures >= _TRIES:
            return DeliveryError(f"{_TRIES} transactions in a row failed, the last with {describe_error(error)}")
        _log.warning("transaction aborted, its frames are done again: %s", describe_error(error))
        self._renew()
        return AbortedError()

    def _renew(self) -> None:
        self._membership, self._sent = None, []
        self._producer.close(timeout=0)
        self._producer = self._open()

    def _open(self) -> Any:  # noqa: ANN401 - the client's own type has no annotations
        producer = open_producer(self._kafka, transactional_id=self._id)
        try:
            with self._watch("start of transactions", self._timeout_seconds):
                producer.init_transactions()
        except KafkaError as error:
            producer.close(timeout=0)
            raise DeliveryError(f"transactions cannot begin: {describe_error(error)}") from error
        return producer


def is_member(membership: ConsumerGroupMetadata) -> bool:
    """Whether a broker will refuse offsets committed under a membership once its holder is evicted."""
    is_known = membership.generation_id >= 0 and bool(membership.member_id)
    return is_known and membership.state == MemberState.STABLE
