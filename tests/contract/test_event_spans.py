"""What the alerts and verdicts of a camera say of its events, whoever wrote them."""

import itertools
import json
from collections import Counter

import pytest
from kafka import KafkaProducer

from contract.alert import read_alert
from contract.errors import FootageError
from contract.event_spans import EventSpan, bounds, last_verdicts, merge_alerts, read_event_spans
from contract.feedback import Feedback
from contract.kafka_connection import KafkaConnection
from contract.kafka_reader import open_reader
from deploy.broker import Topic, create_topics
from tests.worker.console.records import anomaly, event_id, said

DAY_MS = 24 * 3_600_000


def told(number, start_ms, end_ms=None, transition=None, camera_id="door"):
    transition = transition or ("started" if end_ms is None else "ended")
    return read_alert(
        anomaly(number, transition, camera_id, at_ms=start_ms, started_at_ms=start_ms, ended_at_ms=end_ms)
    )


def test_alerts_of_one_event_are_one_span_in_whatever_order_and_however_often():
    alerts = [told(1, 1_000), told(1, 1_000, transition="updated"), told(1, 1_000, 5_000), told(1, 1_000)]
    for order in itertools.permutations(alerts):
        assert merge_alerts(order) == [EventSpan(event_id(1), 1_000, 5_000)]
    assert merge_alerts([told(2, 9_000), told(1, 1_000)]) == [
        EventSpan(event_id(1), 1_000, None), EventSpan(event_id(2), 9_000, None),
    ]  # fmt: skip


def test_an_event_without_an_end_lasts_until_the_next_one_begins_or_the_range_ends():
    spans = [EventSpan("a", 10), EventSpan("b", 10), EventSpan("c", 20, 25), EventSpan("d", 30), EventSpan("e", 99)]
    assert bounds(spans, 50) == [(10, 20), (10, 20), (20, 25), (30, 99), (99, 99)]
    assert bounds(spans[:4], 50)[-1] == (30, 50)
    assert bounds([], 50) == []


def test_the_last_verdict_counts_also_where_a_camera_s_records_are_in_two_partitions():
    def word(verdict):
        return Feedback(event_id=event_id(1), camera_id="door", verdict=verdict, at_ms=0, by="x")

    assert last_verdicts([(5, word("confirmed")), (5, word("false_alarm"))]) == {event_id(1): "false_alarm"}
    assert last_verdicts([(9, word("confirmed")), (5, word("false_alarm"))]) == {event_id(1): "confirmed"}


def test_more_events_than_a_camera_can_have_are_refused(monkeypatch):
    monkeypatch.setattr("contract.event_spans._MAX_EVENTS", 3)
    with pytest.raises(FootageError, match="choose a shorter range"):
        merge_alerts([told(number, number) for number in range(4)])


@pytest.mark.broker
class TestTopics:
    @pytest.fixture
    def topics(self, broker, request):
        names = {kind: f"spans-{request.node.name}-{kind}"[:200] for kind in ("alerts", "feedback")}
        create_topics(
            broker,
            {name: Topic(2, {"max.message.bytes": str(20 * 2**20), "retention.ms": "-1"}) for name in names.values()},
        )
        return names

    def read(self, broker, topics, from_ms, to_ms, *, feedback=True):
        passed_over = Counter()
        reader = open_reader(KafkaConnection(), broker.bootstrap_servers, "tests")
        spans = read_event_spans(
            reader, "door", from_ms, to_ms, alerts_topic=topics["alerts"],
            feedback_topic=topics["feedback"] if feedback else None, days_before=1, passed_over=passed_over,
        )  # fmt: skip
        reader.close()
        return spans, passed_over

    def send(self, broker, records):
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, max_request_size=16 * 2**20)
        for topic, key, value, at_ms in records:
            producer.send(topic, value, key=key, timestamp_ms=at_ms).get(timeout=20)
        producer.close()

    def test_spans_with_their_verdicts_and_nothing_of_other_cameras(self, broker, topics):
        base = 10 * DAY_MS
        alerts, feedback = topics["alerts"], topics["feedback"]
        other = told(7, base, base + 9, camera_id="yard").to_json()
        self.send(
            broker,
            [
                (alerts, b"door", told(1, base).to_json(), base),
                (alerts, b"yard", other, base),
                (alerts, b"door", told(1, base, base + 5_000).to_json(), base + 6_000),
                (alerts, b"door", told(2, base + 20_000).to_json(), base + 20_000),
                (alerts, b"door", told(3, base + 30_000, base + 31_000).to_json(), base + 31_000),
                (feedback, b"door", said(1, "false_alarm"), base + DAY_MS),
                (feedback, b"door", said(1, "confirmed"), base + 2 * DAY_MS),
                (feedback, b"door", said(2, "confirmed"), base + DAY_MS),
                (feedback, b"door", said(2, "false_alarm"), base + 2 * DAY_MS),
            ],
        )
        first = EventSpan(event_id(1), base, base + 5_000, "confirmed")
        second = EventSpan(event_id(2), base + 20_000, None, "false_alarm")
        third = EventSpan(event_id(3), base + 30_000, base + 31_000)
        assert self.read(broker, topics, base, base + DAY_MS)[0] == [first, second, third]
        # One that began before the range and reaches into it counts, one that ended before it does not.
        assert self.read(broker, topics, base + 4_000, base + 25_000)[0] == [first, second]
        assert self.read(broker, topics, base + 5_001, base + 20_000)[0] == []
        assert self.read(broker, topics, base, base + 10_000, feedback=False)[0] == [
            EventSpan(event_id(1), base, base + 5_000)
        ]

    def test_whatever_anybody_wrote_is_counted_and_passed_over(self, broker, topics):
        base = 10 * DAY_MS
        good = told(1, base, base + 5_000)
        foreign = json.loads(good.to_json())
        backwards = told(2, base, base - 1).to_json()
        someone_else = told(3, base, base + 1, camera_id="yard").to_json()
        alerts = [
            good.to_json(), b"", b"{", b"\xff\xfe", b"[" * 100_000, json.dumps({**foreign, "type": "other"}).encode(),
            json.dumps({**foreign, "data": {}}).encode(), backwards, someone_else, None, b"x" * (13 * 2**20),
        ]  # fmt: skip
        verdicts = [said(1, "confirmed"), b"{}", b"null", b"x" * 9_000, b"[1]", None, said(3, camera_id="yard")]
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, max_request_size=16 * 2**20)
        for topic, values in ((topics["alerts"], alerts), (topics["feedback"], verdicts)):
            for value in values:
                producer.send(topic, value, key=b"door", timestamp_ms=base).get(timeout=20)
        producer.close()
        spans, passed_over = self.read(broker, topics, base, base + DAY_MS)
        assert spans == [EventSpan(event_id(1), base, base + 5_000, "confirmed")]
        assert passed_over == {"alert": len(alerts) - 1, "verdict": len(verdicts) - 1}
