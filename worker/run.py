"""``worker run``: wires real clients to the loop."""

import logging
from collections.abc import Mapping

from contract.manifest import open_bundle
from contract.runtime import Detector
from worker.cores import Crew, cores_given, share_interpreter
from worker.delivery import Delivery
from worker.engine import Engine
from worker.kafka_clients import mapped_errors, open_consumer, require_topics, require_uncompressed
from worker.loop import WorkerLoop
from worker.partitions import Losses
from worker.read_back import ReadBack
from worker.replay import Replay, find_replay
from worker.replay_range import ReplayRange
from worker.settings import WorkerSettings
from worker.stopping import StopSignals
from worker.telemetry import Metrics, Probes, SilenceWatch, TelemetryServer
from worker.transactions import Transactions
from worker.watchdog import Watchdog

_CLOSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


def run_replay(settings: WorkerSettings, wanted: ReplayRange) -> str:
    """Score frames of the past until all are done, or SIGTERM or SIGINT.

    Args:
        settings: Of the replay, whose group and topics are its own.
        wanted: Which frames.

    Returns:
        One line that says what was done.

    Raises:
        ConfigError: A setting, a topic or the provider is wrong.
        BundleError: The bundle cannot be trusted.
        BrokerUnavailableError: No broker answers.
        DeliveryError: A record was not confirmed.
    """
    replay = find_replay(settings.kafka, wanted)
    run_worker(settings, replay)
    return replay.summary(settings.kafka)


def run_worker(settings: WorkerSettings, replay: Replay | None = None) -> None:
    """Score frames from Kafka until SIGTERM or SIGINT, or until a replay is done.

    Checks the bundle, the provider, the broker and the topics before it reads a frame.

    Raises:
        ConfigError: A setting, a topic or the provider is wrong.
        BundleError: The bundle cannot be trusted.
        BrokerUnavailableError: No broker answers.
        DeliveryError: A record was not confirmed.
    """
    bundle = open_bundle(settings.bundle, settings.bundle_public_key)
    # One thread a call and as many calls as there are cores: threads within a call wait for each other.
    detector = Detector(bundle, settings.provider, 1)
    cores = cores_given()
    threads = settings.threads or (cores + 1 if cores > 1 else 1)
    share_interpreter()
    metrics = Metrics()
    probes = Probes(settings.kafka.max_poll_interval_ms / 1000)
    name = bundle.reference
    about = {"name": name.name, "version": name.version, "digest": name.digest, "provider": detector.provider}
    metrics.bundle.info(about)
    with Crew(threads) as crew, TelemetryServer(settings.http, metrics, probes) as server:
        engine = Engine(
            detector,
            threshold=settings.threshold,
            event_rule=settings.event_rule.over(bundle.manifest.event_rule),
            limits=settings.limits,
            picture_max_bytes=settings.picture_max_bytes,
            health_rule=settings.camera_health,
            max_cameras=settings.max_cameras,
            crew=crew,
            on_stage=metrics.observe_stage,
        )
        where = {"provider": detector.provider, "bundle": f"{name.name} {name.version}", "http_port": server.port}
        with Watchdog() as watchdog:
            _run_loop(engine, settings, metrics, probes, watchdog, where, replay)


def _run_loop(
    engine: Engine,
    settings: WorkerSettings,
    metrics: Metrics,
    probes: Probes,
    watchdog: Watchdog,
    where: Mapping[str, object],
    replay: Replay | None,
) -> None:
    kafka = settings.kafka
    closing_seconds = _CLOSE_SECONDS
    consumer = open_consumer(kafka, settings.batch.deadline_ms, replay.stretches if replay is not None else None)
    try:
        if replay is None:
            require_topics(consumer, kafka.topics, kafka)
        require_uncompressed(kafka)
        exactly_once = kafka.delivery == "exactly_once"
        outlet = Transactions(kafka, watchdog.limit) if exactly_once else Delivery(kafka)
        try:
            losses = Losses()
            with mapped_errors(kafka):
                consumer.subscribe([kafka.frames_topic], listener=losses)
            loop = WorkerLoop(
                consumer, outlet, engine, settings, metrics, probes, losses, ReadBack(kafka), watchdog.limit,
                replay=replay,
            )  # fmt: skip
            probes.answered()
            with StopSignals(loop.stop, settings.stop_seconds) as signals, SilenceWatch(probes):
                _log.info("running", extra={**where, "topic": kafka.frames_topic, "group": kafka.group_id})
                try:
                    loop.run(consumer.is_over)
                    if replay is not None:
                        with mapped_errors(kafka):
                            replay.is_over = consumer.is_over()
                finally:
                    # Two clients are closed in what is left.
                    closing_seconds = signals.seconds_left(2 * _CLOSE_SECONDS) / 2
        finally:
            outlet.close(closing_seconds)
    finally:
        probes.ready = False
        consumer.close(autocommit=False, timeout_ms=round(closing_seconds * 1000))
