"""``worker run --from --to`` against a real broker: the alerts that live told, under the same ids, on a topic apart."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from kafka import KafkaAdminClient, TopicPartition

from contract.alert import Alert, read_alert
from contract.errors import ConfigError
from deploy.broker import Topic, create_topics
from tests.worker.deployment import ROOT, frames_of, terminate, wait_until
from tests.worker.test_engine import BRIGHT
from tests.worker.test_loop import make, record
from worker.frames_consumer import FramesConsumer
from worker.kafka_clients import open_consumer, open_producer
from worker.replay import Replay, find_replay
from worker.replay_consumer import ReplayConsumer, Stretch
from worker.replay_range import ReplayRange, own_names
from worker.settings import KafkaSettings

ROOM = ROOT / "deploy" / "footage" / "room.mp4"
FRAME_MS = 100
HEADER_MS = 5_000_000
"""By how much the capture time in the header is ahead of the record's timestamp."""

broker_test = pytest.mark.broker


def an_hour_ago():
    """Ms since 1970; what is older by days a broker deletes."""
    return round(time.time() * 1000) - 3_600_000


def sent_from(frames, began_ms):
    """Frames with record timestamps from a moment on, and capture times of their own."""
    stamps = [began_ms + index * FRAME_MS for index in range(len(frames))]
    return [
        (key, data, [("captured-at-ms", str(stamp + HEADER_MS).encode())], stamp)
        for (key, data, _, _), stamp in zip(frames, stamps, strict=True)
    ]


@pytest.fixture
def replays(deployment, broker):
    """The deployment, with topics for replays."""
    for kind in ("alerts", "scores"):
        deployment.topics[f"replayed {kind}"] = f"{deployment.topics[kind]}.replay"
    create_topics(broker, {deployment.topics[f"replayed {kind}"]: Topic(1) for kind in ("alerts", "scores")})
    return deployment


def command(deployment, *arguments):
    always = getattr(deployment, "always", [])
    return [sys.executable, "-m", "worker", "run", "--config", str(deployment.config), *always, *map(str, arguments)]


