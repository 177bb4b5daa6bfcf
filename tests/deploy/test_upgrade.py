"""Workers of the last release and of this one follow each other, and work side by side, over a real Kafka.

An event that one begins the other ends, under the same id; the same holds for the way back.
"""

import csv
import json
import os
import signal
from pathlib import Path

import jsonschema
import pytest

import contract
from contract.alert import Alert
from tests.deploy import last_release
from tests.worker.deployment import Deployment, frames_of, terminate, wait_until

ROOT = Path(__file__).resolve().parents[2]
RULE = {"threshold": 2.0, "event_rule": {"min_frames": 2, "gap_frames": 3}}
INSIDE = 45
"""Frames after which an event is open: frames 40 to 49 are anomalous."""

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    return last_release.install(tmp_path_factory.mktemp("last"))


@pytest.fixture(scope="module")
def last_bundle(last, tiny_bundle, tmp_path_factory):
    """A bundle that the last release's exporter built."""
    bundle = tmp_path_factory.mktemp("built") / "bundle"
    last_release.run(last, "-m", "exporter", "build", tiny_bundle.run, "--out", bundle)
    return bundle


@pytest.fixture
def deployment(broker, tmp_path, request):
    def make(bundle):
        name = "".join(one if one.isalnum() else "-" for one in request.node.name)
        made = Deployment(broker, tmp_path, bundle, name[-60:])
        made.set(**RULE)
        return made

    return make


def end(worker, how):
    if how == "killed":
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    else:
        assert terminate(worker) == 0


def told(records):
    """The alerts, each once by its id; equal ids are the same alert."""
    schema = json.loads((ROOT / "docs" / "schemas" / "alert.v1.json").read_text())
    for record in records:
        jsonschema.validate(json.loads(record.value), schema)
    return {alert.id: alert for alert in (Alert.model_validate_json(record.value) for record in records)}


def kinds(alerts):
    return [alert.type.split(".")[2] for alert in alerts if not alert.type.endswith("updated.v1")]


def test_the_last_release_is_what_runs_in_its_folder(last):
    says = last_release.run(last, "-c", "import contract, worker; print(contract.__version__, worker.__file__)").split()
    assert says[0] != contract.__version__
    assert says[1].startswith(str(last))


@pytest.mark.parametrize(
    ("order", "how", "delivery"),
    [
        ("upgrade", "stopped", "at_least_once"),
        ("upgrade", "killed", "exactly_once"),
        ("rollback", "stopped", "at_least_once"),
    ],
)
def test_the_other_release_ends_the_event_that_one_began(
    order, how, delivery, last, last_bundle, tiny_bundle, deployment, tmp_path
):
    first, then = (last, ROOT) if order == "upgrade" else (ROOT, last)
    bundle = last_bundle if order == "upgrade" else tiny_bundle.bundle
    deployed = deployment(bundle)
    deployed.set(kafka={"delivery": delivery})
    frames = frames_of(str(tiny_bundle.footage), "door")
    with deployed.worker(first) as worker:
        deployed.send(frames[:INSIDE])
        wait_until(lambda: sum(deployed.committed().values()) >= INSIDE)
        end(worker, how)
    begun = deployed.read("alerts", len(deployed._read_once("alerts", 1)))
    assert kinds(told(begun).values()) == ["started"]
    with deployed.worker(then) as worker:
        deployed.send(frames[INSIDE:])
        scores = [json.loads(record.value) for record in deployed.read("scores", len(frames))]
        end(worker, "stopped")
    records = deployed._read_once("alerts", len(begun) + 1)
    alerts = told(records)
    assert len(alerts) == len(records)
    assert kinds(alerts.values()) == ["started", "ended"]
    assert len({alert.data.event_id for alert in alerts.values()}) == 1
    ended = next(alert for alert in alerts.values() if alert.type.endswith("ended.v1"))
    assert ended.data.frames.first_offset < INSIDE <= ended.data.frames.last_offset
    assert [score["offset"] for score in scores] == list(range(len(frames)))
    table = tmp_path / "scores.csv"
    last_release.run(ROOT, "-m", "worker", "score", bundle, tiny_bundle.footage, "--out", table, "--provider", "cpu")
    with table.open(newline="") as file:
        expected = [float(row["anomaly_score"]) for row in csv.DictReader(file)]
    assert [score["anomaly_score"] for score in scores] == pytest.approx(expected, abs=1e-4)


def test_both_releases_share_the_partitions_while_workers_are_replaced(last, last_bundle, tiny_bundle, deployment):
    deployed = deployment(last_bundle)
    cameras = {camera: frames_of(str(tiny_bundle.footage), camera) for camera in ("door", "yard")}  # one a partition

    def send(begin, end):
        deployed.send([frame for pair in zip(*cameras.values(), strict=True) for frame in pair][2 * begin : 2 * end])
        wait_until(lambda: sum(deployed.committed().values()) >= 2 * end)

    with deployed.worker(last) as old:
        send(0, 20)
        with deployed.worker(ROOT) as new:
            wait_until(lambda: "framewatch_lag_frames{" in deployed.http("/metrics"))
            send(20, INSIDE)
            # The old one has the other: not all was done by the new one.
            assert 0 < done_by(deployed) < 2 * (INSIDE - 20)
            end(old, "stopped")
            send(INSIDE, 60)
            end(new, "stopped")
    scores = [json.loads(record.value) for record in deployed._read_once("scores", 120)]
    assert {score["partition"] for score in scores} == {0, 1}
    assert len({(score["partition"], score["offset"]) for score in scores}) == 120
    alerts = told(deployed._read_once("alerts", 4))
    for camera in cameras:
        of_camera = [alert for alert in alerts.values() if alert.subject == camera]
        assert kinds(of_camera) == ["started", "ended"]
        assert len({alert.data.event_id for alert in of_camera}) == 1


def done_by(deployed):
    """Frames that the worker which was started last has finished."""
    lines = deployed.http("/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("framewatch_frames_total{"))
