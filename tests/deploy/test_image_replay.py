"""The Dockerfile's steps, done without a Docker engine, make a worker that runs as its image would."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools import tool
from tests.worker.conftest import deployment  # noqa: F401
from tests.worker.console.deployment import ConsoleDeployment
from tests.worker.deployment import frames_of, terminate, wait_until

IMAGES = Path(__file__).resolve().parents[2] / "deploy" / "images"
REPLAY = Path(__file__).with_name("replayed_image.py")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(target, *more, dockerfile=IMAGES / "Dockerfile"):
    if os.geteuid() != 0:
        pytest.skip("only root can mount what stands in for an image")
    tool("setpriv")
    return [tool("unshare"), "--mount", "--propagation", "private", sys.executable, REPLAY, dockerfile, target, *more]


@contextmanager
def running(log, folder, *arguments):
    with log.open("ab") as file:
        child = subprocess.Popen(command(*arguments), stderr=file, env={**os.environ, "TMPDIR": str(folder)})
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def readable(folder):
    """As it would be mounted: for a user that does not own it."""
    for one in [folder, *folder.rglob("*")]:
        one.chmod(0o755 if one.is_dir() else 0o644)
    return folder


def status_of(child):
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.broker
def test_a_worker_s_image_runs_unprivileged_on_a_root_that_is_read_only(deployment, tiny_bundle, tmp_path):  # noqa: F811
    settings, models = tmp_path / "settings", tmp_path / "models"
    settings.mkdir()
    shutil.copytree(tiny_bundle.bundle, models / "tiny")
    deployment.set(bundle="/models/tiny")
    shutil.copy(deployment.config, settings / "worker.yaml")
    volumes = ["--volume", f"{readable(settings)}:/etc/framewatch", "--volume", f"{readable(models)}:/models"]
    deployment.started = 1
    with running(
        deployment.log, tmp_path, "worker", *volumes, "--", "run", "--config", "/etc/framewatch/worker.yaml"
    ) as worker:
        wait_until(lambda: worker.poll() is not None or '"running"' in deployment.log.read_text(), 600)
        assert worker.poll() is None, deployment.log.read_text()[-3000:]
        frames = frames_of(str(tiny_bundle.footage), "door")
        deployment.send(frames)
        deployment.read("scores", len(frames))
        assert deployment.status("/readyz") == 200

        status = status_of(worker)
        assert status["Uid"] == ["10001"] * 4
        assert status["Gid"] == ["10001"] * 4
        assert {name: int(status[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {
            "CapEff": 0, "CapPrm": 0, "CapBnd": 0,
        }  # fmt: skip
        assert status["NoNewPrivs"] == ["1"]
        root = Path(f"/proc/{worker.pid}/root")
        with pytest.raises(OSError, match="Read-only"):
            (root / "opt" / "framewatch" / "new").write_text("")
        made_of = json.loads((root / "usr" / "share" / "framewatch" / "sbom.cdx.json").read_text())["components"]
        assert {"framewatch", "onnxruntime-gpu", "kafka-python"} <= {one["name"] for one in made_of}
        assert not {"torch", "onnx", "pip", "uv"} & {one["name"] for one in made_of}
        # A checkout beside it would hide what the image lacks.
        assert not (root / str(IMAGES).lstrip("/")).exists()
        assert terminate(worker) == 0


@pytest.mark.broker
def test_a_console_s_image_answers(broker, tmp_path):
    deployed = ConsoleDeployment(broker, tmp_path, "image")
    settings = tmp_path / "settings"
    settings.mkdir()
    # Its own folder would be a volume; here all but /tmp is read-only.
    (settings / "console.yaml").write_text(json.dumps(deployed.settings | {"database": "/tmp/console.sqlite"}))
    volume = f"{readable(settings)}:/etc/framewatch"
    arguments = ("console", "--volume", volume, "--", "--config", "/etc/framewatch/console.yaml")
    with running(deployed.log, tmp_path, *arguments) as console:
        wait_until(lambda: console.poll() is not None or '"address"' in deployed.log.read_text(), 600)
        assert console.poll() is None, deployed.log.read_text()[-3000:]
        line = next(line for line in deployed.log.read_text().splitlines() if '"address"' in line)
        deployed.address = json.loads(line)["address"].rstrip("/")
        wait_until(lambda: b"ok" in deployed.get("/livez"))
        assert b"<title>" in deployed.get("/")
        assert status_of(console)["Uid"] == ["10001"] * 4
        assert terminate(console) == 0


@pytest.mark.parametrize("image", ["worker-cuda", "trainer"])
def test_the_larger_images_are_made_too_and_their_command_starts(image, tmp_path):
    log = tmp_path / "log"
    with running(log, tmp_path, image, "--", "--version") as child:
        assert child.wait(800) == 0, log.read_text()[-3000:]


def test_a_step_that_forgets_a_part_fails(tmp_path):
    folder = tmp_path / "deploy" / "images"
    folder.mkdir(parents=True)
    for file in IMAGES.iterdir():
        shutil.copy(file, folder)
    for name in ("contract", "exporter", "trainer", "worker", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).symlink_to(IMAGES.parents[1] / name)
    whole = (folder / "Dockerfile").read_text()
    (folder / "Dockerfile").write_text(whole.replace("COPY contract contract\n", ""))
    done = subprocess.run(
        command("wheel", dockerfile=folder / "Dockerfile"),
        capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "hatchling build" in done.stderr
