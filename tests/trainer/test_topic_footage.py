"""A camera's footage read from a real topic: exactly the frames that a fit should see, and from disk after that."""

import io
from collections import Counter
from dataclasses import replace
from datetime import datetime

import cv2
import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from rich.console import Console

from contract.errors import BrokerUnavailableError, ConfigError, FootageError
from contract.event_spans import EventSpan
from contract.frame import FrameLimits, Preprocessing
from contract.kafka_source import parse_kafka_source
from contract.steady_consumer import SteadyConsumer
from deploy.broker import Topic, create_topics
from tests.footage import TINY
from tests.worker.console.records import anomaly, event_id, said
from trainer import topic_filler, topic_planning
from trainer.footage import FootageReader
from trainer.footage_cache import FootageCache
from trainer.settings import FitSettings
from trainer.topic_footage import TopicFootage, read_spans
from trainer.topic_planning import camera_spans
from trainer.topic_reader import TopicReader

pytestmark = pytest.mark.broker
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
BASE = 20_000 * DAY_MS
DAYS = 3
SECONDS = 40
KEPT = {"retention.ms": "-1"}


def picture(number, side=32):
    """A small JPEG like no other: its number stands behind the end marker, which a decoder does not look at."""
    pixels = np.full((side, side), 40 + number % 160, np.uint8)
    pixels[number % side] = 255
    return cv2.imencode(".jpg", pixels)[1].tobytes() + number.to_bytes(4, "big")


def shown(number):
    """When a frame was captured: forty seconds at the beginning of every hour, a frame a second."""
    hours, second = divmod(number, SECONDS)
    return BASE + hours * HOUR_MS + second * 1000


FRAMES = [picture(number) for number in range(DAYS * 24 * SECONDS)]


def send(broker, records):
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=20)
    futures = [producer.send(topic, value, key=key, timestamp_ms=at_ms) for topic, key, value, at_ms in records]
    producer.flush(60)
    for future in futures:
        future.get(timeout=20)
    producer.close()


@pytest.fixture(scope="module")
def topics(broker):
    """Three days of two cameras, four events of one of them, and what was said of these."""
    names = {kind: f"topic-footage-{kind}" for kind in ("frames", "alerts", "feedback")}
    create_topics(broker, {name: Topic(3, KEPT) for name in names.values()})
    frames = [
        (names["frames"], camera, data, shown(number))
        for number, data in enumerate(FRAMES)
        for camera in (b"door", b"yard")
    ]
    send(broker, frames)
    alerts, feedback = names["alerts"], names["feedback"]

    def event(number, first_second, last_second, hour):
        start, end = BASE + hour * HOUR_MS + first_second * 1000, BASE + hour * HOUR_MS + last_second * 1000
        return [
            (alerts, b"door", anomaly(number, kind, at_ms=start, ended_at_ms=end if kind == "ended" else None), end)
            for kind in ("started", "updated", "ended")
        ]

    told = [*event(1, 10, 15, 5), *event(2, 5, 10, 30), *event(3, 0, 30, 55), *event(4, 20, 20, 60)]
    told += [(alerts, b"yard", anomaly(9, "ended", "yard", at_ms=BASE, ended_at_ms=BASE + DAYS * DAY_MS), BASE)]
    told += [(alerts, b"door", b"{}", BASE)]
    told += [(feedback, b"door", said(number, verdict), BASE + DAY_MS) for number, verdict in
             ((1, "false_alarm"), (1, "confirmed"), (2, "false_alarm"))]  # fmt: skip
    send(broker, told)
    return names


IN_EVENTS = {
    *range(5 * SECONDS + 8, 5 * SECONDS + 18), *range(55 * SECONDS, 55 * SECONDS + 33),
    *range(60 * SECONDS + 18, 60 * SECONDS + 23),
}  # fmt: skip
"""Frames of the confirmed event and of those that nobody judged, with two seconds before and after; a false alarm's
are not among them."""


def settings_of(topics, folder, **topic):
    named = {"alerts_topic": topics["alerts"], "feedback_topic": topics["feedback"], "margin_seconds": 2}
    return FitSettings(**TINY, epochs=1, topic={**named, "footage_cache": folder, **topic})


def address_of(broker, topics, query="", camera="door"):
    return parse_kafka_source(f"kafka://{broker.bootstrap_servers}/{topics['frames']}?camera={camera}{query}")


@pytest.fixture
def opened(broker, topics, tmp_path):
    def open_footage(query="", camera="door", console=None, goes_on=False, **topic):
        console = console or Console(quiet=True)
        settings = settings_of(topics, tmp_path / "cache", **topic)
        return TopicFootage(address_of(broker, topics, query, camera), settings, console, goes_on=goes_on)

    return open_footage


