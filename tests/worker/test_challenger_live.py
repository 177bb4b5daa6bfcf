"""``worker run --challenger`` against a real broker: scores of both, alerts of one, whoever is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.alert import read_alert
from contract.manifest import open_bundle
from deploy.broker import Topic, create_topics
from tests.worker.deployment import ROOT, frames_of, terminate, wait_until

pytestmark = pytest.mark.broker

THRESHOLD = 1.25


@pytest.fixture
def challenger(tiny_bundle, tmp_path):
    """The tiny bundle with another version and threshold, and so of another digest."""
    folder = tmp_path / "challenger"
    shutil.copytree(tiny_bundle.bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = "retrained"
    manifest["calibration"] |= {"threshold": THRESHOLD, "release_threshold": THRESHOLD}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def challenged(deployment, broker, challenger):
    """The deployment, with a challenger and its topics."""
    name = f"{deployment.topics['scores']}.challenger"
    deployment.topics |= {
        "challenger": name, "replayed alerts": f"{deployment.topics['alerts']}.replay",
        "replayed scores": f"{deployment.topics['scores']}.replay", "replayed challenger": f"{name}.replay",
    }  # fmt: skip
    create_topics(broker, {name: Topic(1)})
    deployment.set(challenger=str(challenger), kafka={"challenger_scores_topic": name})
    return deployment


def rows_on(deployment, kind):
    """Scores by the frame's place; how often each stands there."""
    rows = {}
    for one in (json.loads(record.value) for record in deployment._read_once(kind, 10_000)):
        rows.setdefault((one["partition"], one["offset"]), []).append(one)
    return rows


def digests_of(*bundles):
    return tuple(open_bundle(folder).digest for folder in bundles)


def command(deployment, *arguments):
    return [sys.executable, "-m", "worker", *map(str, arguments), "--config", str(deployment.config)]


def assert_compared(champion, challenger, count, digests):
    """Both scored every frame; the weights are the same, so the scores are."""
    assert champion.keys() == challenger.keys()
    assert len(champion) == count
    for place, (row, *_) in champion.items():
        its = challenger[place][0]
        assert its["anomaly_score"] == pytest.approx(row["anomaly_score"], abs=1e-4)
        assert (row["bundle_digest"], its["bundle_digest"]) == digests
        assert (its["threshold"], its["counts"]) == (THRESHOLD, row["counts"])
        assert its["is_anomalous"] == (its["counts"] and its["anomaly_score"] >= THRESHOLD)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_killed_worker_leaves_no_score_of_either_out(challenged, tiny_bundle, challenger, delivery):
    challenged.set(
        batch={"max_frames": 3, "commit_interval_ms": 50},
        kafka={"delivery": delivery, "transaction_timeout_ms": 5_000},
    )
    frames = [one for camera in ("door", "yard") for one in frames_of(str(tiny_bundle.footage), camera)]
    half = len(frames) // 2
    challenged.send(frames[:half])
    with challenged.worker() as worker:
        wait_until(lambda: sum(challenged.committed().values()) > 20)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    challenged.send(frames[half:])
    with challenged.worker() as worker:
        wait_until(lambda: sum(challenged.committed().values()) == len(frames))
        text = challenged.http("/metrics")
        assert terminate(worker) == 0
    assert 'framewatch_challenger_info{digest="sha256:' in text
    assert "framewatch_challenger_failures_total 0.0" in text
    assert 'framewatch_stage_seconds_count{stage="challenge"}' in text
    champion, its = rows_on(challenged, "scores"), rows_on(challenged, "challenger")
    assert_compared(champion, its, len(frames), digests_of(tiny_bundle.bundle, challenger))
    if delivery == "exactly_once":
        assert {len(rows) for rows in (*champion.values(), *its.values())} == {1}
    told = [read_alert(record.value) for record in challenged._read_once("alerts", 1000)]
    assert len({alert.data.event_id for alert in told}) >= 2
    assert all(alert.data.bundle.version != "retrained" for alert in told)

    # What it would have told, by the same means as for the champion.
    done = subprocess.run(
        command(challenged, "rules", "--json", "--topic", challenged.topics["challenger"], "--bundle", challenger),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["camera_id"], row["frames"], row["threshold"]) for row in rows] == [
        ("door", 60, THRESHOLD), ("yard", 60, THRESHOLD),
    ]  # fmt: skip
    assert all(row["events"] >= 1 for row in rows)


def test_a_replay_judges_a_challenger_on_the_past(challenged, broker, tiny_bundle):
    frames = frames_of(str(tiny_bundle.footage), "door")
    settings = json.loads(challenged.config.read_text())
    challenger = settings.pop("challenger")
    challenged.config.write_text(json.dumps(settings))
    with challenged.worker() as worker:
        challenged.send(frames)
        live = challenged.read("scores", len(frames))
        assert terminate(worker) == 0
    arguments = ("run", "--from", 0, "--challenger", challenger)
    missing = subprocess.run(command(challenged, *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    create_topics(broker, {challenged.topics[f"replayed {kind}"]: Topic(1) for kind in ("alerts", "scores")})
    missing = subprocess.run(command(challenged, *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert f"topic {challenged.topics['replayed challenger']} is not on" in missing.stderr.splitlines()[-1]
    create_topics(broker, {challenged.topics["replayed challenger"]: Topic(1)})
    done = subprocess.run(command(challenged, *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"{len(frames)} frames, "), done.stderr
    champion, its = rows_on(challenged, "replayed scores"), rows_on(challenged, "replayed challenger")
    assert_compared(champion, its, len(frames), digests_of(tiny_bundle.bundle, Path(challenger)))
    assert {place: row["anomaly_score"] for place, (row,) in champion.items()} == pytest.approx(
        {(row["partition"], row["offset"]): row["anomaly_score"] for row in (json.loads(one.value) for one in live)},
        abs=1e-4,
    )
    assert challenged._read_once("challenger", 1) == []


def test_a_reload_brings_a_challenger_once_its_topic_is_there(deployment, broker, tiny_bundle, challenger):
    topic = deployment.topics["challenger"] = f"{deployment.topics['scores']}.challenger"
    frames = frames_of(str(tiny_bundle.footage), "door")
    deployment.set(reload_seconds=0.2, kafka={"challenger_scores_topic": topic})
    with deployment.worker() as worker:
        deployment.send(frames[:20])
        deployment.read("scores", 20)
        deployment.set(challenger=str(challenger))
        wait_until(lambda: f"not reloaded, all stays as it was: topic {topic} is not on" in deployment.log.read_text())
        deployment.send(frames[20:40])
        deployment.read("scores", 40)
        create_topics(broker, {topic: Topic(1)})
        wait_until(lambda: 'version="retrained"' in deployment.http("/metrics"))
        deployment.send(frames[40:])
        deployment.read("scores", 60)
        its = [json.loads(record.value) for record in deployment.read("challenger", 20)]
        assert terminate(worker) == 0
    assert [row["offset"] for row in its] == list(range(40, 60))
    assert sum(deployment.committed().values()) == 60
