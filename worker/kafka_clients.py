"""Kafka clients, opened from settings; the one seam at which kafka-python's errors become the project's."""

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import FencedInstanceIdError, KafkaError

from contract import kafka_reader
from contract.errors import BrokerUnavailableError, ConfigError
from contract.kafka_reader import client_options, describe_error
from contract.steady_consumer import SteadyConsumer
from worker.frames_consumer import FramesConsumer
from worker.replay_consumer import ReplayConsumer, Stretch
from worker.settings import KafkaSettings

_CLIENT_ID = "framewatch-worker"
_LEAST_REQUEST_BYTES = 16 * 2**20
# Of a record's headers, which a dead letter carries beside a frame of the greatest size.
_HEADERS_BYTES = 64 * 1024
# Frames that the broker gathers before it answers a fetch, and the shortest time that it may take to.
_GATHERED_BYTES = 2**20
_LEAST_GATHERING_MS = 20
_log = logging.getLogger(__name__)


def require_fast_checksums() -> None:
    """Refuse to start without the compiled CRC-32C, without which frames are consumed 25 times slower.

    Raises:
        ConfigError: The package crc32c is not installed.
    """
    if importlib.util.find_spec("crc32c") is None:
        raise ConfigError("the package crc32c is not installed, reading would be 25 times slower; pip install crc32c")


def open_consumer(
    kafka: KafkaSettings, gathering_ms: int, stretches: Mapping[TopicPartition, Stretch] | None = None
) -> FramesConsumer:
    """Open a consumer of the worker's group; it is not yet subscribed.

    A fetch names only the partitions of which nothing waits in the client already, and none is sent beside it. So one
    that names silent partitions alone keeps the others' frames for as long as the broker may wait: no longer, then,
    than a batch may.

    Args:
        kafka: The broker.
        gathering_ms: Time for which the broker may gather frames before it answers; below 20 ms, it gathers none.
        stretches: What a replay reads; all that comes where None.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: The client refuses the settings.
    """
    require_fast_checksums()
    kind = partial(ReplayConsumer, stretches) if stretches is not None else FramesConsumer
    with mapped_errors(kafka):
        return kind(
            begin_at=kafka.auto_offset_reset,
            **connection(kafka),
            group_id=kafka.group_id,
            group_instance_id=kafka.group_instance_id,
            enable_auto_commit=False,
            session_timeout_ms=kafka.session_timeout_ms,
            heartbeat_interval_ms=kafka.heartbeat_interval_ms,
            max_poll_interval_ms=kafka.max_poll_interval_ms,
            max_partition_fetch_bytes=kafka.fetch_bytes,
            fetch_max_bytes=max(kafka.fetch_bytes, 50 * 2**20),
            fetch_min_bytes=_GATHERED_BYTES if gathering_ms >= _LEAST_GATHERING_MS else 1,
            fetch_max_wait_ms=max(gathering_ms, _LEAST_GATHERING_MS),
            partition_assignment_strategy=(CooperativeStickyAssignor,),
            allow_auto_create_topics=False,
            isolation_level="read_committed",
        )


def open_producer(kafka: KafkaSettings, *, linger_ms: int = 0, transactional_id: str | None = None) -> KafkaProducer:
    """Open an idempotent producer that waits for all in-sync replicas.

    Args:
        kafka: The broker.
        linger_ms: Time that a record waits for others to travel with.
        transactional_id: Name under which it opens transactions; another producer of that name is fenced.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: The client refuses the settings.
    """
    # The client demands that a request and its linger fit in the time for delivery.
    request_ms = min(30_000, kafka.delivery_timeout_ms - linger_ms)
    with mapped_errors(kafka):
        return KafkaProducer(
            **connection(kafka),
            acks="all",
            enable_idempotence=True,
            transactional_id=transactional_id,
            transaction_timeout_ms=kafka.transaction_timeout_ms,
            linger_ms=linger_ms,
            delivery_timeout_ms=kafka.delivery_timeout_ms,
            max_block_ms=min(kafka.delivery_timeout_ms, 60_000),
            request_timeout_ms=request_ms,
            max_request_size=max(_LEAST_REQUEST_BYTES, kafka.fetch_bytes) + _HEADERS_BYTES,
            batch_size=256 * 1024,
            allow_auto_create_topics=False,
        )


def connection(kafka: KafkaSettings) -> dict[str, Any]:
    """Settings that consumer, producer and admin client share."""
    return client_options(kafka, kafka.bootstrap_servers, _CLIENT_ID)


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


def open_reader(kafka: KafkaSettings, *, lost_place: Literal["earliest", "latest"] = "latest") -> SteadyConsumer:
    """Open a consumer of no group, which sees what committed transactions wrote.

    Args:
        kafka: The broker.
        lost_place: Where reading goes on when the offset that comes next is no longer there.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: The client refuses the settings.
    """
    return kafka_reader.open_reader(kafka, kafka.bootstrap_servers, _CLIENT_ID, lost_place=lost_place)


def require_uncompressed(kafka: KafkaSettings) -> None:
    """Refuse a frames topic on which the broker compresses: a small record could unpack to any size in memory.

    Logs a warning where the topic leaves it to its producers, or does not let itself be asked.

    Raises:
        ConfigError: The topic's ``compression.type`` is a codec.
        BrokerUnavailableError: No broker answers.
    """
    resource = ConfigResource(ConfigResourceType.TOPIC, kafka.frames_topic)
    timeout = {"request_timeout_ms": kafka.bootstrap_timeout_ms}
    with mapped_errors(kafka), KafkaAdminClient(**connection(kafka), **timeout) as admin:
        try:
            found = admin.describe_configs([resource], config_filter="all")
            kind = found["topic"][kafka.frames_topic]["compression.type"]["value"]
        except (KafkaError, KeyError) as error:
            _log.warning("compression.type of topic %s is not known: %s", kafka.frames_topic, describe_error(error))
            return
    if kind == "producer":
        _log.warning(
            "topic %s has compression.type=producer, so a small record can unpack to any size; set it to uncompressed",
            kafka.frames_topic,
        )
    elif kind != "uncompressed":
        raise ConfigError(f"topic {kafka.frames_topic} has compression.type={kind}; set it to uncompressed")


@contextmanager
def mapped_errors(kafka: KafkaSettings) -> Iterator[None]:
    """Map the client's errors to the project's.

    Raises:
        BrokerUnavailableError: No broker answers, or it does not let us in.
        ConfigError: The client refuses the settings.
    """
    try:
        with kafka_reader.mapped_errors(kafka, kafka.bootstrap_servers):
            yield
    except BrokerUnavailableError as error:
        if not isinstance(error.__cause__, FencedInstanceIdError):
            raise
        raise BrokerUnavailableError(
            f"another worker runs under group_instance_id {kafka.group_instance_id}; this one stops"
        ) from error.__cause__
