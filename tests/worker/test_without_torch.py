"""The worker imports, runs and passes its tests where the trainer's libraries, and the registry's, are not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.test_live import Deployment, frames_of, terminate

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxslim",
    "lightning_fabric",
    "sklearn",
    "matplotlib",
    "tensorboard",
    "scipy",
    "mlflow",
    "sqlalchemy",
    "alembic",
)
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def run(environment, *command):
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_blocker_blocks(environment):
    assert run(environment, "-c", "import torch").returncode == 1
    assert run(environment, "-m", "trainer", "fit", "x", "--out", "y", "--epochs", "1").returncode == 1


@pytest.mark.parametrize("module", [
    "worker.__main__", "worker.run", "worker.score", "worker.latents", "worker.check", "worker.rules_command",
])  # fmt: skip
def test_every_module_imports(environment, module):
    done = run(environment, "-c", f"import {module}")
    assert done.returncode == 0, done.stderr


def test_scores_denoises_and_embeds(environment, tiny_bundle, tmp_path):
    footage = str(tiny_bundle.footage)
    for command in (
        ("score", str(tiny_bundle.bundle), footage, "--out", str(tmp_path / "scores.csv")),
        ("denoise", str(tiny_bundle.bundle), footage, "--out", str(tmp_path / "denoised")),
        ("embed", str(tiny_bundle.bundle), footage, "--out", str(tmp_path / "latents")),
    ):
        done = run(environment, "-m", "worker", *command)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores.csv").read_text().startswith("camera_id,clip,frame,")
    assert (tmp_path / "latents" / "latents.png").exists()


def test_counts_would_be_events_and_draws_none(environment, tiny_bundle, tmp_path):
    scores = str(tmp_path / "scores.csv")
    run(environment, "-m", "worker", "score", str(tiny_bundle.bundle), str(tiny_bundle.footage), "--out", scores)
    done = run(environment, "-m", "worker", "rules", "--scores", scores, "--bundle", str(tiny_bundle.bundle), "--json")
    assert json.loads(done.stdout)["events"] == 1, done.stderr
    done = run(environment, "-m", "worker", "rules", "--scores", scores, "--plot", str(tmp_path / "rules.png"))
    assert done.returncode == 2
    assert done.stderr == "worker: --plot needs matplotlib; pip install framewatch[plots]\n"


@pytest.mark.broker
def test_runs_live(environment, broker, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    deployment = Deployment(broker, tmp_path, tiny_bundle.bundle, "without-torch")
    with deployment.worker() as worker:
        deployment.send(frames_of(str(tiny_bundle.footage), "door"))
        assert len(deployment.read("scores", 60)) == 60
        assert terminate(worker) == 0
    assert len(deployment.read("alerts", 1)) == 1


def test_passes_its_own_tests(environment):
    tests = [
        f"tests/worker/test_{name}.py" for name in ("engine", "loop", "records", "telemetry", "settings", "stopping")
    ]
    done = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
