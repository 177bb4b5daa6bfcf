import asyncio
import contextlib
import itertools
import json
import threading
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from kafka import TopicPartition
from kafka.errors import CommitFailedError
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata

from contract.errors import BundleError, DeliveryError, FrameError
from contract.steady_consumer import UnreadableRecordError
from tests.worker.test_engine import BRIGHT, DARK, detector, frame
from worker.cameras import Cameras
from worker.engine import Engine
from worker.loop import WorkerLoop
from worker.partitions import Losses
from worker.profile import make_profile
from worker.records import dead_letter_record, read_frame
from worker.settings import HttpSettings, WorkerSettings
from worker.telemetry import Metrics, Probes, SilenceWatch, TelemetryServer
from worker.transactions import AbortedError, Transactions


def record(offset, level=DARK, *, partition=0, key=b"door", value=None, headers=(), timestamp=7):
    data = frame(offset, level).data if value is None else value
    return SimpleNamespace(
        topic="frames",
        partition=partition,
        offset=offset,
        key=key,
        value=data,
        headers=list(headers),
        timestamp=timestamp,
    )


class Source:
    """A consumer that serves given records, and writes down what is committed and when.

    A poll that does not wait finds nothing, so that what was polled is a batch, unless there is a backlog: then records
    come a partition after another, as kafka-python gives those of one response.
    """

    def __init__(self, records, journal):
        self.held = list(records)
        self.waiting = list(records)
        self.journal = journal
        self.starts = {}
        self.states = {}
        self.missed = {}
        self.membership = ConsumerGroupMetadata("group", 1, "me", None, MemberState.STABLE)
        self.silent_seconds = 0.0
        self.assigned = {TopicPartition("frames", number) for number in (0, 1)}
        self.resting = set()
        self.is_backlog = False
        self.on_empty = lambda: None

    def poll(self, timeout_ms, max_records):
        if not self.is_backlog and not timeout_ms:
            return {}
        ready = [one for one in self.waiting if TopicPartition(one.topic, one.partition) not in self.resting]
        if self.is_backlog:
            ready = [one for one in ready if one.partition == ready[0].partition]
        taken = ready[:max_records]
        gone = set(map(id, taken))
        self.waiting = [one for one in self.waiting if id(one) not in gone]
        if not taken:
            self.on_empty()
        parts = {}
        for one in taken:
            parts.setdefault(TopicPartition(one.topic, one.partition), []).append(one)
        return parts

    def commit(self, offsets):
        self.states.update({tp: entry.metadata for tp, entry in offsets.items()})
        self.journal.append(("commit", {tp.partition: entry.offset for tp, entry in offsets.items()}))

    def committed(self, partition, metadata):
        assert metadata
        offset = committed(self.journal).get(partition.partition)
        return None if offset is None else OffsetAndMetadata(offset, self.states.get(partition, ""), -1)

    def take_missed(self):
        missed, self.missed = self.missed, {}
        return missed

    def position(self, partition, timeout_ms):
        return self.starts.get(partition.partition)

    def pause(self, *partitions):
        assert self.assigned.issuperset(partitions)
        self.resting.update(partitions)

    def resume(self, *partitions):
        assert self.assigned.issuperset(partitions)
        self.resting.difference_update(partitions)

    def paused(self):
        return self.resting & self.assigned

    def seek(self, partition, offset):
        self.waiting = [one for one in self.waiting if one.partition != partition.partition]
        self.waiting += [one for one in self.held if one.partition == partition.partition and one.offset >= offset]

    @contextlib.contextmanager
    def read_back(self, partition):
        def read(first, end):
            for one in self.held:
                if one.partition == partition.partition and first <= one.offset < end:
                    with contextlib.suppress(FrameError):
                        yield read_frame(one)

        yield read

    def group_metadata(self):
        return self.membership

    def assignment(self):
        return set(self.assigned)

    def highwater(self, partition):
        return 1000

    def seconds_since_answer(self):
        return self.silent_seconds


class PlayedTransactions(Transactions):
    """Transactions without a broker; those whose numbers are given fail as they are committed."""

    def __init__(self, source, write_down, fails):
        self.source, self.write_down, self.fails = source, write_down, set(fails)
        self.number, self.kept, self.generations = 0, [], []
        self._membership = None
        self.age = 0.0

    @property
    def age_seconds(self):
        return self.age

    def send(self, records, membership):
        assert self.belongs(membership)
        self._membership = membership
        self.kept += records

    def abort(self):
        self.kept, self._membership = [], None
        raise AbortedError

    def commit(self, offsets):
        if self._membership is None:
            return
        kept, self.kept, generation, self._membership = self.kept, [], self._membership.generation_id, None
        self.number += 1
        if self.number in self.fails:
            raise AbortedError
        self.generations.append(generation)
        self.write_down(kept)
        self.source.commit(offsets)


