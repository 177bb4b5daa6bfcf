import time

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import FencedInstanceIdError, KafkaTimeoutError
from kafka.structs import MemberState

from contract import steady_consumer
from contract.steady_consumer import StalledConsumerError, SteadyConsumer, UnreadableRecordError
from deploy.broker import Topic, create_topics

pytestmark = pytest.mark.broker


@pytest.fixture
def consumer(broker, request, monkeypatch):
    name = request.node.name.replace("_", "-")
    create_topics(broker, {name: Topic(1)})
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for number in range(3):
        producer.send(name, str(number).encode()).get(timeout=20)
    producer.close()
    monkeypatch.setattr(steady_consumer, "CHECK_EVERY_SECONDS", 0.0)
    opened = SteadyConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=None, auto_offset_reset="earliest")
    opened.assign([TopicPartition(name, 0)])
    yield opened
    opened.close()


def read(consumer, polls=50):
    values = []
    for _ in range(polls):
        values += [record.value for part in consumer.poll(timeout_ms=100).values() for record in part]
        if len(values) == 3:
            break
    return values


def test_reads_as_the_original(consumer):
    assert read(consumer) == [b"0", b"1", b"2"]
    assert consumer.poll(timeout_ms=50) == {}
    assert consumer.poll(timeout_ms=50) == {}