def replay(deployment, *arguments):
    """What a replay says once it has ended."""
    with deployment.log.open("ab") as log:
        done = subprocess.run(
            command(deployment, *arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=log, timeout=200, check=False
        )
    assert done.returncode == 0, deployment.log.read_text()[-2000:]
    return done.stdout.decode().strip()


def score_live(deployment, frames):
    """Send frames, have a live worker score them, and stop it."""
    with deployment.worker() as worker:
        deployment.send(frames)
        wait_until(lambda: sum(deployment.committed().values()) == len(frames))
        assert terminate(worker) == 0


def told_on(deployment, kind):
    """Alerts of a topic by their ids."""
    return {one.id: one for one in (read_alert(record.value) for record in deployment._read_once(kind, 10_000))}


def scores_on(deployment, kind):
    """Scores of a topic by the frame's place."""
    rows = [json.loads(record.value) for record in deployment._read_once(kind, 10_000)]
    return {(row["partition"], row["offset"]): row["anomaly_score"] for row in rows}


def stamp_of(alert):
    """Record timestamp of the frame that told it."""
    return round(alert.time.timestamp() * 1000) - HEADER_MS


def assert_equal_alerts(replayed, live):
    assert replayed.keys() == live.keys()
    for name, alert in replayed.items():
        mine, its = alert.model_dump(), live[name].model_dump()
        for number in {"peak_score", "p_value", "anomalous_area_percent"} & mine["data"].keys():
            assert mine["data"].pop(number) == pytest.approx(its["data"].pop(number), rel=1e-3)
        assert mine == its


@pytest.fixture(scope="module")
def live_room(broker, tmp_path_factory, room_bundle):
    """What a live worker has told of two cameras' frames of the room, those frames, and when they began."""
    from tests.worker.deployment import Deployment

    deployment = Deployment(broker, tmp_path_factory.mktemp("live"), room_bundle, "live-room")
    began_ms = an_hour_ago()
    streams = [
        sent_from(frames_of(f"{ROOM}#{first}:1010", camera), began_ms)
        for camera, first in (("room", 640), ("hall", 760))
    ]
    frames = sorted((one for stream in streams for one in stream), key=lambda one: one[3])
    score_live(deployment, frames)
    return SimpleNamespace(
        deployment=deployment, frames=frames, began_ms=began_ms, alerts=told_on(deployment, "alerts"),
        scores=scores_on(deployment, "scores"),
    )  # fmt: skip


@pytest.fixture
def room(live_room, replays):
    """A deployment for replays of what that worker has scored; begins each in a group of the test's own."""
    names = {f"{kind}_topic": live_room.deployment.topics[kind] for kind in ("frames", "alerts", "scores")}
    settings = json.loads(live_room.deployment.config.read_text())
    replays.set(bundle=settings["bundle"], kafka={**names, "group_id": "live-room"})
    replays.always = [
        "--alerts-topic", replays.topics["replayed alerts"], "--scores-topic", replays.topics["replayed scores"],
        "--group-id", f"{replays.group}-again",
    ]  # fmt: skip
    return replays


@broker_test
@pytest.mark.slow
def test_a_replay_tells_what_live_told_and_no_more(room, live_room):
    began_ms, live = live_room.began_ms, live_room.alerts
    committed = live_room.deployment.committed()
    # Events of both cameras began before it, and one of them does not end in it.
    since, until = began_ms + 120 * FRAME_MS, began_ms + 220 * FRAME_MS
    wanted = {name: alert for name, alert in live.items() if since <= stamp_of(alert) < until}
    events = {alert.data.event_id: alert for alert in wanted.values() if isinstance(alert, Alert)}
    conditions = {alert.data.event_id for alert in wanted.values()} - events.keys()
    began_before = {one.subject for one in events.values() if one.data.started_at_ms - HEADER_MS < since}
    assert began_before == {"room", "hall"}
    assert {alert.data.event_id for alert in live.values() if stamp_of(alert) >= until} & events.keys()
    count = sum(since <= stamp < until for _, _, _, stamp in live_room.frames)
    # Live this would pass over old frames.
    room.set(late={"policy": "skip_to_fresh"})
    said = replay(room, "--from", since, "--to", until)
    assert said == (
        f"{count} frames, {len(events)} events, {len(conditions)} conditions of cameras on "
        f"{room.topics['replayed alerts']}, 0 dead letters"
    )
    assert_equal_alerts(told_on(room, "replayed alerts"), wanted)
    assert len(room.read("replayed scores", count)) == count
    assert "nothing is left" in replay(room, "--from", since, "--to", until)
    assert live_room.deployment.committed() == committed
    assert told_on(live_room.deployment, "alerts").keys() == live.keys()


@broker_test
@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_replay_that_is_killed_goes_on(room, live_room, delivery):
    # Slow enough to be killed on its way.
    kafka = {"delivery": delivery, "transaction_timeout_ms": 5_000}
    room.set(batch={"max_frames": 2, "commit_interval_ms": 50}, kafka=kafka)
    group, until = f"{room.group}-again", live_room.began_ms + len(live_room.frames) * FRAME_MS

    def done():
        return sum(live_room.deployment.committed(group).values())

    with room.log.open("ab") as log:
        child = subprocess.Popen(command(room, "--to", until), cwd=ROOT, stderr=log)
        try:
            wait_until(lambda: done() > 60)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    assert done() < len(live_room.frames)
    said = replay(room, "--to", until)
    assert 0 < int(said.split()[0]) < len(live_room.frames)
    assert_equal_alerts(told_on(room, "replayed alerts"), live_room.alerts)
    assert scores_on(room, "replayed scores") == pytest.approx(live_room.scores, abs=1e-4)
    if delivery == "exactly_once":
        room.read("replayed alerts", len(live_room.alerts))
        room.read("replayed scores", len(live_room.scores))


@broker_test
@pytest.mark.slow
def test_workers_that_share_a_replay_all_end_and_tell_all_of_it(room, live_room):
    room.set(batch={"max_frames": 2, "commit_interval_ms": 50})
    until = live_room.began_ms + len(live_room.frames) * FRAME_MS
    with room.log.open("ab") as log, ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(command(room, "--to", until), cwd=ROOT, stderr=log, stdout=subprocess.PIPE)
            )
            for _ in range(2)
        ]
        said = [child.communicate(timeout=200)[0].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0], room.log.read_text()[-2000:]
    assert not any(one.startswith("stopped") for one in said)
    assert_equal_alerts(told_on(room, "replayed alerts"), live_room.alerts)
    assert scores_on(room, "replayed scores") == pytest.approx(live_room.scores, abs=1e-4)


@broker_test
@pytest.mark.slow
def test_without_a_lead_in_the_first_scores_are_those_of_live(room, live_room):
    since, until = (live_room.began_ms + frame * FRAME_MS for frame in (250, 260))
    replay(room, "--from", since, "--to", until, "--lead-in", 0)
    replayed = scores_on(room, "replayed scores")
    assert len(replayed) == sum(since <= stamp < until for _, _, _, stamp in live_room.frames)
    assert replayed == pytest.approx({place: live_room.scores[place] for place in replayed}, abs=1e-4)


