"""``worker rules`` against a real broker: what a worker recorded is replayed to the events it told."""

import json
import subprocess
import sys

import pytest
from kafka import KafkaProducer

from contract.alert import Alert
from tests.worker.deployment import ROOT, frames_of, terminate
from tests.worker.recorded import score_of

pytestmark = pytest.mark.broker


def rules(deployment, *arguments):
    command = [sys.executable, "-m", "worker", "rules", *map(str, arguments), "--config", str(deployment.config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def rows_of(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_a_worker_recorded_is_replayed_to_the_events_it_told(deployment, tiny_bundle, tmp_path):
    deployment.set(kafka={"scores_maps": True}, event_rule={"gap_frames": 4})
    once = frames_of(str(tiny_bundle.footage), "door")
    frames = [(key, data, [], 1_790_000_000_000 + 200 * number) for number, (_, data, _, _) in enumerate(once * 2)
              for key in (b"door", b"yard")]  # fmt: skip
    with deployment.worker() as worker:
        deployment.send(frames)
        records = deployment.read("scores", len(frames))
        assert terminate(worker) == 0
    assert json.loads(records[0].value)["anomaly_map"]["shape"] == [8, 8]
    alerts = [Alert.model_validate_json(one.value) for one in deployment.read("alerts", 8)]
    ended = [one.data for one in alerts if one.type == "framewatch.anomaly.ended.v1"]
    assert len(ended) == 4

    _send_junk(deployment)
    events = tmp_path / "events.jsonl"
    done = rules(deployment, "--json", "--events", events, "--threshold", "90")
    rows = rows_of(done)
    assert [(row["camera_id"], row["settings"], row["frames"], row["events"]) for row in rows] == [
        (camera, name, 120, count) for camera in ("door", "yard") for name, count in (("in force", 2), ("tried", 0))
    ]
    assert "passed over: 4 no score, 1 of another key, 1 recorded again, 1 too large" in done.stderr
    told = sorted((json.loads(line) for line in events.read_text().splitlines()), key=lambda one: one["event_id"])
    wanted = sorted((one.model_dump(mode="json") for one in ended), key=lambda one: one["event_id"])
    names = ("event_id", "camera_id", "started_at_ms", "peak_at_ms", "ended_at_ms", "peak_score", "threshold", "frames")
    assert [[one[name] for name in names] for one in told] == [[one[name] for name in names] for one in wanted]

    # The square that was never there lies within the left upper quarter.
    for zone, count in (("[0,0],[0.7,0],[0.7,0.6],[0,0.6]", 2), ("[0.7,0.6],[1,0.6],[1,1],[0.7,1]", 0)):
        (tmp_path / "zones.yaml").write_text(f"zones: [[{zone}]]")
        rows = rows_of(rules(deployment, "--json", "--camera-id", "yard", "--zones", tmp_path / "zones.yaml"))
        assert [(row["camera_id"], row["events"]) for row in rows] == [("yard", 2), ("yard", count)]

    first_half = ("--from", 1_790_000_000_000, "--to", 1_790_000_000_000 + 200 * 60)
    assert [(row["frames"], row["events"]) for row in rows_of(rules(deployment, "--json", *first_half))] == [
        (60, 1)
    ] * 2


def test_scores_without_maps_have_no_zones(deployment, tiny_bundle, tmp_path):
    (tmp_path / "zones.yaml").write_text("masks: [[[0, 0], [0.5, 0], [0.5, 0.5]]]")
    producer = KafkaProducer(bootstrap_servers=deployment.servers)
    sent = score_of(1, 2.0)
    producer.send(deployment.topics["scores"], sent.value, key=sent.key).get(timeout=20)
    producer.close()
    done = rules(deployment, "--zones", tmp_path / "zones.yaml", "--events", tmp_path / "events.jsonl")
    assert done.returncode == 2
    assert "set kafka.scores_maps to true" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "events.jsonl").exists()


def _send_junk(deployment):
    """What anyone may write to the topic: no scores, one of another camera's key, one that is there already."""
    again = json.loads(deployment.read("scores", 240)[-1].value)
    junk = [
        (b"door", b""), (b"door", b"{"), (b"\xff", b"\xff"), (b"door", score_of(10**400, 2.0).value),
        (b"yard", score_of(10**6, 9.0).value), (b"door", b"x" * 300_000),
        (again["camera_id"].encode(), json.dumps({**again, "anomaly_score": 99.0}).encode()),
    ]  # fmt: skip
    producer = KafkaProducer(bootstrap_servers=deployment.servers)
    for key, value in junk:
        producer.send(deployment.topics["scores"], value, key=key).get(timeout=20)
    producer.close()
