import asyncio
import itertools
import urllib.request
from types import SimpleNamespace

import pytest
from kafka import TopicPartition
from kafka.errors import CommitFailedError

from contract.errors import BundleError, DeliveryError
from tests.worker.test_engine import BRIGHT, DARK, detector, frame
from worker.engine import Engine
from worker.loop import Losses, WorkerLoop
from worker.records import dead_letter_record, read_frame
from worker.settings import HttpSettings, WorkerSettings
from worker.telemetry import Metrics, Probes, TelemetryServer


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
    """A consumer that serves given records, and writes down what is committed and when."""

    def __init__(self, records, journal):
        self.waiting = list(records)
        self.journal = journal
        self.assigned = {TopicPartition("frames", number) for number in (0, 1)}
        self.on_empty = lambda: None

    def poll(self, timeout_ms, max_records):
        taken, self.waiting = self.waiting[:max_records], self.waiting[max_records:]
        if not taken:
            self.on_empty()
        parts = {}
        for one in taken:
            parts.setdefault(TopicPartition(one.topic, one.partition), []).append(one)
        return parts

    def commit(self, offsets):
        self.journal.append(("commit", {tp.partition: entry.offset for tp, entry in offsets.items()}))

    def assignment(self):
        return self.assigned

    def highwater(self, partition):
        return 1000


def make(records, *, batch=4, deliver=None, scores="scores", commit_interval_ms=10):
    journal = []
    source = Source(records, journal)
    settings = WorkerSettings(
        bundle="unused",
        batch={"max_frames": batch, "commit_interval_ms": commit_interval_ms, "deadline_ms": 10_000},
        kafka={"scores_topic": scores},
    )
    metrics, losses = Metrics(), Losses()
    sink = deliver or (lambda sent: journal.append(("delivered", [(r.topic, r.key) for r in sent])))
    engine = Engine(detector())
    clock = (number / 100 for number in itertools.count()).__next__
    loop = WorkerLoop(source, sink, engine, settings, metrics, Probes(60), losses, clock)
    source.on_empty = loop.stop
    return SimpleNamespace(loop=loop, source=source, engine=engine, journal=journal, metrics=metrics, losses=losses)


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


def test_a_lost_partition_is_not_committed():
    made = make([record(i, partition=i % 2) for i in range(8)], batch=8, commit_interval_ms=60_000)
    original = made.source.poll

    def poll(timeout_ms, max_records):
        polled = original(timeout_ms, max_records)
        if not polled:
            lost = TopicPartition("frames", 1)
            made.source.assigned.discard(lost)
            asyncio.run(made.losses.on_partitions_revoked({lost}))
        return polled

    made.source.poll = poll
    made.loop.run()
    assert committed(made.journal) == {0: 7}


def test_a_partition_that_came_back_is_not_forgotten():
    made = make([record(i, BRIGHT) for i in range(4)], batch=1, commit_interval_ms=60_000)
    original = made.source.poll

    def poll(timeout_ms, max_records):
        kept = {TopicPartition("frames", 0)}
        asyncio.run(made.losses.on_partitions_revoked(kept))
        asyncio.run(made.losses.on_partitions_assigned(kept))
        return original(timeout_ms, max_records)

    made.source.poll = poll
    made.loop.run()
    topics = [topic for kind, what in made.journal if kind == "delivered" for topic, _ in what]
    assert topics.count("alerts") == 1
    assert committed(made.journal) == {0: 4}
    assert made.losses.take() == set()


def test_what_was_fetched_of_a_partition_lost_since_is_neither_scored_nor_committed():
    made = make([record(i, BRIGHT, partition=i % 2) for i in range(8)], batch=100, commit_interval_ms=60_000)
    original = made.source.poll

    def poll(timeout_ms, max_records):
        polled = original(timeout_ms, max_records)
        if not polled:
            lost = TopicPartition("frames", 1)
            made.source.assigned.discard(lost)
            asyncio.run(made.losses.on_partitions_revoked({lost}))
        return polled

    made.source.poll = poll
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
    process, batches = made.engine.process, []

    def break_at_the_second(frames):
        batches.append(frames)
        if len(batches) == 2:
            raise BundleError("not finite")
        return process(frames)

    made.engine.process = break_at_the_second
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
    assert ("a", None) in letter.headers
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