@contextlib.contextmanager
def no_watch(_name, _seconds):
    yield


def make(
    records, *, batch=4, max_bytes_waiting=2**20, deliver=None, scores="scores", commit_interval_ms=10, probes=None,
    fails=(), scorer=None, reloaded=lambda: None, replay=None, **more,
):  # fmt: skip
    journal, values = [], defaultdict(list)
    source = Source(records, journal)
    settings = WorkerSettings(
        bundle="unused",
        batch={
            "max_frames": batch,
            "commit_interval_ms": commit_interval_ms,
            "max_bytes_waiting": max_bytes_waiting,
        },
        kafka={"scores_topic": scores},
        **more,
    )
    metrics, losses = Metrics(), Losses()
    probes = probes or Probes(60)

    def write_down(sent):
        journal.append(("delivered", [(one.topic, one.key) for one in sent]))
        for one in sent:
            values[one.topic].append(one.value)

    sink = SimpleNamespace(send=deliver or write_down) if fails == () else PlayedTransactions(source, write_down, fails)
    # Counted, and by what two threads may ask at once.
    ticks = itertools.count()

    def clock():
        return next(ticks) / 100

    engine = Engine(scorer or detector(), health_rule=settings.camera_health, clock=clock)
    profile = make_profile(scorer or detector())
    allowed = frozenset(settings.allowed_cameras) if settings.allowed_cameras is not None else None
    cameras = Cameras(profile, settings.late, allowed, {}, {Path("unused"): profile.detector})
    loop = WorkerLoop(
        source,
        sink,
        engine,
        settings,
        cameras,
        reloaded,
        metrics,
        probes,
        losses,
        source.read_back,
        no_watch,
        clock,
        replay,
    )
    source.on_empty = lambda: None if loop._queue else loop.stop()
    return SimpleNamespace(
        loop=loop, source=source, engine=engine, journal=journal, values=values, metrics=metrics, losses=losses,
        probes=probes,
    )  # fmt: skip


def committed(journal):
    offsets = {}
    for kind, what in journal:
        if kind == "commit":
            offsets.update(what)
    return offsets


def test_every_commit_follows_the_delivery_of_what_is_behind_it():
    made = make([record(i) for i in range(10)])
    made.loop.run()
    delivered = 0
    for kind, what in made.journal:
        if kind == "delivered":
            delivered += len(what)
        else:
            assert what[0] <= delivered
    assert committed(made.journal) == {0: 10}


def test_a_failed_delivery_commits_nothing_of_its_batch():
    def fail(sent):
        if any(r.topic == "alerts" for r in sent):
            raise DeliveryError("not confirmed")
        made.journal.append(("delivered", len(sent)))

    made = make([record(i) for i in range(4)] + [record(i, BRIGHT) for i in range(4, 8)], deliver=fail)
    with pytest.raises(DeliveryError):
        made.loop.run()
    assert committed(made.journal).get(0, 0) <= 4


def test_stop_finishes_the_batch_and_commits_it():
    made = make([record(i) for i in range(100)], batch=4)
    original = made.source.poll

    def poll(timeout_ms, max_records):
        polled = original(timeout_ms, max_records)
        made.loop.stop()
        return polled

    made.source.poll = poll
    made.loop.run()
    assert committed(made.journal) == {0: 4}


def lose_at_the_end(made, number):
    """Take a partition away once everything was fetched and before the batch is scored."""
    original = made.source.poll

    def poll(timeout_ms, max_records):
        polled = original(timeout_ms, max_records)
        if not polled:
            lost = TopicPartition("frames", number)
            made.source.assigned.discard(lost)
            asyncio.run(made.losses.on_partitions_revoked({lost}))
        return polled

    made.source.poll = poll


def test_a_lost_partition_is_not_committed():
    made = make([record(i, partition=i % 2) for i in range(8)], batch=8, commit_interval_ms=60_000)
    lose_at_the_end(made, 1)
    made.loop.run()
    assert committed(made.journal) == {0: 7}


