import cv2
import numpy as np
import pytest

from contract.frame import Preprocessing
from deploy.bench import Rate, decoding_gains, page, room_frames, summary
from deploy.bench_loops import LOOPS


def run(fps, *, loop=100.0, one=120.0, broker=0.2, cores_ms=(0.2, 0.6, 1.2, 2.0)):
    names = ("kafka", "decode", "motion", "model")
    often = {"at_least_once": Rate(fps, 4.5, broker, 0.01), "exactly_once": Rate(0.9 * fps, 4.5, broker, 0.01)}
    told = {**often, "worker": Rate(fps, 4.5, broker, 0.01), "stages": dict(zip(names, cores_ms, strict=True))}
    told["anomalib"] = 50.0
    for name in LOOPS:
        told |= {name: loop, f"{name}, one thread": one, f"{name}, our preprocessing": 160.0}
    return told


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr("deploy.bench.cores_given", lambda: 2)


def test_efficiency_is_the_work_done_over_the_cores_left_by_the_broker():
    told = summary([run(400)])
    assert told["pipeline_efficiency"] == pytest.approx(400 * 0.004 / 1.8, abs=1e-4)
    assert told["model_share"] == pytest.approx(2.0 / 4.5, abs=1e-4)


def test_loops_are_compared_within_a_repetition_and_by_their_better_threads():
    told = summary([run(400, loop=100, one=200), run(300, loop=300, one=100), run(500, loop=100, one=100)])
    for name in LOOPS:
        assert told[f"vs_{name}"] == pytest.approx(2.0)
        assert told[f"vs_{name}_our_preprocessing"] == pytest.approx(2.5)
    assert told["frames_per_second"] == 400
    assert told["frames_per_second_spread"] == [300, 500]
    assert told["repetitions"] == 3


def test_the_page_tells_each_preset():
    presets = {"balanced": summary([run(400)]), "fast": summary([run(800)])}
    told = {"versions": {"python": "3.11"}, "cores": 2, "frames": 6000, "peer_frames": 900, "precision": "fp32"}
    told |= {
        "presets": presets,
        "decoding_1080p": {"room": {"frame_bytes": 1234, "chain_ms": 1.5, "whole_ms": 3, "gain": 2}},
    }
    lines = page(told).splitlines()
    (balanced,) = (line for line in lines if line.startswith("| balanced |"))
    assert "| 400 (400 to 400) | 0.89 | 3.33, 2.50 | 3.33, 2.50 | 3.33, 2.50 | 8.0 | 0.90 | 0.44 |" in balanced
    assert balanced.endswith("| 4.50 | 0.20 | 0.60 | 1.20 | 2.00 | 0.20 |")
    assert any(line.startswith("| fast | 800") for line in lines)
    assert any("python 3.11" in line for line in lines)
    assert "| room | 1,234 | 1.5 | 3 | 2 |" in lines


def test_the_chain_is_compared_on_the_same_frames(monkeypatch, tmp_path):
    monkeypatch.setenv("FRAMEWATCH_DATA", str(tmp_path))
    told = decoding_gains(Preprocessing(height=128, width=192))
    assert set(told) == {"the room, enlarged"}
    assert told["the room, enlarged"]["frame_bytes"] > 50_000
    one = told["the room, enlarged"]
    assert one["gain"] == pytest.approx(one["whole_ms"] / one["chain_ms"], abs=0.02)


def test_the_room_is_told_in_frames_of_one_size():
    encoded = room_frames()
    assert len(encoded) > 1000
    for data in encoded[:: len(encoded) // 5]:
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (360, 640, 3)
