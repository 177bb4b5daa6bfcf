"""Exactly-once against a real broker: what is told is told once, whoever is killed, evicted or fenced."""

import contextlib
import json
import os
import signal
import time
import uuid
from types import SimpleNamespace

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata

from contract.errors import DeliveryError
from deploy.broker import Topic, create_topics
from tests.worker.deployment import frames_of, terminate, wait_until
from worker.kafka_clients import open_producer
from worker.records import OutgoingRecord
from worker.settings import KafkaSettings
from worker.transactions import AbortedError, Transactions, is_member

pytestmark = pytest.mark.broker


@contextlib.contextmanager
def no_watch(_name, _seconds):
    yield


@contextlib.contextmanager
def opened(kafka):
    transactions = Transactions(kafka, no_watch)
    try:
        yield transactions
    finally:
        transactions.close(5)


def settings_for(broker, **changes):
    return KafkaSettings(
        bootstrap_servers=broker.bootstrap_servers, group_id=f"group-{uuid.uuid4().hex[:8]}", delivery="exactly_once",
        delivery_timeout_ms=10_000, **changes,
    )  # fmt: skip


@pytest.fixture
def topic(broker):
    name = f"once-{uuid.uuid4().hex[:8]}"
    create_topics(broker, {name: Topic(2)})
    return name


