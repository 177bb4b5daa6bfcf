"""On a real Kafka: what the topics hold is shown, a restart goes on exactly, a broker that is gone is waited for."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from urllib.error import HTTPError

import pytest

from deploy.broker import LocalBroker
from tests.worker.console.deployment import ROOT, ConsoleDeployment, wait_until
from tests.worker.console.records import anomaly, event_id, health, said, score

pytestmark = pytest.mark.broker


@pytest.fixture
def deployment(broker, tmp_path, request):
    name = "".join(one if one.isalnum() else "-" for one in request.node.name)
    made = ConsoleDeployment(broker, tmp_path, f"console-{name[:60]}")
    yield made
    made.close()


def dump(path):
    """All rows but those that tell when they were read."""
    connection = sqlite3.connect(path)
    try:
        return {
            table: sorted(connection.execute(f"SELECT {columns} FROM {table}"), key=repr)
            for table, columns in {
                "events": "event_id, camera_id, state, rank, peak_score", "pictures": "*", "offsets": "*",
                "verdicts": "event_id, camera_id, verdict, note", "minutes": "camera, at_ms, score, threshold",
                "scores": "camera, at_ms, partition, offset, score", "counts": "*",
            }.items()
        }  # fmt: skip
    finally:
        connection.close()


def test_what_stands_on_the_topics_is_shown(deployment):
    deployment.send("alerts", anomaly(1), b"garbage", anomaly(1, "updated", update=1, peak_score=7.0), health())
    deployment.send("scores", *(score(number, 2.0, at_ms=deployment.now) for number in range(5)), b"{}")
    with deployment.console() as console:
        wait_until(lambda: deployment.events() and deployment.get("/api/status")["cameras"])
        assert deployment.get("/livez") == b"ok\n"
        deployment.send("alerts", anomaly(2, "ended", camera_id="yard"), camera_id="yard")
        deployment.send("feedback", said(1, note="seen"))
        wait_until(lambda: len(deployment.events()) == 2 and deployment.events()[event_id(1)]["said"])
        assert deployment.events()[event_id(1)]["peak_score"] == 7.0
        assert [notice["state"] for notice in deployment.get("/api/notices")] == ["blind"]
        assert deployment.get("/api/status")["passed_over"] == {"alert": 1, "score": 1}
        console.send_signal(signal.SIGTERM)
        assert console.wait(20) == 0


def test_a_verdict_stands_on_the_topic_and_comes_back(deployment):
    deployment.send("alerts", anomaly(1))
    with deployment.console():
        wait_until(deployment.events)
        status, feedback = deployment.post(f"/api/events/{event_id(1)}/verdict", {"verdict": "confirmed", "note": "a"})
        assert (status, feedback["event_id"]) == (200, event_id(1))
        wait_until(lambda: deployment.events()[event_id(1)]["said"])
    deployment.database.unlink()
    with deployment.console():
        wait_until(lambda: deployment.events().get(event_id(1), {}).get("said"))
        assert deployment.events()[event_id(1)]["said"]["note"] == "a"


def test_killed_at_any_moment_it_goes_on_with_the_first_record_that_it_has_not_written(deployment):
    for number in range(60):
        deployment.send("alerts", anomaly(number), anomaly(number, "ended"), b"garbage")
        deployment.send(
            "scores", *(score(10 * number + one, one, at_ms=deployment.now + 10 * number + one) for one in range(10))
        )
        if number % 20 == 5:
            with deployment.console() as console:
                deployment.send("feedback", said(number))
                wait_until(deployment.events)
                console.kill()
                console.wait()

    def is_whole():
        cameras = deployment.get("/api/status")["cameras"]
        return len(deployment.events()) == 60 and cameras and cameras[0]["last_score"] == 9

    with deployment.console():
        wait_until(is_whole)
        wait_until(lambda: deployment.get("/api/status")["passed_over"] == {"alert": 60})
    interrupted = dump(deployment.database)
    deployment.database.unlink()
    with deployment.console():
        wait_until(is_whole)
        wait_until(lambda: deployment.get("/api/status")["passed_over"] == {"alert": 60})
        wait_until(lambda: sum(one["said"] is not None for one in deployment.events().values()) == 3)
    assert dump(deployment.database) == interrupted


def test_a_topic_that_is_not_there_is_said_and_found_once_it_is(broker, tmp_path):
    deployment = ConsoleDeployment(broker, tmp_path, "console-later", make_topics=False)
    try:
        with deployment.console():
            missing = {deployment.topics[kind] for kind in ("alerts", "feedback", "scores")}
            wait_until(
                lambda: {one for each in deployment.get("/api/status")["topics"] for one in each["missing"]} == missing
            )
            deployment.create("alerts", "scores", "feedback")
            deployment.send("alerts", anomaly(1))
            wait_until(deployment.events)
    finally:
        deployment.close()


@pytest.mark.slow
def test_a_broker_that_is_gone_is_said_and_waited_for(tmp_path):
    with LocalBroker(data_dir=tmp_path / "kafka") as broker:
        deployment = ConsoleDeployment(broker, tmp_path, "gone")
        deployment.send("alerts", anomaly(1))
        with deployment.console():
            wait_until(deployment.events)
            broker.kill()
            wait_until(lambda: deployment.get("/api/status")["topics"][0]["state"] == "unavailable")
            assert deployment.events(), "what was read is still shown"
            status, answer = deployment.post(f"/api/events/{event_id(1)}/verdict", {"verdict": "confirmed"})
            assert (status, "\n" in answer["detail"]) == (503, False)
            with pytest.raises(HTTPError) as refused:
                deployment.get("/readyz")
            refused.value.close()
            broker.restart()
            wait_until(lambda: deployment.get("/api/status")["topics"][0]["state"] == "following")
            deployment.send("alerts", anomaly(2))
            wait_until(lambda: len(deployment.events()) == 2)
            assert deployment.post(f"/api/events/{event_id(2)}/verdict", {"verdict": "confirmed"})[0] == 200
        deployment.close()


def test_it_starts_without_a_broker_and_stops_with_a_page_open(tmp_path, broker):
    deployment = ConsoleDeployment(broker, tmp_path, "console-none", make_topics=False)
    deployment.settings["kafka"]["bootstrap_servers"] = "127.0.0.1:9"
    with deployment.console() as console:
        wait_until(lambda: deployment.get("/api/status")["topics"][0]["state"] == "unavailable")
        with urllib.request.urlopen(deployment.address + "/api/live", timeout=10) as live:
            assert live.readline()
            console.send_signal(signal.SIGTERM)
            assert console.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--host", "0.0.0.0"], "auth.kind"), (["--port", "70000"], "port"), (["--database", "/nowhere/x"], "database"),
        (["--worker-metrics", "file:///etc/passwd"], "worker_metrics"), (["--host", "192.0.2.1"], "auth"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(arguments, word, tmp_path):
    done = run(
        "import worker.__main__ as m, sys; sys.argv[0] = 'worker'; m.main()", "console", *arguments, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert word in done.stderr


def test_without_its_extra_it_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['fastapi'] = None; import worker.__main__ as m; m.main()"
    done = run(code, "console", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install framewatch[console]" in done.stderr


def test_a_worker_never_loads_it(tmp_path):
    code = "import worker.run, worker.__main__, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run(code, cwd=tmp_path).stdout)
    assert not [name for name in loaded if name.startswith(("worker.console", "fastapi", "starlette", "uvicorn"))]
    loaded = json.loads(run(code.replace("worker.run", "worker.console.serve"), cwd=tmp_path).stdout)
    assert "worker.console.app" in loaded
    assert not [name for name in loaded if name.split(".")[0] in {"torch", "onnx", "trainer", "exporter"}]


def run(code, *arguments, cwd):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
