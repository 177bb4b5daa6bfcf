"""Kafka clients, opened from settings; the one seam at which kafka-python's errors become the project's."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaConfigurationError,
    KafkaError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from contract.errors import BrokerUnavailableError, ConfigError, DeliveryError
from contract.steady_consumer import SteadyConsumer
from worker.records import OutgoingRecord
from worker.settings import KafkaSettings


def require_fast_checksums() -> None:
    """Refuse to start without the compiled CRC-32C, without which frames are consumed 25 times slower.

    Raises:
        ConfigError: The package crc32c is not installed.
    """
    if importlib.util.find_spec("crc32c") is None:
        raise ConfigError("the package crc32c is not installed, reading would be 25 times slower; pip install crc32c")


def open_consumer(kafka: KafkaSettings) -> KafkaConsumer:
    """Open a consumer of the worker's group; it is not yet subscribed.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: The client refuses the settings.
    """
    require_fast_checksums()
    with mapped_errors(kafka):
        return SteadyConsumer(
            **connection(kafka),
            group_id=kafka.group_id,
            enable_auto_commit=False,
            auto_offset_reset=kafka.auto_offset_reset,
            session_timeout_ms=kafka.session_timeout_ms,
            heartbeat_interval_ms=kafka.heartbeat_interval_ms,
            max_poll_interval_ms=kafka.max_poll_interval_ms,
            max_partition_fetch_bytes=kafka.fetch_bytes,
            fetch_max_bytes=max(kafka.fetch_bytes, 50 * 2**20),
            partition_assignment_strategy=(CooperativeStickyAssignor,),
            allow_auto_create_topics=False,
        )


def open_producer(kafka: KafkaSettings, *, linger_ms: int = 0) -> KafkaProducer:
    """Open an idempotent producer that waits for all in-sync replicas.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: The client refuses the settings.
    """
    with mapped_errors(kafka):
        return KafkaProducer(
            **connection(kafka),
            acks="all",
            enable_idempotence=True,
            linger_ms=linger_ms,
            delivery_timeout_ms=kafka.delivery_timeout_ms,
            max_block_ms=min(kafka.delivery_timeout_ms, 60_000),
            request_timeout_ms=min(30_000, kafka.delivery_timeout_ms),
            max_request_size=16 * 2**20,
            batch_size=256 * 1024,
            allow_auto_create_topics=False,
        )


def connection(kafka: KafkaSettings) -> dict[str, Any]:
    """Settings that consumer, producer and admin client share."""
    password = kafka.password()
    return {
        "bootstrap_servers": kafka.bootstrap_servers.split(","),
        "client_id": "framewatch-worker",
        "bootstrap_timeout_ms": kafka.bootstrap_timeout_ms,
        "security_protocol": kafka.security_protocol,
        "ssl_cafile": str(kafka.ssl_cafile) if kafka.ssl_cafile else None,
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
    }


def require_topics(consumer: KafkaConsumer, topics: Sequence[str], kafka: KafkaSettings) -> None:
    """Compare topics with those on the broker.

    Raises:
        ConfigError: A topic is not there.
        BrokerUnavailableError: The broker stopped answering.
    """
    with mapped_errors(kafka):
        found = consumer.topics()
    for topic in topics:
        if topic not in found:
            raise ConfigError(f"topic {topic} is not on {kafka.bootstrap_servers}; create it, or name another")


def open_reader(kafka: KafkaSettings) -> KafkaConsumer:
    """Open a consumer of no group, which sees what committed transactions wrote.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: The client refuses the settings.
    """
    with mapped_errors(kafka):
        return SteadyConsumer(
            **connection(kafka),
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            fetch_max_wait_ms=100,
            allow_auto_create_topics=False,
        )


def deliver(producer: KafkaProducer, records: Sequence[OutgoingRecord], kafka: KafkaSettings) -> None:
    """Send records and wait until the broker has confirmed every one.

    A record may stand on its topic twice after an error here: its id tells.

    Raises:
        DeliveryError: A record was not confirmed; the offsets behind it must not be committed.
    """
    try:
        futures = [
            producer.send(
                record.topic, record.value, key=record.key, headers=record.headers, timestamp_ms=record.timestamp_ms
            )
            for record in records
        ]
        for record, future in zip(records, futures, strict=True):
            at = f"record for {record.topic}"
            future.get(timeout=kafka.delivery_timeout_ms / 1000)
    except KafkaError as error:
        where = locals().get("at", "a record")
        raise DeliveryError(f"{where} was not confirmed: {_say(error)}; nothing behind it is committed") from error


@contextmanager
def mapped_errors(kafka: KafkaSettings) -> Iterator[None]:
    """Map the client's errors to the project's.

    Raises:
        BrokerUnavailableError: No broker answers, or it does not let us in.
        ConfigError: The client refuses the settings, or a topic is not there or not ours.
    """
    try:
        yield
    except KafkaConfigurationError as error:
        raise ConfigError(f"kafka: {_say(error)}") from error
    except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as error:
        raise BrokerUnavailableError(f"the broker {kafka.bootstrap_servers} denies it: {_say(error)}") from error
    except UnknownTopicOrPartitionError as error:
        raise BrokerUnavailableError(f"a topic is gone from the broker: {_say(error)}") from error
    except KafkaTimeoutError as error:
        raise BrokerUnavailableError(
            f"no Kafka broker answers at {kafka.bootstrap_servers} within {kafka.bootstrap_timeout_ms / 1000:g} s; "
            "is it running, and is the address right?"
        ) from error
    except (KafkaError, IllegalStateError) as error:
        raise BrokerUnavailableError(f"the broker {kafka.bootstrap_servers} failed: {_say(error)}") from error


def _say(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    name = type(error).__name__
    return text if text.startswith(name) else f"{name} {text}".strip()
