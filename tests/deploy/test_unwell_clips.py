"""Clips on which the camera fails, made of real footage, through a model that was fitted to it."""

import subprocess
from itertools import pairwise

import cv2
import numpy as np
import pytest

from contract.alert import CameraAlert
from contract.clip import Clip, SourceFrame
from contract.frame import FrameLimits
from contract.manifest import open_bundle
from contract.runtime import Detector
from deploy.bench import encode_jpeg
from deploy.demo import VIDEO
from deploy.measured import data_folder
from deploy.worker_process import python_command
from worker.score import score_clips

FAULT = range(60, 100)
FROZEN = range(60, 200)
FOOTAGE = {"room": "0:230", "vtest": "0:400", "road": "0:300"}
FILES = {"vtest": "vtest.avi", "road": "road_240p.mp4"}


def shaken(picture, number):
    height, width = picture.shape[:2]
    right, down = ((0.12, -0.07), (-0.09, 0.1), (0.06, 0.15), (-0.14, -0.11))[number % 4]
    moved = np.float32([[1, 0, right * width], [0, 1, down * height]])
    return cv2.warpAffine(picture, moved, (width, height), borderMode=cv2.BORDER_REFLECT)


CHANGES = {
    "black": lambda picture, _number: (picture * 0.02).astype(np.uint8),
    "covered": lambda picture, _number: cv2.GaussianBlur(picture, (0, 0), picture.shape[1] / 8) // 2,
    "moved": shaken,
}


class Shown(Clip):
    """Pictures as a camera would send them."""

    def __init__(self, pictures):
        self.name = "camera"
        self.pictures = pictures

    def frames(self):
        for number, picture in enumerate(self.pictures):
            yield SourceFrame(number, 40 * number, encode_jpeg(picture, 90))


@pytest.fixture(scope="module", params=FOOTAGE)
def fitted(request, tmp_path_factory):
    video = VIDEO
    if request.param in FILES:
        video = data_folder(None) / "clips" / FILES[request.param]
        if not video.is_file():
            pytest.skip(f"{FILES[request.param]} is not here; set FRAMEWATCH_DATA")
    folder = tmp_path_factory.mktemp(request.param)
    source = f"{video}#{FOOTAGE[request.param]}"
    for command in (
        python_command("trainer", "fit", source, "--preset", "fast", "--epochs", "2", "--out", str(folder / "run")),
        python_command("exporter", "build", str(folder / "run"), "--out", str(folder / "bundle")),
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=280)
    capture = cv2.VideoCapture(str(video))
    pictures = [picture for _ in range(220) if (picture := capture.read()[1]) is not None]
    return Detector(open_bundle(folder / "bundle"), "cpu", 1), pictures


def told(detector, pictures):
    rows = score_clips(detector, [Shown(pictures)], camera_id="camera", threshold=None, batch=32, limits=FrameLimits())
    return [row for row in rows if hasattr(row, "specversion")]


def anomalies(alerts):
    return [alert for alert in alerts if not isinstance(alert, CameraAlert)]


@pytest.mark.slow
@pytest.mark.parametrize("state", CHANGES)
def test_a_failing_camera_is_told_of_as_such_and_not_as_an_anomaly(fitted, state):
    detector, pictures = fitted
    changed = [CHANGES[state](one, number) if number in FAULT else one for number, one in enumerate(pictures)]
    alerts = told(detector, changed)
    assert [(alert.type, alert.data.ended_at_ms is not None) for alert in alerts if isinstance(alert, CameraAlert)] == [
        (f"framewatch.camera.{state}.v1", False), (f"framewatch.camera.{state}.v1", True),
    ]  # fmt: skip
    assert {alert.data.event_id for alert in anomalies(alerts)} <= {
        alert.data.event_id for alert in anomalies(told(detector, pictures))
    }


@pytest.mark.slow
def test_a_camera_that_stands_still_is_told_of(fitted):
    detector, pictures = fitted
    frozen = [pictures[FROZEN[0]] if number in FROZEN else one for number, one in enumerate(pictures)]
    alerts = told(detector, frozen)
    assert [alert.type for alert in alerts if isinstance(alert, CameraAlert)] == ["framewatch.camera.frozen.v1"] * 2
    assert {alert.data.event_id for alert in anomalies(alerts)} <= {
        alert.data.event_id for alert in anomalies(told(detector, pictures))
    }
    assert all(one.time <= other.time for one, other in pairwise(alerts))
