"""The consumers of the documentation, against a real broker."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kafka import KafkaProducer

from contract.alert import CameraData, make_camera_alert
from deploy.broker import STANDARD_TOPICS, LocalBroker, create_topics, fetch_kafka

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with LocalBroker(log_path=tmp_path_factory.mktemp("examples") / "log") as broker:
        create_topics(broker, {"alerts": STANDARD_TOPICS["alerts"]})
        data = CameraData.model_validate(
            {
                "event_id": "ab" * 16, "camera_id": "door", "state": "covered", "started_at_ms": 1_795_536_986_639,
                "ended_at_ms": None, "bundle": {"name": "room", "version": "1", "digest": "sha256:" + "a" * 64},
                "snapshot": {"height": 2, "width": 2, "base64": "/9j/"}, "rule_version": "1-0",
                "frames": {"topic": "frames", "partition": 0, "first_offset": 3, "last_offset": 9},
            }
        )  # fmt: skip
        first = make_camera_alert(1_795_536_986_639, data)
        over = make_camera_alert(
            1_795_536_987_000, data.model_copy(update={"ended_at_ms": 1_795_536_987_000, "snapshot": None})
        )
        anomaly = {
            "id": "e.started", "type": "framewatch.anomaly.started.v1", "subject": "yard",
            "time": "2026-11-26T12:00:00Z",
            "data": {"severity": "high", "peak_score": 4.5},
        }  # fmt: skip
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        for value in (first.to_json(), first.to_json(), json.dumps(anomaly).encode(), over.to_json()):
            producer.send("alerts", value, key=b"door", partition=0).get(20)
        producer.close()
        yield broker.bootstrap_servers


LINES = [
    "2026-11-24T16:16:26.639000Z door camera.covered",
    "2026-11-26T12:00:00Z yard anomaly.started, high, score 4.50",
    "2026-11-24T16:16:27Z door camera.covered",
]


def lines_of(command):
    """The first lines that a consumer prints; it is ended then, or after a while."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    timer = threading.Timer(PATIENCE, child.kill)
    timer.start()
    try:
        return [child.stdout.readline().rstrip("\n") for _ in LINES]
    finally:
        timer.cancel()
        child.kill()
        child.communicate()


@pytest.mark.broker
def test_the_python_consumer_tells_each_alert_once_and_keeps_its_picture(servers, tmp_path):
    example = EXAMPLES / "consume_alerts.py"
    assert lines_of([sys.executable, str(example), servers, str(tmp_path / "pictures")]) == LINES
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == [f"{'ab' * 16}.started.jpg"]


@pytest.mark.broker
def test_the_java_consumer_tells_the_same(servers):
    if shutil.which("javac") is None:
        pytest.skip("no JDK is here, whose java compiles a single file")
    jars = fetch_kafka()
    assert lines_of(["java", "-cp", f"{jars}/*", str(EXAMPLES / "ConsumeAlerts.java"), servers]) == LINES