def lose(made, number, *, comes_back):
    """Take a partition away as the client tells it, and give it back where it comes back within the turn."""
    partition = TopicPartition("frames", number)
    asyncio.run(made.losses.on_partitions_revoked({partition}))
    if comes_back:
        asyncio.run(made.losses.on_partitions_assigned({partition}))
    else:
        made.source.assigned.discard(partition)


def scored_offsets(made):
    return [json.loads(value)["offset"] for value in made.values["scores"]]


def test_a_partition_that_came_back_is_read_again_from_what_is_committed():
    made = make([record(i) for i in range(8)], batch=2, commit_interval_ms=60_000)
    made.source.starts = {0: 0}
    made.source.journal.append(("commit", {0: 1}))
    original, polls = made.source.poll, itertools.count()

    def poll(timeout_ms, max_records):
        polled = original(timeout_ms, max_records)
        if timeout_ms and next(polls) == 2:
            made.loop._pipeline.drain()
            lose(made, 0, comes_back=True)
        return polled

    made.source.poll = poll
    made.loop.run()
    assert scored_offsets(made) == [0, 1, 2, 3, *range(1, 8)]
    assert committed(made.journal) == {0: 8}


def test_what_was_fetched_before_a_loss_is_not_skipped_where_nothing_was_ever_committed():
    made = make([record(i) for i in range(6)], batch=6, commit_interval_ms=60_000)
    original, polls = made.source.poll, itertools.count()

    def poll(timeout_ms, max_records):
        polled = original(timeout_ms, min(max_records, 2))
        if timeout_ms and next(polls) == 1:
            lose(made, 0, comes_back=True)
        return polled

    made.source.poll = poll
    made.loop.run()
    # The first two may be told, and not be noted yet, when the partition is lost: then they are once more.
    assert scored_offsets(made) in (list(range(6)), [0, 1, *range(6)])


@pytest.mark.parametrize("ever_committed", [False, True])
def test_what_is_under_way_at_a_loss_is_done_again(ever_committed):
    goes_on, delivered = threading.Event(), []

    def deliver(sent):
        assert goes_on.wait(10)
        delivered.extend(json.loads(one.value)["offset"] for one in sent)

    made = make([record(i) for i in range(12)], batch=2, commit_interval_ms=60_000, deliver=deliver)
    if ever_committed:
        made.source.journal.append(("commit", {0: 0}))
    original, polls = made.source.poll, itertools.count()

    def poll(timeout_ms, max_records):
        # By now 0 and 1 are being published, and 2 to 5 are on their way.
        if timeout_ms and next(polls) == 3:
            lose(made, 0, comes_back=True)
            threading.Timer(0.2, goes_on.set).start()
        return original(timeout_ms, max_records)

    made.source.poll = poll
    made.loop.run()
    assert sorted(set(delivered)) == list(range(12))
    assert committed(made.journal) == {0: 12}
    # What was not published yet at the loss is published once.
    assert delivered[-12:] == list(range(12))
    assert len(delivered) <= 14


def test_an_event_of_a_partition_that_came_back_is_told_anew_under_its_id():
    made = make([record(i, BRIGHT) for i in range(6)], batch=1, commit_interval_ms=60_000)
    original, polls = made.source.poll, itertools.count()

    def poll(timeout_ms, max_records):
        if timeout_ms and next(polls) == 4:
            made.loop._pipeline.drain()
            lose(made, 0, comes_back=True)
            made.source.seek(TopicPartition("frames", 0), 0)
        return original(timeout_ms, max_records)

    made.source.journal.append(("commit", {0: 0}))
    made.source.poll = poll
    made.loop.run()
    started = [json.loads(value)["id"] for value in made.values["alerts"]]
    assert len(started) == 2
    assert len(set(started)) == 1


