import cv2
import numpy as np
import pytest

from deploy.bench import Rate, page, room_frames, summary


def run(fps, *, naive=100.0, one=120.0, broker=0.2, cores_ms=(0.2, 0.6, 1.2, 2.0)):
    names = ("kafka", "decode", "motion", "model")
    return {
        "worker": Rate(fps, 4.5, broker, 0.01),
        "stages": dict(zip(names, cores_ms, strict=True)),
        "naive": naive,
        "naive, one thread": one,
        "naive, our preprocessing": 150.0,
    }


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr("deploy.bench.cores_given", lambda: 2)


def test_efficiency_is_the_work_done_over_the_cores_left_by_the_broker():
    told = summary([run(400)])
    assert told["pipeline_efficiency"] == pytest.approx(400 * 0.004 / 1.8, abs=1e-4)
    assert told["model_share"] == pytest.approx(2.0 / 4.5, abs=1e-4)


def test_the_better_of_the_naive_loops_is_compared_within_a_repetition():
    told = summary([run(400, naive=100, one=200), run(300, naive=300, one=100), run(500, naive=100, one=100)])
    assert told["vs_naive"] == pytest.approx(2.0)
    assert told["naive_frames_per_second"] == 200
    assert told["frames_per_second"] == 400
    assert told["frames_per_second_spread"] == [300, 500]
    assert told["repetitions"] == 3


def test_the_page_tells_each_preset():
    presets = {"balanced": summary([run(400)]), "fast": summary([run(800)])}
    told = {"versions": {"python": "3.11"}, "cores": 2, "frames": 6000, "precision": "fp32", "presets": presets}
    lines = page(told).splitlines()
    (balanced,) = (line for line in lines if line.startswith("| balanced |"))
    assert "| 400 (400 to 400) | 0.89 | 3.33 | 2.67 | 0.44 | 4.50 | 0.20 | 0.60 | 1.20 | 2.00 | 0.20 |" in balanced
    assert any(line.startswith("| fast | 800") for line in lines)
    assert any("python 3.11" in line for line in lines)


def test_the_room_is_told_in_frames_of_one_size():
    encoded = room_frames()
    assert len(encoded) > 1000
    for data in encoded[:: len(encoded) // 5]:
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (360, 640, 3)
