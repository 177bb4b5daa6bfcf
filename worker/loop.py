"""The live loop: fetch a batch, score it, publish what it tells, wait for the broker, then commit.

The order is the promise: an offset is committed only after every alert, score and dead letter behind it was
confirmed. So a worker that dies is followed by one that does some frames again, never by one that skips any.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kafka import TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from kafka.structs import OffsetAndMetadata

from contract.errors import FrameError
from worker.engine import Engine, IncomingFrame, Outcome
from worker.kafka_clients import mapped_errors
from worker.records import (
    UNKNOWN_CAMERA,
    OutgoingRecord,
    alert_record,
    dead_letter_record,
    read_frame,
    score_record,
)
from worker.settings import WorkerSettings
from worker.telemetry import Metrics, Probes

_IDLE_POLL_MS = 500
_LAG_EVERY_SECONDS = 2.0
_log = logging.getLogger(__name__)

Deliver = Callable[[Sequence[OutgoingRecord]], None]
"""Sends records and returns once the broker has confirmed every one; raises DeliveryError otherwise."""


class Consumer(Protocol):
    """What the loop needs of kafka-python's consumer."""

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        """Next records by partition; blocks up to the timeout."""

    def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit and wait."""

    def assignment(self) -> set[TopicPartition]:
        """Partitions assigned."""

    def highwater(self, partition: TopicPartition) -> int | None:
        """Offset after the partition's last record, as last heard."""


