"""``worker publish``: footage onto a topic, as a camera would send it."""

import time
from collections.abc import Callable, Sequence

from contract.clip import Clip
from contract.errors import ConfigError, FootageError
from contract.kafka_source import CAMERA_ID, CAPTURED_AT_HEADER
from worker.delivery import Delivery
from worker.kafka_clients import open_reader, require_topics
from worker.records import OutgoingRecord
from worker.settings import KafkaSettings

_CONFIRM_EVERY = 64


def publish(
    clips: Sequence[Clip],
    camera_id: str,
    topic: str,
    kafka: KafkaSettings,
    *,
    frames_per_second: float | None,
    max_speed: bool,
    loop: int,
    on_frame: Callable[[int], None],
) -> int:
    """Send every frame of the clips, keyed by camera, at the footage's own rate unless told otherwise.

    The capture time of a frame is the moment it is sent. Every frame is confirmed by the broker before this returns;
    one that was not may stand on the topic all the same.

    Args:
        clips: Footage.
        camera_id: Key of the records.
        topic: Topic of frames.
        kafka: The broker.
        frames_per_second: Rate, in place of the footage's.
        max_speed: Whether to wait between frames at all.
        loop: Times the footage is sent.
        on_frame: Told the number of frames so far.

    Returns:
        The number of frames sent.

    Raises:
        ConfigError: The camera id or the topic is wrong.
        BrokerUnavailableError: No broker answers.
        DeliveryError: A frame was not confirmed.
        FootageError: The footage could not be read, or holds no frame.
    """
    if not CAMERA_ID.fullmatch(camera_id):
        raise ConfigError(f"--camera-id {camera_id!r} is not 1 to 128 of A-Z a-z 0-9 . _ -")
    reader = open_reader(kafka)
    try:
        # Asked of the producer, a topic that is not there cannot be told from a broker that does not answer.
        require_topics(reader, [topic], kafka)
    finally:
        reader.close()
    delivery = Delivery(kafka, linger_ms=5)
    sent = 0
    try:
        waiting: list[OutgoingRecord] = []
        due = time.monotonic()
        for _ in range(loop):
            for clip in clips:
                before_ms: int | None = None
                for frame in clip.frames():
                    if not max_speed and not clip.live:
                        step = frame.captured_at_ms - before_ms if before_ms is not None else 0
                        due += 1 / frames_per_second if frames_per_second else max(0, step) / 1000
                        time.sleep(max(0.0, due - time.monotonic()))
                    before_ms = frame.captured_at_ms
                    now_ms = round(time.time() * 1000)
                    headers = [(CAPTURED_AT_HEADER, str(now_ms).encode())]
                    waiting.append(OutgoingRecord(topic, camera_id.encode(), frame.data, headers, now_ms))
                    if len(waiting) >= (_CONFIRM_EVERY if max_speed else 1):
                        delivery.send(waiting)
                        sent += len(waiting)
                        waiting = []
                        on_frame(sent)
        delivery.send(waiting)
        sent += len(waiting)
    finally:
        delivery.close(10)
    if not sent:
        raise FootageError("the source gives no frame")
    return sent
