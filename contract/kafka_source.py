"""A time range of one camera's frames, read from what a topic still holds."""

import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from kafka import KafkaConsumer, TopicPartition

from contract.address import without_credentials
from contract.clip import Clip, SourceFrame
from contract.errors import ConfigError, FootageError
from contract.kafka_connection import KafkaConnection
from contract.kafka_reader import mapped_errors, open_reader

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
CAMERA_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
CAPTURED_AT_HEADER: Final = "captured-at-ms"
MAX_TIME_DIGITS: Final = 15
"""Digits of a capture time in a header at the most."""

MAX_TIME_MS: Final = 253_402_300_799_000
"""The latest capture time, the end of year 9999."""

_KEYS: Final = {"camera", "from", "to", "allow_plaintext"}
_EXPECTED: Final = "expected kafka://HOST:PORT/TOPIC?camera=ID&from=TIME&to=TIME"
_CLIENT_ID: Final = "framewatch-source"
_IDLE_SECONDS: Final = 15.0
_POLL_MS: Final = 500


@dataclass(frozen=True)
class KafkaClip(Clip):
    """One camera's frames between two times, in the order of their offsets.

    Records of aborted transactions are left out, as the live worker leaves them out.

    Attributes:
        bootstrap_servers: ``HOST:PORT`` of a broker.
        topic: Topic of frames.
        name: Camera id; it is the clip's name.
        from_ms: First record timestamp wanted, ms since 1970; None for the oldest held.
        to_ms: Record timestamp to stop before, ms since 1970; None for what the topic holds when reading starts.
        connection: How the broker is spoken to.
    """

    bootstrap_servers: str
    topic: str
    name: str
    from_ms: int | None = None
    to_ms: int | None = None
    connection: KafkaConnection = field(default_factory=KafkaConnection)

    def frames(self) -> Iterator[SourceFrame]:
        """Read the range; blocks while the broker answers slowly, commits nothing, joins no group.

        Raises:
            BrokerUnavailableError: No broker answers, or it does not let us in.
            FootageError: The topic is unknown, or stops giving records before the range's end.
        """
        with (
            mapped_errors(self.connection, self.bootstrap_servers),
            closing(open_reader(self.connection, self.bootstrap_servers, _CLIENT_ID)) as consumer,
        ):
            yield from self._read(consumer)

    def _read(self, consumer: KafkaConsumer) -> Iterator[SourceFrame]:
        numbers = consumer.partitions_for_topic(self.topic)
        if not numbers:
            raise FootageError(f"topic {self.topic} is not on {self.bootstrap_servers}; is its name right?")
        partitions = [TopicPartition(self.topic, number) for number in sorted(numbers)]
        index = 0
        for partition in partitions:
            # One partition after another: a camera's frames are all in one, unless partitions were added since.
            consumer.assign([partition])
            for record in self._read_partition(consumer, partition):
                yield SourceFrame(index, record[0], record[1])
                index += 1

    def _read_partition(self, consumer: KafkaConsumer, partition: TopicPartition) -> Iterator[tuple[int, bytes]]:
        end = consumer.end_offsets([partition])[partition]
        start = consumer.beginning_offsets([partition])[partition]
        if self.from_ms is not None:
            found = consumer.offsets_for_times({partition: self.from_ms})[partition]
            start = found.offset if found is not None else end
        if start >= end:
            return
        consumer.seek(partition, start)
        heard_at = time.monotonic()
        # The position, unlike the last record's offset, also passes the markers of transactions.
        while consumer.position(partition) < end:
            records = consumer.poll(timeout_ms=_POLL_MS).get(partition, [])
            for record in records:
                late = self.to_ms is not None and record.timestamp >= self.to_ms
                if record.offset < end and not late and record.value and record.key == self.name.encode():
                    yield captured_at_ms(record), record.value
            if records:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _IDLE_SECONDS:
                where = f"{self.topic}[{partition.partition}]@{consumer.position(partition)}"
                raise FootageError(f"{where}: no record for {_IDLE_SECONDS:g} s, the range ends at {end}")


