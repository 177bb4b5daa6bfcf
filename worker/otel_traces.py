"""Traces by OpenTelemetry, from the extra ``tracing``, sent to a collector by OTLP over HTTP.

Spans wait in a bounded queue of the library's, with a thread of its own: a collector that is away costs spans, never a
frame. Names and attributes are those of OpenTelemetry's semantic conventions for messaging and Kafka.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Final, Self

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from contract import __version__
from worker.frames import Outcome
from worker.settings import KafkaSettings, TracingSettings
from worker.traces import Step

_SEND_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 3.0
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_log = logging.getLogger(__name__)


class OtelTraces:
    """Tells of the frames whose trace is sampled, and of some that have none.

    Args:
        processor: Takes the spans.
        settings: How many of the frames without a trace are told of.
        kafka: Names of topics and group.
    """

    def __init__(self, processor: SpanProcessor, settings: TracingSettings, kafka: KafkaSettings) -> None:
        resource = Resource.create({SERVICE_NAME: "framewatch-worker", SERVICE_VERSION: __version__})
        sampler = ParentBased(TraceIdRatioBased(settings.sample_ratio))
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("framewatch", __version__)
        self._kafka = kafka

    @classmethod
    def to_collector(cls, settings: TracingSettings, kafka: KafkaSettings) -> Self:
        """What sends to the settings' collector."""
        # It says each time, and with a traceback, what is said here once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = _ToldExporter(OTLPSpanExporter(endpoint=settings.endpoint, timeout=_SEND_SECONDS))
        return cls(BatchSpanProcessor(exporter), settings, kafka)

    def begin(self, outcome: Outcome, began_ns: int) -> "_OtelTrace | None":
        """Begin to tell of a frame; None where its trace is not sampled."""
        frame, kafka = outcome.frame, self._kafka
        carrier = {"traceparent": frame.traceparent} if frame.traceparent is not None else {}
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": frame.topic,
            "messaging.destination.partition.id": str(frame.partition),
            "messaging.kafka.offset": frame.offset,
            "messaging.consumer.group.name": kafka.group_id,
            "framewatch.camera_id": frame.camera_id,
            "framewatch.captured_at_ms": frame.captured_at_ms,
        }
        span = self._tracer.start_span(
            f"process {frame.topic}", _PROPAGATOR.extract(carrier), SpanKind.CONSUMER, attributes, start_time=began_ns
        )
        return _OtelTrace(self._tracer, span, outcome, kafka.alerts_topic) if span.is_recording() else None

    def close(self) -> None:
        """Send what is left, for a few seconds at the most: a collector that is away keeps no worker from its end."""
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(_CLOSE_SECONDS)


class _OtelTrace:
    def __init__(self, tracer: trace.Tracer, span: Span, outcome: Outcome, alerts_topic: str) -> None:
        self._tracer = tracer
        self._span = span
        self._within = trace.set_span_in_context(span)
        self._alerts_topic = alerts_topic
        self._sent = [self._begin_alert(alert.id, alert.type) for alert in outcome.alerts]
        for name, value in (("anomaly_score", outcome.anomaly_score), ("threshold", outcome.threshold)):
            if value is not None:
                span.set_attribute(f"framewatch.{name}", value)
        if outcome.error is not None:
            span.set_status(Status(StatusCode.ERROR, outcome.error.reason))
        self.traceparents: Sequence[str] = [_traceparent(sent) for sent in self._sent]

    def _begin_alert(self, alert_id: str, alert_type: str) -> Span:
        attributes = {
            "messaging.system": "kafka", "messaging.operation.type": "send", "messaging.operation.name": "send",
            "messaging.destination.name": self._alerts_topic, "cloudevents.event_id": alert_id,
            "cloudevents.event_type": alert_type,
        }  # fmt: skip
        return self._tracer.start_span(f"send {self._alerts_topic}", self._within, SpanKind.PRODUCER, attributes)

    def end(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._tracer.start_span(step.name, self._within, start_time=step.began_ns).end(step.ended_ns)
        for sent in self._sent:
            sent.end()
        self._span.end()


def _traceparent(span: Span) -> str:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier["traceparent"]


class _ToldExporter(SpanExporter):
    """Logs that spans cannot be sent, and that they can again, once each."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if fails != self._fails:
            _log.warning("traces cannot be sent, they are dropped" if fails else "traces can be sent again")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
