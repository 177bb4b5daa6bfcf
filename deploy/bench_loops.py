"""The same job without Framewatch, for `deploy.bench` to compare with: same frames and graph, real alerts and commits.

naive        one thread takes a record, decodes it whole, resizes it, runs the graph on it, sends an alert where its
             score is high, and commits
quixstreams  the same as a Quix Streams application
faststream   the same as a FastStream subscriber of batches, which runs the graph on a batch

``--our-preprocessing`` decodes as the worker does. Prints frames and seconds, first frame to last.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from contract.frame import FrameLimits, Preprocessing, decode_frame
from contract.manifest import Bundle, open_bundle
from contract.window import ClipWindow

_AT_ONCE: Final = 32


@dataclass
class Count:
    """Frames done, and when the first came and the last was done.

    Attributes:
        wanted: Frames to do.
    """

    wanted: int
    done: int = 0
    _began: float = 0.0
    _ended: float = field(default=0.0)

    def came(self) -> None:
        """Note that a frame came."""
        self._began = self._began or time.monotonic()

    def finish(self, frames: int) -> None:
        """Note that frames are done."""
        self.done += frames
        self._ended = time.monotonic()

    def told(self) -> str:
        """Tell it as JSON."""
        return json.dumps({"frames": self.done, "seconds": self._ended - self._began})


class FrameScorer:
    """Scores frames of several cameras.

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

    def score(self, frames: Sequence[tuple[str, bytes]]) -> list[float]:
        """Score the next frames, each with its camera, in one run of the graph."""
        clips = [self._clip(camera, data) for camera, data in frames]
        answers: list[Any] = self._session.run(["anomaly_score"], {"frames": np.stack(clips)})
        return [float(score) for score in answers[0]]

    def _clip(self, camera: str, data: bytes) -> npt.NDArray[np.uint8]:
        window = self._windows.setdefault(camera, ClipWindow(self._clip_frames, self._preprocessing))
        return window.push(decode_frame(data, self._preprocessing, FrameLimits()) if self._ours else self._whole(data))

    def _whole(self, data: bytes) -> npt.NDArray[np.uint8]:
        size = self._preprocessing.width, self._preprocessing.height
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        small = cv2.resize(np.asarray(picture), size, interpolation=cv2.INTER_AREA)
        if self._preprocessing.channels == 1:
            small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)[..., None]
        return np.asarray(small, np.uint8)


def run_naive(asked: argparse.Namespace, scorer: FrameScorer, count: Count) -> None:
    """Take one record after another with kafka-python."""
    from kafka import KafkaConsumer, KafkaProducer

    consumer = KafkaConsumer(
        asked.frames_topic, bootstrap_servers=asked.servers, group_id=asked.group, auto_offset_reset="earliest",
        enable_auto_commit=False, max_partition_fetch_bytes=16 * 2**20,
    )  # fmt: skip
    producer = KafkaProducer(bootstrap_servers=asked.servers, acks="all")
    while count.done < count.wanted:
        for records in consumer.poll(timeout_ms=500, max_records=_AT_ONCE).values():
            for record in records:
                count.came()
                camera = record.key.decode()
                (score,) = scorer.score([(camera, record.value)])
                if score >= scorer.threshold:
                    value = json.dumps({"camera": camera, "offset": record.offset, "score": score}).encode()
                    producer.send(asked.alerts_topic, value, key=record.key).get(60)
                count.finish(1)
            consumer.commit()
    consumer.close(autocommit=False)
    producer.close()


def run_quixstreams(asked: argparse.Namespace, scorer: FrameScorer, count: Count) -> None:
    """Take one record after another with Quix Streams."""
    from quixstreams import Application

    application = Application(
        broker_address=asked.servers, consumer_group=asked.group, auto_offset_reset="earliest", loglevel="ERROR"
    )
    frames = application.topic(asked.frames_topic, key_deserializer="str", value_deserializer="bytes")
    alerts = application.topic(asked.alerts_topic, key_serializer="str", value_serializer="json")

    def alert(data: bytes, camera: str, _timestamp: int, _headers: Any) -> dict[str, Any] | None:  # noqa: ANN401
        count.came()
        (score,) = scorer.score([(camera, data)])
        count.finish(1)
        if count.done >= count.wanted:
            application.stop()
        return {"camera": camera, "score": score} if score >= scorer.threshold else None

    told = application.dataframe(frames).apply(alert, metadata=True)
    told.filter(lambda value: value is not None).to_topic(alerts)
    application.run()


def run_faststream(asked: argparse.Namespace, scorer: FrameScorer, count: Count) -> None:
    """Take batches of records with FastStream."""
    from faststream import AckPolicy, FastStream
    from faststream.confluent import KafkaBroker
    from faststream.confluent.annotations import KafkaMessage

    broker = KafkaBroker(asked.servers, logger=None)
    application = FastStream(broker, logger=None)

    @broker.subscriber(  # type: ignore[untyped-decorator, unused-ignore]
        asked.frames_topic, group_id=asked.group, batch=True, max_records=_AT_ONCE, auto_offset_reset="earliest",
        ack_policy=AckPolicy.ACK,
    )  # fmt: skip
    async def alert(message: KafkaMessage) -> None:
        count.came()
        frames = [(record.key().decode(), record.value()) for record in message.raw_message]
        for (camera, _), score in zip(frames, scorer.score(frames), strict=True):
            if score >= scorer.threshold:
                value = json.dumps({"camera": camera, "score": score}).encode()
                await broker.publish(value, asked.alerts_topic, key=camera.encode())
        count.finish(len(frames))
        if count.done >= count.wanted:
            application.exit()

    asyncio.run(application.run())


LOOPS: Final = {"naive": run_naive, "quixstreams": run_quixstreams, "faststream": run_faststream}
"""Each by its name."""


def main() -> None:
    """Consume so many frames, then say how long it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=LOOPS)
    for name in ("servers", "group", "frames-topic", "alerts-topic"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--our-preprocessing", action="store_true")
    asked = parser.parse_args()
    count = Count(asked.frames)
    LOOPS[asked.loop](asked, FrameScorer(asked.bundle, asked.threads, ours=asked.our_preprocessing), count)
    sys.stdout.write(count.told())


if __name__ == "__main__":
    main()
