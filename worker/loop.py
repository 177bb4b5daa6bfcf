"""The live loop: fetch a batch, score it, publish what it tells, wait for the broker, then commit.

The order is the promise: an offset is committed only after every alert, score and dead letter behind it was
confirmed. So a worker that dies is followed by one that does some frames again, never by one that skips any.

The loop's own thread fetches into a queue in which cameras take turns, and commits. Batches go from it through a
pipeline that prepares, scores and publishes them, each step on a thread of its own and in the batches' order.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from kafka import TopicPartition
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from contract.alert import CameraAlert
from contract.errors import BrokerUnavailableError, BundleError, FrameError, FramewatchError
from contract.steady_consumer import UnreadableRecordError
from worker.cameras import Cameras
from worker.engine import Engine, Work
from worker.fair_queue import FairQueue, Finished
from worker.frames import IncomingFrame, Outcome
from worker.kafka_clients import mapped_errors
from worker.partitions import Losses, Progress
from worker.pipeline import Pipeline
from worker.read_back import ReadRange
from worker.records import (
    OutgoingRecord,
    UnreadableRecord,
    alert_record,
    capture_delay_seconds,
    dead_letter_record,
    read_frame,
    record_bytes,
    score_record,
)
from worker.replay import Replay
from worker.settings import WorkerSettings
from worker.state import AHEAD_OFFSETS
from worker.state_text import unpack
from worker.tally import Ages, Tally
from worker.telemetry import Metrics, Probes
from worker.traces import FrameTrace, NoTraces, Step, Traces, alert_parents
from worker.transactions import AbortedError, Transactions, Watch, is_member

_IDLE_POLL_MS: Final = 500
_LEAST_POLL_MS: Final = 10
_TRIES: Final = 3
_TRY_AGAIN_SECONDS: Final = 0.5
_POSITION_MS: Final = 1_000
_MEASURE_EVERY_SECONDS: Final = 2.0
_LISTEN_EVERY_SECONDS: Final = 1.0
_ANSWERED_SECONDS: Final = 10.0
_MOVING: Final = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)
"""Errors of a commit while partitions are being moved."""

_log = logging.getLogger(__name__)


class Outlet(Protocol):
    """What the loop needs of `Delivery`."""

    def send(self, records: Sequence[OutgoingRecord]) -> None:
        """Send records and return once the broker has confirmed every one; raises DeliveryError otherwise."""


class Consumer(Protocol):
    """What the loop needs of `SteadyConsumer`."""

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        """Next records by partition; blocks up to the timeout."""

    def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit and wait."""

    def committed(self, partition: TopicPartition, metadata: bool) -> Any:  # noqa: ANN401, FBT001
        """Committed offset, and with it its metadata where so asked; None where there is none."""

    def position(self, partition: TopicPartition, timeout_ms: int) -> int | None:
        """Offset of the next record; None where it is not known within the timeout."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on from another offset."""

    def pause(self, *partitions: TopicPartition) -> None:
        """Give no records of assigned partitions until they are resumed."""

    def resume(self, *partitions: TopicPartition) -> None:
        """Give records of assigned partitions again."""

    def paused(self) -> set[TopicPartition]:
        """Assigned partitions that are paused."""

    def assignment(self) -> set[TopicPartition]:
        """Partitions assigned."""

    def highwater(self, partition: TopicPartition) -> int | None:
        """Offset after the partition's last record, as last heard."""

    def seconds_since_answer(self) -> float:
        """Seconds since the broker last answered."""

    def group_metadata(self) -> Any:  # noqa: ANN401
        """Membership of the group."""

    def take_missed(self) -> dict[TopicPartition, int]:
        """Number of records, by partition, that were deleted before they were read, since the last call."""


class _Listened(NamedTuple):
    """A partition that was read to its end for a while.

    Attributes:
        since: Since when, monotonic seconds.
        until: Until when; what came later may still be under way.
        finished: How far it is finished.
    """

    since: float
    until: float
    finished: Finished


