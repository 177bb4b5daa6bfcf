"""A scene changes for good: drift is told, a model is fitted from the topic, proves itself, and takes over."""

import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
import yaml
from kafka import KafkaProducer
from rich.console import Console

from contract.alert import Alert, CameraAlert, ModelAlert, read_alert
from contract.clip import Clip, SourceFrame
from contract.feedback import Feedback
from contract.registry import Registry
from deploy.broker import Topic, create_topics
from tests.changed_room import EMPTY, VISITS, change, room
from tests.footage import tiny_settings
from tests.worker.deployment import Deployment, terminate, wait_until

ROOT = Path(__file__).resolve().parents[2]
STEP_MS = 100
MODEL = {"height": 64, "width": 96, "widths": [16, 32, 64, 64], "latent": 32, "bottleneck": "frame"}
NOBODY = [place for first, last in EMPTY for place in range(first, last + 1)]
pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(1500)]


def encoded(places, *, changed):
    pictures = (change(room()[place]) if changed else room()[place] for place in places)
    return [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes() for picture in pictures]


@dataclass(frozen=True)
class Pictures(Clip):
    name: str
    held: tuple[bytes, ...]

    def frames(self):
        return (SourceFrame(index, STEP_MS * index, data) for index, data in enumerate(self.held))


class Camera:
    """Sends a camera's frames, ten a second of its own clock, as fast as they are given."""

    def __init__(self, servers, topic, begins_ms):
        self._producer = KafkaProducer(bootstrap_servers=servers)
        self._topic = topic
        self.now_ms = begins_ms
        self.sent = 0

    def show(self, pictures):
        for data in pictures:
            self._producer.send(self._topic, data, key=b"lobby", timestamp_ms=self.now_ms)
            self.now_ms += STEP_MS
            self.sent += 1
        self._producer.flush()

    def close(self):
        self._producer.close()


class Lobby:
    """The worker of a camera, a registry, and what is told."""

    def __init__(self, broker, tmp_path, registry):
        self.registry = registry
        self.deployment = Deployment(broker, tmp_path, "models:/lobby@champion", "lobby")
        self.feedback = "lobby-feedback"
        create_topics(broker, {self.feedback: Topic(1)})
        self.deployment.set(
            registry=str(registry), registry_cache=str(tmp_path / "cache"), reload_seconds=0.5,
            drift={"window_seconds": 60, "false_alarms_per_year": 366},
            batch={"max_frames": 16, "commit_interval_ms": 100},
        )  # fmt: skip
        self.camera = Camera(broker.bootstrap_servers, self.deployment.topics["frames"], self._begins_ms())

    @staticmethod
    def _begins_ms():
        return (round(time.time()) - 3600) * 1000

    def scores(self):
        return [json.loads(record.value) for record in self.deployment._read_once("scores", self.camera.sent)]

    def alerts(self):
        return [read_alert(record.value) for record in self.deployment._read_once("alerts", 10**6)]

    def wait_for_scores(self):
        wait_until(lambda: len(self.scores()) >= self.camera.sent, 300)

    def call_false(self, event_id):
        said = Feedback(event_id=event_id, camera_id="lobby", verdict="false_alarm", at_ms=0, by="a test")
        producer = KafkaProducer(bootstrap_servers=self.deployment.servers)
        producer.send(self.feedback, said.model_dump_json().encode(), key=b"lobby").get(20)
        producer.close()


def fit_to_the_room_as_it_was(folder):
    """Fit a small model to the room with nobody in it, and build its bundle."""
    from exporter.build import build_bundle
    from trainer.fit import fit

    clip = Pictures("room", tuple(encoded(NOBODY, changed=False) * 6))
    settings = tiny_settings(epochs=6, model=MODEL, batch=32)
    fit([clip], "room", settings, folder / "run", Console(quiet=True))
    build_bundle(folder / "run", folder / "bundle", name="lobby")
    return folder / "bundle"


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    """A bundle of a model fitted to the room as it was."""
    return fit_to_the_room_as_it_was(tmp_path_factory.mktemp("champion"))


def retrain(lobby, tmp_path, to_ms, seconds):
    """Run the command a schedule would run; say its exit and its report."""
    topics = lobby.deployment.topics
    labelled = tmp_path / "known"
    labelled.mkdir()
    for place, data in zip(range(480, 745), encoded(range(480, 745), changed=True), strict=True):
        (labelled / f"{place - 480:04d}.jpg").write_bytes(data)
    (tmp_path / "known.csv").write_text("clip,first_frame,last_frame,label\nknown,22,223,person\n")
    config = tmp_path / "retrain.yaml"
    settings = {
        "camera": "lobby",
        "source": f"kafka://{lobby.deployment.servers}/{topics['frames']}?camera={{camera}}",
        "hours": seconds / 3600,
        "labelled": [{"source": str(labelled), "labels": str(tmp_path / "known.csv")}],
        "rule": {"min_normal_seconds": 20},
        "registry": str(lobby.registry),
        "folder": str(tmp_path / "retraining"),
        "fit": {
            **json.loads(tiny_settings(epochs=6, model=MODEL, batch=32).model_dump_json(exclude={"minutes", "preset"})),
            "topic": {
                "alerts_topic": topics["alerts"], "feedback_topic": lobby.feedback,
                "footage_cache": str(tmp_path / "footage"),
            },
        },
    }  # fmt: skip
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "trainer", "retrain", "--config", str(config), "--to", str(to_ms)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (report,) = (tmp_path / "retraining" / "lobby").glob("*/report.json")
    return json.loads(report.read_text())


