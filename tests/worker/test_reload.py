"""Settings, cameras and bundles are loaded anew once they are whole, or all stays as it was."""

import json
import logging
import os
import shutil
import signal
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from contract.errors import BundleError
from contract.settings import load_settings
from tests.worker.deployment import frames_of, terminate, wait_until
from worker.reload import Reloader
from worker.settings import WorkerSettings


class Made:
    """A reloader over files in a folder, and what it told."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "worker.yaml"
        self.taken = []
        self.refuses = False
        self.tries = 0
        self.write(threshold=2)
        settings = self.load()
        self.reloader = Reloader(
            settings, self.resolve(settings), self.load, self.resolve, self.file, self.taken.append
        )

    def write(self, **settings):
        bundle = self.folder / "bundle"
        bundle.mkdir(exist_ok=True)
        self.file.write_text(json.dumps({"bundle": str(bundle), **settings}))

    def load(self):
        return load_settings(WorkerSettings, file=self.file)

    def resolve(self, settings):
        self.tries += self.refuses
        if self.refuses:
            raise BundleError("no good")
        detector = SimpleNamespace(bundle=SimpleNamespace(reference=SimpleNamespace(name="a", version="1")))
        return SimpleNamespace(settings=settings, bundles={settings.bundle: detector})


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path)


def test_nothing_is_loaded_while_nothing_changes(made):
    for _ in range(3):
        made.reloader.look()
    assert made.taken == []
    assert made.reloader.take() is None


def test_a_change_is_taken_once_when_two_looks_see_the_same(made):
    made.write(threshold=3)
    made.reloader.look()
    assert made.taken == []
    made.reloader.look()
    made.reloader.look()

    (taken,) = made.taken
    assert taken.settings.threshold == 3
    assert made.reloader.take() is taken
    assert made.reloader.take() is None


def test_a_change_is_taken_at_once_where_it_is_asked_for(made):
    made.write(threshold=3)
    made.reloader.look(asked=True)
    assert made.reloader.take().settings.threshold == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"treshold": 3}, "treshold"),
        ({"threshold": "high"}, "threshold"),
        ({"threshold": 3, "kafka": {"group_id": "other"}}, "kafka changed"),
        ({"threshold": 3, "camera_health": {"enabled": False}}, "camera_health changed"),
        ({"threshold": 3, "cameras": "gone.yaml"}, None),
    ],
)
def test_what_is_refused_changes_nothing_and_is_said_once(made, caplog, settings, said):
    made.write(**settings)
    made.refuses = said is None
    with caplog.at_level(logging.ERROR, "worker.reload"):
        for _ in range(4):
            made.reloader.look()

    assert made.taken == [None]
    assert made.reloader.take() is None
    (line,) = caplog.messages
    assert (said or "no good") in line
    # Mended, it is taken.
    made.refuses = False
    made.write(threshold=4)
    made.reloader.look()
    made.reloader.look()
    assert made.reloader.take().settings.threshold == 4


def test_what_was_refused_is_taken_once_what_it_names_is_there(made):
    made.write(threshold=3)
    made.refuses = True
    for _ in range(3):
        made.reloader.look()
    made.refuses = False
    made.reloader.look()
    made.reloader.look()

    assert made.reloader.take().settings.threshold == 3
    assert made.taken[0] is None
    assert len(made.taken) == 2


def test_what_stays_refused_is_tried_ever_less_often_until_it_changes(made):
    made.write(threshold=3)
    made.refuses = True
    for _ in range(200):
        made.reloader.look()
    # At looks 2, 3, 5, 9, 17, 33, 65, 129 and 193.
    assert made.tries == 9
    made.write(threshold=4)
    for _ in range(3):
        made.reloader.look()
    assert made.tries == 11


@pytest.mark.parametrize("change", ["cameras", "another camera", "bundle"])
def test_cameras_and_bundles_are_looked_at_too(made, change):
    cameras = made.folder / "cameras"
    cameras.mkdir()
    (cameras / "hall.yaml").write_text("")
    made.write(cameras=str(cameras))
    made.reloader.look(asked=True)
    made.reloader.take()
    changed = {
        "cameras": cameras / "hall.yaml", "another camera": cameras / "yard.yaml",
        "bundle": made.folder / "bundle" / "manifest.json",
    }[change]  # fmt: skip
    changed.write_text("{}\n")
    made.reloader.look()
    made.reloader.look()

    assert made.reloader.take() is not None


@pytest.mark.broker
def test_a_worker_takes_new_settings_without_losing_a_frame(deployment, tiny_bundle):
    frames = [one for camera in ("door", "yard") for one in frames_of(str(tiny_bundle.footage), camera)]
    cameras = deployment.config.with_name("cameras.yaml")
    cameras.write_text("door: {threshold: 50}\n")
    deployment.set(cameras=str(cameras), reload_seconds=0, threshold=40, unknown_cameras="accept")
    sent = 0
    with deployment.worker() as worker:
        deployment.send(frames[:20])
        deployment.read("scores", 20)
        # One that is refused, then one by a signal while frames come, then one for another camera.
        cameras.write_text("door: {threshold: high}\n")
        os.kill(worker.pid, signal.SIGHUP)
        wait_until(lambda: "not reloaded" in deployment.log.read_text())
        told = deployment.http("/metrics")
        assert 'framewatch_reloads_total{outcome="refused"} 1.0' in told
        assert "\nframewatch_last_reload_successful 0.0\n" in told
        cameras.write_text("door: {threshold: 60}\nyard: {threshold: 70}\n")
        for sent in range(20, len(frames), 10):
            deployment.send(frames[sent : sent + 10])
            if sent == 40:
                os.kill(worker.pid, signal.SIGHUP)
        wait_until(lambda: '"reloaded"' in deployment.log.read_text())
        wait_until(lambda: "\nframewatch_last_reload_successful 1.0\n" in deployment.http("/metrics"))
        deployment.send(frames[:5])
        total = len(frames) + 5
        rows = [json.loads(record.value) for record in deployment.read("scores", total)]
        assert terminate(worker) == 0
    thresholds = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["partition"], row["offset"])):
        thresholds[row["camera_id"]].append(row["threshold"])
    assert sorted(set(thresholds["door"])) == [50, 60]
    assert thresholds["door"] == sorted(thresholds["door"])
    assert set(thresholds["yard"]) <= {40, 70}
    assert sum(deployment.committed().values()) == total


@pytest.mark.broker
def test_a_worker_takes_another_bundle_that_takes_the_place_of_its_own(deployment, tiny_bundle, tmp_path):
    frames = frames_of(str(tiny_bundle.footage), "door")
    folders = [tmp_path / name for name in ("one", "two")]
    for number, folder in enumerate(folders):
        shutil.copytree(tiny_bundle.bundle, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["version"] = f"v{number}"
        manifest["calibration"]["threshold"] = 30.0 + number
        (folder / "manifest.json").write_text(json.dumps(manifest))
    place = tmp_path / "champion"
    place.symlink_to(folders[0])
    deployment.set(bundle=str(place), reload_seconds=0.2)
    with deployment.worker() as worker:
        deployment.send(frames[:20])
        deployment.read("scores", 20)
        switched = tmp_path / "switched"
        switched.symlink_to(folders[1])
        Path(switched).replace(place)
        wait_until(lambda: 'version="v1"' in deployment.http("/metrics"))
        deployment.send(frames[20:40])
        rows = [json.loads(record.value) for record in deployment.read("scores", 40)]
        assert terminate(worker) == 0
    assert [row["threshold"] for row in rows] == [30.0] * 20 + [31.0] * 20