class Losses(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Notes the partitions that were taken away, for the loop to act on between batches; commits nothing itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: set[TopicPartition] = set()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Note what is taken away."""
        with self._lock:
            self._lost |= set(revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Log what is given."""
        if assigned:
            _log.info("partitions assigned", extra={"partitions": sorted(tp.partition for tp in assigned)})

    def take(self) -> set[TopicPartition]:
        """The partitions lost since the last call."""
        with self._lock:
            lost, self._lost = self._lost, set()
        return lost


class WorkerLoop:
    """Runs until it is asked to stop or something fails.

    Args:
        consumer: Subscribed to the frames topic.
        deliver: Sends and waits.
        engine: Scores.
        settings: Of the worker.
        metrics: Counted into.
        probes: Told of each turn.
        losses: The consumer's rebalance listener.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        consumer: Consumer,
        deliver: Deliver,
        engine: Engine,
        settings: WorkerSettings,
        metrics: Metrics,
        probes: Probes,
        losses: Losses,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer = consumer
        self._deliver = deliver
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._probes = probes
        self._losses = losses
        self._clock = clock
        self._stopping = threading.Event()
        self._uncommitted: dict[TopicPartition, int] = {}
        self._committed_at = clock()
        self._lag_at = 0.0

    def stop(self) -> None:
        """Ask the loop to finish its batch, commit and return; safe in a signal handler."""
        self._stopping.set()

    def stop_on_signals(self) -> None:
        """Stop on SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def run(self) -> None:
        """Turn until stopped; what is finished is committed before it returns.

        Raises:
            DeliveryError: A record was not confirmed; nothing behind it was committed.
            BundleError: The model gives scores that are not finite.
            FramewatchError: The model or the broker failed.
        """
        while not self._stopping.is_set():
            self._turn()
        self._commit()
        _log.info("stopped, all finished frames are committed")

    def _turn(self) -> None:
        self._probes.turn()
        records = self._gather()
        lost = self._drop_lost()
        # What was fetched of a partition lost since is another worker's to score and to commit.
        records = [record for record in records if TopicPartition(record.topic, record.partition) not in lost]
        self._probes.ready = bool(self._consumer.assignment())
        self._metrics.partitions.set(len(self._consumer.assignment()))
        if records:
            self._work(records)
        if self._clock() - self._committed_at >= self._settings.batch.commit_interval_ms / 1000:
            self._commit()
        if self._clock() - self._lag_at >= _LAG_EVERY_SECONDS:
            self._measure_lag()

    def _gather(self) -> list[Any]:
        """Poll until the batch is full or its deadline has passed since its first record."""
        batch = self._settings.batch
        records: list[Any] = []
        ends_at: float | None = None
        with self._metrics.time_stage("fetch"), mapped_errors(self._settings.kafka):
            while len(records) < batch.max_frames and not self._stopping.is_set():
                left_ms = _IDLE_POLL_MS if ends_at is None else round((ends_at - self._clock()) * 1000)
                if ends_at is not None and left_ms <= 0:
                    break
                polled = self._consumer.poll(timeout_ms=left_ms, max_records=batch.max_frames - len(records))
                records += [record for part in polled.values() for record in part]
                if not records:
                    break
                ends_at = ends_at or self._clock() + batch.deadline_ms / 1000
        return records

    def _work(self, records: list[Any]) -> None:
        frames: list[IncomingFrame] = []
        origin: dict[int, Any] = {}
        letters: list[tuple[Any, FrameError]] = []
        for record in records:
            try:
                frame = read_frame(record)
            except FrameError as error:
                letters.append((record, error))
                self._metrics.frames.labels(UNKNOWN_CAMERA, "dead_letter").inc()
            else:
                frames.append(frame)
                origin[id(frame)] = record
        outcomes = self._engine.process(frames)
        self._metrics.begin_stage("")
        letters += [(origin[id(outcome.frame)], outcome.error) for outcome in outcomes if outcome.error]
        with self._metrics.time_stage("publish"):
            self._deliver(self._outgoing(outcomes, letters))
        self._count(outcomes, letters)
        for record in records:
            self._uncommitted[TopicPartition(record.topic, record.partition)] = record.offset + 1

    def _outgoing(self, outcomes: Sequence[Outcome], letters: list[tuple[Any, FrameError]]) -> list[OutgoingRecord]:
        kafka = self._settings.kafka
        records = [alert_record(alert, kafka) for outcome in outcomes for alert in outcome.alerts]
        records += [dead_letter_record(record, error, kafka.dead_letter_topic) for record, error in letters]
        if kafka.scores_topic is not None:
            scored = (outcome for outcome in outcomes if outcome.error is None)
            records += [score_record(outcome, self._engine.threshold, kafka.scores_topic) for outcome in scored]
        return records

    def _count(self, outcomes: Sequence[Outcome], letters: list[tuple[Any, FrameError]]) -> None:
        self._metrics.batch_frames.observe(len(outcomes))
        now_ms = time.time() * 1000
        for outcome in outcomes:
            kind = "dead_letter" if outcome.error else "anomalous" if outcome.is_anomalous else "normal"
            self._metrics.frames.labels(outcome.frame.camera_id, kind).inc()
            self._metrics.delay_seconds.observe(max(0.0, (now_ms - outcome.frame.captured_at_ms) / 1000))
            for alert in outcome.alerts:
                self._metrics.alerts.labels(alert.type).inc()
                _log.info(
                    "alert",
                    extra={
                        "alert": alert.id, "type": alert.type, "camera": alert.subject,
                        "partition": outcome.frame.partition, "offset": outcome.frame.offset,
                        "score": round(alert.data.peak_score, 3), "severity": alert.data.severity,
                    },
                )  # fmt: skip
        for record, error in letters:
            self._metrics.dead_letters.labels(error.reason).inc()
            where = {"partition": record.partition, "offset": record.offset, "reason": error.reason}
            _log.warning("dead letter: %s", error, extra=where)

    def _drop_lost(self) -> set[TopicPartition]:
        lost = self._losses.take() - self._consumer.assignment()
        if lost:
            for partition in lost:
                self._uncommitted.pop(partition, None)
            self._engine.forget((tp.topic, tp.partition) for tp in lost)
            _log.info("partitions lost", extra={"partitions": sorted(tp.partition for tp in lost)})
        return lost

    def _commit(self) -> None:
        self._committed_at = self._clock()
        self._drop_lost()
        if not self._uncommitted:
            return
        offsets = {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in self._uncommitted.items()}
        with self._metrics.time_stage("commit"), mapped_errors(self._settings.kafka):
            try:
                self._consumer.commit(offsets)
            except (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError) as error:
                # Another worker has the partitions; it does these frames again, under the same ids.
                _log.warning("commit refused, the partitions are being moved: %s", type(error).__name__)
                return
        self._uncommitted.clear()

    def _measure_lag(self) -> None:
        self._lag_at = self._clock()
        for partition, offset in self._uncommitted.items():
            end = self._consumer.highwater(partition)
            if end is not None:
                self._metrics.lag.labels(str(partition.partition)).set(max(0, end - offset))