def test_a_lasting_change_is_told_learnt_and_put_in_service(broker, tmp_path, new_registry, champion, request):
    lobby = Lobby(broker, tmp_path, new_registry(tmp_path / "registry"))
    request.addfinalizer(lobby.camera.close)
    registry, camera = Registry(str(lobby.registry)), lobby.camera
    registry.promote("lobby", registry.register("lobby", champion))
    nobody, nobody_now = (encoded(NOBODY, changed=changed) for changed in (False, True))
    with lobby.deployment.worker() as worker:
        camera.show(nobody * 2)
        changed_at_ms = camera.now_ms
        camera.show(nobody_now * 6)
        lobby.wait_for_scores()

        # One event that does not end, and the world has changed.
        alerts = lobby.alerts()
        (endless,) = {alert.data.event_id for alert in alerts if isinstance(alert, Alert)}
        drifts = [alert for alert in alerts if alert.type == "framewatch.camera.drift.v1"]
        assert [drift.data.ended_at_ms for drift in drifts] == [None]
        lobby.call_false(endless)

        # While it is fitted anew, frames go on coming.
        until_ms, over = camera.now_ms, threading.Event()

        def go_on():
            for data in itertools.cycle(nobody_now):
                if over.is_set():
                    return
                camera.show([data])
                time.sleep(0.03)

        going_on = threading.Thread(target=go_on)
        going_on.start()
        try:
            report = retrain(lobby, tmp_path, until_ms, (until_ms - changed_at_ms) / 1000)
            assert (report["outcome"], report["champion"]) == ("promoted", "models:/lobby/1"), report["reason"]
            assert registry.find("models:/lobby@champion").version == 2
            wait_until(lambda: any(isinstance(alert, ModelAlert) for alert in lobby.alerts()), 120)
        finally:
            over.set()
            going_on.join()
        shown_from_ms = camera.now_ms + STEP_MS * 20
        shown = encoded(range(VISITS[4][0] - 40, VISITS[5][1] + 29), changed=True)
        camera.show([*nobody_now[:60], *shown])
        lobby.wait_for_scores()
        assert terminate(worker) == 0

    say_what_was_learnt(report)
    require_every_frame_once(lobby, champion)
    alerts = lobby.alerts()
    (switched,) = [alert for alert in alerts if isinstance(alert, ModelAlert)]
    assert switched.data.before.digest != switched.data.after.digest
    ended = [alert for alert in alerts if isinstance(alert, CameraAlert) and alert.data.ended_at_ms is not None]
    assert [alert.type for alert in ended] == ["framewatch.camera.drift.v1"]
    # The endless event ended where the new model began; since then there were two visits, and nothing else.
    events = {}
    for alert in alerts:
        if isinstance(alert, Alert):
            events[alert.data.event_id] = alert.data
    assert events[endless].ended_at_ms is not None
    assert events[endless].ended_at_ms < switched.data.changed_at_ms
    visits = sorted(
        (event.started_at_ms, event.ended_at_ms) for event_id, event in events.items() if event_id != endless
    )
    begins_ms = camera.now_ms - STEP_MS * len(shown) + STEP_MS * 40
    wanted = [begins_ms + STEP_MS * (place - VISITS[4][0]) for visit in VISITS[4:6] for place in visit]
    assert len(visits) == 2, visits
    for told, real in zip([moment for visit in visits for moment in visit], wanted, strict=True):
        assert abs(told - real) <= 500
    assert visits[0][0] >= shown_from_ms


def say_what_was_learnt(report):
    """The challenger has no false event where the champion had one, and finds who comes by."""
    evidence = {one["kind"]: one for one in report["comparison"]["evidence"]}
    assert evidence["normal"]["champion"]["false_events"] >= 1
    assert evidence["normal"]["challenger"]["false_events"] == 0
    assert evidence["labelled"]["challenger"]["found"] == evidence["labelled"]["known_events"] == 1
    assert evidence["false_alarm"]["challenger"]["events"] == 0
    assert report["footage"]["topic"]["false_alarms_kept"] == 1


def require_every_frame_once(lobby, champion):
    """Each frame was scored, by one of the two models, the old one first."""
    scores = lobby.scores()
    assert Counter((one["partition"], one["offset"]) for one in scores).most_common(1)[0][1] == 1
    assert len(scores) == lobby.camera.sent
    (partition,) = {one["partition"] for one in scores}
    scores.sort(key=lambda one: one["offset"])
    assert [one["offset"] for one in scores] == list(range(lobby.camera.sent)), partition
    digests = [digest for digest, _ in itertools.groupby(one["bundle_digest"] for one in scores)]
    assert len(digests) == 2
    assert not lobby.deployment._read_once("dead", 1)
