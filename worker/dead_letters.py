"""``worker dead-letters``: what could not be scored and why, its bytes, and a way back onto the frames topic."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from kafka import TopicPartition

from contract.errors import ConfigError, FramewatchError
from contract.kafka_source import CAPTURED_AT_HEADER
from contract.steady_consumer import NoRecordsError
from worker.delivery import Delivery
from worker.kafka_clients import mapped_errors, open_reader, require_topics
from worker.records import OutgoingRecord
from worker.settings import KafkaSettings

FROM_HEADER: Final = "framewatch-republished-from"
_OWN: Final = "framewatch-"
_PATIENCE_SECONDS: Final = 15.0
_SENT_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record of the dead-letter topic.

    Attributes:
        partition: Where it stands.
        offset: Where it stands.
        timestamp_ms: When it was sent, ms since 1970.
        key: As it came.
        value: As it came; None where there was none.
        headers: As they came, and the worker's.
    """

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    def told(self, name: str) -> str:
        """What the worker says under ``framewatch-`` and a name; empty where it says nothing."""
        return next((value.decode(errors="replace") for key, value in self.headers if key == _OWN + name), "")

    @property
    def place(self) -> str:
        """Where it stands, such as ``0:17``."""
        return f"{self.partition}:{self.offset}"

    @property
    def camera(self) -> str:
        """The key as text; what is no UTF-8, or cannot be shown, is escaped."""
        return (self.key or b"").decode(errors="backslashreplace").encode("unicode_escape").decode("ascii")

    @property
    def at(self) -> str:
        """When it was sent, ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.timestamp_ms / 1000, UTC).isoformat(timespec="seconds")

    @property
    def is_whole(self) -> bool:
        """Whether the bytes are there as they came."""
        return not (self.told("value-left-out") or self.told("null-value") or self.value is None)

    def as_json(self) -> dict[str, Any]:
        """What is told of it, without its bytes."""
        return {
            "place": self.place, "at": self.at, "camera": self.camera, "reason": self.told("reason"),
            "error": self.told("error"), "bytes": len(self.value or b""), "topic": self.told("topic"),
            "partition": self.told("partition"), "offset": self.told("offset"),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters; all where nothing is named.

    Attributes:
        reason: Of this reason alone.
        camera: Of this camera alone.
        places: At these places alone, such as ``0:17``.
    """

    reason: str | None = None
    camera: str | None = None
    places: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for place in self.places:
            partition, colon, offset = place.partition(":")
            if not (colon and partition.isdigit() and offset.isdigit()):
                raise ConfigError(f"{place!r} is no place of a dead letter; expected PARTITION:OFFSET, such as 0:17")

    def has(self, letter: DeadLetter) -> bool:
        """Whether a letter is among them."""
        return (
            self.reason in (None, letter.told("reason"))
            and self.camera in (None, letter.camera)
            and (not self.places or letter.place in self.places)
        )


def read_letters(kafka: KafkaSettings, wanted: Wanted) -> Iterator[DeadLetter]:
    """Read the letters that the topic holds now.

    Raises:
        ConfigError: There is no such topic.
        BrokerUnavailableError: No broker answers, or it stops giving records.
    """
    topic = kafka.dead_letter_topic
    with mapped_errors(kafka), closing(open_reader(kafka)) as reader:
        require_topics(reader, [topic], kafka)
        partitions = [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic))]
        ends = reader.end_offsets(partitions)
        begins = reader.beginning_offsets(partitions)
        for partition in partitions:
            reader.assign([partition])
            try:
                for record in reader.read_range(partition, begins[partition], ends[partition], _PATIENCE_SECONDS):
                    letter = _letter(record)
                    if wanted.has(letter):
                        yield letter
            except NoRecordsError as error:
                raise FramewatchError(f"{error} before its end") from error


def republish(kafka: KafkaSettings, letters: Sequence[DeadLetter], topic: str) -> int:
    """Send letters to a topic of frames as they came, with a header that says from where.

    A frame's capture time stays what it was.

    Raises:
        ConfigError: A letter has not the bytes that came, or there is no such topic; nothing was sent.
        DeliveryError: A record was not confirmed.
    """
    for letter in letters:
        if not letter.is_whole:
            raise ConfigError(
                f"dead letter {letter.place} has not the bytes that came; they stand at "
                f"{letter.told('topic')}[{letter.told('partition')}]@{letter.told('offset')}, if they are still there"
            )
    with closing(open_reader(kafka)) as reader:
        require_topics(reader, [topic], kafka)
    delivery = Delivery(kafka, linger_ms=5)
    try:
        for start in range(0, len(letters), _SENT_AT_ONCE):
            delivery.send([_as_it_came(letter, topic, kafka) for letter in letters[start : start + _SENT_AT_ONCE]])
    finally:
        delivery.close(10)
    return len(letters)


def _letter(record: Any) -> DeadLetter:  # noqa: ANN401
    headers = tuple((name, value or b"") for name, value in record.headers)
    return DeadLetter(record.partition, record.offset, record.timestamp, record.key, record.value, headers)


def _as_it_came(letter: DeadLetter, topic: str, kafka: KafkaSettings) -> OutgoingRecord:
    headers = [(name, value) for name, value in letter.headers if not name.startswith(_OWN)]
    captured_ms = letter.told("timestamp-ms")
    if captured_ms.isdigit() and all(name != CAPTURED_AT_HEADER for name, _ in headers):
        # The record's own time, which told it, is that of this sending now.
        headers.append((CAPTURED_AT_HEADER, captured_ms.encode()))
    headers.append((FROM_HEADER, f"{kafka.dead_letter_topic}/{letter.place}".encode()))
    return OutgoingRecord(topic, letter.key, letter.value, headers)