@pytest.mark.parametrize("fails", [[], [1], [2], [1, 2, 4]])
def test_what_a_lost_transaction_held_is_done_again_and_told_once(fails):
    levels = [DARK, BRIGHT, BRIGHT + 20, DARK, DARK, DARK] * 4
    made = make([record(i, level) for i, level in enumerate(levels)], batch=3, fails=[0, *fails])
    made.loop._transactions.age = 60.0
    stops = itertools.count()
    made.source.on_empty = lambda: made.loop.stop() if next(stops) > 30 else time.sleep(0.01)
    made.loop.run()
    once = make([record(i, level) for i, level in enumerate(levels)], batch=3)
    once.loop.run()
    assert scored_offsets(made) == list(range(len(levels)))
    assert made.values["alerts"] == once.values["alerts"]
    assert committed(made.journal) == {0: len(levels)}
    assert f"framewatch_transactions_aborted_total {len(fails)}.0" in scrape(made.metrics)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_transaction_that_tells_of_a_partition_lost_since_is_given_up(comes_back):
    both = [record(i, partition=number) for i in range(8) for number in (0, 1)]
    made = make(both, batch=4, commit_interval_ms=400, fails=[0])
    original, polls = made.source.poll, itertools.count()

    def poll(timeout_ms, max_records):
        if timeout_ms and next(polls) == 2:
            made.loop._pipeline.drain()
            assert made.loop._transactions.kept
            lose(made, 0, comes_back=comes_back)
        return original(timeout_ms, max_records)

    made.source.poll = poll
    stops = itertools.count()
    made.source.on_empty = lambda: made.loop.stop() if next(stops) > 30 else time.sleep(0.01)
    made.loop.run()
    told = [(json.loads(value)["partition"], json.loads(value)["offset"]) for value in made.values["scores"]]
    expected = [(1, offset) for offset in range(8)] + [(0, offset) for offset in range(8) if comes_back]
    assert sorted(told) == sorted(expected)


def test_a_transaction_is_of_one_generation():
    made = make([record(i) for i in range(8)], batch=2, commit_interval_ms=60_000, fails=[0])
    original, polls = made.source.poll, itertools.count()

    def poll(timeout_ms, max_records):
        if timeout_ms and next(polls) == 2:
            made.source.membership = made.source.membership._replace(generation_id=2)
        return original(timeout_ms, max_records)

    made.source.poll = poll
    made.loop.run()
    assert made.loop._transactions.generations == [1, 2]
    assert scored_offsets(made) == list(range(8))


@pytest.mark.parametrize("lacks", [{"generation_id": -1, "member_id": ""}, {"state": MemberState.REBALANCING}])
def test_what_is_polled_while_the_group_moves_waits(lacks):
    made = make([record(i) for i in range(6)], batch=2, fails=[0])
    original, polls = made.source.poll, itertools.count()
    stable = made.source.membership

    def poll(timeout_ms, max_records):
        if timeout_ms:
            made.source.membership = stable._replace(**lacks) if next(polls) in (1, 2) else stable
        return original(timeout_ms, max_records)

    made.source.poll = poll
    made.loop.run()
    assert scored_offsets(made) == list(range(6))
    assert committed(made.journal) == {0: 6}


def test_a_partition_begins_where_it_began_although_no_frame_came_before_the_end():
    made = make([])
    made.source.starts = {0: 17, 1: 0}
    made.loop.run()
    assert committed(made.journal) == {0: 17, 1: 0}


def test_a_state_is_never_committed_with_another_offset_than_its_own():
    made = make([record(i) for i in range(7, 12)], batch=2)
    made.source.journal.append(("commit", {0: 5}))
    made.source.states = {TopicPartition("frames", 0): "the state at 5"}
    kept, original = [], made.source.commit

    def commit(offsets):
        kept.extend((entry.offset, entry.metadata) for entry in offsets.values())
        original(offsets)

    made.source.commit = commit
    made.loop.run()
    assert committed(made.journal) == {0: 12}
    assert all((text == "the state at 5") == (offset == 5) for offset, text in kept)


def test_a_partition_s_beginning_is_committed_before_its_first_frame_is_finished():
    def fail(sent):
        raise DeliveryError("not confirmed")

    made = make([record(i) for i in range(30, 34)], deliver=fail)
    made.source.starts = {1: 5}
    with pytest.raises(DeliveryError):
        made.loop.run()
    uncommitted = {tp.partition: offset for tp, offset in made.loop._progress.uncommitted.items()}
    assert {**committed(made.journal), **uncommitted} == {0: 30, 1: 5}


def test_an_unreadable_record_is_one_dead_letter_and_the_rest_goes_on():
    made = make([record(i) for i in (0, 1, 3, 4)], batch=2)
    original, errors = made.source.poll, [UnreadableRecordError(TopicPartition("frames", 0), 2, "no UTF-8")]

    def poll(timeout_ms, max_records):
        if made.source.waiting and made.source.waiting[0].offset == 3 and errors:
            raise errors.pop()
        return original(timeout_ms, max_records)

    made.source.poll = poll
    made.loop.run()
    assert scored_offsets(made) == [0, 1, 3, 4]
    assert made.values["frames.dead-letter"] == [b""]
    assert committed(made.journal) == {0: 5}
    assert 'framewatch_dead_letters_total{reason="unreadable_record"} 1.0' in scrape(made.metrics)