@dataclass(slots=True)
class _Batch:
    """Records on their way.

    Attributes:
        records: In the order of their turns.
        tenures: Of their partitions.
        finished: How far their partitions are finished once the batch is.
        gone: Partitions lost since the batch before; what is kept of their cameras is dropped.
        membership: Of the group, in which these partitions were this worker's, for the transaction they go into.
        begun: Partitions begun since, and what was committed of them; their cameras go on from there.
        letters: Records of no camera, and why.
        late: Frames that are passed over.
        is_commit: Whether it is there to have what was published before it committed.
        cameras: What is in force from here on, where that changed.
        listened: Partitions whose cameras are to be looked at for silence.
        origin: Record of each frame, by the frame's identity.
        work: What the engine makes of them.
        began_ns: When it was made, ns since 1970.
        steps: Done so far.
    """

    records: Sequence[Any]
    tenures: dict[TopicPartition, int]
    finished: dict[TopicPartition, Finished]
    gone: set[TopicPartition]
    membership: ConsumerGroupMetadata | None = None
    begun: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)
    is_commit: bool = False
    cameras: Cameras | None = None
    listened: dict[TopicPartition, "_Listened"] = field(default_factory=dict)
    letters: list[tuple[Any, FrameError]] = field(default_factory=list)
    late: list[IncomingFrame] = field(default_factory=list)
    origin: dict[int, Any] = field(default_factory=dict)
    work: Work = field(default_factory=lambda: Work(0, 0, (), ()))
    began_ns: int = field(default_factory=time.time_ns)
    steps: list[Step] = field(default_factory=list)

    def counts(self, record: Any, tenures: dict[TopicPartition, int]) -> bool:  # noqa: ANN401
        """Whether a record's partition has been this worker's since the batch was made."""
        return self.counts_of(_partition(record), tenures)

    def counts_of(self, partition: TopicPartition, tenures: dict[TopicPartition, int]) -> bool:
        """Whether a partition has been this worker's since the batch was made."""
        tenure = self.tenures.get(partition)
        return tenure is not None and tenures.get(partition) == tenure


