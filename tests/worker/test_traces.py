"""A trace goes from the frame's header to the alert's, and costs no frame where its collector is away."""

import gzip
import json
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from contract.errors import ConfigError
from contract.settings import load_settings
from tests.worker.deployment import frames_of, terminate, wait_until
from tests.worker.test_engine import VISIT, detector, frame
from tests.worker.test_loop import make, record
from worker.engine import Engine
from worker.frames import Outcome
from worker.otel_traces import OtelTraces
from worker.records import read_frame
from worker.settings import KafkaSettings, TracingSettings, WorkerSettings
from worker.traces import NoTraces, open_traces

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
KAFKA = KafkaSettings(group_id="watch")


def traced_record(offset, level, header):
    one = record(offset, level)
    return SimpleNamespace(
        **{**vars(one), "headers": [*one.headers, ("traceparent", header)] if header else one.headers}
    )


def told(headers, sample_ratio=0.0, **more):
    """Alerts' headers and the spans of a visit whose frames have a header each."""
    exporter = InMemorySpanExporter()
    traces = OtelTraces(SimpleSpanProcessor(exporter), TracingSettings(sample_ratio=sample_ratio), KAFKA)
    sent = []
    records = [traced_record(offset, level, headers[offset]) for offset, level in enumerate(VISIT)]
    made = make(records, deliver=sent.extend, scorer=detector(), **more)
    made.loop._traces = traces
    made.source.on_empty = made.loop.stop
    made.loop.run()
    alerts = [dict(one.headers).get("traceparent", b"").decode() for one in sent if one.topic == "alerts"]
    return alerts, exporter.get_finished_spans(), sent


def ids(span):
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def test_the_alert_goes_on_with_the_trace_of_the_frame_that_raised_it():
    alerts, spans, _ = told([SAMPLED.encode()] * len(VISIT))
    frames = [span for span in spans if span.name == "process frames"]
    sends = [span for span in spans if span.name == "send alerts"]
    assert len(frames) == len(VISIT)
    assert {(ids(span)[0], f"{span.parent.span_id:016x}") for span in frames} == {(TRACE, SPAN)}
    # An alert's parent is its own sending, whose parent is the frame's.
    assert alerts == [f"00-{TRACE}-{ids(span)[1]}-01" for span in sends]
    assert len(alerts) == 3
    assert {span.parent.span_id for span in sends} <= {span.context.span_id for span in frames}
    started = next(span for span in sends if span.attributes["cloudevents.event_type"].endswith("started.v1"))
    one = next(span for span in frames if span.context.span_id == started.parent.span_id)
    assert one.attributes["messaging.kafka.offset"] == 2
    assert one.attributes["messaging.consumer.group.name"] == "watch"
    assert one.attributes["framewatch.camera_id"] == "door"
    steps = {span.name: span for span in spans if span.parent.span_id == one.context.span_id and span not in sends}
    assert set(steps) == {"prepare", "score", "publish"}
    assert one.start_time <= steps["prepare"].start_time <= steps["score"].start_time <= steps["publish"].start_time
    assert steps["publish"].end_time <= one.end_time


def test_each_alert_of_a_frame_goes_on_with_its_own_sending():
    exporter = InMemorySpanExporter()
    traces = OtelTraces(SimpleSpanProcessor(exporter), TracingSettings(), KAFKA)
    frames = [replace(frame(offset, level), traceparent=SAMPLED) for offset, level in enumerate(VISIT)]
    alerts = [alert for outcome in Engine(detector()).process(frames) for alert in outcome.alerts]
    one = traces.begin(Outcome(frames[0], 1.0, 1.0, alerts=tuple(alerts[:2])), 0)
    one.end([])
    sends = {
        span.attributes["cloudevents.event_id"]: span
        for span in exporter.get_finished_spans()
        if span.name == "send alerts"
    }
    assert [sends[alert.id].context.span_id for alert in alerts[:2]] == [
        int(parent.split("-")[2], 16) for parent in one.traceparents
    ]
    assert len(set(one.traceparents)) == 2


def test_a_trace_that_is_not_sampled_passes_through_and_nothing_is_told():
    alerts, spans, _ = told([UNSAMPLED.encode()] * len(VISIT), sample_ratio=1.0)
    assert alerts == [UNSAMPLED] * 3
    assert spans == ()


def test_a_frame_without_a_trace_begins_one_as_often_as_is_asked_for():
    alerts, spans, _ = told([None] * len(VISIT))
    assert (alerts, spans) == ([""] * 3, ())
    alerts, spans, _ = told([None] * len(VISIT), sample_ratio=1.0)
    assert len({ids(span)[0] for span in spans}) == len(VISIT)
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", one) for one in alerts)


