"""What a record says is taken or refused by its form alone, and what is sent says where it came from."""

import json
from types import SimpleNamespace

import pytest

from contract.alert import Alert
from contract.errors import FrameError
from tests.worker.test_engine import BRIGHT, detector, frame
from worker.engine import Engine
from worker.records import alert_record, dead_letter_record, read_frame, score_record
from worker.settings import KafkaSettings

KAFKA = KafkaSettings()


def record(*, key=b"door", value=b"raw", headers=(), timestamp=7, offset=5):
    return SimpleNamespace(
        topic="frames", partition=2, offset=offset, key=key, value=value, headers=list(headers), timestamp=timestamp
    )


def test_a_record_is_a_frame_with_its_place():
    read = read_frame(record(headers=[("captured-at-ms", b"1234")]))
    assert (read.camera_id, read.topic, read.partition, read.offset) == ("door", "frames", 2, 5)
    assert (read.captured_at_ms, read.data) == (1234, b"raw")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "bad_camera_id"),
        (b"", "bad_camera_id"),
        (b"a" * 129, "bad_camera_id"),
        (b"\xff\xfe", "bad_camera_id"),
        (b"door\n", "bad_camera_id"),
        (b"do\x1b[31mor", "bad_camera_id"),
        (b"../door", "bad_camera_id"),
        (b"a/b", "bad_camera_id"),
        (b"my door", "bad_camera_id"),
        ("tür".encode(), "bad_camera_id"),
        (b"do\x00or", "bad_camera_id"),
    ],
)
def test_a_key_that_is_no_camera_id_is_refused_in_one_printable_line(key, reason):
    with pytest.raises(FrameError) as caught:
        read_frame(record(key=key))
    assert caught.value.reason == reason
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_the_longest_camera_id_is_taken():
    assert read_frame(record(key=b"a" * 128)).camera_id == "a" * 128


def test_ten_thousand_headers_are_refused_and_a_hundred_taken():
    read_frame(record(headers=[("n", b"")] * 100))
    with pytest.raises(FrameError) as caught:
        read_frame(record(headers=[("n", b"")] * 10_000))
    assert caught.value.reason == "too_many_headers"


def test_a_value_that_is_absent_is_the_engine_s_to_refuse():
    (outcome,) = Engine(detector()).process([read_frame(record(value=None))])
    assert outcome.error.reason == "empty"


def test_a_dead_letter_says_why_and_where_it_stood():
    letter = dead_letter_record(record(key=None, value=None, timestamp=-1), FrameError("empty", "why" * 1000), "dead")
    headers = dict(letter.headers)
    assert (letter.key, letter.value, letter.timestamp_ms) == (None, None, 0)
    assert headers["framewatch-reason"] == b"empty"
    assert headers["framewatch-error"] == (b"why" * 1000)[:500]
    assert (headers["framewatch-topic"], headers["framewatch-partition"], headers["framewatch-offset"]) == (
        b"frames",
        b"2",
        b"5",
    )
    assert headers["framewatch-headers-left-out"] == b"0"


def test_a_score_record_says_whose_frame_it_is_and_is_keyed_by_camera():
    (outcome,) = Engine(detector()).process([frame(9, BRIGHT, partition=3)])
    sent = score_record(outcome, 6.0, "scores")
    assert (sent.topic, sent.key, sent.timestamp_ms) == ("scores", b"door", 9000)
    assert json.loads(sent.value) == {
        "camera_id": "door",
        "topic": "frames",
        "partition": 3,
        "offset": 9,
        "captured_at_ms": 9000,
        "anomaly_score": outcome.anomaly_score,
        "threshold": 6.0,
        "is_anomalous": True,
    }


def test_an_alert_record_is_structured_cloud_events_keyed_by_camera():
    outcomes = Engine(detector()).process([frame(i, BRIGHT) for i in range(3)])
    (alert,) = (alert for outcome in outcomes for alert in outcome.alerts)
    sent = alert_record(alert, KAFKA)
    assert (sent.topic, sent.key) == (KAFKA.alerts_topic, b"door")
    assert sent.headers == [("content-type", b"application/cloudevents+json; charset=UTF-8")]
    assert sent.timestamp_ms == 1000
    assert Alert.model_validate_json(sent.value) == alert


def test_the_same_frames_give_the_same_records():
    def sent():
        outcomes = Engine(detector()).process([frame(i, BRIGHT) for i in range(3)])
        return [score_record(outcome, 6.0, "scores") for outcome in outcomes] + [
            alert_record(alert, KAFKA) for outcome in outcomes for alert in outcome.alerts
        ]

    assert sent() == sent()
