import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from contract import steady_consumer
from contract.steady_consumer import StalledConsumerError, SteadyConsumer
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
    monkeypatch.setattr(KafkaConsumer, "poll", lambda *_arguments: {})
    assert consumer.poll() == {}
    assert "fetching stalled" in caplog.text
    with pytest.raises(StalledConsumerError, match="@0 is not fetched, its end is 3"):
        consumer.poll()


def test_a_consumer_that_stalled_once_goes_on_after_seeking(consumer, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(KafkaConsumer, "poll", lambda *_arguments: {})
        consumer.poll()
    assert read(consumer) == [b"0", b"1", b"2"]
