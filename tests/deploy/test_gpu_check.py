import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from contract.runtime import gpu_present
from deploy.gpu_check import Group, Measured, measure, page


@pytest.mark.skipif(gpu_present(), reason="there is an NVIDIA device here")
def test_without_a_gpu_it_says_so_and_does_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-m", "deploy.gpu_check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "no NVIDIA device" in done.stdout


def scorer(shift):
    manifest = SimpleNamespace(calibration=SimpleNamespace(threshold=0.5), precision="fp16")
    return SimpleNamespace(
        bundle=SimpleNamespace(manifest=manifest), score=lambda clips: (clips.mean((1, 2, 3, 4)) / 255 + shift, None)
    )


def test_scores_and_labels_are_compared_and_every_batch_size_is_timed(monkeypatch):
    monkeypatch.setattr("deploy.gpu_check._SECONDS_A_ROUND", 0.001)
    clips = np.linspace(0, 255, 11).astype(np.uint8)[:, None, None, None, None]
    told = measure("fast", scorer(0.02), scorer(0.0), clips)
    assert (told.preset, told.precision) == ("fast", "fp16")
    assert told.apart == pytest.approx(0.02)
    assert told.labels_apart == 1
    assert told.on_cpu > 0
    assert all(rate > 0 for rate in told.frames_per_second.values())


def test_the_page_tells_the_device_and_each_row():
    rates = dict.fromkeys((1, 8, 32, 128, 512), 1000.0)
    told = {"date": "2026-11-27", "device": "A GPU, 1.0", "cores": 16, "versions": {"python": "3.11"}}
    measured = [Measured("balanced", "fp32", 1e-6, 0, 200, rates), Measured("balanced", "fp16", 0.02, 1, 210, rates)]
    groups = [Group("balanced", 2, 1500.0, 12.0, 800.0)]
    training = {"best": {"batch": 64, "fit_steps_per_second": 30, "bare_steps_per_second": 40, "ratio": 0.75}}
    text = page(told, measured, groups, training)
    assert "on A GPU, 1.0, with 16 cores" in text
    assert "| balanced | fp16 | 0.02 | 1 | 210 | 1000 |" in text
    assert "| balanced | 2 | 1500 | 12% | 800 |" in text
    assert "| best | 64 | 30.0 | 40.0 | 0.75 |" in text