@contextlib.contextmanager
def a_member(kafka, topic):
    """A consumer that has joined the group."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap_servers, group_id=kafka.group_id, enable_auto_commit=False,
        isolation_level="read_committed", session_timeout_ms=6000, heartbeat_interval_ms=1000,
    )  # fmt: skip
    try:
        wait_until(lambda: consumer.poll(200) is not None and is_member(consumer.group_metadata()))
        yield consumer
    finally:
        consumer.close(autocommit=False)


def membership(consumer):
    return consumer.group_metadata()


def record(topic, text):
    return OutgoingRecord(topic, b"door", text.encode(), [])


def read(broker, topic):
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, group_id=None, isolation_level="read_committed",
        auto_offset_reset="earliest",
    )  # fmt: skip
    partitions = [TopicPartition(topic, number) for number in (0, 1)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    values = []
    ends_at = time.monotonic() + 20
    while any(consumer.position(tp) < end for tp, end in ends.items()) and time.monotonic() < ends_at:
        values += [one.value.decode() for part in consumer.poll(200).values() for one in part]
    consumer.close()
    return sorted(values)


def committed(broker, group, topic):
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, group_id=group, isolation_level="read_committed"
    )
    offsets = [consumer.committed(TopicPartition(topic, number)) for number in (0, 1)]
    consumer.close()
    return offsets


def test_records_offsets_and_state_come_together(broker, topic):
    kafka = settings_for(broker)
    with a_member(kafka, topic) as consumer, opened(kafka) as transactions:
        transactions.send([record(topic, "one"), record(topic, "two")], membership(consumer))
        assert read(broker, topic) == []
        transactions.commit({TopicPartition(topic, 0): OffsetAndMetadata(7, "state", -1)})
        assert not transactions.is_open
        assert read(broker, topic) == ["one", "two"]
        assert consumer.committed(TopicPartition(topic, 0), metadata=True)[:2] == (7, "state")


def test_offsets_of_an_aborted_transaction_are_in_none_that_follows(broker, topic):
    kafka = settings_for(broker)
    with a_member(kafka, topic) as consumer, opened(kafka) as transactions:
        stale = membership(consumer)._replace(generation_id=membership(consumer).generation_id + 5)
        transactions.send([record(topic, "lost")], stale)
        with pytest.raises(AbortedError) as told:
            transactions.commit({TopicPartition(topic, 0): OffsetAndMetadata(99, "", -1)})
        assert "IllegalGenerationError" in str(told.value.__cause__)
        transactions.send([record(topic, "kept")], membership(consumer))
        transactions.commit({TopicPartition(topic, 1): OffsetAndMetadata(3, "", -1)})
    assert read(broker, topic) == ["kept"]
    assert committed(broker, kafka.group_id, topic) == [None, 3]


def test_the_client_leaks_such_offsets_where_its_producer_goes_on(broker, topic):
    """The defect that discarding guards against; where this fails, the client has mended it."""
    kafka = settings_for(broker)
    with a_member(kafka, topic) as consumer:
        good = membership(consumer)
        producer = open_producer(kafka, transactional_id="leaks")
        producer.init_transactions()
        producer.begin_transaction()
        with pytest.raises(KafkaError):
            producer.send_offsets_to_transaction(
                {TopicPartition(topic, 0): OffsetAndMetadata(99, "", -1)}, good._replace(generation_id=77)
            )
        producer.abort_transaction()
        producer.begin_transaction()
        producer.send_offsets_to_transaction({TopicPartition(topic, 1): OffsetAndMetadata(3, "", -1)}, good)
        producer.commit_transaction()
        producer.close()
    assert committed(broker, kafka.group_id, topic) == [99, 3]


def test_a_transaction_with_an_unconfirmed_record_is_not_committed(broker, topic):
    kafka = settings_for(broker)
    with a_member(kafka, topic) as consumer, opened(kafka) as transactions:
        transactions.send([record(topic, "expired")], membership(consumer))
        sent, future = transactions._sent[0]
        future.get(timeout=10)

        def expired(timeout=None):
            raise KafkaTimeoutError("the batch expired")

        transactions._sent[0] = sent, SimpleNamespace(get=expired)
        with pytest.raises(AbortedError):
            transactions.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, "", -1)})
    assert read(broker, topic) == []
    assert committed(broker, kafka.group_id, topic) == [None, None]


def test_three_losses_in_a_row_are_the_end(broker, topic):
    kafka = settings_for(broker)
    with a_member(kafka, topic) as consumer, opened(kafka) as transactions:
        stale = membership(consumer)._replace(generation_id=77)
        for error in (AbortedError, AbortedError, DeliveryError):
            transactions.send([], stale)
            with pytest.raises(error):
                transactions.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, "", -1)})


@pytest.mark.parametrize(
    "changed",
    [{"generation_id": -1}, {"member_id": ""}, {"state": MemberState.REBALANCING}, {"state": MemberState.UNJOINED}],
)
def test_a_membership_that_fences_nothing_is_none(changed):
    assert is_member(ConsumerGroupMetadata("g", 3, "m", None, MemberState.STABLE))
    assert not is_member(ConsumerGroupMetadata("g", 3, "m", None, MemberState.STABLE)._replace(**changed))


def test_what_is_too_large_goes_without_its_value_the_next_time(broker, topic):
    create_topics(broker, {f"{topic}-dead": Topic(1, {"max.message.bytes": "2000"})})
    kafka = settings_for(broker)
    headers = [("framewatch-reason", b"truncated")]
    letter = OutgoingRecord(f"{topic}-dead", b"door", os.urandom(50_000), headers)
    with a_member(kafka, topic) as consumer, opened(kafka) as transactions:
        transactions.send([letter], membership(consumer))
        with pytest.raises(AbortedError):
            transactions.commit({})
        transactions.send([letter], membership(consumer))
        transactions.commit({})


@pytest.mark.parametrize("kills", [1, 4])
def test_killed_workers_tell_every_frame_exactly_once(deployment, tiny_bundle, kills):
    deployment.set({"delivery": "exactly_once", "transaction_timeout_ms": 5000}, threshold=2.0,
                   event_rule={"min_frames": 2, "gap_frames": 3})  # fmt: skip
    frames = frames_of(str(tiny_bundle.footage), "door")
    sent = 0
    for number in range(kills):
        with deployment.worker() as worker:
            wait_until(lambda: "running" in deployment.log.read_text())
            deployment.send(frames[sent : sent + 12])
            sent += 12
            time.sleep(0.3 + number)
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
    with deployment.worker() as worker:
        deployment.send(frames[sent:])
        scores = [json.loads(one.value)["offset"] for one in deployment.read("scores", len(frames), patience=20)]
        assert terminate(worker) == 0
    assert sorted(scores) == list(range(len(frames)))
    alerts = [json.loads(one.value) for one in deployment._read_once("alerts", 99)]
    assert len({alert["data"]["event_id"] for alert in alerts}) == 1
    assert len({alert["id"] for alert in alerts}) == len(alerts)
    assert sum(deployment.committed().values()) == len(frames)


def test_workers_killed_in_a_flood_tell_every_frame_exactly_once_and_the_flood_s_last(deployment, tiny_bundle):
    deployment.set({"delivery": "exactly_once", "transaction_timeout_ms": 5000, "group_instance_id": "one"})
    footage = frames_of(str(tiny_bundle.footage), "flood")
    others = [f"camera-{number}".encode() for number in range(12)]
    flood = [footage[number % len(footage)] for number in range(300)]
    beside = [(name, *rest) for _, *rest in footage[:6] for name in others]
    deployment.send([*flood, *beside])
    for number in range(2):
        with deployment.worker() as worker:
            wait_until(lambda wanted=number + 1: deployment.log.read_text().count('"running"') >= wanted)
            time.sleep(0.4)
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
    with deployment.worker() as worker:
        scores = [json.loads(one.value) for one in deployment.read("scores", 372, patience=20)]
        assert terminate(worker) == 0
    assert len({(one["partition"], one["offset"]) for one in scores}) == 372
    assert sum(deployment.committed().values()) == 372
    places = {}
    for place, one in enumerate(scores):
        places.setdefault(one["camera_id"], []).append((place, one["offset"]))
    assert all(some == sorted(some, key=lambda one: one[1]) for some in places.values())
    # By their offsets, those of the flood's partition would come after the 300.
    assert max(place for name, some in places.items() if name != "flood" for place, _ in some) < 200