def test_lag_is_told_after_a_commit_and_of_idle_partitions_and_of_lost_ones_no_more():
    made = make([record(i) for i in range(998)], batch=100)
    made.source.starts = {1: 1000}
    with made.loop._pipeline:
        for _ in range(12):
            made.loop._turn()
        made.loop._pipeline.drain()
        for _ in range(300):
            made.loop._turn()
    text = scrape(made.metrics)
    assert 'framewatch_lag_frames{partition="0"} 2.0' in text
    assert 'framewatch_lag_frames{partition="1"} 0.0' in text
    lose(made, 1, comes_back=False)
    made.loop._turn()
    assert 'partition="1"' not in scrape(made.metrics)


def test_a_broker_that_does_not_answer_is_told_once_and_so_is_its_return(caplog):
    now = [0.0]
    made = make([], probes=Probes(60, clock=lambda: now[0]))
    watch = SilenceWatch(made.probes)
    said = []
    for second in (10, 19, 21, 29, 40):
        now[0] = made.source.silent_seconds = second
        made.loop._turn()
        watch.look()
        said.append(scrape(made.metrics, "/readyz", made.probes)[:2])
    assert said == ["ok", "ok", "50", "50", "50"]
    made.source.silent_seconds = 0.0
    for _ in range(2):
        made.loop._turn()
        watch.look()
    assert scrape(made.metrics, "/readyz", made.probes) == "ok\n"
    assert [entry.message for entry in caplog.records] == ["the broker does not answer", "the broker answers again"]


def test_oddities_are_counted_and_an_implausible_time_is_no_delay():
    future = str(round(time.time() * 1000) + 7_200_000).encode()
    now = round(time.time() * 1000)
    stated = [b"-5", b"soon", future, b"0", str(now).encode()]
    records = [record(i, headers=[("captured-at-ms", one)], timestamp=now) for i, one in enumerate(stated)]
    records += [record(5, timestamp=-1), record(6, value=frame(6, DARK).data + b"tail", timestamp=now)]
    made = make(records)
    made.loop.run()
    text = scrape(made.metrics)
    for kind, count in (
        ("negative", 1), ("implausible", 2), ("future", 1), ("absent", 1),
    ):  # fmt: skip
        assert f'framewatch_frame_oddities_total{{kind="capture_time_{kind}"}} {count}.0' in text
    assert 'framewatch_frame_oddities_total{kind="trailing_bytes"} 1.0' in text
    # Of the two whose header says no time, the record's own counts.
    assert "framewatch_capture_to_score_seconds_count 4.0" in text


def test_what_was_fetched_of_a_partition_lost_since_is_neither_scored_nor_committed():
    made = make([record(i, BRIGHT, partition=i % 2) for i in range(8)], batch=100, commit_interval_ms=60_000)
    lose_at_the_end(made, 1)
    made.loop.run()
    assert committed(made.journal) == {0: 7}
    scored = [what for kind, what in made.journal if kind == "delivered"]
    assert [topic for topic, _ in scored[0]].count("scores") == 4


def test_a_commit_refused_is_no_end_and_is_tried_again():
    made = make([record(i) for i in range(12)], batch=4)
    original, refusals = made.source.commit, [CommitFailedError("moved")]

    def commit(offsets):
        if refusals:
            raise refusals.pop()
        original(offsets)

    made.source.commit = commit
    made.loop.run()
    assert not refusals
    assert committed(made.journal) == {0: 12}


def test_a_model_that_breaks_commits_nothing_of_its_batch():
    made = make([record(i) for i in range(8)], batch=4)
    score, batches = made.engine.score, []

    def break_at_the_second(work):
        batches.append(work)
        if len(batches) == 2:
            raise BundleError("not finite")
        return score(work)

    made.engine.score = break_at_the_second
    with pytest.raises(BundleError):
        made.loop.run()
    assert committed(made.journal).get(0, 0) <= 4


def test_stopped_before_the_first_frame_nothing_is_committed():
    made = make([record(0)])
    made.loop.stop()
    made.loop.run()
    assert made.journal == []


def test_batch_size_changes_neither_records_nor_their_order_within_a_topic():
    levels = [DARK, BRIGHT, BRIGHT, BRIGHT + 20, DARK, DARK, DARK] * 2

    def sent(batch):
        records = []
        made = make([record(i, level) for i, level in enumerate(levels)], batch=batch, deliver=records.extend)
        made.loop.run()
        return sorted(records, key=lambda one: one.topic)

    assert sent(1) == sent(3) == sent(100)


