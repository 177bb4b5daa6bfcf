"""Records onto their topics, confirmed by the broker before the caller goes on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from contract.errors import DeliveryError
from contract.kafka_reader import describe_error
from worker.kafka_clients import open_producer
from worker.records import OutgoingRecord, record_bytes, without_bulk
from worker.settings import KafkaSettings

TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


class Sizes:
    """Remembers which sizes each topic's broker refused, so that later records of that size go without their bulk."""

    def __init__(self) -> None:
        self._refused_bytes: dict[str, int] = {}

    def refuse(self, record: OutgoingRecord) -> bool:
        """Note that a record was too large; say whether something can be left out of it."""
        self._refused_bytes[record.topic] = min(record_bytes(record), self._refused_bytes.get(record.topic, 2**63))
        return without_bulk(record) is not None

    def fitted(self, record: OutgoingRecord) -> OutgoingRecord:
        """The record, without its bulk where one of its size was refused."""
        limit = self._refused_bytes.get(record.topic)
        return record if limit is None or record_bytes(record) < limit else without_bulk(record) or record


class Delivery:
    """Sends through a producer of its own, which it opens anew where the broker refused a record for its size.

    kafka-python's idempotent producer sends nothing more after such a refusal.

    Args:
        kafka: The broker.
        linger_ms: Time that a record waits for others to travel with.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: The client refuses the settings.
    """

    def __init__(self, kafka: KafkaSettings, *, linger_ms: int = 0) -> None:
        self._kafka = kafka
        self._linger_ms = linger_ms
        self._timeout_seconds = kafka.delivery_timeout_ms / 1000
        self._producer = open_producer(kafka, linger_ms=linger_ms)
        # So that only the first record of a size costs a producer.
        self._sizes = Sizes()

    def send(self, records: Sequence[OutgoingRecord]) -> None:
        """Send records and wait until the broker has confirmed every one.

        One that is too large for the producer or its topic goes without what can be left out, see `without_bulk`, and
        after those sent with it. A record may stand on its topic twice after an error here: its id tells.

        Raises:
            DeliveryError: A record was not confirmed; the offsets behind it must not be committed.
            BrokerUnavailableError: No broker answers a producer opened anew.
        """
        for record in self._send_all([self._sizes.fitted(record) for record in records]):
            # One by one: what was refused may only have travelled with what was too large.
            if self._send_all([record]):
                self._sizes.refuse(record)
                smaller = without_bulk(record)
                if smaller is None or self._send_all([smaller]):
                    raise too_large(record)

    def close(self, timeout_seconds: float) -> None:
        """Close the producer within a time; what was not confirmed is given up."""
        self._producer.close(timeout=timeout_seconds)

    def _send_all(self, records: Sequence[OutgoingRecord]) -> list[OutgoingRecord]:
        """Send records, wait for all, and return those refused for their size or that of what they travelled with."""
        sent: list[tuple[OutgoingRecord, Any]] = []
        too_large, refused = [], []
        for record in records:
            with _delivery_errors(record):
                try:
                    future = self._producer.send(
                        record.topic, record.value, key=record.key, headers=record.headers,
                        timestamp_ms=record.timestamp_ms,
                    )  # fmt: skip
                except TOO_LARGE:
                    too_large.append(record)
                else:
                    sent.append((record, future))
        for record, future in sent:
            with _delivery_errors(record):
                try:
                    future.get(timeout=self._timeout_seconds)
                except TOO_LARGE:
                    refused.append(record)
        if refused:
            self._producer.close(timeout=0)
            self._producer = open_producer(self._kafka, linger_ms=self._linger_ms)
        return too_large + refused


def too_large(record: OutgoingRecord) -> DeliveryError:
    """Say that a record is too large although nothing can be left out of it."""
    return DeliveryError(
        f"record for {record.topic} of {record_bytes(record)} bytes is too large; raise max.message.bytes of the "
        "topic. Nothing behind it is committed"
    )


@contextmanager
def _delivery_errors(record: OutgoingRecord) -> Iterator[None]:
    try:
        yield
    except (KafkaError, TypeError, ValueError) as error:
        raise DeliveryError(
            f"record for {record.topic} was not confirmed: {describe_error(error)}; nothing behind it is committed"
        ) from error
