"""``worker console``: wires real clients to the console and serves it until SIGTERM or SIGINT."""

import logging
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import uvicorn

from contract.errors import ConfigError
from worker.console.app import Parts, make_app
from worker.console.follower import Followed, Follower
from worker.console.hub import Hub
from worker.console.pulse import Pulse
from worker.console.reading import read_alert, read_score, read_verdict
from worker.console.schema import held
from worker.console.settings import ConsoleSettings
from worker.console.store import Store
from worker.console.verdicts import VerdictSender
from worker.console.what_if import RuleInUse
from worker.console.workers import WorkerWatch
from worker.kafka_clients import require_fast_checksums

_STOP_SECONDS: Final = 3
_BACKLOG: Final = 128
_log = logging.getLogger(__name__)


def run_console(settings: ConsoleSettings) -> None:
    """Serve the console until SIGTERM or SIGINT; a broker that is not there is waited for.

    Raises:
        ConfigError: The address is taken or not this machine's, the database cannot be used, a certificate is wrong.
        BundleError: The named bundle cannot be trusted.
    """
    require_fast_checksums()
    _require_certificate(settings)
    rule = RuleInUse.of(settings)
    with held(settings.database), _listening(settings) as listener, _running(settings, rule) as app:
        server = uvicorn.Server(_server_config(settings, app))
        port = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        scheme = "https" if settings.tls_certfile else "http"
        _log.info("console runs", extra={"address": f"{scheme}://{host}:{port}/", "auth": settings.auth.kind})
        # The server raises a signal again once it has stopped, which then has nothing more to do.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener])


def _require_certificate(settings: ConsoleSettings) -> None:
    if settings.tls_certfile is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_certfile, settings.tls_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls_certfile {settings.tls_certfile} or its key cannot be used: {error}") from error


@contextmanager
def _running(settings: ConsoleSettings, rule: RuleInUse) -> Iterator[Any]:
    """The application with all its threads."""
    store, hub = Store(settings.database, settings.max_cameras), Hub()
    sender = VerdictSender(settings.kafka, settings.feedback_topic)
    with ExitStack() as stack:
        stack.callback(store.close)
        stack.callback(sender.close)
        workers = stack.enter_context(WorkerWatch(settings.worker_metrics))
        pulse = Pulse(settings, store, hub, workers)
        pulse.followers = [
            Follower(settings.kafka, topics, _source(settings), store, pulse.on_change) for topics in _topics(settings)
        ]
        for follower in pulse.followers:
            stack.enter_context(follower)
        stack.enter_context(pulse)
        yield make_app(Parts(settings, hub, pulse, sender, rule))


def _topics(settings: ConsoleSettings) -> list[tuple[Followed, ...]]:
    """What each follower reads: scores are many, and must not keep an alert waiting."""
    days = settings.retention_days
    alerts = (
        Followed(settings.kafka.alerts_topic, read_alert, days),
        Followed(settings.feedback_topic, read_verdict, days),
    )
    if settings.kafka.scores_topic is None:
        return [alerts]
    return [alerts, (Followed(settings.kafka.scores_topic, read_score, min(days, settings.raw_score_hours / 24)),)]


def _source(settings: ConsoleSettings) -> str:
    kafka = settings.kafka
    return f"{kafka.alerts_topic} {kafka.scores_topic} {settings.feedback_topic}"


@contextmanager
def _listening(settings: ConsoleSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another port, 0 for a free one"
        ) from error
    with listener:
        yield listener


def _server_config(settings: ConsoleSettings, app: Any) -> uvicorn.Config:  # noqa: ANN401
    return uvicorn.Config(
        app, log_config=None, access_log=False, proxy_headers=False, server_header=False, lifespan="off",
        ws="none", timeout_graceful_shutdown=_STOP_SECONDS, h11_max_incomplete_event_size=64 * 1024,
        ssl_certfile=settings.tls_certfile and str(settings.tls_certfile),
        ssl_keyfile=settings.tls_keyfile and str(settings.tls_keyfile),
    )  # fmt: skip
