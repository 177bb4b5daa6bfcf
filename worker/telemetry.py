"""Prometheus metrics and the live and ready probes, served over HTTP.

/metrics  Prometheus text format
/livez    200 while the loop turns, 503 once it has not for longer than a batch may take
/readyz   200 while partitions are assigned and the broker answered in the last 20 s, 503 otherwise
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)

from contract import __version__
from contract.alert import HealthState
from contract.errors import ConfigError
from worker.gpu_memory import GpuMemory
from worker.settings import HttpSettings

_log = logging.getLogger(__name__)
_STAGE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
# One time series a camera and outcome; keys are the senders' to choose.
_MAX_CAMERA_LABELS: Final = 512
_MAX_SILENCE_SECONDS: Final = 20.0
_LOOK_EVERY_SECONDS: Final = 1.0
_DELAY_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    """What a worker counts. Every metric is in a registry of its own, so that two can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.frames = Counter("framewatch_frames", "Frames finished", ["camera", "outcome"], registry=self.registry)
        self.dead_letters = Counter(
            "framewatch_dead_letters", "Frames that could not be scored", ["reason"], registry=self.registry
        )
        self.alerts = Counter("framewatch_alerts", "Alerts confirmed by the broker", ["type"], registry=self.registry)
        self.stage_seconds = Histogram(
            "framewatch_stage_seconds", "Time in a stage, by batch", ["stage"], buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self.batch_frames = Histogram(
            "framewatch_batch_frames",
            "Frames in a batch",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.delay_seconds = Histogram(
            "framewatch_capture_to_score_seconds",
            "From capture to score",
            buckets=_DELAY_BUCKETS,
            registry=self.registry,
        )
        self.alert_delay_seconds = Histogram(
            "framewatch_capture_to_alert_seconds",
            "From the capture of the frame with which an event's start is told until the broker has the alert",
            buckets=_DELAY_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.lag = Gauge(
            "framewatch_lag_frames", "Frames on the topic from the first unfinished on", ["partition"],
            registry=self.registry,
        )  # fmt: skip
        self.lag_seconds = Gauge(
            "framewatch_lag_seconds",
            "Age of the oldest frame fetched and not finished, by its record's timestamp; 0 where all are finished",
            ["partition"], registry=self.registry,
        )  # fmt: skip
        self.committed_at = Gauge(
            "framewatch_last_commit_timestamp_seconds", "When the broker last took a commit; 0 before the first",
            registry=self.registry,
        )  # fmt: skip
        self.queue_bytes = Gauge(
            "framewatch_queue_bytes", "Bytes of the records fetched that wait for a batch", registry=self.registry
        )
        self.queue_limit_bytes = Gauge(
            "framewatch_queue_limit_bytes", "Bytes of waiting records at which no more are fetched",
            registry=self.registry,
        )  # fmt: skip
        self.open_events = Gauge(
            "framewatch_open_events", "Events told as started and not as ended", registry=self.registry
        )
        self.unwell = Gauge(
            "framewatch_camera_unwell", "1 while a camera is told as being in a state of ill health",
            ["camera", "state"], registry=self.registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "framewatch_waiting_frames", "Frames fetched that wait for a batch", ["partition"], registry=self.registry
        )
        self.paused = Gauge(
            "framewatch_partition_paused", "Whether so much of a partition waits that no more is fetched",
            ["partition"], registry=self.registry,
        )  # fmt: skip
        self.skipped = Counter(
            "framewatch_frames_skipped", "Frames passed over by a policy", ["camera", "cause"], registry=self.registry
        )
        self.missed = Counter(
            "framewatch_frames_missed", "Frames that retention deleted before they were read", ["partition"],
            registry=self.registry,
        )  # fmt: skip
        self.aborted = Counter(
            "framewatch_transactions_aborted", "Transactions that were aborted and done again", registry=self.registry
        )
        self.state_left_out = Gauge(
            "framewatch_state_left_out_cameras", "Cameras whose pending event a restart would begin anew",
            ["partition"], registry=self.registry,
        )  # fmt: skip
        self.oddities = Counter(
            "framewatch_frame_oddities", "Frames scored or rejected although odd", ["kind"], registry=self.registry
        )
        self.partitions = Gauge("framewatch_assigned_partitions", "Partitions assigned", registry=self.registry)
        self.reloads = Counter(
            "framewatch_reloads", "Settings, cameras and bundles loaded anew", ["outcome"], registry=self.registry
        )
        self.last_reload_successful = Gauge(
            "framewatch_last_reload_successful", "1, or 0 while a change of settings, cameras or bundles is refused",
            registry=self.registry,
        )  # fmt: skip
        self.last_reload_successful.set(1)
        self.loaded_at = Gauge(
            "framewatch_loaded_timestamp_seconds", "When what is in force was loaded", registry=self.registry
        )
        self.bundle = Info("framewatch_bundle", "Bundle and provider in use", registry=self.registry)
        self.challengers = Gauge(
            "framewatch_challenger_info", "Challengers in use", ["name", "version", "digest"], registry=self.registry
        )
        self.challenger_frames = Counter(
            "framewatch_challenger_frames", "Frames finished that have a challenger, by who calls them anomalous",
            ["camera", "outcome"], registry=self.registry,
        )  # fmt: skip
        self.challenger_failures = Counter(
            "framewatch_challenger_failures", "Challengers dropped because they failed", registry=self.registry
        )
        self.drifting = Gauge(
            "framewatch_camera_drifting", "Whether a camera's world is told of as changed for good", ["camera"],
            registry=self.registry,
        )  # fmt: skip
        self.drift_share = Gauge(
            "framewatch_camera_drift_share", "Share of a window of blocks of scores beyond normal ones", ["camera"],
            registry=self.registry,
        )  # fmt: skip
        build = Gauge("framewatch_build_info", "1, for the version of the worker", ["version"], registry=self.registry)
        build.labels(__version__).set(1)
        self.gpu_memory = GpuMemory()
        self.registry.register(self.gpu_memory)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._cameras: set[str] = set()
        self._unwell: set[tuple[str, HealthState]] = set()
        # Of each camera whose drift is reported: its partition, and whether there is one.
        self._drifts: dict[str, tuple[int, bool]] = {}

    def camera_label(self, camera_id: str) -> str:
        """The camera's id for the first 512 cameras, ``other`` for those after."""
        if camera_id not in self._cameras:
            if len(self._cameras) >= _MAX_CAMERA_LABELS:
                return "other"
            self._cameras.add(camera_id)
        return camera_id

    def forget(self, partitions: Iterable[int]) -> None:
        """Report nothing of partitions that were lost: no lag, nothing that waits or is left out, no drift."""
        for number in partitions:
            for gauge in (self.lag, self.lag_seconds, self.waiting, self.paused, self.state_left_out):
                with contextlib.suppress(KeyError):
                    gauge.remove(str(number))
            # A copy: another thread observes.
            for label in [label for label, (partition, _) in list(self._drifts.items()) if partition == number]:
                self._drifts.pop(label, None)
                for gauge in (self.drifting, self.drift_share):
                    with contextlib.suppress(KeyError):
                        gauge.remove(label)

    def observe_drift(self, camera_id: str, partition: int, share: float | None, *, is_drifting: bool) -> None:
        """Report a camera's drift where that changed; of cameras after the first 512 nothing is reported.

        Args:
            camera_id: Whose.
            partition: That its frames come from.
            share: Of its window, 0..1; None where that is as it was.
            is_drifting: Whether it is told of.
        """
        if share is None and is_drifting == self._drifts.get(camera_id, (0, False))[1]:
            return
        if self.camera_label(camera_id) != camera_id:
            return
        self._drifts[camera_id] = partition, is_drifting
        self.drifting.labels(camera_id).set(is_drifting)
        if share is not None:
            self.drift_share.labels(camera_id).set(share)

    def show_open(self, events: int, unwell: set[tuple[str, HealthState]]) -> None:
        """Report what is told of and not ended; of cameras after the first 512 no ill health.

        Args:
            events: Number of anomaly events.
            unwell: Cameras and their conditions.
        """
        self.open_events.set(events)
        shown = {(camera, state) for camera, state in unwell if self.camera_label(camera) == camera}
        for camera, state in shown - self._unwell:
            self.unwell.labels(camera, state).set(1)
        for camera, state in self._unwell - shown:
            self.unwell.remove(camera, state)
        self._unwell = shown

    @contextlib.contextmanager
    def time_stage(self, stage: str) -> Iterator[None]:
        """Time a stage of one batch."""
        with self.stage_seconds.labels(stage).time():
            yield

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Count a stage of one batch that was timed elsewhere."""
        self.stage_seconds.labels(stage).observe(seconds)


class Probes:
    """What the probes answer from.

    Args:
        max_turn_seconds: Time the loop may take for one turn and still be called alive.
        clock: Monotonic seconds.

    Attributes:
        ready: Whether partitions are assigned.
    """

    def __init__(self, max_turn_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_turn_seconds = max_turn_seconds
        self._clock = clock
        self._turned_at = self._answered_at = clock()
        self._sending_since: float | None = None
        self.ready = False

    def turn(self) -> None:
        """Say that the loop turns."""
        self._turned_at = self._clock()

    def answered(self, seconds_ago: float = 0.0) -> None:
        """Say when the broker last answered; what was said of a later time holds."""
        self._answered_at = max(self._answered_at, self._clock() - seconds_ago)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Note that the broker is to confirm something, until the block ends; one thread at a time."""
        self._sending_since = self._clock()
        try:
            yield
        finally:
            self._sending_since = None

    @property
    def silent(self) -> bool:
        """Whether the broker has not answered, or not confirmed what it was sent, for 20 s."""
        now, sending_since = self._clock(), self._sending_since
        is_unconfirmed = sending_since is not None and now - sending_since >= _MAX_SILENCE_SECONDS
        return is_unconfirmed or now - self._answered_at >= _MAX_SILENCE_SECONDS

    @property
    def live(self) -> bool:
        """Whether the loop turned lately."""
        return self._clock() - self._turned_at < self._max_turn_seconds


class SilenceWatch:
    """Logs that the broker does not answer, and that it does again; a context manager with a thread of its own.

    The loop cannot say it, for it may be what waits for the broker.

    Args:
        probes: Told of each answer.
    """

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._was_silent = False
        self._ended = threading.Event()

    def look(self) -> None:
        """Log a change since the last look, once."""
        if self._probes.silent != self._was_silent:
            self._was_silent = not self._was_silent
            _log.warning("the broker does not answer" if self._was_silent else "the broker answers again")

    def __enter__(self) -> "SilenceWatch":
        threading.Thread(target=self._watch, name="silence", daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_SECONDS):
            self.look()


class TelemetryServer:
    """Serves metrics and probes from a thread of its own; a context manager.

    Raises:
        ConfigError: The port is taken or the address is not this machine's.
    """

    def __init__(self, http: HttpSettings, metrics: Metrics, probes: Probes) -> None:
        self._metrics_app = make_wsgi_app(metrics.registry)
        self._probes = probes
        self._server: WSGIServer | None = None
        if http.enabled:
            kind = _Server6 if ":" in http.host else _Server
            try:
                self._server = make_server(http.host, http.port, self._answer, kind, _QuietHandler)
            except OSError as error:
                raise ConfigError(
                    f"http: cannot listen on {http.host}:{http.port}: {error.strerror}; choose another http.port, "
                    "0 for a free one"
                ) from error

    @property
    def port(self) -> int | None:
        """Port served on; None where nothing is."""
        return self._server.server_port if self._server else None

    def __enter__(self) -> "TelemetryServer":
        if self._server:
            threading.Thread(target=self._server.serve_forever, name="telemetry", daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # noqa: ANN401
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return self._metrics_app(environ, start_response)  # type: ignore[no-any-return]
        answers = {"/livez": self._probes.live, "/readyz": self._probes.ready and not self._probes.silent}
        if path not in answers:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/metrics /livez /readyz\n"]
        good = answers[path]
        start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"ok\n" if good else b"no\n"]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Say it in a debug line: a client that hangs up or says nothing is no fault of ours, and no traceback."""
        _log.debug("request of %s failed", client_address, exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401
        """Say nothing: a probe every second is no news."""
