"""What a record says is taken or refused by its form alone, and what is sent says where it came from."""

import json
from types import SimpleNamespace

import pytest

from contract.alert import CONTENT_TYPE, Alert
from contract.errors import FrameError
from tests.worker.test_engine import BRIGHT, detector, frame
from worker.engine import Engine
from worker.records import (
    UnreadableRecord,
    alert_record,
    dead_letter_record,
    read_frame,
    record_bytes,
    score_record,
    without_bulk,
)
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
    assert (letter.key, letter.value, letter.timestamp_ms) == (None, b"", None)
    assert headers["framewatch-null-value"] == b"true"
    assert headers["framewatch-timestamp-ms"] == b"-1"
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
    sent = score_record(outcome, "scores")
    assert (sent.topic, sent.key, sent.timestamp_ms) == ("scores", b"door", None)
    assert json.loads(sent.value) == {
        "camera_id": "door",
        "topic": "frames",
        "partition": 3,
        "offset": 9,
        "captured_at_ms": 9000,
        "anomaly_score": outcome.anomaly_score,
        "threshold": outcome.threshold,
        "is_anomalous": True,
        "counts": True,
        "bundle_digest": "sha256:" + "a" * 64,
    }


def test_an_alert_record_is_structured_cloud_events_keyed_by_camera():
    outcomes = Engine(detector()).process([frame(i, BRIGHT) for i in range(3)])
    (alert,) = (alert for outcome in outcomes for alert in outcome.alerts)
    sent = alert_record(alert, KAFKA)
    assert (sent.topic, sent.key) == (KAFKA.alerts_topic, b"door")
    assert sent.headers == [("content-type", b"application/cloudevents+json; charset=UTF-8")]
    assert sent.timestamp_ms is None
    assert Alert.model_validate_json(sent.value) == alert


def test_the_same_frames_give_the_same_records():
    def sent():
        outcomes = Engine(detector()).process([frame(i, BRIGHT) for i in range(3)])
        return [score_record(outcome, "scores") for outcome in outcomes] + [
            alert_record(alert, KAFKA) for outcome in outcomes for alert in outcome.alerts
        ]

    assert sent() == sent()


def test_a_header_without_a_value_becomes_an_empty_one_that_is_named():
    letter = dead_letter_record(
        record(headers=[("a", None), ("b", b"x"), ("c", None)]), FrameError("empty", "why"), "dead"
    )
    assert letter.headers[:3] == [("a", b""), ("b", b"x"), ("c", b"")]
    assert dict(letter.headers)["framewatch-null-headers"] == b"a,c"


def test_a_value_that_is_absent_stays_so_where_there_is_a_key():
    letter = dead_letter_record(record(value=None), FrameError("empty", "why"), "dead")
    assert letter.value is None
    assert "framewatch-null-value" not in dict(letter.headers)


def test_a_record_that_could_not_be_read_is_refused_with_what_the_client_said():
    unreadable = UnreadableRecord("frames", 2, 5, "frames[2]@5 cannot be read")
    with pytest.raises(FrameError) as caught:
        read_frame(unreadable)
    assert caught.value.reason == "unreadable_record"
    headers = dict(dead_letter_record(unreadable, caught.value, "dead").headers)
    assert (headers["framewatch-partition"], headers["framewatch-offset"]) == (b"2", b"5")
    assert headers["framewatch-error"] == b"frames[2]@5 cannot be read"


def test_an_alert_without_its_bulk_is_the_alert_without_pictures():
    outcomes = Engine(detector()).process([frame(i, BRIGHT) for i in range(3)])
    (alert,) = (alert for outcome in outcomes for alert in outcome.alerts)
    smaller = without_bulk(alert_record(alert, KAFKA))
    bare = Alert.model_validate_json(smaller.value)
    assert (bare.data.snapshot, bare.data.heat_map) == (None, None)
    assert (bare.id, bare.data.boxes) == (alert.id, alert.data.boxes)
    assert without_bulk(smaller) is None


def test_a_dead_letter_without_its_bulk_still_says_why_and_where():
    big = record(key=b"k" * 5000, value=b"v" * 100, headers=[("own", b"h" * 100)])
    smaller = without_bulk(dead_letter_record(big, FrameError("too_many_bytes", "why"), "dead"))
    headers = dict(smaller.headers)
    assert (smaller.key, smaller.value) == (None, b"")
    assert headers["framewatch-value-left-out"] == b"100"
    assert (headers["framewatch-reason"], headers["framewatch-offset"]) == (b"too_many_bytes", b"5")
    assert "own" not in headers
    assert without_bulk(smaller) is None


def test_a_score_has_no_bulk_to_leave_out():
    (outcome,) = Engine(detector()).process([frame(9, BRIGHT)])
    assert without_bulk(score_record(outcome, "scores")) is None


def test_a_sender_cannot_pass_a_dead_letter_off_as_an_alert():
    headers = [("content-type", CONTENT_TYPE.encode())]
    letter = dead_letter_record(record(value=b"x" * 5000, headers=headers), FrameError("malformed", "why"), "dead")
    smaller = without_bulk(letter)
    assert smaller.value == b""
    assert dict(smaller.headers)["framewatch-value-left-out"] == b"5000"


def test_all_that_a_record_holds_is_counted():
    assert record_bytes(record(key=b"door", value=b"12345", headers=[("name", b"123"), ("none", None)])) == 20
    assert record_bytes(record(key=None, value=None, headers=[])) == 0
    assert record_bytes(UnreadableRecord("frames", 0, 1, "why")) == 0
