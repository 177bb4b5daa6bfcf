"""A worker follows an alias of the model registry: no frame is lost, and what is refused changes nothing."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import pytest

from contract.manifest import open_bundle
from contract.registry import Registry
from tests.worker.deployment import frames_of, terminate, wait_until

ROOT = Path(__file__).resolve().parents[2]


def changed(bundle, folder, threshold, *, broken=False):
    """A copy that tells itself by its threshold; broken, its weights are not numbers."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = f"v{threshold}"
    manifest["calibration"]["threshold"] = float(threshold)
    if broken:
        model = onnx.load(folder / "detector.onnx")
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        data = model.SerializeToString()
        (folder / "detector.onnx").write_bytes(data)
        manifest["files"]["detector.onnx"] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def place(new_registry, tmp_path, tiny_bundle):
    """A registry whose `room` has two good versions, one whose weights are no numbers, and one tampered with."""
    registry = Registry(str(new_registry(tmp_path / "registry")))
    for number in (1, 2, 3, 4):
        folder = changed(tiny_bundle.bundle, tmp_path / f"room-{number}", 30 + number, broken=number == 3)
        assert registry.register("room", folder) == number
    source = registry._client().get_model_version("room", "4").source
    (Path(source.removeprefix("file://")) / "encoder.onnx").write_bytes(b"other")
    registry.promote("room", 1)
    return tmp_path / "registry"


def trainer(place, *command):
    command = [sys.executable, "-m", "trainer", *command, "--registry", str(place)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def refusals(deployment):
    lines = deployment.http("/metrics").splitlines()
    return next(
        (line for line in lines if line.startswith('framewatch_reloads_total{outcome="refused"}')), "0"
    ).split()[-1]


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_worker_follows_its_alias_while_frames_flow(deployment, tiny_bundle, place, tmp_path, delivery):
    frames = [
        one
        for pair in zip(*(frames_of(str(tiny_bundle.footage), name) for name in ("door", "yard")), strict=True)
        for one in pair
    ]
    deployment.set(
        {"delivery": delivery}, bundle="models:/room@champion", registry=str(place),
        registry_cache=str(tmp_path / "cache"), reload_seconds=0.2,
    )  # fmt: skip
    sent = 0

    def send(count):
        nonlocal sent
        for start in range(sent, sent + count, 10):
            deployment.send(frames[start % len(frames) : start % len(frames) + 10])
        sent += count

    with deployment.worker() as worker:
        send(20)
        deployment.read("scores", 20)
        assert 'model_version="1"' in deployment.http("/metrics")
        assert trainer(place, "promote", "room", "--version", "2", "--why", "a test").startswith("room: version 2 is")
        while 'model_version="2"' not in deployment.http("/metrics"):
            send(10)
        send(20)
        for number, refused in ((3, "1.0"), (4, "2.0")):
            Registry(str(place)).promote("room", number)
            wait_until(lambda refused=refused: refusals(deployment) == refused)
            send(20)
        log = deployment.log.read_text()
        assert "not finite" in log
        assert "encoder.onnx" in log
        records = deployment.read("scores", sent)
        assert terminate(worker) == 0
    assert sum(deployment.committed().values()) == sent

    rows = sorted((json.loads(record.value) for record in records), key=lambda row: (row["partition"], row["offset"]))
    assert len({(row["partition"], row["offset"]) for row in rows}) == sent
    by_camera = defaultdict(list)
    for row in rows:
        by_camera[row["camera_id"]].append(row)
    digests = {number: open_bundle(tmp_path / f"room-{number}").digest for number in (1, 2)}
    told = [json.loads(record.value) for record in deployment._read_once("alerts", 2)]
    changes = {one["subject"]: one for one in told if one["type"] == "framewatch.camera.model_changed.v1"}
    assert len(changes) == sum(one["type"].endswith("model_changed.v1") for one in told) == 2
    for camera, mine in by_camera.items():
        thresholds = [row["threshold"] for row in mine]
        assert set(thresholds) == {31.0, 32.0}
        assert thresholds == sorted(thresholds)
        first = mine[thresholds.index(32.0)]
        data = changes[camera]["data"]
        assert data["frames"] == {name: first[name] for name in ("topic", "partition", "offset")}
        assert (data["before"]["digest"], data["after"]["digest"]) == (digests[1], digests[2])
        assert data["changed_at_ms"] == first["captured_at_ms"]


@pytest.mark.broker
def test_a_worker_starts_while_the_registry_is_away_if_it_ever_answered(deployment, tiny_bundle, place, tmp_path):
    frames = frames_of(str(tiny_bundle.footage), "door")
    deployment.set(bundle="models:/room@champion", registry=str(place), registry_cache=str(tmp_path / "cache"))
    with deployment.worker() as worker:
        deployment.send(frames[:10])
        deployment.read("scores", 10)
        assert terminate(worker) == 0
    check = [sys.executable, "-m", "worker", "check", "--config", str(deployment.config)]
    said = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "digests match, version 1 of models:/room@champion" in said
    place.rename(tmp_path / "away")
    with deployment.worker() as worker:
        deployment.send(frames[10:20])
        rows = [json.loads(record.value) for record in deployment.read("scores", 20)]
        assert terminate(worker) == 0
    assert {row["threshold"] for row in rows} == {31.0}
    log = deployment.log.read_text()
    assert "the model registry does not answer" in log
    assert "as the registry last said: version 1" in log

    deployment.set(registry_cache=str(tmp_path / "empty"))
    with deployment.worker() as worker:
        assert worker.wait(120) == 1
    last = deployment.log.read_text().splitlines()[-1]
    assert last.startswith("worker: registry ")
    assert "there is no such file" in last
    (tmp_path / "away").rename(place)
    deployment.set(bundle="models:/room@night")
    with deployment.worker() as worker:
        assert worker.wait(120) == 2
    assert "night" in deployment.log.read_text().splitlines()[-1]