def test_a_consumer_that_never_fetches_is_told_apart_from_an_idle_one(consumer, monkeypatch, caplog):
    monkeypatch.setattr(steady_consumer, "STALL_PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(KafkaConsumer, "poll", lambda *_arguments: {})
    assert consumer.poll() == {}
    assert "fetching stalled" in caplog.text
    time.sleep(0.6)
    with pytest.raises(StalledConsumerError, match="@0 is not fetched, its end is 3"):
        consumer.poll()


def test_a_slow_fetch_is_waited_for_and_sought_once(consumer, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(KafkaConsumer, "poll", lambda *_arguments: {})
        for _ in range(5):
            assert consumer.poll() == {}
    assert caplog.text.count("fetching stalled") == 1
    assert read(consumer) == [b"0", b"1", b"2"]


def test_a_consumer_that_stalled_once_goes_on_after_seeking(consumer, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(KafkaConsumer, "poll", lambda *_arguments: {})
        consumer.poll()
    assert read(consumer) == [b"0", b"1", b"2"]


class BadText(str):
    """A header's name that no UTF-8 decoder takes; a producer in another language sends it without knowing."""

    __slots__ = ()

    def encode(self, *_arguments):
        return b"\xff\xfe"


def test_an_unreadable_record_is_named_once_and_the_rest_is_read(consumer, broker):
    assert read(consumer) == [b"0", b"1", b"2"]
    (partition,) = consumer.assignment()
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for value, headers in ((b"3", []), (b"bad", [(BadText("name"), b"")]), (b"5", [])):
        producer.send(partition.topic, value, headers=headers).get(timeout=20)
    producer.close()
    values, unreadable = [], []
    ends_at = time.monotonic() + 30
    while b"5" not in values and time.monotonic() < ends_at:
        try:
            values += [record.value for part in consumer.poll(timeout_ms=100).values() for record in part]
        except UnreadableRecordError as error:
            unreadable.append((error.partition, error.offset))
    assert values == [b"3", b"5"]
    assert unreadable == [(partition, 4)]


def test_of_a_batch_with_an_unreadable_record_nothing_is_passed_over_unnamed(consumer, broker):
    assert read(consumer) == [b"0", b"1", b"2"]
    (partition,) = consumer.assignment()
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=500)
    for number in range(3, 9):
        headers = [(BadText("name"), b"")] if number == 5 else []
        producer.send(partition.topic, str(number).encode(), headers=headers)
    producer.flush()
    producer.close()
    seen, unreadable = [], []
    ends_at = time.monotonic() + 30
    while len(seen) + len(unreadable) < 6 and time.monotonic() < ends_at:
        try:
            seen += [record.offset for part in consumer.poll(timeout_ms=100).values() for record in part]
        except UnreadableRecordError as error:
            unreadable.append(error.offset)
    assert sorted(seen + unreadable) == list(range(3, 9))
    assert 5 in unreadable


def test_seconds_since_an_answer_grow_only_while_none_comes(consumer, monkeypatch):
    read(consumer)
    time.sleep(0.3)
    consumer.poll(timeout_ms=50)
    assert consumer.seconds_since_answer() < 0.2

    def fail(*_arguments, **_named):
        raise KafkaTimeoutError("no answer")

    monkeypatch.setattr(KafkaConsumer, "end_offsets", fail)
    time.sleep(0.3)
    assert consumer.poll(timeout_ms=50) == {}
    assert consumer.seconds_since_answer() >= 0.3
    monkeypatch.undo()
    monkeypatch.setattr(steady_consumer, "CHECK_EVERY_SECONDS", 0.0)
    consumer.poll(timeout_ms=50)
    assert consumer.seconds_since_answer() < 0.2


def test_a_member_without_partitions_still_asks_whether_the_broker_is_there(consumer, monkeypatch):
    assert read(consumer) == [b"0", b"1", b"2"]
    topic = next(iter(consumer.assignment())).topic
    monkeypatch.setattr(consumer, "assignment", set)
    monkeypatch.setattr(consumer, "subscription", lambda: {topic})
    monkeypatch.setattr(KafkaConsumer, "poll", lambda *_arguments: {})
    consumer._answered_at -= 100
    consumer.poll()
    assert consumer.seconds_since_answer() < 100

    def silent(*_arguments, **_named):
        raise KafkaTimeoutError("no answer")

    consumer._answered_at -= 100
    monkeypatch.setattr(consumer, "end_offsets", silent)
    consumer.poll()
    assert consumer.seconds_since_answer() >= 100


@pytest.mark.parametrize("kind", [SteadyConsumer, KafkaConsumer])
def test_a_rejoin_whose_reason_goes_away_while_it_is_half_done_is_finished(broker, kind):
    """kafka-python's own consumer stays out of the group for good; where that fails, the client has mended it."""
    create_topics(broker, {f"rejoin-{kind.__name__}": Topic(1)})
    member = kind(
        f"rejoin-{kind.__name__}", bootstrap_servers=broker.bootstrap_servers, group_id=f"rejoin-{kind.__name__}"
    )
    ends_at = time.monotonic() + 30
    coordinator = member._coordinator
    while coordinator.state != MemberState.STABLE or coordinator.need_rejoin():
        assert time.monotonic() < ends_at
        member.poll(timeout_ms=500)
    known, join = coordinator._metadata_snapshot, coordinator._do_join_and_sync_async

    async def slow_join():
        await coordinator._manager._net.sleep(0.5)
        return await join()

    coordinator._do_join_and_sync_async = slow_join
    coordinator._metadata_snapshot = {"changed": set()}
    while not coordinator.rejoining:
        member.poll(timeout_ms=1)
    coordinator._metadata_snapshot = known
    for _ in range(30):
        member.poll(timeout_ms=100)
    finished = member.group_metadata().state == MemberState.STABLE
    member.close(autocommit=False)
    assert finished == (kind is SteadyConsumer)


def test_a_rejoin_that_ends_between_two_polls_is_not_begun_again(broker, monkeypatch):
    create_topics(broker, {"between": Topic(1)})
    member = SteadyConsumer("between", bootstrap_servers=broker.bootstrap_servers, group_id="between")
    coordinator = member._coordinator
    joins, join = [], coordinator._do_join_and_sync_async

    def counted():
        joins.append(time.monotonic())
        return join()

    monkeypatch.setattr(coordinator, "_do_join_and_sync_async", counted)
    ends_at = time.monotonic() + 30
    while coordinator.state != MemberState.STABLE or coordinator.need_rejoin():
        assert time.monotonic() < ends_at
        # Too short for a join to end within it; it ends in the pause.
        member.poll(timeout_ms=1)
        time.sleep(0.2)
    member.close(autocommit=False)
    # The first is answered with a member id; the topic's metadata may ask for one more.
    assert len(joins) <= 4


def test_a_member_whose_name_another_has_taken_says_so(broker):
    create_topics(broker, {"twins": Topic(1)})
    configs = {"bootstrap_servers": broker.bootstrap_servers, "group_id": "twins", "group_instance_id": "twin",
               "heartbeat_interval_ms": 200, "session_timeout_ms": 6000}  # fmt: skip
    first, second = SteadyConsumer("twins", **configs), None
    try:
        first.poll(timeout_ms=5000)
        second = SteadyConsumer("twins", **configs)
        second.poll(timeout_ms=5000)
        with pytest.raises(FencedInstanceIdError, match="twin"):
            [first.poll(timeout_ms=100) for _ in range(100)]
        second.poll(timeout_ms=500)
    finally:
        for member in (first, second):
            if member is not None:
                member.close(autocommit=False)


def test_a_poll_while_a_heartbeat_is_unanswered_waits_and_turns_once(broker, monkeypatch):
    monkeypatch.setattr(steady_consumer, "_OVERDUE_SECONDS", 0.0)
    member = SteadyConsumer(bootstrap_servers=broker.bootstrap_servers, group_id="overdue")
    turns = []
    monkeypatch.setattr(member, "_poll_once", lambda timer, *_arguments, **_named: turns.append(timer) or {})
    monkeypatch.setattr(member._coordinator, "time_to_next_poll", lambda: 0.0)
    member._coordinator.state = MemberState.STABLE
    member.poll(timeout_ms=100)
    turns.clear()
    began = time.monotonic()
    assert member.poll(timeout_ms=200) == {}
    assert time.monotonic() - began >= 0.2
    assert len(turns) == 1
    monkeypatch.setattr(member._coordinator, "time_to_next_poll", lambda: 1.0)
    member.poll(timeout_ms=20)
    assert len(turns) > 2
    monkeypatch.undo()
    member._coordinator.state = MemberState.UNJOINED
    member.close(autocommit=False)


@pytest.fixture
def two_partitions(broker, request):
    """A consumer of two partitions, and what sends a record to one of them."""
    name = request.node.name.replace("_", "-")
    create_topics(broker, {name: Topic(2)})
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=500)
    opened = SteadyConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=None, auto_offset_reset="earliest")
    partitions = [TopicPartition(name, number) for number in (0, 1)]

    def send(number, values, headers=()):
        for value in values:
            producer.send(name, value.encode(), partition=number, headers=list(headers))
        producer.flush()

    opened.assign(partitions)
    yield opened, partitions, send
    opened.close()
    producer.close()