def numbers(clips):
    return [int.from_bytes(frame.data[-4:], "big") for clip in clips for frame in clip.frames()]


def content(clips):
    return [(clip.name, [(frame.index, frame.captured_at_ms, frame.data) for frame in clip.frames()]) for clip in clips]


def no_reading(monkeypatch):
    def refuse(*_):
        raise AssertionError("the topic was read")

    monkeypatch.setattr(TopicReader, "records", refuse)


def test_where_there_is_less_than_is_wanted_all_is_taken_but_the_events(opened):
    said_lines = io.StringIO()
    footage = opened(console=Console(file=said_lines, width=200))
    assert sorted(numbers(footage)) == sorted(set(range(len(FRAMES))) - IN_EVENTS)
    for clip in footage:
        for frame in clip.frames():
            number = int.from_bytes(frame.data[-4:], "big")
            assert (frame.captured_at_ms, frame.data) == (shown(number), FRAMES[number])
    # Two stretches that touch are one clip, and what is left out leaves a gap, so that no motion is seen across it.
    by_name = {clip.name: [frame.index for frame in clip.frames()] for clip in footage}
    assert len(by_name) == DAYS * 24
    assert by_name["door@2024-10-04T04:00:00Z"] == list(range(40))
    assert by_name["door@2024-10-04T05:00:00Z"] == [*range(8), *range(18, 40)]
    assert footage.record() == {
        "from_ms": BASE, "to_ms": shown(len(FRAMES) - 1) + 1, "frames_wanted": 20_000,
        "frames_read": len(FRAMES) - len(IN_EVENTS), "stretches": DAYS * 24 * 2 - 1, "events_left_out": 3,
        "events_without_end": 0, "false_alarms_kept": 1, "seconds_left_out": 47.003,
        "frames_left_out": len(IN_EVENTS) - 20, "frames_no_picture": 0, "passed_over": {"alert": 1},
    }  # fmt: skip
    assert "3 events left out" in said_lines.getvalue()
    assert "1 false alarms kept" in said_lines.getvalue()