@broker_test
@pytest.mark.slow
def test_letters_are_counted_and_not_sent_and_an_open_end_goes_on(replays, tiny_bundle):
    began_ms = an_hour_ago()
    good = sent_from(frames_of(str(tiny_bundle.footage), "door"), began_ms)
    bad = [(b"door", b"<html>no</html>", [], began_ms + 500), (b"../etc", good[0][1], [], began_ms + 600)]
    score_live(replays, good[:5] + bad + good[5:10])
    replays.read("dead", 2)
    since, line = began_ms + 450, "frames, 0 events, 0 conditions of cameras on"
    said = replay(replays, "--from", since)
    assert said.startswith(f"7 {line}")
    assert said.endswith(" 2 dead letters")
    assert "nothing is left" in replay(replays, "--from", since)
    replays.send(good[10:20])
    said = replay(replays, "--from", since)
    assert said.startswith(f"10 {line}")
    assert said.endswith(" 0 dead letters")
    assert replay(replays, "--from", since, "--group-id", f"{replays.group}-2").startswith(f"17 {line}")
    replays.read("dead", 2)
    assert f"{replays.topics['frames']} holds no frame" in replay(replays, "--to", "2020-01-01T00:00:00Z")


@pytest.fixture
def frames_topic(broker):
    """A topic of frames of two partitions, and settings of a group that reads it."""
    name = f"past-{uuid.uuid4().hex[:8]}"
    create_topics(broker, {f"{name}-alerts": Topic(1), name: Topic(2)})
    return KafkaSettings(
        bootstrap_servers=broker.bootstrap_servers, group_id=f"{name}-group", frames_topic=name,
        alerts_topic=f"{name}-alerts", session_timeout_ms=6000, heartbeat_interval_ms=1000,
    )  # fmt: skip


def send(kafka, stamps, **producer):
    """Send a record with each of some timestamps to partition 0."""
    with open_producer(kafka, **producer) as sender:
        if producer:
            sender.init_transactions()
            sender.begin_transaction()
        for stamp in stamps:
            sender.send(kafka.frames_topic, b"frame", key=b"door", partition=0, timestamp_ms=stamp)
        if producer:
            sender.commit_transaction()


def read_to_the_end(kafka, found):
    """Offsets that the consumer of a replay gives until it is over."""
    offsets = []
    with open_consumer(kafka, 1, found.stretches) as consumer:
        consumer.subscribe([kafka.frames_topic])
        ends_at = time.monotonic() + 60
        while not consumer.is_over():
            assert time.monotonic() < ends_at
            for partition, records in consumer.poll(200, 2).items():
                offsets += [record.offset for record in records]
                assert not consumer.is_over()
                place = consumer.committed(partition, metadata=True)
                consumer.commit({partition: place._replace(offset=records[-1].offset + 1)})
    return offsets


@broker_test
def test_a_range_ends_at_its_last_record_whatever_is_behind_it_and_a_restart_finds_nothing(frames_topic):
    began_ms = round(time.time() * 1000) - 10
    partition = TopicPartition(frames_topic.frames_topic, 0)
    send(frames_topic, range(began_ms, began_ms + 6), transactional_id=f"{frames_topic.frames_topic}-sender")

    def found():
        return find_replay(frames_topic, ReplayRange(began_ms + 2, None, lead_in_seconds=0.001))

    # The marker of the transaction, which nobody is given, stands at offset 6.
    wait_until(lambda: found().stretches[partition] == Stretch(1, 2, 7))
    past = found()
    send(frames_topic, range(began_ms + 100, began_ms + 105))
    assert read_to_the_end(frames_topic, past) == [1, 2, 3, 4, 5]
    assert read_to_the_end(frames_topic, past) == []


@broker_test
def test_ranges_that_meet_share_no_record_and_leave_none_out(frames_topic):
    began_ms = an_hour_ago()
    for after_ms in (100, 300, 200, 400):
        send(frames_topic, range(began_ms + after_ms, began_ms + after_ms + 3))
    partition = TopicPartition(frames_topic.frames_topic, 0)
    times = None, began_ms + 150, began_ms + 250, began_ms + 350, None
    stretches = [
        find_replay(frames_topic, ReplayRange(since, until)).stretches[partition]
        for since, until in itertools.pairwise(times)
    ]
    assert [(one.first, one.end) for one in stretches] == [(0, 3), (3, 3), (3, 9), (9, 12)]
    assert [one.begins_at for one in stretches] == [0, 3, 0, 0]


@broker_test
def test_what_retention_deleted_of_a_range_is_warned_of(frames_topic, caplog):
    began_ms = an_hour_ago()
    send(frames_topic, range(began_ms, began_ms + 6))
    find_replay(frames_topic, ReplayRange(began_ms + 4, None))
    assert not caplog.records
    with KafkaAdminClient(bootstrap_servers=frames_topic.bootstrap_servers) as admin:
        admin.delete_records({TopicPartition(frames_topic.frames_topic, 0): 3})
    find_replay(frames_topic, ReplayRange(began_ms + 4, None, lead_in_seconds=0))
    assert not caplog.records
    find_replay(frames_topic, ReplayRange(began_ms + 4, None))
    assert [(line.offset, line.partition) for line in caplog.records] == [(3, 0)]