def test_alerts_are_the_same_to_the_byte_with_a_trace_and_without():
    values = [
        [one.value for one in told(headers, ratio)[2] if one.topic == "alerts"]
        for headers, ratio in (([None] * len(VISIT), 0.0), ([SAMPLED.encode()] * len(VISIT), 1.0))
    ]
    assert values[0] == values[1]
    assert len(values[0]) == 3


def test_a_frame_that_cannot_be_scored_says_so_in_its_span():
    exporter = InMemorySpanExporter()
    traces = OtelTraces(SimpleSpanProcessor(exporter), TracingSettings(), KAFKA)
    bad = traced_record(0, 40, SAMPLED.encode())
    bad.value = b"<html>"
    made = make([bad], scorer=detector())
    made.loop._traces = traces
    made.source.on_empty = made.loop.stop
    made.loop.run()
    (one,) = [span for span in exporter.get_finished_spans() if span.name == "process frames"]
    assert one.status.description == "not_jpeg_or_png"
    assert "html" not in one.to_json()


@pytest.mark.parametrize(
    "header",
    [
        b"", b"00", b"\xff\xfe", SAMPLED.upper().encode(), SAMPLED.encode() + b"-more", b"ff" + SAMPLED.encode()[2:],
        f"00-{'0' * 32}-{SPAN}-01".encode(), f"00-{TRACE}-{'0' * 16}-01".encode(), b"a" * 100_000, None,
    ],
)  # fmt: skip
def test_what_is_no_trace_is_none_and_the_frame_is_scored(header):
    one = record(0, 40)
    one = SimpleNamespace(**{**vars(one), "headers": [("traceparent", header)]})
    assert read_frame(one).traceparent is None


@pytest.mark.parametrize(
    ("tracing", "said"),
    [
        ({"endpoint": "collector:4318"}, "must be http"),
        ({"endpoint": "https://me:secret@collector/v1/traces"}, "without a password"),
        ({"endpoint": "http://collector:4318/v1/traces"}, "without TLS"),
        ({"endpoint": "http://127.0.0.1:4318/v1/traces", "sample_ratio": 2}, "less than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, tracing, said):
    file = tmp_path / "worker.yaml"
    file.write_text(json.dumps({"bundle": "b", "tracing": tracing}))
    with pytest.raises(ConfigError, match=said) as raised:
        load_settings(WorkerSettings, file=file)
    assert "tracing" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_without_the_extra_what_is_missing_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "worker.otel_traces")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert isinstance(open_traces(TracingSettings(), KAFKA), NoTraces)
    with pytest.raises(ConfigError, match=r"framewatch\[tracing\]"):
        open_traces(TracingSettings(endpoint="http://127.0.0.1:1/v1/traces"), KAFKA)


@contextmanager
def collector():
    """An OTLP receiver on loopback: its address, and the spans that came."""
    spans = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend((resource.resource, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
        server.shutdown()


def visit(deployment, tiny_bundle):
    frames = frames_of(str(tiny_bundle.footage), "door")
    deployment.send(
        [(key, value, [*headers, ("traceparent", SAMPLED.encode())], at) for key, value, headers, at in frames]
    )
    with deployment.worker() as worker:
        wait_until(lambda: sum(deployment.committed().values()) == len(frames))
        assert terminate(worker) == 0
    alerts = deployment._read_once("alerts", 2)
    assert alerts
    return len(frames), [dict(one.headers)["traceparent"].decode() for one in alerts]


@pytest.mark.broker
def test_a_worker_s_spans_reach_the_collector_and_its_alerts_go_on_with_them(deployment, tiny_bundle):
    with collector() as (endpoint, spans):
        deployment.set(tracing={"endpoint": endpoint})
        count, alerts = visit(deployment, tiny_bundle)
    assert {span.trace_id.hex() for _, span in spans} == {TRACE}
    assert sum(span.name.startswith("process ") for _, span in spans) == count
    sends = {f"00-{TRACE}-{span.span_id.hex()}-01" for _, span in spans if span.name.startswith("send ")}
    assert set(alerts) == sends
    services = {
        one.value.string_value for resource, _ in spans for one in resource.attributes if one.key == "service.name"
    }
    assert services == {"framewatch-worker"}


@pytest.mark.broker
def test_a_collector_that_is_away_costs_no_frame_and_is_said_once(deployment, tiny_bundle):
    deployment.set(tracing={"endpoint": "http://127.0.0.1:9/v1/traces"})
    _, alerts = visit(deployment, tiny_bundle)
    assert all(one.startswith(f"00-{TRACE}-") for one in alerts)
    log = deployment.log.read_text()
    told = [json.loads(line) for line in log.splitlines() if '"message": "alert"' in line]
    assert {line["trace_id"] for line in told} == {TRACE}
    assert {"camera", "partition", "offset", "alert", "type"} <= told[0].keys()
    assert log.count("traces cannot be sent") <= 1
    assert "Traceback" not in log
