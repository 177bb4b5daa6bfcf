"""Records as the topics hold them, and a console that runs, for the tests."""

import base64
import json
from types import SimpleNamespace

import cv2
import numpy as np

from contract.alert import AnomalyData, make_alert, make_event_id
from contract.feedback import Feedback
from worker.records import feedback_record

NOW = 1_795_600_000_000
DIGEST = "sha256:" + "0" * 64


def jpeg(height=36, width=64, level=90):
    return cv2.imencode(".jpg", np.full((height, width, 3), level, np.uint8))[1].tobytes()


def picture(data=None, **fields):
    data = jpeg() if data is None else data
    content = {"content_type": "image/jpeg", "height": 36, "width": 64, "base64": base64.b64encode(data).decode()}
    return {**content, **fields}


def event_id(number, camera_id="door"):
    return make_event_id("frames", 0, number, camera_id, DIGEST, "1-00000000")


def anomaly(number=1, transition="started", camera_id="door", *, update=0, at_ms=NOW, bundle="room", **fields):
    """The bytes of an alert."""
    data = {
        "event_id": event_id(number, camera_id), "camera_id": camera_id, "started_at_ms": at_ms,
        "peak_at_ms": at_ms + 400, "ended_at_ms": at_ms + 2_000 if transition == "ended" else None,
        "peak_score": 4.0, "threshold": 3.0, "p_value": 1e-6, "severity": "high", "anomalous_area_percent": 4.5,
        "boxes": [{"x": 0.5, "y": 0.25, "width": 0.25, "height": 0.5}], "heat_map": picture(), "snapshot": picture(),
        "frames": {"topic": "frames", "partition": 0, "first_offset": number, "peak_offset": number + 1,
                   "last_offset": number + 2},
        "bundle": {"name": bundle, "version": "1", "digest": DIGEST}, "rule_version": "1-00000000", **fields,
    }  # fmt: skip
    return make_alert(transition, update, at_ms, AnomalyData.model_validate_json(json.dumps(data))).to_json()


def score(offset, value, camera_id="door", at_ms=None, threshold=3.0, **more):
    """The bytes of a score."""
    return json.dumps({
        "camera_id": camera_id, "topic": "frames", "partition": 0, "offset": offset,
        "captured_at_ms": NOW + 200 * offset if at_ms is None else at_ms, "anomaly_score": value,
        "threshold": threshold, "is_anomalous": value >= threshold, **more,
    }).encode()  # fmt: skip


def said(number=1, verdict="confirmed", camera_id="door", note="", by="someone"):
    """The bytes of a verdict."""
    feedback = Feedback(
        event_id=event_id(number, camera_id), camera_id=camera_id, verdict=verdict, note=note, at_ms=NOW, by=by
    )
    return feedback_record(feedback, "feedback").value


def health(camera_id="door", state="blind", number="h1", ended_at_ms=None, **data):
    """The bytes of an alert of a camera's health."""
    content = {"camera_id": camera_id, "state": state, "started_at_ms": NOW, "ended_at_ms": ended_at_ms,
               "event_id": number, **data}  # fmt: skip
    return json.dumps({
        "specversion": "1.0", "id": f"{number}.{state}", "source": "/framewatch/frames/0",
        "type": f"framewatch.camera.{state}.v1", "subject": camera_id, "time": "2026-11-26T12:00:00Z",
        "datacontenttype": "application/json", "data": content,
    }).encode()  # fmt: skip


def record(value, key=b"door", timestamp=NOW):
    return SimpleNamespace(value=value, key=key, timestamp=timestamp)
