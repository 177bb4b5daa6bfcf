import pytest

from worker import kafka_clients
from worker.kafka_clients import open_consumer
from worker.settings import KafkaSettings


@pytest.mark.parametrize(
    ("gathering_ms", "waits_ms", "gathers"), [(50, 50, True), (20, 20, True), (2_000, 2_000, True), (5, 20, False)]
)
def test_no_fetch_keeps_a_frame_longer_than_a_batch_may_wait(monkeypatch, gathering_ms, waits_ms, gathers):
    opened = {}
    monkeypatch.setattr(kafka_clients, "FramesConsumer", lambda **configs: opened.update(configs))
    kafka = KafkaSettings()
    open_consumer(kafka, gathering_ms)
    assert opened["fetch_max_wait_ms"] == waits_ms
    assert (opened["fetch_min_bytes"] > 1) == gathers
    # Else a partition's backlog would wait at the broker too.
    assert opened["fetch_min_bytes"] <= opened["max_partition_fetch_bytes"]
