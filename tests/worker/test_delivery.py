"""What is sent arrives or is an error of ours, over a real broker."""

import json

import pytest
from kafka import TopicPartition

from contract.alert import Alert
from contract.errors import ConfigError, DeliveryError, FrameError
from contract.steady_consumer import SteadyConsumer
from deploy.broker import Topic, create_topics
from tests.worker.test_engine import BRIGHT, detector, frame
from tests.worker.test_records import record
from worker.delivery import Delivery
from worker.engine import Engine
from worker.kafka_clients import require_uncompressed
from worker.records import OutgoingRecord, alert_record, dead_letter_record
from worker.settings import KafkaSettings

pytestmark = pytest.mark.broker
WHY = FrameError("empty", "why")


@pytest.fixture
def topic(broker, request):
    name = request.node.name.replace("_", "-").replace("[", "-").replace("]", "")[:100]
    create_topics(broker, {name: Topic(1)})
    return name


@pytest.fixture
def kafka(broker):
    return KafkaSettings(bootstrap_servers=broker.bootstrap_servers)


@pytest.fixture
def delivery(kafka):
    opened = Delivery(kafka)
    yield opened
    opened.close(10)


def read(kafka, topic, count):
    consumer = SteadyConsumer(
        bootstrap_servers=kafka.bootstrap_servers, group_id=None, auto_offset_reset="earliest",
        max_partition_fetch_bytes=64 * 2**20,
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, 0)])
    records = []
    for _ in range(100):
        records += [one for part in consumer.poll(timeout_ms=200).values() for one in part]
        if len(records) >= count:
            break
    consumer.close()
    return records


@pytest.mark.parametrize(
    "unsendable",
    [
        record(headers=[("a", None), ("b", b"x")]),
        record(key=None, value=None),
        record(key=None, value=None, headers=[("a", None)], timestamp=None),
        record(value=None, timestamp=2**62),
        record(timestamp=-1),
    ],
    ids=["null-header", "null-null", "all-null", "far-future", "negative-time"],
)
def test_whatever_was_consumed_can_be_sent_as_a_dead_letter(kafka, topic, delivery, unsendable):
    delivery.send([dead_letter_record(unsendable, WHY, topic)])
    (letter,) = read(kafka, topic, 1)
    assert letter.key == unsendable.key
    assert (letter.value or None) == unsendable.value
    assert dict(letter.headers)["framewatch-reason"] == b"empty"


@pytest.mark.parametrize(
    "wrong",
    [
        OutgoingRecord("frames", b"k", b"v", [("a", None)]),
        OutgoingRecord("frames", None, None, []),
        OutgoingRecord("no such name", b"k", b"v", []),
        OutgoingRecord("frames", b"k", "text", []),
    ],
    ids=["null-header", "null-null", "bad-topic", "text"],
)
def test_whatever_the_client_refuses_is_a_delivery_error_that_names_the_topic(delivery, wrong):
    with pytest.raises(DeliveryError, match=f"record for {wrong.topic} was not confirmed"):
        delivery.send([wrong])


def test_what_is_too_large_for_the_topic_goes_without_its_bulk(broker, kafka, topic, delivery):
    small = f"{topic}-small"
    create_topics(broker, {small: Topic(1, {"max.message.bytes": "2500"})})
    outcomes = Engine(detector()).process([frame(i, BRIGHT) for i in range(3)])
    (alert,) = (alert for outcome in outcomes for alert in outcome.alerts)
    sent_alert = alert_record(alert, kafka)._replace(topic=small)
    letter = dead_letter_record(record(value=b"v" * 10_000), WHY, small)
    delivery.send([letter, sent_alert, OutgoingRecord(small, b"k", b"next", [])])
    delivery.send([OutgoingRecord(small, b"k", b"last", [])])
    # What is known to be too large is not tried again.
    opened = delivery._producer
    delivery.send([letter._replace(key=b"again")])
    assert delivery._producer is opened
    found = read(kafka, small, 5)
    values = [one.value for one in found]
    assert len(sent_alert.value) > 2500
    assert {b"", b"next", b"last"} < set(values)
    (bare,) = (Alert.model_validate_json(value) for value in values if value.startswith(b"{"))
    assert (bare.id, bare.data.snapshot) == (alert.id, None)
    stripped = [one for one in found if one.value == b""]
    assert [one.key for one in stripped] == [b"door", b"again"]
    assert all(dict(one.headers)["framewatch-value-left-out"] == b"10000" for one in stripped)


def test_what_is_too_large_for_the_producer_goes_without_its_bulk(kafka, topic, delivery):
    delivery.send([dead_letter_record(record(value=bytes(17 * 2**20)), WHY, topic)])
    (letter,) = read(kafka, topic, 1)
    assert letter.value == b""
    assert dict(letter.headers)["framewatch-value-left-out"] == str(17 * 2**20).encode()


def test_a_frame_of_the_greatest_size_is_dead_lettered_whole(broker, kafka, topic):
    wide = f"{topic}-wide"
    create_topics(broker, {wide: Topic(1, {"max.message.bytes": str(80 * 2**20)})})
    large = kafka.model_copy(update={"fetch_bytes": 40 * 2**20})
    delivery = Delivery(large)
    value = bytes(40 * 2**20 - 1024)
    delivery.send([dead_letter_record(record(value=value), WHY, wide)])
    delivery.close(10)
    (letter,) = read(kafka, wide, 1)
    assert len(letter.value) == len(value)


@pytest.mark.parametrize("linger_ms", [0, 5])
def test_a_short_delivery_timeout_leaves_room_for_the_linger(kafka, topic, linger_ms):
    short = kafka.model_copy(update={"delivery_timeout_ms": 5000})
    delivery = Delivery(short, linger_ms=linger_ms)
    delivery.send([OutgoingRecord(topic, b"k", json.dumps(1).encode(), [])])
    delivery.close(10)


@pytest.mark.parametrize("codec", ["zstd", "gzip"])
def test_a_frames_topic_that_compresses_is_refused(broker, kafka, codec):
    create_topics(broker, {f"compressed-{codec}": Topic(1, {"compression.type": codec})})
    with pytest.raises(ConfigError, match=rf"topic compressed-{codec} has compression\.type={codec}"):
        require_uncompressed(kafka.model_copy(update={"frames_topic": f"compressed-{codec}"}))


def test_a_frames_topic_that_leaves_it_to_producers_is_warned_of_and_one_without_compression_is_not(
    broker, kafka, topic, caplog
):
    create_topics(broker, {"plain": Topic(1, {"compression.type": "uncompressed"})})
    require_uncompressed(kafka.model_copy(update={"frames_topic": "plain"}))
    assert caplog.text == ""
    require_uncompressed(kafka.model_copy(update={"frames_topic": topic}))
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert "compression.type=producer" in caplog.text


def test_what_is_too_large_and_has_nothing_to_leave_out_is_a_delivery_error(broker, kafka, topic, delivery):
    small = f"{topic[:60]}-small"
    create_topics(broker, {small: Topic(1, {"max.message.bytes": "4000"})})
    with pytest.raises(DeliveryError, match=rf"record for {small} of 5001 bytes is too large"):
        delivery.send([OutgoingRecord(small, b"k", bytes(5000), [])])
