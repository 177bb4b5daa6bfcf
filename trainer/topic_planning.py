"""Asks the broker for what a plan is made of: the range that a topic holds, and the camera's events in it."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from contract.errors import ConfigError, FootageError
from contract.event_spans import EventSpan, bounds, read_event_spans
from contract.kafka_reader import mapped_errors, open_reader
from contract.kafka_source import KafkaClip
from contract.steady_consumer import SteadyConsumer
from trainer.settings import TopicSettings
from trainer.topic_filler import CLIENT_ID
from trainer.topic_plan import Plan
from trainer.topic_reader import TopicReader

Say = Callable[[str], None]
"""Shows one line."""


def make_plan(
    address: KafkaClip, settings: TopicSettings, known: Plan | None, say: Say, passed_over: Counter[str]
) -> Plan:
    """Plan what is taken of a range; blocks.

    What an earlier plan of the same request knew of events still holds, since the alerts topic may have dropped them;
    where the topic has got no newer record, so does its range.

    Args:
        address: Camera, topic and range.
        settings: Topics of alerts and feedback.
        known: The earlier plan; None where there is none.
        say: Shows what cannot be taken into account.
        passed_over: Counts records of these topics that are not what they should be.

    Raises:
        BrokerUnavailableError: No broker answers, or it does not let us in.
        ConfigError: A topic that is needed is not there.
        FootageError: The topic of frames is not there, or holds no record of the range.
    """
    with _opened(address) as reader:
        from_ms, to_ms = _range(TopicReader(reader, address), address, known)
        told = _read_spans(reader, address, settings, (from_ms, to_ms), say, passed_over)
    return Plan(from_ms, to_ms, tuple(merge_spans(known.spans if known is not None else (), told, from_ms, to_ms)))


def camera_spans(address: KafkaClip, settings: TopicSettings, say: Say) -> list[EventSpan]:
    """Read the events of a camera, in the range of an address, with their verdicts; blocks.

    Args:
        address: Camera, topic and range.
        settings: Topics of alerts and feedback.
        say: Shows what cannot be taken into account.

    Raises:
        BrokerUnavailableError: No broker answers, or it does not let us in.
        ConfigError: A topic that is needed is not there.
        FootageError: The topic of frames is not there, or holds no record of the range.
    """
    return list(make_plan(address, settings, None, say, Counter()).spans)


def held_until_ms(address: KafkaClip) -> int:
    """The moment after the newest record of a topic, ms since 1970; blocks.

    Raises:
        BrokerUnavailableError: No broker answers, or it does not let us in.
        FootageError: The topic is not there.
    """
    with _opened(address) as reader:
        return TopicReader(reader, address).newest_ms() + 1


def merge_spans(known: Sequence[EventSpan], told: Sequence[EventSpan], from_ms: int, to_ms: int) -> list[EventSpan]:
    """Join what was known of events with what is told now, in the order of their starts.

    What is told now wins, but an end or a verdict that is told no more still holds. Only events that reach into the
    range are given.
    """
    spans = {span.event_id: span for span in known}
    for span in told:
        old = spans.get(span.event_id, span)
        end_ms = span.end_ms if span.end_ms is not None else old.end_ms
        start_ms = min(span.start_ms, old.start_ms)
        spans[span.event_id] = EventSpan(span.event_id, start_ms, end_ms, span.verdict or old.verdict)
    ordered = sorted(spans.values(), key=lambda span: (span.start_ms, span.event_id))
    ends = [last for _, last in bounds(ordered, to_ms)]
    return [span for span, last in zip(ordered, ends, strict=True) if span.start_ms < to_ms and last >= from_ms]


@contextmanager
def _opened(address: KafkaClip) -> Iterator[SteadyConsumer]:
    with (
        mapped_errors(address.connection, address.bootstrap_servers),
        closing(open_reader(address.connection, address.bootstrap_servers, CLIENT_ID, lost_place="earliest")) as reader,
    ):
        yield reader


def _range(topic: TopicReader, address: KafkaClip, known: Plan | None) -> tuple[int, int]:
    oldest_ms = topic.oldest_ms()
    if oldest_ms is None:
        if known is not None:
            return known.from_ms, known.to_ms
        raise FootageError(f"topic {address.topic} holds no record; is anything published?")
    newest_ms = topic.newest_ms()
    from_ms = max(oldest_ms, address.from_ms or 0)
    to_ms = newest_ms + 1 if address.to_ms is None else min(address.to_ms, newest_ms + 1)
    if known is not None and from_ms >= known.from_ms and to_ms <= known.to_ms:
        return known.from_ms, known.to_ms
    if from_ms >= to_ms:
        raise FootageError(
            f"topic {address.topic} holds nothing of this range: its records are of {oldest_ms} to {newest_ms}, in ms "
            "since 1970"
        )
    return from_ms, to_ms


def _read_spans(
    reader: SteadyConsumer,
    address: KafkaClip,
    settings: TopicSettings,
    between: tuple[int, int],
    say: Say,
    passed_over: Counter[str],
) -> list[EventSpan]:
    alerts, feedback = settings.alerts_topic, settings.feedback_topic
    if alerts is None:
        return []
    there = reader.topics()
    if alerts not in there:
        # Not passed over: a topic that may not be seen looks like one that is not there, and events would be learned.
        raise ConfigError(
            f"topic {alerts} is not on {address.bootstrap_servers}, or its user may not see it; create it, name "
            "another in topic.alerts_topic, or set that to null to leave out no events"
        )
    if feedback is not None and feedback not in there:
        if feedback != TopicSettings().feedback_topic:
            raise ConfigError(f"topic {feedback} is not on {address.bootstrap_servers}, or its user may not see it")
        say(f"topic {feedback} is not there: no event is known to be a false alarm, and all are left out")
        feedback = None
    return read_event_spans(
        reader, address.name, *between, alerts_topic=alerts, feedback_topic=feedback,
        days_before=settings.alerts_days, passed_over=passed_over,
    )  # fmt: skip