def test_a_stretch_that_was_read_is_read_again_where_it_came_back_unfinished(monkeypatch):
    """Another worker had the partition, and was killed; then more waits of it than there is room for."""
    part = TopicPartition("frames", 0)
    polls, resting = [], set()
    for name, call in {
        "__init__": lambda self, **_configs: None,
        "poll": lambda self, *_wanted: {part: [record(offset) for offset in polls.pop()]},
        "assignment": lambda self: {part},
        "pause": lambda self, *parts: resting.update(parts),
        "resume": lambda self, *parts: resting.difference_update(parts),
    }.items():
        monkeypatch.setattr(FramesConsumer, name, call)
    consumer = ReplayConsumer({part: Stretch(0, 0, 10)})
    polls.append(range(5, 12))
    assert [one.offset for one in consumer.poll()[part]] == list(range(5, 10))
    consumer.resume(part)
    assert resting == {part}
    # A partition that is assigned anew is not paused.
    resting.clear()
    polls.append(range(2, 6))
    consumer.poll()
    consumer.pause(part)
    consumer.resume(part)
    assert resting == set()


def test_frames_before_a_range_are_followed_and_not_told_of():
    records = [record(i) for i in range(6)] + [record(i, BRIGHT) for i in range(6, 20)] + [record(20, value=b"no")]
    past_replay = Replay({TopicPartition("frames", 0): Stretch(0, 7, 30)})
    live, past = make(records), make(records, replay=past_replay)
    for made in (live, past):
        made.loop.run()
    told = [read_alert(value) for value in live.values["alerts"]]
    assert [alert.data.frames.first_offset for alert in told] == [6]
    assert past.values["alerts"] == live.values["alerts"]
    assert [json.loads(value)["offset"] for value in past.values["scores"]] == list(range(7, 20))
    assert len(live.values["frames.dead-letter"]) == 1
    assert past.values["frames.dead-letter"] == []
    past_replay.is_over = True
    assert past_replay.summary(KafkaSettings()) == (
        "14 frames, 1 events, 0 conditions of cameras on alerts, 1 dead letters"
    )


def test_the_delay_of_frames_of_the_past_is_not_observed():
    now_ms = str(round(time.time() * 1000)).encode()
    records = [record(i, headers=[("captured-at-ms", now_ms)]) for i in range(5)]
    live, past = make(records), make(records, replay=Replay({TopicPartition("frames", 0): Stretch(0, 0, 5)}))
    for made, count in ((live, 5), (past, 0)):
        made.loop.run()
        value = made.metrics.registry.get_sample_value("framewatch_capture_to_score_seconds_count")
        assert value == count


def test_what_an_aborted_transaction_has_done_again_is_counted_once():
    past = Replay({TopicPartition("frames", 0): Stretch(0, 0, 11)})
    made = make([record(i) for i in range(10)] + [record(10, value=b"no")], fails=[1], replay=past)
    made.loop.run()
    assert made.metrics.registry.get_sample_value("framewatch_transactions_aborted_total") == 1
    assert past.summary(KafkaSettings()).startswith("stopped before the end of the range: 11 frames, 0 events")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"group_id": "live"}, "--group-id live is"),
        ({"alerts_topic": "alerts"}, "--alerts-topic alerts is"),
        ({"alerts_topic": "frames.dead-letter"}, "--alerts-topic frames.dead-letter is"),
        ({"scores_topic": "points"}, "--scores-topic points is"),
        ({"scores_topic": "scores.challenger"}, "--scores-topic scores.challenger is"),
        ({"challenger_scores_topic": "points"}, "--challenger-scores-topic points is"),
        ({"challenger_scores_topic": "scores.challenger"}, "--challenger-scores-topic scores.challenger is"),
    ],
)
def test_a_name_of_the_live_worker_is_refused(named, said):
    live = KafkaSettings(group_id="live", scores_topic="points")
    with pytest.raises(ConfigError, match=said):
        own_names(live, ReplayRange(5, 9), named)


def test_names_of_a_replay_are_its_own_and_say_its_range():
    live = KafkaSettings(group_id="live", scores_topic="points")
    assert own_names(live, ReplayRange(5, 9), {"group_id": None}) == {
        "group_id": "live.replay.5-9", "alerts_topic": "alerts.replay", "scores_topic": "points.replay",
        "challenger_scores_topic": "scores.challenger.replay",
    }  # fmt: skip
    names = own_names(KafkaSettings(), ReplayRange(None, None), {"alerts_topic": "mine"})
    assert (names["group_id"], names["alerts_topic"], names["scores_topic"]) == (
        "framewatch.replay.oldest-end", "mine", None,
    )  # fmt: skip
