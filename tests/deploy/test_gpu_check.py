import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from contract.runtime import gpu_present
from deploy.gpu_check import Measured, measure, page


@pytest.mark.skipif(gpu_present(), reason="there is an NVIDIA device here")
def test_without_a_gpu_it_says_so_and_does_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-m", "deploy.gpu_check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "no NVIDIA device" in done.stdout


def scorer(shift):
    calibration = SimpleNamespace(threshold=0.5)
    bundle = SimpleNamespace(manifest=SimpleNamespace(calibration=calibration))
    return SimpleNamespace(bundle=bundle, score=lambda clips: (clips.mean((1, 2, 3, 4)) / 255 + shift, None))


def test_scores_and_labels_are_compared_and_every_batch_size_is_timed(monkeypatch):
    monkeypatch.setattr("deploy.gpu_check._SECONDS_A_ROUND", 0.001)
    clips = np.linspace(0, 255, 11).astype(np.uint8)[:, None, None, None, None]
    told = measure(scorer(0.02), scorer(0.0), clips)
    assert told.apart == pytest.approx(0.02)
    assert told.labels_apart == 1
    assert all(rate > 0 for rate in told.frames_per_second.values())


def test_the_page_tells_the_device_and_each_precision():
    rates = dict.fromkeys((1, 8, 32, 128, 512), 1000.0)
    told = {
        "device": "A GPU, 1.0", "preset": "balanced", "versions": {"python": "3.11"},
        "worker_frames_per_second": 1500.0, "utilisation_percent": 12.0, "training_steps_per_second": 30.0,
    }  # fmt: skip
    text = page(told, {"fp32": Measured(1e-6, 0, rates), "fp16": Measured(0.02, 1, rates)})
    assert "on A GPU, 1.0" in text
    assert "| fp16 | 0.02 | 1 | 1000 |" in text
