"""``make demo`` as a user runs it: three visits, three events, and nothing left behind."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.alert import Alert, read_alert

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "deploy" / "footage" / "room.mp4"
CLIP_FRAMES = 1394
pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]


def start(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEMO_MARK": folder.name}
    with (folder / "said.txt").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip


def left_behind(folder):
    """Command lines of living processes that the demo in this folder started, by the mark in their environment."""
    mark = f"DEMO_MARK={folder.name}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        except OSError:
            continue
    return found


def port_of(folder):
    settings = json.loads((folder / "demo-out" / "worker.yaml").read_text())
    return int(settings["kafka"]["bootstrap_servers"].rpartition(":")[2])


def visits():
    """First and last frame of each labelled visit."""
    with (ROOT / "deploy" / "footage" / "room_events.csv").open(newline="") as file:
        return [(int(row["first_frame"]), int(row["last_frame"])) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a demo that ran over an earlier one and beside a busy port, and is done."""
    folder = tmp_path_factory.mktemp("demo-user")
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            busy.bind(("127.0.0.1", 9092))
            busy.listen()
        except OSError:
            pass  # Somebody else keeps it busy, which serves as well.
        (folder / "demo-out").mkdir()
        (folder / "demo-out" / "stale.txt").write_text("of an earlier run")
        child = start(folder, "-m", "deploy.demo")
        assert child.wait() == 0, (folder / "said.txt").read_text()
    return folder


def test_three_visits_give_three_events_over_an_earlier_run_and_beside_a_busy_port(finished):
    folder, out = finished, finished / "demo-out"
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["events"]) == 3
    for event, (start_of_visit, _) in zip(summary["events"], visits()[3:], strict=True):
        assert event["camera_id"] == "room"
        assert abs(event["first_frame"] - start_of_visit) <= 5
        assert event["last_frame"] > event["first_frame"]
        assert event["peak_score"] > 0
    assert summary["provider"] == "cpu" or summary["provider"] == "cuda"
    assert {"fit", "export", "start_kafka", "publish", "evaluate"} <= summary["seconds"].keys()
    alerts = [Alert.model_validate_json(line) for line in (out / "alerts.jsonl").read_text().splitlines()]
    assert [alert.type.split(".")[2] for alert in alerts if "updated" not in alert.type] == ["started", "ended"] * 3
    assert {path.name for path in out.glob("event-*.png")} == {"event-1.png", "event-2.png", "event-3.png"}
    assert "<html" in (out / "report.html").read_text()
    assert not (out / "stale.txt").exists()
    # What reads a video ends when whoever reads from it has: that may take a moment where others are at work.
    ends_at = time.monotonic() + 30
    while left_behind(folder) and time.monotonic() < ends_at:
        time.sleep(0.2)
    assert left_behind(folder) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port_of(folder))) != 0


def assert_each_visit_is_one_event(alerts, passes):
    """Say that as many events as visits were told, each begun and ended within five frames of its visit's ends."""
    assert {type(alert) for alert in alerts} == {Alert}
    ended = [alert for alert in alerts if alert.type.endswith("ended.v1")]
    assert len(ended) == len({alert.data.event_id for alert in alerts}) == 6 * passes
    expected = [
        (CLIP_FRAMES * number + first, CLIP_FRAMES * number + last)
        for number in range(passes)
        for first, last in visits()
    ]
    found = sorted((alert.data.frames.first_offset, alert.data.frames.last_offset) for alert in ended)
    for event, visit in zip(found, expected, strict=True):
        assert event == pytest.approx(visit, abs=5)


def test_each_of_the_six_visits_is_one_event(finished, tmp_path):
    told = tmp_path / "events.jsonl"
    bundle = finished / "demo-out" / "bundle"
    arguments = ["score", str(bundle), str(ROOM), "--out", str(tmp_path / "scores.csv"), "--events", str(told)]
    subprocess.run([sys.executable, "-m", "worker", *arguments], cwd=ROOT, check=True, capture_output=True)
    assert_each_visit_is_one_event([read_alert(line) for line in told.read_bytes().splitlines()], passes=1)


def test_each_visit_of_three_passes_through_a_live_worker_is_one_event(finished, broker, tmp_path):
    from tests.worker.deployment import Deployment, terminate, wait_until

    deployment = Deployment(broker, tmp_path, finished / "demo-out" / "bundle", "three-passes")
    # As fast as it can.
    deployment.set(batch={})
    publish = [
        "publish", str(ROOM), "--camera-id", "room", "--topic", deployment.topics["frames"], "--loop", "3",
        "--max-speed", "--bootstrap-servers", deployment.servers,
    ]  # fmt: skip
    with deployment.worker() as worker:
        subprocess.run([sys.executable, "-m", "worker", *publish], cwd=ROOT, check=True, capture_output=True)
        wait_until(lambda: sum(deployment.committed().values()) == 3 * CLIP_FRAMES, 200)
        assert terminate(worker) == 0
    alerts = {alert.id: alert for alert in (read_alert(one.value) for one in deployment._read_once("alerts", 1000))}
    assert_each_visit_is_one_event(list(alerts.values()), passes=3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_no_process_behind(tmp_path, number, monkeypatch):
    folder = tmp_path / f"interrupted-{number}"
    folder.mkdir()
    # A model that has learnt little will do to have the broker and the worker running, for one of the signals.
    child = start(
        folder, "-c", "import sys, deploy.demo as demo; demo.FIT = (*demo.FIT[:-1], '1'); sys.exit(demo.main())"
    )
    wanted = folder / "demo-out" / ("worker.log" if number == signal.SIGINT else "run/settings.json")
    ends_at = time.monotonic() + 300
    while not wanted.exists() and child.poll() is None and time.monotonic() < ends_at:
        time.sleep(0.1)
    time.sleep(1)
    os.kill(child.pid, number)
    assert child.wait(60) == 130, (folder / "said.txt").read_text()
    assert "Traceback" not in (folder / "said.txt").read_text()
    assert left_behind(folder) == []
