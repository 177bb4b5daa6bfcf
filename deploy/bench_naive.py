"""The loop that anyone would write first, for `deploy.bench` to compare with.

One thread takes a record, decodes it whole, resizes it, runs the same graph on it, sends an alert where its score is
high and commits. ``--our-preprocessing`` decodes as the worker does. Prints frames and seconds, first record to last.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
from kafka import KafkaConsumer, KafkaProducer

from contract.frame import FrameLimits, Preprocessing, decode_frame
from contract.manifest import Bundle, open_bundle
from contract.window import ClipWindow


def main() -> None:
    """Consume so many frames, then say how long it took."""
    parser = argparse.ArgumentParser()
    for name in ("bundle", "servers", "group", "frames-topic", "alerts-topic"):
        parser.add_argument(f"--{name}", required=True, type=Path if name == "bundle" else str)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--our-preprocessing", action="store_true")
    asked = parser.parse_args()
    scorer = FrameScorer(asked.bundle, asked.threads, ours=asked.our_preprocessing)
    consumer = KafkaConsumer(
        asked.frames_topic, bootstrap_servers=asked.servers, group_id=asked.group, auto_offset_reset="earliest",
        enable_auto_commit=False, max_partition_fetch_bytes=16 * 2**20,
    )  # fmt: skip
    producer = KafkaProducer(bootstrap_servers=asked.servers, acks="all")
    done, began = 0, 0.0
    while done < asked.frames:
        for records in consumer.poll(timeout_ms=500, max_records=32).values():
            for record in records:
                began = began or time.monotonic()
                score = scorer.score(record.key.decode(), record.value)
                if score >= scorer.threshold:
                    alert = {"camera": record.key.decode(), "offset": record.offset, "score": score}
                    producer.send(asked.alerts_topic, json.dumps(alert).encode(), key=record.key).get(60)
                done += 1
            consumer.commit()
    sys.stdout.write(json.dumps({"frames": done, "seconds": time.monotonic() - began, "cpu": sum(os.times()[:2])}))
    consumer.close(autocommit=False)
    producer.close()


class FrameScorer:
    """Scores one frame at a time.

    Args:
        folder: Of the bundle.
        threads: Of ONNX Runtime within an operator; 0 leaves it to its default.
        ours: Whether frames are decoded as the worker does, not whole.

    Attributes:
        threshold: The bundle's.
    """

    def __init__(self, folder: Path, threads: int, *, ours: bool) -> None:
        bundle: Bundle = open_bundle(folder)
        self.threshold = bundle.manifest.calibration.threshold
        self._preprocessing: Preprocessing = bundle.manifest.preprocessing
        self._clip_frames = bundle.manifest.shape.clip_frames
        self._ours = ours
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        graph = bundle.read_graph("detector.onnx")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._windows: dict[str, ClipWindow] = {}

    def score(self, camera: str, data: bytes) -> float:
        """Score the next frame of a camera."""
        window = self._windows.setdefault(camera, ClipWindow(self._clip_frames, self._preprocessing))
        clip = window.push(decode_frame(data, self._preprocessing, FrameLimits()) if self._ours else self._whole(data))
        answers: list[Any] = self._session.run(["anomaly_score"], {"frames": clip[None]})
        return float(answers[0][0])

    def _whole(self, data: bytes) -> npt.NDArray[np.uint8]:
        size = self._preprocessing.width, self._preprocessing.height
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        small = cv2.resize(np.asarray(picture), size, interpolation=cv2.INTER_AREA)
        if self._preprocessing.channels == 1:
            small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)[..., None]
        return np.asarray(small, np.uint8)


if __name__ == "__main__":
    main()