def captured_at_ms(record: Any) -> int:  # noqa: ANN401 - the client's record type has no public name
    """Capture time of a consumed record, ms since 1970: its header ``captured-at-ms``, else the record's timestamp.

    A header that is no number of at most 15 digits is passed over; what lies before 1970 or beyond year 9999 gives the
    nearest bound.
    """
    for name, value in record.headers:
        if name == CAPTURED_AT_HEADER and value is not None and len(value) <= MAX_TIME_DIGITS and value.isdigit():
            return min(int(value), MAX_TIME_MS)
    return min(max(record.timestamp or 0, 0), MAX_TIME_MS)


def parse_kafka_source(source: str, connection: KafkaConnection | None = None) -> KafkaClip:
    """Read ``kafka://HOST:PORT/TOPIC?camera=ID&from=TIME&to=TIME``; times are ISO 8601 or ms since 1970.

    A connection without TLS to a host that is not this machine needs ``&allow_plaintext=true``, or
    ``allow_plaintext`` of the connection.

    Args:
        source: The address.
        connection: How the broker is spoken to; without TLS and login where None.

    Raises:
        ConfigError: The address is not written so.
    """
    shown = without_credentials(source)
    if shown.startswith("kafka://***@"):
        raise ConfigError(f"SOURCE {shown}: no password may stand in an address; {_EXPECTED}")
    try:
        parts = urlsplit(source)
        host, port = parts.hostname, parts.port
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        what = str(error).partition(" as ")[0].partition(": ")[0]  # the rest repeats what may be secret
        raise ConfigError(f"SOURCE {shown}: {what}; {_EXPECTED}") from error
    topic = parts.path.removeprefix("/")
    if not host or not port or not _TOPIC.fullmatch(topic) or parts.fragment:
        raise ConfigError(f"SOURCE {shown}: {_EXPECTED}")
    camera, from_ms, to_ms = _read_query(shown, query)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    how = connection or KafkaConnection()
    if query.get("allow_plaintext") == ["true"]:
        how = how.model_copy(update={"allow_plaintext": True})
    if how.leaves_unprotected(address):
        over_tls = "" if connection is None else ", set kafka.security_protocol to SSL or SASL_SSL"
        raise ConfigError(
            f"SOURCE {shown}: the frames would leave {host} unprotected; read them on that machine{over_tls}, or add "
            "&allow_plaintext=true if the network may see them"
        )
    return KafkaClip(address, topic, camera, from_ms, to_ms, how)


def _read_query(shown: str, query: dict[str, list[str]]) -> tuple[str, int | None, int | None]:
    unknown = sorted(query.keys() - _KEYS) or sorted(key for key, values in query.items() if len(values) != 1)
    if unknown:
        raise ConfigError(f"SOURCE {shown}: {unknown[0]!r} is not known or stands twice; {_EXPECTED}")
    camera = query.get("camera", [""])[0]
    if not CAMERA_ID.fullmatch(camera):
        raise ConfigError(f"SOURCE {shown}: camera={camera!r} is not 1 to 128 of A-Z a-z 0-9 . _ -; {_EXPECTED}")
    if query.get("allow_plaintext", ["false"])[0] not in {"true", "false"}:
        raise ConfigError(f"SOURCE {shown}: allow_plaintext is true or false; {_EXPECTED}")
    # '+' of a time zone means a space in a query string.
    times = (query[key][0].replace(" ", "+") if key in query else None for key in ("from", "to"))
    from_ms, to_ms = (parse_time(f"SOURCE {shown}", text) if text is not None else None for text in times)
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise ConfigError(f"SOURCE {shown}: from= must be earlier than to=")
    return camera, from_ms, to_ms


def parse_time(what: str, text: str) -> int:
    """Read a time, ISO 8601 or ms since 1970, as ms since 1970; without a zone it is this machine's local time.

    Args:
        what: Where it stands, for the message.
        text: The time; one before 1970 gives 0.

    Raises:
        ConfigError: It is neither.
    """
    if text.isascii() and text.isdigit() and len(text) <= MAX_TIME_DIGITS:
        return int(text)
    try:
        moment = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{what}: {text!r} is no ISO 8601 time and no milliseconds since 1970") from error
    return max(0, round(moment.timestamp() * 1000))
