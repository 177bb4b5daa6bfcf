"""``worker alerts``: a live table of what is on the alerts topic, or its records as JSON lines."""

import json
import time
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from kafka import TopicPartition
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from contract.alert import Alert, AnyAlert, CameraAlert, DriftData, ModelAlert, read_alert, utc
from worker.kafka_clients import mapped_errors, open_reader, require_topics
from worker.settings import KafkaSettings

_POLL_MS = 500
_SHOWN = 20
_SEVERITY_STYLE = {"low": "cyan", "medium": "yellow", "high": "red", "critical": "bold white on red"}


def follow_alerts(
    kafka: KafkaSettings, topic: str, *, from_beginning: bool, idle_seconds: float | None
) -> Iterator[bytes | None]:
    """Read the alerts topic for ever, in no group and committing nothing.

    Args:
        kafka: The broker.
        topic: Topic of alerts.
        from_beginning: Whether to begin with the oldest record held.
        idle_seconds: Time without a record after which to end; never where None.

    Yields:
        A record's value, or None about twice a second where there was none.

    Raises:
        ConfigError: The topic is not there.
        BrokerUnavailableError: No broker answers.
    """
    consumer = open_reader(kafka)
    try:
        require_topics(consumer, [topic], kafka)
        with mapped_errors(kafka):
            numbers = consumer.partitions_for_topic(topic)
            partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
            consumer.assign(partitions)
            (consumer.seek_to_beginning if from_beginning else consumer.seek_to_end)(*partitions)
            for partition in partitions:
                consumer.position(partition)
        heard_at = time.monotonic()
        while idle_seconds is None or time.monotonic() - heard_at < idle_seconds:
            with mapped_errors(kafka):
                polled = consumer.poll(timeout_ms=_POLL_MS)
            records = sorted(
                (record for part in polled.values() for record in part), key=lambda record: record.timestamp
            )
            for record in records:
                heard_at = time.monotonic()
                if record.value:
                    yield record.value
            if not records:
                yield None
    finally:
        consumer.close()


class AlertTable:
    """The latest events as a table: one row an event, newest first."""

    def __init__(self) -> None:
        self._events: OrderedDict[str, AnyAlert] = OrderedDict()

    def add(self, value: bytes) -> bool:
        """Take a record's value; False where it is no alert."""
        alert = parse_alert(value)
        if alert is None:
            return False
        self._events[alert.data.event_id] = alert
        self._events.move_to_end(alert.data.event_id)
        while len(self._events) > _SHOWN:
            self._events.popitem(last=False)
        return True

    def render(self) -> Table:
        """Lay the events out for a terminal."""
        table = Table(title="Framewatch alerts", caption="peak: score / threshold; Ctrl-C ends", expand=False)
        for column in ("camera", "state", "since", "lasted", "peak", "severity", "area"):
            table.add_column(column, justify="right" if column in {"lasted", "peak", "area"} else "left", no_wrap=True)
        for alert in reversed(self._events.values()):
            table.add_row(*_cells(alert))
        return table


def describe(alert: AnyAlert) -> str:
    """Say an alert in one line."""
    if isinstance(alert, ModelAlert):
        before, after, at = alert.data.before, alert.data.after, _local(alert.data.changed_at_ms).strftime("%H:%M:%S")
        return f"{alert.subject} model {after.name} {after.version} from {at}, before {before.name} {before.version}"
    since = _local(alert.data.started_at_ms).strftime("%H:%M:%S")
    if isinstance(alert, CameraAlert):
        said = f"{alert.subject} camera {alert.data.state} since {since}"
        if alert.data.drift is not None:
            said += f", {_said(alert.data.drift)}"
        return said + (", ended" if _is_over(alert) else "")
    data = alert.data
    return (
        f"{alert.subject} {alert.type.split('.')[2]} since {since}, peak {data.peak_score:.2f} "
        f"(threshold {data.threshold:.2f}), {data.severity}, {data.anomalous_area_percent:.0f}% of the picture"
    )


def _said(drift: DriftData) -> str:
    return (
        f"what it sees has changed for good: {drift.share_percent:.0f}% of the time scores lie {drift.direction} than "
        f"they did, by {abs(drift.spreads):.1f} spreads; fit to what it shows now"
    )


def _is_over(alert: Alert | CameraAlert) -> bool:
    return alert.data.ended_at_ms is not None


def parse_alert(value: bytes) -> AnyAlert | None:
    """Read a record's value as an alert; None where it is none."""
    try:
        return read_alert(value)
    except ValidationError:
        return None


def as_json_line(value: bytes) -> str:
    """One line of printable ASCII for a record's value, whoever wrote it.

    JSON in such characters comes back as it stands, other JSON written anew with what is not ASCII escaped, and what is
    no JSON (RFC 8259, UTF-8) as one line of JSON that holds its first 1,000 bytes.
    """
    try:
        text = value.decode()
        content: Any = json.loads(text, parse_constant=_refuse)
        return text if text.isascii() and text.isprintable() else json.dumps(content, allow_nan=False)
    except (ValueError, RecursionError):
        return json.dumps({"unreadable": value[:1000].decode(errors="replace")})


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _local(milliseconds: int) -> datetime:
    """A time in this machine's zone; in UTC where the zone would put it before year 1 or beyond 9999."""
    moment = utc(milliseconds)
    try:
        return moment.astimezone()
    except (OverflowError, ValueError, OSError):
        return moment


def _cells(alert: AnyAlert) -> list[str]:
    if isinstance(alert, ModelAlert):
        at = _local(alert.data.changed_at_ms).strftime("%b %d %H:%M:%S")
        return [escape(alert.subject), f"[cyan]model {escape(alert.data.after.version)}[/]", at, *[""] * 4]
    data = alert.data
    if isinstance(alert, CameraAlert):
        state = f"camera {alert.data.state}"
        shown = f"[green]{state} ended[/]" if _is_over(alert) else f"[bold yellow]{state}[/]"
    else:
        state = alert.type.split(".")[2]
        shown = "[green]ended[/]" if state == "ended" else f"[bold]{state}[/]"
    # A time without a zone is taken as UTC: taken as local, it may lie before year 1.
    moment = alert.time.replace(tzinfo=alert.time.tzinfo or UTC)
    told = utc(data.ended_at_ms) if data.ended_at_ms is not None else moment
    lasted_seconds = (told - utc(data.started_at_ms)).total_seconds()
    cells = [
        escape(alert.subject), shown, _local(data.started_at_ms).strftime("%b %d %H:%M:%S"), f"{lasted_seconds:.1f} s"
    ]  # fmt: skip
    return cells + (_measured(alert) if isinstance(alert, Alert) else [""] * 3)


def _measured(alert: Alert) -> list[str]:
    data = alert.data
    style = _SEVERITY_STYLE[data.severity]
    return [
        f"{data.peak_score:.2f} / {data.threshold:.2f}",
        f"[{style}]{data.severity}[/]",
        f"{data.anomalous_area_percent:.0f}%",
    ]
