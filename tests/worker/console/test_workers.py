"""What is shown of workers is what their metrics say; one that does not answer is shown as such."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from worker.console.workers import WorkerWatch
from worker.settings import HttpSettings
from worker.telemetry import Metrics, Probes, TelemetryServer


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def address(metrics):
    with TelemetryServer(HttpSettings(port=0), metrics, Probes(60)) as server:
        yield f"http://127.0.0.1:{server.port}/metrics"


def test_a_worker_s_figures_are_its_metrics(metrics, address):
    metrics.bundle.info({"name": "room", "version": "7", "digest": "d", "provider": "cpu"})
    metrics.partitions.set(3)
    metrics.lag.labels("0").set(40)
    metrics.lag.labels("1").set(2)
    metrics.frames.labels("door", "normal").inc(100)
    watch = WorkerWatch([address])
    watch.look()
    (first,) = watch.statuses
    assert (first["is_up"], first["bundle"], first["provider"]) == (True, "room 7", "cpu")
    assert (first["lag_frames"], first["partitions"], first["frames"]) == (42, 3, 100)
    assert first["frames_per_second"] is None, "one look tells no rate"
    metrics.frames.labels("door", "anomalous").inc(50)
    metrics.delay_seconds.observe(0.5)
    metrics.delay_seconds.observe(1.5)
    metrics.dead_letters.labels("truncated").inc()
    watch.look()
    (second,) = watch.statuses
    assert second["frames_per_second"] > 0
    assert (second["delay_seconds"], second["dead_letters"], second["rates"]) == (
        1.0, 1, [second["frames_per_second"]],
    )  # fmt: skip


def test_a_worker_that_restarted_has_no_rate_for_a_moment(metrics, address):
    watch = WorkerWatch([address])
    metrics.frames.labels("door", "normal").inc(100)
    watch.look()
    metrics.frames.clear()
    watch.look()
    assert watch.statuses[0]["frames_per_second"] is None


@pytest.mark.parametrize(
    "answer", [b"\xff", b"# nothing", b"<html>", b"framewatch_frames_total{", b"x" * 9_000_000, None]
)
def test_what_gives_no_worker_s_metrics_is_shown_as_down(answer):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if answer is None else 200)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            try:
                self.wfile.write(answer or b"")
            except OSError:
                self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        watch = WorkerWatch([f"http://127.0.0.1:{server.server_port}/metrics"])
        watch.look()
        server.shutdown()
        thread.join()
    (status,) = watch.statuses
    assert not status["is_up"]
    assert 0 < len(status["error"]) <= 200
    assert "\n" not in status["error"]


def test_a_worker_that_is_gone_is_shown_as_down(metrics):
    with TelemetryServer(HttpSettings(port=0), metrics, Probes(60)) as server:
        watch = WorkerWatch([f"http://127.0.0.1:{server.port}/metrics"])
        watch.look()
        assert watch.statuses[0]["is_up"]
    watch.look()
    assert not watch.statuses[0]["is_up"]
