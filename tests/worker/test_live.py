"""``worker run`` against a real broker: the same engine and numbers as ``worker score``."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from contract.alert import Alert
from contract.manifest import open_bundle
from contract.source import open_source
from deploy.broker import LocalBroker
from tests.contract.test_steady_consumer import BadText
from tests.worker.deployment import ROOT, Deployment, frames_of, terminate, wait_until

ROOM = f"{ROOT / 'deploy' / 'footage' / 'room.mp4'}#860:1010"
pytestmark = pytest.mark.broker


def test_live_and_offline_give_the_same_events_and_scores(deployment, room_bundle, tmp_path):
    settings = json.loads(deployment.config.read_text())
    deployment.config.write_text(json.dumps({**settings, "bundle": str(room_bundle)}))
    offline, events = tmp_path / "scores.csv", tmp_path / "events.jsonl"
    arguments = ["score", str(room_bundle), ROOM, "--out", str(offline), "--events", str(events), "--provider", "cpu"]
    subprocess.run([sys.executable, "-m", "worker", *arguments], check=True, cwd=ROOT, capture_output=True)
    with offline.open(newline="") as file:
        expected = list(csv.DictReader(file))
    with deployment.worker() as worker:
        deployment.send(frames_of(ROOM, "room"))
        live = [json.loads(record.value) for record in deployment.read("scores", len(expected))]
        assert terminate(worker) == 0
    assert len({row["partition"] for row in live}) == 1
    for row, wanted in zip(sorted(live, key=lambda row: row["offset"]), expected, strict=True):
        assert row["anomaly_score"] == pytest.approx(float(wanted["anomaly_score"]), abs=1e-4)
        assert row["is_anomalous"] == bool(int(wanted["is_anomalous"]))
        assert row["captured_at_ms"] == int(wanted["captured_at_ms"])
    # Offline ends the event that is open at the end; live leaves it open.
    told = [Alert.model_validate_json(line) for line in events.read_text().splitlines()]
    open_from = int(expected[-1]["frame"]) - open_bundle(room_bundle).manifest.event_rule.gap_frames
    closed = [
        alert for alert in told if not alert.type.endswith("ended.v1") or alert.data.frames.last_offset < open_from
    ]
    assert any(alert.type.endswith("started.v1") for alert in closed)
    records = deployment.read("alerts", len(closed))
    for record, wanted in zip(records, closed, strict=True):
        alert = Alert.model_validate_json(record.value)
        assert record.key == b"room"
        assert dict(record.headers)["content-type"].startswith(b"application/cloudevents+json")
        assert (alert.type, alert.data.started_at_ms, alert.data.peak_at_ms) == (
            wanted.type, wanted.data.started_at_ms, wanted.data.peak_at_ms,
        )  # fmt: skip
        assert alert.data.frames.first_offset == wanted.data.frames.first_offset - 860
        assert alert.data.peak_score == pytest.approx(wanted.data.peak_score, abs=1e-4)
        assert alert.data.snapshot is not None


def test_a_bad_frame_costs_one_dead_letter_and_the_rest_goes_on(deployment, tiny_bundle):
    good = frames_of(str(tiny_bundle.footage), "door")[:6]
    bad = [
        (b"door", b"", [], None),
        (b"door", None, [], None),
        (b"door", b"<html>no</html>", [("captured-at-ms", b"x"), ("trace", b"\xff\x00")], 1234),
        (None, good[0][1], [], None),
        (b"../../etc", good[0][1], [], None),
        ("tür".encode("latin-1"), good[0][1], [], None),
        (b"door", good[0][1][: len(good[0][1]) // 2], [], None),
    ]
    with deployment.worker() as worker:
        deployment.send(good[:3] + bad + good[3:])
        letters = deployment.read("dead", len(bad))
        deployment.read("scores", len(good))
        assert terminate(worker) == 0
    reasons = sorted(dict(letter.headers)["framewatch-reason"].decode() for letter in letters)
    assert reasons == sorted(
        ["empty", "empty", "not_jpeg_or_png", "bad_camera_id", "bad_camera_id", "bad_camera_id", "truncated"]
    )
    html = next(letter for letter in letters if letter.value == b"<html>no</html>")
    headers = dict(html.headers)
    assert html.key == b"door"
    # Its own time would have the broker refuse it, or delete it soon.
    assert html.timestamp > 10**12
    assert dict(html.headers)["framewatch-timestamp-ms"] == b"1234"
    assert headers["trace"] == b"\xff\x00"
    assert headers["framewatch-topic"].decode() == deployment.topics["frames"]
    assert sum(deployment.committed().values()) == len(good) + len(bad)


def test_a_stopped_worker_is_followed_without_a_frame_lost_or_done_twice(deployment, tiny_bundle):
    frames = frames_of(str(tiny_bundle.footage), "door")
    with deployment.worker() as worker:
        deployment.send(frames[:20])
        deployment.read("scores", 20)
        assert terminate(worker) == 0
    assert sum(deployment.committed().values()) == 20
    with deployment.worker() as worker:
        deployment.send(frames[20:])
        records = deployment.read("scores", len(frames))
        assert terminate(worker) == 0
    offsets = [json.loads(record.value)["offset"] for record in records]
    assert offsets == list(range(len(frames)))


def test_a_killed_worker_loses_nothing(deployment, tiny_bundle):
    frames = frames_of(str(tiny_bundle.footage), "door")
    deployment.send(frames)
    with deployment.worker() as worker:
        ends_at = time.monotonic() + 60
        while not sum(deployment.committed().values()) and worker.poll() is None and time.monotonic() < ends_at:
            time.sleep(0.05)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    with deployment.worker() as worker:
        ends_at = time.monotonic() + 90
        while sum(deployment.committed().values()) < len(frames) and time.monotonic() < ends_at:
            time.sleep(0.5)
        # The first may have done all of it; the second must have come as far as to stop in order.
        wait_until(lambda: deployment.log.read_text().count('"message": "running"') == 2)
        assert terminate(worker) == 0
    consumer = KafkaConsumer(
        deployment.topics["scores"], bootstrap_servers=deployment.servers, auto_offset_reset="earliest",
        consumer_timeout_ms=2000, group_id=None,
    )  # fmt: skip
    seen = {json.loads(record.value)["offset"] for record in consumer}
    consumer.close()
    assert seen == set(range(len(frames)))


def test_a_worker_killed_in_the_middle_of_an_event_is_followed_by_one_that_continues_it(deployment, tiny_bundle):
    settings = json.loads(deployment.config.read_text())
    settings |= {"threshold": 2.0, "event_rule": {"min_frames": 2, "gap_frames": 3}}
    deployment.config.write_text(json.dumps(settings))
    frames = frames_of(str(tiny_bundle.footage), "door")
    inside = 45
    with deployment.worker() as worker:
        deployment.send(frames[:inside])
        wait_until(lambda: sum(deployment.committed().values()) == inside)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    with deployment.worker() as worker:
        deployment.send(frames[inside:])
        deployment.read("scores", len(frames))
        assert terminate(worker) == 0
    assert '"message": "events go on"' in deployment.log.read_text()
    alerts = [Alert.model_validate_json(record.value) for record in deployment._read_once("alerts", 2)]
    assert {alert.type.split(".")[2] for alert in alerts} >= {"started", "ended"}
    assert len({alert.data.event_id for alert in alerts}) == 1
    ended = next(alert for alert in alerts if alert.type.endswith("ended.v1"))
    assert ended.data.frames.first_offset < inside <= ended.data.frames.last_offset
    assert ended.data.snapshot is not None


def test_what_retention_deleted_unread_is_counted_and_what_is_left_is_read(deployment, tiny_bundle):
    settings = json.loads(deployment.config.read_text())
    # Where a group never committed; it must not be where it goes on after a loss.
    settings["kafka"]["auto_offset_reset"] = "latest"
    deployment.config.write_text(json.dumps(settings))
    frames = frames_of(str(tiny_bundle.footage), "door")
    with deployment.worker() as worker:
        wait_until(lambda: "running" in deployment.log.read_text() and deployment.status("/readyz") == 200)
        deployment.send(frames[:5])
        wait_until(lambda: sum(deployment.committed().values()) == 5)
        assert terminate(worker) == 0
    deployment.send(frames[5:40])
    number = json.loads(deployment.read("scores", 5)[0].value)["partition"]
    with KafkaAdminClient(bootstrap_servers=deployment.servers) as admin:
        admin.delete_records({TopicPartition(deployment.topics["frames"], number): 12})
    with deployment.worker() as worker:
        scores = deployment.read("scores", 5 + 28)
        assert f'framewatch_frames_missed_total{{partition="{number}"}} 7.0' in deployment.http("/metrics")
        assert terminate(worker) == 0
    assert [json.loads(record.value)["offset"] for record in scores] == [*range(5), *range(12, 40)]


def test_metrics_and_probes_tell_of_the_work(deployment, tiny_bundle):
    frames = frames_of(str(tiny_bundle.footage), "door")[:10]
    with deployment.worker() as worker:
        deployment.send(frames)
        deployment.read("scores", len(frames))
        ends_at = time.monotonic() + 10
        while f'camera="door",outcome="normal"}} {len(frames)}' not in deployment.http("/metrics"):
            assert time.monotonic() < ends_at, deployment.http("/metrics")
            time.sleep(0.1)
        assert deployment.http("/livez") == "ok\n"
        assert deployment.http("/readyz") == "ok\n"
        assert 'provider="cpu"' in deployment.http("/metrics")
        assert terminate(worker) == 0


def test_a_worker_whose_alerts_topic_is_missing_says_so_and_reads_nothing(deployment):
    settings = json.loads(deployment.config.read_text())
    settings["kafka"]["alerts_topic"] = "no-such-topic"
    deployment.config.write_text(json.dumps(settings))
    with deployment.worker() as worker:
        assert worker.wait(30) == 2
    assert deployment.log.read_text().strip().splitlines()[-1].startswith("worker: topic no-such-topic is not on")


def test_publish_then_alerts_shows_what_is_on_the_topic(deployment, tiny_bundle):
    publish = [
        "publish", str(tiny_bundle.footage), "--camera-id", "door", "--topic", deployment.topics["frames"],
        "--max-speed", "--loop", "2", "--bootstrap-servers", deployment.servers,
    ]  # fmt: skip
    with deployment.worker() as worker:
        done = subprocess.run([sys.executable, "-m", "worker", *publish], cwd=ROOT, capture_output=True, check=True)
        count = 2 * len(list(open_source(str(tiny_bundle.footage))[0].frames()))
        assert f"{count} frames sent" in done.stderr.decode()
        deployment.read("scores", count)
        assert terminate(worker) == 0
    show = [
        "alerts", "--topic", deployment.topics["alerts"], "--from-beginning", "--json", "--idle-seconds", "2",
        "--bootstrap-servers", deployment.servers,
    ]  # fmt: skip
    shown = subprocess.run([sys.executable, "-m", "worker", *show], cwd=ROOT, capture_output=True, check=True)
    lines = shown.stdout.splitlines()
    values = [record.value for record in deployment.read("alerts", len(lines))]
    assert lines == values


def test_capture_times_that_no_broker_takes_stop_nothing(deployment, tiny_bundle):
    footage = [data for _, data, _, _ in frames_of(str(tiny_bundle.footage), "door")]
    stated = [0, round(time.time() * 1000) + 7_200_000]
    settings = json.loads(deployment.config.read_text())
    deployment.config.write_text(json.dumps({**settings, "threshold": 2.0, "event_rule": {"min_frames": 1}}))
    with deployment.worker() as worker:
        deployment.send(
            [
                (f"camera-{at_ms}".encode(), data, [("captured-at-ms", str(at_ms).encode())], None)
                for data in footage[38:48]
                for at_ms in stated
            ]
        )
        scores = [json.loads(record.value) for record in deployment.read("scores", 20)]
        assert terminate(worker) == 0
    assert {score["captured_at_ms"] for score in scores} == set(stated)
    alerts = [Alert.model_validate_json(record.value) for record in deployment._read_once("alerts", 2)]
    assert {alert.data.started_at_ms for alert in alerts} == set(stated)


def test_a_record_that_the_client_cannot_read_costs_one_dead_letter(deployment, tiny_bundle):
    good = frames_of(str(tiny_bundle.footage), "door")[:4]
    poison = (b"door", good[0][1], [(BadText("name"), b"")], None)
    with deployment.worker() as worker:
        deployment.send([*good[:2], poison, *good[2:]])
        letters = deployment.read("dead", 1)
        deployment.read("scores", len(good))
        assert terminate(worker) == 0
    assert dict(letters[0].headers)["framewatch-reason"] == b"unreadable_record"
    assert sum(deployment.committed().values()) == len(good) + 1


def test_a_group_that_begins_at_the_end_misses_nothing_that_comes_while_it_restarts(deployment, tiny_bundle):
    settings = json.loads(deployment.config.read_text())
    settings["kafka"]["auto_offset_reset"] = "latest"
    deployment.config.write_text(json.dumps(settings))
    frames = frames_of(str(tiny_bundle.footage), "door")[:6]
    deployment.send(frames[:2])
    with deployment.worker() as worker:
        ends_at = time.monotonic() + 60
        while sum(deployment.committed().values()) < 2 and time.monotonic() < ends_at:
            time.sleep(0.2)
        assert terminate(worker) == 0
    deployment.send(frames[2:])
    with deployment.worker() as worker:
        scores = deployment.read("scores", 4)
        assert terminate(worker) == 0
    assert sorted(json.loads(record.value)["offset"] for record in scores) == [2, 3, 4, 5]


@pytest.mark.slow
def test_a_broker_that_falls_silent_is_told_and_a_stop_then_keeps_its_bound(tmp_path, tiny_bundle):
    with LocalBroker(log_path=tmp_path / "server.log") as broker:
        deployment = Deployment(broker, tmp_path, tiny_bundle.bundle, "silent")
        settings = json.loads(deployment.config.read_text())
        deployment.config.write_text(json.dumps({**settings, "stop_seconds": 5}))
        frames = frames_of(str(tiny_bundle.footage), "door")
        with deployment.worker() as worker:
            deployment.send(frames[:4])
            deployment.read("scores", 4)
            assert deployment.status("/readyz") == 200
            # What was scored is committed within a second or so; before that a lost session has it done again.
            time.sleep(2)
            broker.suspend()
            wait_until(lambda: "the broker does not answer" in deployment.log.read_text())
            assert deployment.status("/readyz") == 503
            broker.resume()
            wait_until(lambda: "the broker answers again" in deployment.log.read_text())
            wait_until(lambda: deployment.status("/readyz") == 200)
            deployment.send(frames[4:8])
            deployment.read("scores", 8)
            broker.suspend()
            worker.send_signal(signal.SIGTERM)
            # Bounded by stop_seconds, which is 5, and not by the minute that a delivery may take.
            worker.wait(30)
            broker.resume()
    messages = [json.loads(line)["message"] for line in deployment.log.read_text().splitlines() if line[:1] == "{"]
    assert messages.count("the broker does not answer") == 1
    assert messages.count("the broker answers again") == 1
