import asyncio
import urllib.request
from types import SimpleNamespace

import pytest
from kafka import TopicPartition

from contract.errors import DeliveryError
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


def make(records, *, batch=4, deliver=None, scores="scores"):
    journal = []
    source = Source(records, journal)
    settings = WorkerSettings(
        bundle="unused", batch={"max_frames": batch, "commit_interval_ms": 10}, kafka={"scores_topic": scores}
    )
    metrics, losses = Metrics(), Losses()
    sink = deliver or (lambda sent: journal.append(("delivered", [(r.topic, r.key) for r in sent])))
    engine = Engine(detector())
    clock = iter(range(10_000_000)).__next__
    loop = WorkerLoop(source, sink, engine, settings, metrics, Probes(60), losses, clock)
    source.on_empty = loop.stop
    return SimpleNamespace(loop=loop, source=source, journal=journal, metrics=metrics, losses=losses)


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
    made = make([record(i, partition=i % 2) for i in range(8)], batch=8)
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
    assert 1 not in {partition for kind, what in made.journal if kind == "commit" for partition in what} or (
        committed(made.journal)[1] <= 8
    )
    assert committed(made.journal)[0] == 7


def test_a_partition_that_came_back_is_not_forgotten():
    losses = Losses()
    kept = TopicPartition("frames", 0)
    asyncio.run(losses.on_partitions_revoked({kept}))
    asyncio.run(losses.on_partitions_assigned({kept}))
    assert losses.take() - {kept} == set()
    assert losses.take() == set()


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