def test_of_more_than_is_wanted_each_hour_of_the_day_gives_its_share(opened):
    footage = opened(max_frames=480)
    taken = numbers(footage)
    assert len(taken) == len(set(taken)) == 480
    assert not set(taken) & IN_EVENTS
    hours = Counter(number // SECONDS % 24 for number in taken)
    assert set(hours) == set(range(24))
    assert max(hours.values()) <= 40
    days = Counter(number // SECONDS // 24 for number in taken)
    assert min(days.values()) >= 80
    assert footage.record()["frames_read"] == 480


def test_a_range_in_time_is_kept(opened):
    assert sorted(numbers(opened(f"&from={shown(90)}&to={shown(130)}"))) == list(range(90, 130))


def test_held_out_parts_are_of_all_times_of_day(opened, tmp_path):
    footage = opened(max_frames=2_000)
    reader = FootageReader(Preprocessing(height=32, width=32), FrameLimits(), tmp_path, lambda _: None)
    read = reader.read(footage)
    times = [
        datetime.fromisoformat(segment.clip.partition("@")[2]).hour
        for segment in read.segments
        for _ in range(segment.start, segment.stop)
    ]
    for part in read.split(0.15, 0.2, 0.5):
        quarters = Counter(times[place] // 6 for place in part.places.tolist())
        assert min(quarters[quarter] for quarter in range(4)) >= len(part) / 4 * 0.6


def test_the_second_time_all_is_read_from_disk(opened, monkeypatch):
    before = content(opened(max_frames=480))
    no_reading(monkeypatch)
    assert content(opened(max_frames=480)) == before
    # Nor does one that goes on ask the broker for anything.
    monkeypatch.setattr(topic_planning, "open_reader", None)
    monkeypatch.setattr(topic_filler, "open_reader", None)
    assert content(opened(max_frames=480, goes_on=True)) == before


def test_a_new_verdict_makes_another_plan(broker, topics, opened):
    before = set(numbers(opened()))
    send(broker, [(topics["feedback"], b"door", said(4, "false_alarm"), BASE + 5 * DAY_MS)])
    after = set(numbers(opened()))
    assert after - before == set(range(60 * SECONDS + 18, 60 * SECONDS + 23))
    send(broker, [(topics["feedback"], b"door", said(4, "confirmed"), BASE + 6 * DAY_MS)])
    assert set(numbers(opened())) == before


def test_one_that_was_stopped_goes_on_where_it_stopped(opened, monkeypatch):
    whole = content(opened(max_frames=960, stretch_seconds=10))
    add = FootageCache.add
    added = []

    def stopping(cache, number, frames):
        if len(added) % 7 == 6:
            added.append(None)
            raise KeyboardInterrupt
        added.append(number)
        return add(cache, number, frames)

    monkeypatch.setattr(FootageCache, "add", stopping)
    stops = 0
    while True:
        try:
            # Another margin is another plan, of the same frames where no event is near.
            clips = content(opened(max_frames=960, stretch_seconds=10, margin_seconds=2.0001, goes_on=True))
            break
        except KeyboardInterrupt:
            stops += 1
    assert clips == whole
    assert stops > 5
    read = [number for number in added if number is not None]
    assert len(read) == len(set(read)), "a stretch was read twice"


def test_what_the_topic_has_dropped_meanwhile_is_still_there(broker, topics, tmp_path):
    own = {**topics, "frames": "topic-footage-dropped"}
    create_topics(broker, {own["frames"]: Topic(1, KEPT)})
    send(broker, [(own["frames"], b"door", FRAMES[number], shown(number)) for number in range(400)])
    settings = settings_of(topics, tmp_path / "cache", max_frames=100)

    def footage():
        return content(TopicFootage(address_of(broker, own), settings, Console(quiet=True)))

    before = footage()
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
        admin.delete_records({TopicPartition(own["frames"], 0): 390})
    assert footage() == before
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
        admin.delete_records({TopicPartition(own["frames"], 0): 400})
    assert footage() == before


def test_footage_that_was_read_is_taken_again_where_no_broker_answers(broker, topics, opened, monkeypatch):
    before = content(opened(max_frames=480))

    def gone(*_, **__):
        raise BrokerUnavailableError("no Kafka broker answers")

    monkeypatch.setattr(topic_planning, "open_reader", gone)
    lines = io.StringIO()
    assert content(opened(max_frames=480, console=Console(file=lines, width=200))) == before
    assert "no Kafka broker answers; the footage is that which was read before" in lines.getvalue()
    with pytest.raises(BrokerUnavailableError):
        len(opened(max_frames=500))


def test_frames_that_are_no_pictures_are_left_out_up_to_one_in_a_hundred(broker, topics, tmp_path):
    own = {**topics, "frames": "topic-footage-bad"}
    create_topics(broker, {own["frames"]: Topic(2, KEPT)})
    settings = settings_of(topics, tmp_path / "cache")
    records = [(own["frames"], b"door", FRAMES[number], shown(number)) for number in range(200)]
    records[50] = records[50][0], b"door", b"no picture", shown(50)
    records[51] = records[51][0], b"door", None, shown(51)
    send(broker, records)
    footage = TopicFootage(address_of(broker, own), settings, Console(quiet=True))
    assert sorted(numbers(footage)) == sorted(set(range(200)) - {50, 51})
    assert footage.record()["frames_no_picture"] == 2
    send(broker, [(own["frames"], b"door", b"", shown(200))])
    with pytest.raises(
        FootageError, match=r"3 of 201 frames are no pictures, the first is .*topic-footage-bad\[\d\]@50"
    ):
        len(TopicFootage(address_of(broker, own), settings, Console(quiet=True)))


def test_frames_of_another_size_are_another_clip(broker, topics, tmp_path):
    own = {**topics, "frames": "topic-footage-sizes"}
    create_topics(broker, {own["frames"]: Topic(1, KEPT)})
    values = [FRAMES[number] if number < 30 else picture(number, side=48) for number in range(40)]
    send(broker, [(own["frames"], b"door", value, shown(number)) for number, value in enumerate(values)])
    settings = settings_of(topics, tmp_path / "cache")
    footage = TopicFootage(address_of(broker, own), settings, Console(quiet=True))
    lengths = {clip.name: [frame.index for frame in clip.frames()] for clip in footage}
    assert lengths == {
        "door@2024-10-04T00:00:00Z": list(range(30)), "door@2024-10-04T00:00:20Z+10": list(range(10))
    }  # fmt: skip


def test_footage_of_events_with_a_lead_in_is_named_by_their_ids(broker, topics, tmp_path, monkeypatch):
    settings = settings_of(topics, tmp_path / "cache")
    address = address_of(broker, topics)
    spans = camera_spans(address, settings.topic, lambda _: None)
    assert [span.verdict for span in spans] == ["confirmed", "false_alarm", None, "confirmed"]
    spans = [*spans, EventSpan("f" * 32, BASE - DAY_MS, BASE - DAY_MS + 1)]
    # Three seconds before the first frame; the second event begins at 5 s of hour 30, the third with its hour's frames.
    expected = {
        event_id(number): list(range(hour * SECONDS + first, hour * SECONDS + last + 1))
        for number, hour, first, last in ((1, 5, 7, 15), (2, 30, 2, 10), (3, 55, 0, 30), (4, 60, 17, 20))
    }
    for _ in range(2):
        clips = read_spans(address, spans, settings, Console(quiet=True), lead_in_seconds=3)
        assert {clip.name: numbers([clip]) for clip in clips} == expected
        no_reading(monkeypatch)


@pytest.mark.parametrize(
    ("topic", "kind", "match"),
    [
        ({"alerts_topic": "topic-footage-none"}, ConfigError, r"topic-footage-none is not on .* null"),
        ({"feedback_topic": "topic-footage-none"}, ConfigError, "topic-footage-none is not on"),
    ],
)
def test_a_topic_that_is_named_and_not_there_is_refused(opened, topic, kind, match):
    with pytest.raises(kind, match=match):
        len(opened(**topic))


def test_without_alerts_nothing_is_left_out_and_without_feedback_false_alarms_are_too(
    broker, topics, tmp_path, monkeypatch
):
    # Whatever topics other users of the broker made.
    there = SteadyConsumer.topics
    monkeypatch.setattr(SteadyConsumer, "topics", lambda self: there(self) - {"feedback"})
    quiet = Console(quiet=True)
    settings = settings_of(topics, tmp_path / "cache", alerts_topic=None)
    assert len(numbers(TopicFootage(address_of(broker, topics), settings, quiet))) == len(FRAMES)
    lines = io.StringIO()
    unnamed = FitSettings(
        **TINY,
        epochs=1,
        topic={"alerts_topic": topics["alerts"], "footage_cache": tmp_path / "cache", "margin_seconds": 2},
    )
    footage = TopicFootage(address_of(broker, topics), unnamed, Console(file=lines, width=200))
    left_out = IN_EVENTS | set(range(30 * SECONDS + 3, 30 * SECONDS + 13))
    assert sorted(numbers(footage)) == sorted(set(range(len(FRAMES))) - left_out)
    assert "topic feedback is not there" in lines.getvalue()


def test_a_camera_or_a_time_of_which_there_is_nothing_is_said(opened):
    lines = io.StringIO()
    with pytest.raises(FootageError, match=r"holds no frame of camera attic .* is the camera's name right"):
        len(opened(camera="attic", console=Console(file=lines, width=200)))
    assert "no frame of camera attic in the first 48 stretches" in lines.getvalue()
    with pytest.raises(FootageError, match="holds nothing of this range"):
        len(opened("&to=5"))


def test_only_the_camera_s_partition_is_read_once_it_is_known(opened, monkeypatch):
    looked = Counter()
    records = TopicReader.records

    def counted(reader, start_ms, end_ms, partition):
        looked[partition] += 1
        return records(reader, start_ms, end_ms, partition)

    monkeypatch.setattr(TopicReader, "records", counted)
    assert len(numbers(opened(max_frames=480, margin_seconds=1))) == 480
    assert sorted(looked.values())[-1] >= 24
    assert sorted(looked.values())[:-1] in ([1, 1], [1])


def test_frames_of_a_partition_that_was_added_are_found(broker, topics, tmp_path):
    own = {**topics, "frames": "topic-footage-added"}
    create_topics(broker, {own["frames"]: Topic(2, KEPT)})
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for number in range(400):
        partition = 0 if number < 200 else 1
        producer.send(own["frames"], FRAMES[number], key=b"door", partition=partition, timestamp_ms=shown(number))
    producer.flush()
    producer.close()
    footage = TopicFootage(address_of(broker, own), settings_of(topics, tmp_path / "cache"), Console(quiet=True))
    assert sorted(numbers(footage)) == sorted(set(range(400)) - IN_EVENTS)


def test_a_plan_of_another_address_is_another_cache(broker, topics, opened, tmp_path):
    assert len(numbers(opened(max_frames=40))) == 40
    assert len(numbers(opened(max_frames=40, camera="yard", alerts_topic=None))) == 40
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 2
    changed = replace(address_of(broker, topics), topic="topic-footage-nowhere")
    with pytest.raises(FootageError, match="is not on"):
        len(TopicFootage(changed, settings_of(topics, tmp_path / "cache"), Console(quiet=True)))