class WorkerLoop:
    """Runs until it is asked to stop or something fails.

    Args:
        consumer: Subscribed to the frames topic.
        outlet: Sends records and waits for the broker, and offsets are committed after; or, for exactly-once, does
            both at once.
        engine: Scores.
        settings: Of the worker.
        cameras: What is in force for each camera.
        reloaded: Gives what is in force instead, once after each time that settings were loaded anew.
        metrics: Counted into.
        probes: Told of each turn.
        losses: The consumer's rebalance listener.
        read_back: Gives what reads frames of a partition again.
        watch: Ends the process where a step of a batch, or a turn of the loop, never ends.
        clock: Monotonic seconds.
        replay: What is told of where frames of the past are done again; None live.
        traces: Told of each frame.
    """

    def __init__(
        self,
        consumer: Consumer,
        outlet: Outlet | Transactions,
        engine: Engine,
        settings: WorkerSettings,
        cameras: Cameras,
        reloaded: Callable[[], Cameras | None],
        metrics: Metrics,
        probes: Probes,
        losses: Losses,
        read_back: Callable[[TopicPartition], AbstractContextManager[ReadRange]],
        watch: Watch,
        clock: Callable[[], float] = time.monotonic,
        replay: Replay | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._consumer = consumer
        self._outlet = outlet
        self._transactions = outlet if isinstance(outlet, Transactions) else None
        self._engine = engine
        self._settings = settings
        self._cameras = cameras
        self._reloaded = reloaded
        self._metrics = metrics
        self._probes = probes
        self._losses = losses
        self._read_back = read_back
        self._watch = watch
        self._replay = replay
        self._traces = traces or NoTraces()
        self._clock = clock
        self._stopping = threading.Event()
        metrics.queue_limit_bytes.set(settings.batch.max_bytes_waiting)
        self._tally = Tally(metrics, is_live=replay is None)
        self._ages = Ages()
        self._progress = Progress()
        self._queue = FairQueue(settings.batch.max_bytes_waiting, AHEAD_OFFSETS)
        # Whether the group's membership allowed a batch in the last turn.
        self._may_take = True
        self._committed_at = clock()
        self._measured_at = self._listened_at = 0.0
        # Partitions that are read to their ends, and since when.
        self._listening: dict[TopicPartition, float] = {}
        # Partitions of which the open transaction tells, and their tenures.
        self._told_of: dict[TopicPartition, int] = {}
        # Partitions lost since the last batch went on its way.
        self._gone: set[TopicPartition] = set()
        # Partitions begun since then with something to go on from.
        self._begun: dict[TopicPartition, OffsetAndMetadata] = {}
        # What was finished of partitions that were lost, and came back, before anything of them was committed.
        self._never_committed: dict[TopicPartition, OffsetAndMetadata] = {}
        steps = [
            (name, self._watched(name, step))
            for name, step in (("prepare", self._prepare), ("score", self._score), ("publish", self._publish))
        ]
        self._pipeline = Pipeline(steps, settings.batch.max_bytes_under_way)

    def stop(self) -> None:
        """Ask the loop to finish its batch, commit and return; safe in a signal handler."""
        self._stopping.set()

    def run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Turn until stopped; what is finished is committed before it returns.

        Args:
            is_over: Asked after each turn whether to stop.

        Raises:
            DeliveryError: A record was not confirmed; nothing behind it was committed.
            BundleError: The model gives scores that are not finite.
            FramewatchError: The model or the broker failed.
        """
        with self._pipeline:
            while not self._stopping.is_set():
                with self._watch("turn of the loop", self._settings.stuck_seconds):
                    self._turn()
                    with mapped_errors(self._settings.kafka):
                        if is_over():
                            self.stop()
            if self._transactions is not None:
                self._pipeline.submit(_Batch((), {}, {}, set(), is_commit=True))
            self._pipeline.drain()
        if self._transactions is None:
            self._commit()
        _log.info("stopped, all finished frames are committed")

    def _watched(self, name: str, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def watched(batch: Any) -> Any:  # noqa: ANN401
            began_ns = time.time_ns()
            with self._watch(f"step {name} of a batch", self._settings.stuck_seconds):
                done = step(batch)
            batch.steps.append(Step(name, began_ns, time.time_ns()))
            return done

        return watched

    def _turn(self) -> None:
        self._probes.turn()
        self._pipeline.check()
        self._fetch()
        records, membership = self._take()
        self._tell_health()
        is_due = self._clock() - self._committed_at >= self._settings.batch.commit_interval_ms / 1000
        is_commit = is_due and self._transactions is not None and self._transactions.is_open
        cameras = self._reloaded()
        # Without a membership, what is told goes into no transaction.
        listened = self._listen() if self._may_take else {}
        if records or self._gone or self._begun or is_commit or cameras is not None or listened:
            gone, self._gone, begun, self._begun = self._gone, set(), self._begun, {}
            size = sum(record_bytes(record) for record in records)
            finished = {partition: self._queue.finished(partition) for partition in set(map(_partition, records))}
            batch = _Batch(
                records, self._progress.tenures, finished, gone, membership, begun, is_commit, cameras, listened
            )
            self._pipeline.submit(batch, size)
        if is_due and self._transactions is None:
            self._commit()
        elif is_due:
            self._committed_at = self._clock()
        if self._clock() - self._measured_at >= _MEASURE_EVERY_SECONDS:
            self._measure()

    def _listen(self) -> dict[TopicPartition, _Listened]:
        """Say, once a second, which partitions were read to their ends for so long that cameras may be silent.

        What a broker that does not answer, or a worker that is behind, keeps from being heard is no silence.
        """
        now, patience = self._clock(), self._settings.camera_health.silent_seconds
        if not patience or now - self._listened_at < _LISTEN_EVERY_SECONDS:
            return {}
        self._listened_at = now
        is_answered = self._consumer.seconds_since_answer() < _ANSWERED_SECONDS
        finished = self._progress.finished
        self._listening = {
            partition: self._listening.get(partition, now)
            for partition in self._consumer.assignment() & finished.keys()
            if is_answered and self._is_read(partition)
        }
        return {
            partition: _Listened(since, now, self._queue.finished(partition).at_least(finished[partition]))
            for partition, since in self._listening.items()
            if now - since >= patience
        }

    def _is_read(self, partition: TopicPartition) -> bool:
        if self._queue.waiting(partition):
            return False
        end = self._consumer.highwater(partition)
        if end is None:
            return True
        position = self._position(partition)
        return position is not None and position >= end

    def _take(self) -> tuple[list[Any], ConsumerGroupMetadata | None]:
        """Take the next batch's records, and the membership of the group that they go out under in a transaction.

        The membership of a consumer that was evicted, or is on its way into another generation, fences nothing: under
        it none are taken.
        """
        membership: ConsumerGroupMetadata | None = None
        if self._transactions is not None:
            membership = self._consumer.group_metadata()
        with mapped_errors(self._settings.kafka):
            # After the membership was noted: what waits of a partition lost before it began must not go out under it.
            self._drop_lost()
        self._begin_partitions()
        self._may_take = membership is None or is_member(membership)
        if not self._may_take:
            return [], None
        return self._queue.take(self._settings.batch.max_frames), membership

    def _fetch(self) -> None:
        """Take in what has come, as far as there is room; waits for it where nothing waits yet."""
        most = self._settings.batch.max_frames
        timeout_ms = 0 if self._queue and self._may_take else self._idle_ms()
        with self._metrics.time_stage("fetch"), mapped_errors(self._settings.kafka):
            self._pause_full()
            while not self._stopping.is_set():
                polled = self._poll(timeout_ms, most)
                self._queue.add(polled)
                self._ages.note(polled)
                self._drop_lost()
                self._pause_full()
                if not polled or not self._queue:
                    break
                timeout_ms = 0

    def _pause_full(self) -> None:
        """Pause partitions of which there is no room for more, so that others' records come, and resume the rest."""
        assigned, paused = self._consumer.assignment(), self._consumer.paused()
        full = self._queue.full(assigned)
        self._consumer.pause(*(assigned & full) - paused)
        self._consumer.resume(*(assigned & paused) - full)

    def _idle_ms(self) -> int:
        """How long to wait for a first record: no longer than until the next commit is due."""
        due_ms = (self._committed_at - self._clock()) * 1000 + self._settings.batch.commit_interval_ms
        return round(min(max(due_ms, _LEAST_POLL_MS), _IDLE_POLL_MS))

    def _poll(self, timeout_ms: int, max_records: int) -> list[Any]:
        try:
            polled = self._consumer.poll(timeout_ms=timeout_ms, max_records=max_records)
        except UnreadableRecordError as error:
            return [UnreadableRecord(error.partition.topic, error.partition.partition, error.offset, str(error))]
        return [record for part in polled.values() for record in part]

    def _drop_lost(self) -> None:
        """Forget the partitions lost lately and drop what waits of them; one that came back begins anew.

        What was fetched before the loss may have been done by another worker since, or not at all, so a partition that
        came back is read again from what is committed, or from what was finished where nothing is.
        """
        lost = self._losses.take()
        if self._progress.heed():
            lost |= self._consumer.assignment()
        if not lost:
            return
        uncommitted = self._progress.uncommitted
        self._progress.forget(lost)
        self._gone |= lost
        self._metrics.forget(tp.partition for tp in lost)
        _log.info("partitions lost", extra={"partitions": sorted(tp.partition for tp in lost)})
        for partition in lost:
            self._begun.pop(partition, None)
            self._never_committed.pop(partition, None)
            oldest = self._queue.oldest(partition)
            self._queue.drop(partition)
            self._ages.forget(partition.partition)
            if partition not in self._consumer.assignment():
                continue
            goes_on = self._committed(partition)
            if goes_on is None and partition in uncommitted:
                goes_on = self._never_committed[partition] = uncommitted[partition]
            goes_on_at = goes_on.offset if goes_on is not None else oldest
            if goes_on_at is not None:
                self._consumer.seek(partition, goes_on_at)

    def _begin_partitions(self) -> None:
        """Note where new partitions begin, to be committed: a restart must not begin them elsewhere."""
        for partition in self._consumer.assignment() - self._progress.finished.keys():
            begins_at = self._queue.oldest(partition)
            if begins_at is None:
                begins_at = self._position(partition)
            if begins_at is None:
                continue
            committed = self._committed(partition) or self._never_committed.pop(partition, None)
            if committed is None and self._transactions is not None and not self._commit_begin(partition, begins_at):
                continue
            if committed is None:
                self._progress.begin(partition, begins_at)
                continue
            # Where it was committed, even if the first record lies behind it: the state counts from there.
            self._progress.begin(partition, committed.offset, committed.metadata)
            if committed.metadata:
                self._begun[partition] = committed
                saved = unpack(committed.metadata, committed.offset)
                self._queue.begin(partition, saved.ahead if saved is not None else ())

    def _commit_begin(self, partition: TopicPartition, offset: int) -> bool:
        """Commit where a partition begins, so that there is something to go back to."""
        try:
            with mapped_errors(self._settings.kafka):
                self._consumer.commit({partition: OffsetAndMetadata(offset, "", -1)})
        except BrokerUnavailableError as error:
            if not isinstance(error.__cause__, _MOVING):
                raise
            self._queue.drop(partition)
            if partition in self._consumer.assignment():
                self._consumer.seek(partition, offset)
            return False
        return True

    def _committed(self, partition: TopicPartition) -> OffsetAndMetadata | None:
        with mapped_errors(self._settings.kafka):
            committed: OffsetAndMetadata | None = self._consumer.committed(partition, metadata=True)
        return committed

    def _position(self, partition: TopicPartition) -> int | None:
        with mapped_errors(self._settings.kafka):
            try:
                return self._consumer.position(partition, timeout_ms=_POSITION_MS)
            except IllegalStateError:
                # It was lost a moment ago.
                return None

    def _tell_health(self) -> None:
        assigned = self._consumer.assignment()
        self._probes.ready = bool(assigned)
        self._metrics.partitions.set(len(assigned))
        paused = self._consumer.paused()
        for partition in assigned:
            self._metrics.waiting.labels(str(partition.partition)).set(self._queue.waiting(partition))
            self._metrics.paused.labels(str(partition.partition)).set(partition in paused)
        self._probes.answered(self._consumer.seconds_since_answer())
        for partition, count in self._consumer.take_missed().items():
            self._metrics.missed.labels(str(partition.partition)).inc(count)

    def _prepare(self, batch: "_Batch") -> "_Batch":
        if batch.cameras is not None:
            self._cameras = batch.cameras
            self._engine.use(batch.cameras.profile)
        self._engine.forget((tp.topic, tp.partition) for tp in batch.gone)
        for partition, committed in batch.begun.items():
            self._restore(partition, committed)
        frames: list[IncomingFrame] = []
        now_ms = time.time() * 1000
        for record in batch.records:
            try:
                frame = self._read(record)
            except FrameError as error:
                batch.letters.append((record, error))
                continue
            batch.origin[id(frame)] = record
            if self._is_late(frame, now_ms):
                batch.late.append(frame)
            else:
                frames.append(frame)
        batch.work = self._engine.prepare(frames)
        return batch

    def _read(self, record: Any) -> IncomingFrame:  # noqa: ANN401
        frame = read_frame(record)
        self._cameras.require(frame.camera_id)
        return frame

    def _is_late(self, frame: IncomingFrame, now_ms: float) -> bool:
        if self._replay is not None:
            # All that it reads is old.
            return False
        late = self._cameras.late(frame.camera_id)
        age_seconds = capture_delay_seconds(frame.captured_at_ms, now_ms)
        return late.policy == "skip_to_fresh" and age_seconds is not None and age_seconds > late.max_age_seconds

    def _restore(self, partition: TopicPartition, committed: OffsetAndMetadata) -> None:
        with self._metrics.time_stage("restore"), self._read_back(partition) as read_range:

            def read(first: int, end: int) -> Iterator[IncomingFrame]:
                return (frame for frame in read_range(first, end) if self._cameras.admits(frame.camera_id))

            count = self._engine.restore(
                partition.topic, partition.partition, committed.metadata, committed.offset, read
            )
        if count:
            _log.info("events go on", extra={"partition": partition.partition, "events": count})

    def _score(self, batch: "_Batch") -> "_Batch":
        for left in reversed(range(_TRIES)):
            try:
                self._engine.score(batch.work)
            except BundleError:
                raise
            except FramewatchError as error:
                if not left:
                    raise
                _log.warning("inference failed, %d more tries: %s", left, error)
                self._stopping.wait(_TRY_AGAIN_SECONDS)
            else:
                break
        for bundle, cause in batch.work.failures:
            self._metrics.challenger_failures.inc()
            said = {"bundle": f"{bundle.name} {bundle.version}"}
            _log.error("challenger dropped until settings are loaded anew: %s", cause, extra=said)
        return batch

    def _publish(self, batch: "_Batch") -> None:
        try:
            self._publish_or_abort(batch)
        except AbortedError:
            self._metrics.aborted.inc()
            self._told_of = {}
            self._progress.take_back()

    def _publish_or_abort(self, batch: "_Batch") -> None:
        current = self._progress.tenures
        if self._transactions is not None:
            is_over = any(current.get(partition) != tenure for partition, tenure in self._told_of.items())
            if is_over or not self._transactions.belongs(batch.membership):
                self._end_transaction(self._transactions)
        outcomes, letters = self._follow(batch, current)
        self._tally.strangers(len(letters))
        letters += [(batch.origin[id(outcome.frame)], outcome.error) for outcome in outcomes if outcome.error]
        silent = self._find_silent(batch, current)
        begun = ((id(outcome), self._traces.begin(outcome, batch.began_ns)) for outcome in outcomes)
        traces = {place: trace for place, trace in begun if trace is not None}
        outgoing = self._outgoing(outcomes, letters, traces)
        outgoing += [alert_record(one, self._settings.kafka) for one in silent]
        began_ns = time.time_ns()
        with self._metrics.time_stage("publish"):
            self._hand_over(outgoing, batch, current)
        for trace in traces.values():
            trace.end([*batch.steps, Step("publish", began_ns, time.time_ns())])
        for alert in silent:
            self._tally.alert(alert, alert.data.frames.partition, alert.data.frames.last_offset)
        self._count_batch(batch, outcomes, letters, current)
        for partition, finished in batch.finished.items():
            state = self._state(partition, finished)
            self._progress.finish(partition, finished.next_offset, batch.tenures.get(partition), state)
        if self._transactions is not None:
            is_late = self._transactions.age_seconds >= self._settings.batch.commit_interval_ms / 1000
            if batch.is_commit or is_late:
                self._end_transaction(self._transactions)

    def _find_silent(self, batch: "_Batch", tenures: dict[TopicPartition, int]) -> list[CameraAlert]:
        alerts: list[CameraAlert] = []
        for partition, (since, until, finished) in batch.listened.items():
            if batch.counts_of(partition, tenures):
                found = self._engine.find_silent(partition.topic, partition.partition, since, until)
                alerts += found
                # What is kept of the cameras changed, and is to be committed.
                batch.finished |= {partition: finished} if found and partition not in batch.finished else {}
        return alerts

    def _follow(
        self, batch: "_Batch", tenures: dict[TopicPartition, int]
    ) -> tuple[list[Outcome], list[tuple[Any, FrameError]]]:
        """Say what a batch's scores tell, and which of its records are of no camera: what is to be told of."""
        outcomes = self._engine.follow(batch.work, lambda frame: batch.counts(batch.origin[id(frame)], tenures))
        letters = [letter for letter in batch.letters if batch.counts(letter[0], tenures)]
        for frame in batch.late:
            self._engine.note_heard(frame)
        if self._replay is not None:
            outcomes = [outcome for outcome in outcomes if self._replay.holds(outcome.frame)]
            letters = [letter for letter in letters if self._replay.holds(letter[0])]
        return outcomes, letters

    def _hand_over(self, records: list[OutgoingRecord], batch: "_Batch", tenures: dict[TopicPartition, int]) -> None:
        if not isinstance(self._outlet, Transactions):
            with self._probes.sending():
                self._outlet.send(records)
            self._probes.answered()
            return
        counting = [tp for tp in batch.finished if batch.counts_of(tp, tenures)]
        if batch.membership is not None and counting:
            self._told_of |= {partition: tenures[partition] for partition in counting}
            self._outlet.send(records, batch.membership)

    def _end_transaction(self, transactions: Transactions) -> None:
        tenures, self._told_of = self._told_of, {}
        offsets = self._progress.uncommitted_of(tenures)
        with self._metrics.time_stage("commit"), self._probes.sending():
            if offsets is None:
                transactions.abort()
            else:
                transactions.commit(offsets)
        self._progress.commit(offsets)
        self._note_commit()

    def _state(self, partition: TopicPartition, finished: Finished) -> str:
        most = self._settings.kafka.commit_metadata_bytes
        text, left_out = self._engine.state(
            partition.topic, partition.partition, finished.next_offset, most, finished.ahead
        )
        self._metrics.state_left_out.labels(str(partition.partition)).set(left_out)
        return text

    def _outgoing(
        self, outcomes: Sequence[Outcome], letters: list[tuple[Any, FrameError]], traces: Mapping[int, FrameTrace]
    ) -> list[OutgoingRecord]:
        kafka = self._settings.kafka
        records = [
            alert_record(alert, kafka, traceparent)
            for outcome in outcomes
            for alert, traceparent in zip(outcome.alerts, alert_parents(outcome, traces.get(id(outcome))), strict=True)
        ]
        if self._replay is None:
            records += [dead_letter_record(record, error, kafka.dead_letter_topic) for record, error in letters]
        if kafka.scores_topic is not None:
            scored = (outcome for outcome in outcomes if outcome.error is None)
            records += [score_record(outcome, kafka.scores_topic) for outcome in scored]
        challenged = (outcome.challenger for outcome in outcomes if outcome.challenger is not None)
        records += [score_record(one, kafka.challenger_scores_topic) for one in challenged if one.error is None]
        return records

    def _count_batch(
        self,
        batch: "_Batch",
        outcomes: Sequence[Outcome],
        letters: list[tuple[Any, FrameError]],
        tenures: dict[TopicPartition, int],
    ) -> None:
        for outcome in outcomes:
            self._tally.frame(outcome, batch.origin[id(outcome.frame)])
        self._tally.letters(letters)
        if self._replay is not None:
            self._replay.count(outcomes, [record for record, _ in letters])
        for frame in batch.late:
            if batch.counts(batch.origin[id(frame)], tenures):
                self._tally.skipped(frame)
        if batch.records:
            self._metrics.batch_frames.observe(len(outcomes))

    def _commit(self) -> None:
        self._committed_at = self._clock()
        with mapped_errors(self._settings.kafka):
            self._drop_lost()
        offsets = self._progress.uncommitted
        if not offsets:
            return
        with self._metrics.time_stage("commit"), mapped_errors(self._settings.kafka):
            try:
                self._consumer.commit(offsets)
            except _MOVING as error:
                # Another worker has the partitions; it does these frames again, under the same ids.
                said = {"partitions": sorted(partition.partition for partition in offsets)}
                _log.warning("commit refused, the partitions are being moved: %s", type(error).__name__, extra=said)
                return
        self._progress.commit(offsets)
        self._note_commit()

    def _note_commit(self) -> None:
        self._probes.answered()
        self._metrics.committed_at.set_to_current_time()

    def _measure(self) -> None:
        """Measure what changes by itself: what waits, how old it is, and what is open."""
        self._measured_at = self._clock()
        for partition, offset in self._progress.finished.items():
            label = str(partition.partition)
            end = self._consumer.highwater(partition)
            if end is not None:
                self._metrics.lag.labels(label).set(max(0, end - offset))
            self._metrics.lag_seconds.labels(label).set(self._ages.oldest_seconds(partition.partition, offset))
        self._metrics.queue_bytes.set(self._queue.waiting_bytes)
        self._metrics.show_open(*self._engine.find_open())


def _partition(record: Any) -> TopicPartition:  # noqa: ANN401
    return TopicPartition(record.topic, record.partition)