def test_bad_records_become_dead_letters_and_are_committed():
    records = [record(0), record(1, value=b"<html>"), record(2, key=None), record(3, key=b"../x"), record(4, BRIGHT)]
    made = make(records, batch=5)
    made.loop.run()
    sent = [topic for kind, what in made.journal if kind == "delivered" for topic, _ in what]
    assert sorted(sent) == ["frames.dead-letter"] * 3 + ["scores"] * 2
    assert committed(made.journal) == {0: 5}
    text = scrape(made.metrics)
    assert 'framewatch_dead_letters_total{reason="bad_camera_id"} 2.0' in text
    assert 'framewatch_frames_total{camera="door",outcome="normal"} 1.0' in text
    assert 'framewatch_frames_total{camera="door",outcome="anomalous"} 1.0' in text


def test_without_a_scores_topic_no_score_is_sent():
    made = make([record(i) for i in range(3)], scores=None)
    made.loop.run()
    assert [what for kind, what in made.journal if kind == "delivered"] == [[]]


@pytest.mark.parametrize(
    ("headers", "timestamp", "expected"),
    [
        ([("captured-at-ms", b"1234")], 7, 1234),
        ([], 7, 7),
        ([], -1, 0),
        ([], None, 0),
        ([("captured-at-ms", b"-5")], 7, 7),
        ([("captured-at-ms", None)], 7, 7),
        ([("captured-at-ms", b"9" * 15)], 7, 253_402_300_799_000),
        ([("captured-at-ms", b"9" * 30)], 7, 7),
    ],
)
def test_a_wrong_capture_time_never_rejects_a_frame(headers, timestamp, expected):
    assert read_frame(record(0, headers=headers, timestamp=timestamp)).captured_at_ms == expected


def test_a_dead_letter_keeps_the_bytes_and_drops_forged_headers():
    from contract.errors import FrameError

    headers = [("a", None), ("framewatch-reason", b"forged"), ("b", b"\xff")] + [("n", b"")] * 200
    letter = dead_letter_record(record(5, value=b"raw", headers=headers), FrameError("empty", "why"), "dead")
    assert (letter.value, letter.key, letter.topic) == (b"raw", b"door", "dead")
    assert [value for name, value in letter.headers if name == "framewatch-reason"] == [b"empty"]
    assert ("a", b"") in letter.headers
    assert len(letter.headers) < 120


def scrape(metrics, path="/metrics", probes=None):
    with TelemetryServer(HttpSettings(port=0), metrics, probes or Probes(60)) as server:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return f"{error.code} {error.read().decode()}"


def test_probes_tell_alive_and_ready():
    now = [0.0]
    probes = Probes(10, clock=lambda: now[0])
    metrics = Metrics()
    assert scrape(metrics, "/livez", probes) == "ok\n"
    assert scrape(metrics, "/readyz", probes).startswith("503")
    probes.ready = True
    now[0] = 11
    assert scrape(metrics, "/readyz", probes) == "ok\n"
    assert scrape(metrics, "/livez", probes).startswith("503")
    probes.turn()
    assert scrape(metrics, "/livez", probes) == "ok\n"
    assert scrape(metrics, "/elsewhere", probes).startswith("404")


def test_frames_of_cameras_that_are_not_allowed_are_dead_letters():
    made = make([record(0, key=b"door"), record(1, key=b"yard"), record(2, key=b"door")], allowed_cameras=["door"])
    made.loop.run()
    assert scored_offsets(made) == [0, 2]
    assert len(made.values["frames.dead-letter"]) == 1
    assert 'framewatch_dead_letters_total{reason="camera_not_allowed"} 1.0' in scrape(made.metrics)


@pytest.mark.parametrize(("policy", "done"), [("process_all", [0, 1, 2, 3]), ("skip_to_fresh", [1, 2, 3])])
def test_late_frames_are_done_or_passed_over_and_counted(policy, done):
    now_ms = round(time.time() * 1000)
    times = [now_ms - 60_000, now_ms - 1000, now_ms + 3_600_000, 7]
    records = [record(i, timestamp=at_ms) for i, at_ms in enumerate(times)]
    made = make(records, late={"policy": policy, "max_age_seconds": 20})
    made.loop.run()
    assert scored_offsets(made) == done
    assert committed(made.journal) == {0: 4}
    counted = 'framewatch_frames_skipped_total{camera="door",cause="late"} 1.0' in scrape(made.metrics)
    assert counted == (policy == "skip_to_fresh")
