"""Reads topics for ever, in no group, from where the database stands; a broker that is gone is waited for."""

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from kafka import TopicPartition

from contract.errors import FramewatchError
from contract.steady_consumer import SteadyConsumer, UnreadableRecordError
from worker.console.queries import Answer
from worker.console.reading import MalformedError, Row
from worker.console.store import Changes, Store
from worker.kafka_clients import mapped_errors, open_reader
from worker.settings import KafkaSettings

_POLL_MS: Final = 200
_MOST_RECORDS: Final = 500
_LOOK_EVERY_SECONDS: Final = 5.0
_PARTITIONS_EVERY_SECONDS: Final = 60.0
_AGAIN_AFTER_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 12.0
_STOP_SECONDS: Final = 10.0
_REQUEST_MS: Final = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Followed:
    """A topic that is read.

    Attributes:
        name: Topic.
        read: Makes a row of a record, given the clock in ms since 1970; raises `MalformedError` where it is none.
        begin_days: How far back to begin where the database holds nothing of it, days.
    """

    name: str
    read: Callable[[Any, int], Row]
    begin_days: float


class Follower:
    """Reads topics into the store from a thread of its own; a context manager.

    Args:
        kafka: The broker.
        topics: What to read.
        source: What the rows are of, beside the cluster; rows of another source are dropped.
        store: Where rows go.
        on_change: Called after each write, from the follower's thread.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        topics: tuple[Followed, ...],
        source: str,
        store: Store,
        on_change: Callable[[Changes], None],
    ) -> None:
        self._kafka = kafka
        self._topics = {topic.name: topic for topic in topics}
        self._source = source
        self._store = store
        self._on_change = on_change
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow {topics[0].name}", daemon=True)
        self._state: Answer = {"state": "connecting", "detail": "", "missing": [], "behind": 0}
        self._turned_at = time.monotonic()
        self._consumer: SteadyConsumer | None = None

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join(_STOP_SECONDS)

    @property
    def status(self) -> Answer:
        """How it goes: ``topics``, ``state``, ``detail``, topics that are ``missing``, records still ``behind``.

        The state is ``connecting``, ``following``, or ``unavailable`` for the reason in ``detail``.
        """
        status = {"topics": list(self._topics), **self._state}
        consumer = self._consumer
        if consumer is not None and consumer.seconds_since_answer() > _SILENT_SECONDS:
            status |= {"state": "unavailable", "detail": f"the broker {self._kafka.bootstrap_servers} does not answer"}
        return status

    @property
    def is_live(self) -> bool:
        """Whether its thread turns; it waits for a broker for no longer than a minute at a time."""
        return self._thread.is_alive() and time.monotonic() - self._turned_at < 2 * 60 + self._patience_seconds

    @property
    def _patience_seconds(self) -> float:
        return self._kafka.bootstrap_timeout_ms / 1000

    def _run(self) -> None:
        while not self._ended.is_set():
            self._turned_at = time.monotonic()
            try:
                self._follow()
            except FramewatchError as error:
                self._say_unavailable(str(error))
            except sqlite3.Error as error:
                self._say_unavailable(f"the database cannot be written: {error}")
            finally:
                self._consumer = None
            self._ended.wait(_AGAIN_AFTER_SECONDS)

    def _say_unavailable(self, detail: str) -> None:
        if self._state["detail"] != detail:
            _log.warning("%s", detail)
        self._state = {**self._state, "state": "unavailable", "detail": detail}

    def _follow(self) -> None:
        with closing(open_reader(self._kafka, lost_place="earliest")) as consumer:
            looked_at: float | None = None
            while not self._ended.is_set():
                self._turned_at = time.monotonic()
                due_seconds = _LOOK_EVERY_SECONDS if self._state["missing"] else _PARTITIONS_EVERY_SECONDS
                if looked_at is None or self._turned_at - looked_at > due_seconds:
                    with mapped_errors(self._kafka):
                        self._assign(consumer)
                    looked_at = self._turned_at
                is_idle = self._state["missing"] == list(self._topics)
                self._consumer = None if is_idle else consumer
                if is_idle:
                    self._ended.wait(_POLL_MS / 1000)
                    continue
                self._turn(consumer)

    def _assign(self, consumer: SteadyConsumer) -> None:
        """Take every partition of the topics that are there, each from where the store stands."""
        found = consumer.topics()
        self._store.belongs_to(f"{consumer._cluster.cluster_id} {self._source}")  # noqa: SLF001 - nothing public says it
        partitions = [
            TopicPartition(name, number)
            for name in self._topics
            if name in found
            for number in sorted(consumer.partitions_for_topic(name) or ())
        ]
        missing = [name for name in self._topics if name not in found]
        self._state = {"state": "following", "detail": "", "missing": missing, "behind": 0}
        if not partitions:
            return
        consumer.assign(partitions)
        held = self._store.offsets()
        begins = self._begins(consumer, [one for one in partitions if tuple(one) not in held])
        ends = consumer.end_offsets(partitions, timeout_ms=_REQUEST_MS)
        for partition in partitions:
            place = begins[partition] if partition in begins else held[tuple(partition)]
            if place is None:
                consumer.seek(partition, ends[partition])
            elif place > ends[partition]:  # the topic was made anew
                consumer.seek_to_beginning(partition)
            else:
                consumer.seek(partition, place)

    def _begins(self, consumer: SteadyConsumer, partitions: list[TopicPartition]) -> dict[TopicPartition, int | None]:
        """Offset of the first record that is young enough; None where there is none."""
        if not partitions:
            return {}
        now_ms = round(time.time() * 1000)
        wanted = {one: max(0, now_ms - round(self._topics[one.topic].begin_days * 86_400_000)) for one in partitions}
        found = consumer.offsets_for_times(wanted, timeout_ms=_REQUEST_MS)
        return {one: found[one].offset if found.get(one) else None for one in partitions}

    def _turn(self, consumer: SteadyConsumer) -> None:
        malformed: Counter[str] = Counter()
        with mapped_errors(self._kafka):
            try:
                polled = consumer.poll(timeout_ms=_POLL_MS, max_records=_MOST_RECORDS)
            except UnreadableRecordError:
                polled, malformed["unreadable"] = {}, 1
        rows, offsets = self._rows(polled, malformed)
        if not offsets and not malformed:
            self._state = {**self._state, "behind": 0}
            return
        changed = self._store.apply(rows, offsets, malformed)
        behind = sum((consumer.highwater(one) or 0) - records[-1].offset - 1 for one, records in polled.items())
        self._state = {**self._state, "behind": max(0, behind)}
        self._on_change(changed)

    def _rows(
        self, polled: Mapping[TopicPartition, list[Any]], malformed: Counter[str]
    ) -> tuple[list[Row], dict[tuple[str, int], int]]:
        now_ms = round(time.time() * 1000)
        rows: list[Row] = []
        for partition, records in polled.items():
            read = self._topics[partition.topic].read
            for record in records:
                try:
                    rows.append(read(record, now_ms))
                except MalformedError as error:
                    malformed[str(error)] += 1
        return rows, {(one.topic, one.partition): records[-1].offset + 1 for one, records in polled.items()}