def poll_until(consumer, count, max_records=100, seconds=20):
    """Values as they come, and the offsets of records that could not be read."""
    values, unreadable = [], []
    ends_at = time.monotonic() + seconds
    while len(values) + len(unreadable) < count and time.monotonic() < ends_at:
        try:
            polled = consumer.poll(timeout_ms=100, max_records=max_records)
        except UnreadableRecordError as error:
            unreadable.append(error.offset)
        else:
            values += [record.value.decode() for part in polled.values() for record in part]
    return values, unreadable


def test_a_partition_that_was_paused_half_read_goes_on_though_another_was_read_to_its_end_since(two_partitions):
    consumer, (first, _), send = two_partitions
    lost = TopicPartition(first.topic, 7)
    consumer.pause(lost)
    consumer.resume(lost)
    send(0, ["a", "b", "c"])
    assert poll_until(consumer, 1, max_records=1) == (["a"], [])
    consumer.pause(first)
    send(1, ["x", "y"])
    assert poll_until(consumer, 2) == (["x", "y"], [])
    consumer.resume(first)
    assert poll_until(consumer, 2) == (["b", "c"], [])
    send(1, ["z"])
    assert poll_until(consumer, 1) == (["z"], [])


def test_a_partition_is_not_paused_before_it_has_named_the_record_it_cannot_read(two_partitions):
    consumer, (first, _), send = two_partitions
    send(0, ["a", "b"])
    send(0, ["bad"], headers=[(BadText("name"), b"")])
    send(0, ["d"])
    assert poll_until(consumer, 2) == (["a", "b"], [])
    consumer.pause(first)
    assert poll_until(consumer, 1) == ([], [2])
    consumer.pause(first)
    assert consumer.paused() == {first}
    assert poll_until(consumer, 1, seconds=1) == ([], [])
    consumer.resume(first)
    assert poll_until(consumer, 1) == (["d"], [])


def test_a_resumed_partition_is_given_time_before_it_counts_as_stalled(two_partitions, caplog):
    consumer, (first, second), send = two_partitions
    send(0, ["a"])
    send(1, ["x"])
    poll_until(consumer, 2)
    consumer.pause(first, second)
    send(0, ["b"])
    consumer._looked_at -= 60
    consumer.resume(first)
    at_once = [record.value.decode() for part in consumer.poll(timeout_ms=0).values() for record in part]
    assert "fetching stalled" not in caplog.text
    assert at_once == ["b"] or poll_until(consumer, 1) == (["b"], [])
