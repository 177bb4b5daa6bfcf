"""What is counted of finished frames, and how old what waits is."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest

from contract.errors import FrameError
from tests.worker.test_camera_health import silent_engine
from tests.worker.test_engine import DARK, VISIT, detector, frame
from worker.engine import Engine
from worker.records import UnreadableRecord
from worker.tally import Ages, Tally
from worker.telemetry import Metrics

NOW = 1_700_000_000.0
NOW_MS = int(NOW * 1000)


def scrape(metrics):
    return generate_latest(metrics.registry).decode()


def record(offset, timestamp, partition=0, key=b"door"):
    return SimpleNamespace(
        topic="frames", partition=partition, offset=offset, timestamp=timestamp, timestamp_type=0, key=key, headers=[]
    )


@pytest.fixture
def served_room():
    at = [1000.0]
    frames = [frame(offset, DARK + offset) for offset in range(20)]
    return silent_engine(detector(), at), at, frames


@pytest.fixture
def ages():
    return Ages(clock=lambda: NOW)


def test_the_oldest_frame_that_is_not_finished_says_how_old_what_waits_is(ages):
    ages.note([record(5, NOW_MS - 9000), record(6, NOW_MS - 4000), record(9, NOW_MS - 1000)])
    ages.note([record(3, NOW_MS - 20_000, partition=1)])
    assert [ages.oldest_seconds(0, offset) for offset in (5, 6, 7, 9, 10)] == [9.0, 4.0, 1.0, 1.0, 0.0]
    assert ages.oldest_seconds(1, 0) == 20.0
    ages.forget(1)
    assert ages.oldest_seconds(1, 0) == 0.0


def test_a_partition_that_is_read_again_is_as_old_as_what_is_read(ages):
    ages.note([record(5, NOW_MS - 9000), record(6, NOW_MS - 8000)])
    ages.note([record(2, NOW_MS - 30_000)])
    assert ages.oldest_seconds(0, 0) == 30.0
    assert ages.oldest_seconds(0, 3) == 0.0


@pytest.mark.parametrize("timestamp", [None, -1, 0, NOW_MS + 3_600_000])
def test_a_time_that_cannot_be_true_is_no_age(ages, timestamp):
    ages.note([record(5, timestamp)])
    assert ages.oldest_seconds(0, 0) == 0.0
    ages.note([record(6, NOW_MS - 3000)])
    assert ages.oldest_seconds(0, 0) == 3.0


def test_a_record_that_cannot_be_read_has_no_age(ages):
    ages.note([UnreadableRecord("frames", 0, 5, "why")])
    assert ages.oldest_seconds(0, 5) == 0.0


def told(*, is_live):
    metrics = Metrics()
    tally = Tally(metrics, is_live=is_live, clock=lambda: NOW)
    frames = [
        replace(frame(offset, level), captured_at_ms=NOW_MS - 2000 + 10 * offset) for offset, level in enumerate(VISIT)
    ]
    for outcome in Engine(detector()).process(frames):
        tally.frame(outcome, record(outcome.frame.offset, outcome.frame.captured_at_ms))
    return scrape(metrics)


def test_the_delay_of_an_alert_is_that_of_its_start_and_of_no_later_one():
    text = told(is_live=True)
    assert "framewatch_capture_to_alert_seconds_count 1.0" in text
    # Its second anomalous frame tells of it.
    assert "framewatch_capture_to_alert_seconds_sum 1.98" in text
    assert 'framewatch_alerts_total{type="framewatch.anomaly.ended.v1"} 1.0' in text
    assert f"framewatch_capture_to_score_seconds_count {len(VISIT)}.0" in text


def test_a_replay_tells_no_delay():
    text = told(is_live=False)
    assert "framewatch_capture_to_alert_seconds_count 0.0" in text
    assert "framewatch_capture_to_score_seconds_count 0.0" in text
    assert 'framewatch_alerts_total{type="framewatch.anomaly.started.v1"} 1.0' in text


def test_a_letter_s_line_says_where_it_was_and_whose(caplog):
    caplog.set_level(logging.WARNING)
    letters = [
        (record(7, None, partition=2), FrameError("empty", "no bytes")),
        (record(8, None, key=b"\xff"), FrameError("bad_camera_id", "no name")),
    ]
    Tally(Metrics(), is_live=True).letters(letters)
    first, second = caplog.records
    assert (first.camera, first.partition, first.offset, first.reason) == ("door", 2, 7, "empty")
    assert (second.partition, second.offset) == (0, 8)
    assert not hasattr(second, "camera")


def test_an_event_is_open_from_its_start_to_its_end():
    engine = Engine(detector())
    frames = [frame(offset, level) for offset, level in enumerate(VISIT)]
    assert engine.find_open() == (0, set())
    opens = []
    for one in frames:
        engine.process([one])
        opens.append(engine.find_open()[0])
    assert opens == [0, 0, 1, 1, 1, 0, 0, 0]


def test_an_ill_camera_is_shown_until_it_is_well(served_room):
    engine, at, frames = served_room
    metrics = Metrics()
    engine.process(frames[:10])
    at[0] += 60
    assert len(engine.find_silent("frames", 0, 0.0, at[0])) == 1
    metrics.show_open(*engine.find_open())
    camera = frames[0].camera_id
    assert f'framewatch_camera_unwell{{camera="{camera}",state="silent"}} 1.0' in scrape(metrics)
    engine.process(frames[10:])
    metrics.show_open(*engine.find_open())
    assert "framewatch_camera_unwell{" not in scrape(metrics)
