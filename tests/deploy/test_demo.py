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

from contract.alert import Alert

ROOT = Path(__file__).resolve().parents[2]
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


def test_three_visits_give_three_events_over_an_earlier_run_and_beside_a_busy_port(tmp_path):
    folder = tmp_path / "demo-user"
    folder.mkdir()
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
    out = folder / "demo-out"
    summary = json.loads((out / "summary.json").read_text())
    with (ROOT / "deploy" / "footage" / "room_events.csv").open(newline="") as file:
        visits = [int(row["first_frame"]) for row in csv.DictReader(file)][3:]
    assert len(summary["events"]) == 3
    for event, start_of_visit in zip(summary["events"], visits, strict=True):
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
    assert left_behind(folder) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port_of(folder))) != 0


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
