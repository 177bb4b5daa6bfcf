"""``worker run``: wires real clients to the loop."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from contract.drift import DriftRule, why_untold
from contract.runtime import Detector
from worker.cameras import Cameras, Resolver
from worker.cores import Crew, cores_given, share_interpreter
from worker.delivery import Delivery
from worker.engine import Engine
from worker.kafka_clients import mapped_errors, open_consumer, open_reader, require_topics, require_uncompressed
from worker.loop import WorkerLoop
from worker.models import Models, open_models
from worker.partitions import Losses
from worker.read_back import ReadBack
from worker.reload import Reloader
from worker.replay import Replay, find_replay
from worker.replay_range import ReplayRange
from worker.settings import WorkerSettings
from worker.stopping import StopSignals
from worker.telemetry import Metrics, Probes, SilenceWatch, TelemetryServer
from worker.traces import NoTraces, Traces, open_traces
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
        ConfigError: A setting, a topic or the provider is wrong, or the model registry has no such model.
        RegistryUnavailableError: The model registry does not answer, and never did.
        BundleError: A bundle cannot be trusted.
        BrokerUnavailableError: No broker answers.
        DeliveryError: A record was not confirmed.
    """
    replay = find_replay(settings.kafka, wanted)
    run_worker(settings, replay=replay)
    return replay.summary(settings.kafka)


def run_worker(
    settings: WorkerSettings,
    load: Callable[[], WorkerSettings] | None = None,
    file: Path | None = None,
    replay: Replay | None = None,
) -> None:
    """Score frames from Kafka until SIGTERM or SIGINT, or until a replay is done.

    Checks bundles, the provider, cameras, the broker and the topics before it reads a frame.

    Args:
        settings: Of the worker.
        load: Reads them anew; None where they hold to the end.
        file: From which they came, if any; when it changes they are read anew.
        replay: What of the past is done; None for what comes.

    Raises:
        ConfigError: A setting, a topic or the provider is wrong, or the model registry has no such model.
        RegistryUnavailableError: The model registry does not answer, and never did.
        BundleError: A bundle cannot be trusted.
        BrokerUnavailableError: No broker answers.
        DeliveryError: A record was not confirmed.
    """
    # One thread a call and as many calls as there are cores: threads within a call wait for each other.
    # A replay would add to traces that ended long ago.
    traces = open_traces(settings.tracing, settings.kafka) if replay is None else NoTraces()
    models = open_models(settings)
    resolver = Resolver(lambda bundle: Detector(bundle, settings.provider, 1), models)
    cameras = resolver.resolve(settings)
    cores = cores_given()
    threads = settings.threads or (cores + 1 if cores > 1 else 1)
    share_interpreter()
    metrics = Metrics()
    kafka = settings.kafka
    probes = Probes(kafka.max_poll_interval_ms / 1000)
    _tell_bundles(metrics, cameras, models)
    with Crew(threads) as crew, TelemetryServer(settings.http, metrics, probes) as server:
        engine = Engine(
            cameras.detector,
            limits=settings.limits,
            picture_max_bytes=settings.picture_max_bytes,
            health_rule=settings.camera_health,
            drift_rule=settings.drift,
            max_cameras=settings.max_cameras,
            crew=crew,
            keep_maps=settings.kafka.scores_maps,
            on_stage=metrics.observe_stage,
        )
        engine.use(cameras.profile)

        def resolve(anew: WorkerSettings) -> Cameras:
            cameras = resolver.resolve(anew)
            if cameras.challengers:
                # A topic that is not there would end the worker with the first score sent to it.
                with closing(open_reader(kafka)) as reader:
                    require_topics(reader, [kafka.challenger_scores_topic], kafka)
            return cameras

        def tell(taken: Cameras | None) -> None:
            metrics.reloads.labels("refused" if taken is None else "taken").inc()
            metrics.last_reload_successful.set(taken is not None)
            if taken is not None:
                _tell_bundles(metrics, taken, models)
                _say_untold(taken, settings.drift)

        with ExitStack() as stack:
            stack.callback(traces.close)
            watchdog = stack.enter_context(Watchdog())
            reloader = None
            if load is not None:
                reloader = stack.enter_context(Reloader(settings, cameras, load, resolve, file, tell, models))
            _run_loop(engine, settings, cameras, reloader, metrics, probes, watchdog, server.port, replay, traces)


def _never() -> None:
    """Nothing is loaded anew."""


def _tell_bundles(metrics: Metrics, cameras: Cameras, models: Models) -> None:
    name, provider = cameras.detector.bundle.reference, cameras.detector.provider
    named = next(iter(cameras.bundles))
    version = models.version(named)
    registered = {"address": str(named), "model_version": str(version)} if version is not None else {}
    info = {"name": name.name, "version": name.version, "digest": name.digest, "provider": provider}
    metrics.bundle.info({**info, **registered})
    metrics.gpu_memory.wanted = provider == "cuda"
    metrics.challengers.clear()
    for challenger in cameras.challengers:
        its = challenger.bundle.reference
        metrics.challengers.labels(its.name, its.version, its.digest).set(1)
    metrics.loaded_at.set(time.time())


def _say_untold(cameras: Cameras, drift_rule: DriftRule) -> None:
    """Say of which bundles no drift will be told, those alone aside that challenge another."""
    for detector in cameras.bundles.values():
        if detector in cameras.challengers and detector is not cameras.detector:
            continue
        manifest = detector.bundle.manifest
        cause = why_untold(manifest.drift, drift_rule)
        if cause is not None:
            _log.warning("drift is not told", extra={"bundle": f"{manifest.name} {manifest.version}", "cause": cause})


def _run_loop(
    engine: Engine,
    settings: WorkerSettings,
    cameras: Cameras,
    reloader: Reloader | None,
    metrics: Metrics,
    probes: Probes,
    watchdog: Watchdog,
    http_port: int | None,
    replay: Replay | None,
    traces: Traces,
) -> None:
    kafka = settings.kafka
    closing_seconds = _CLOSE_SECONDS
    reloaded = reloader.take if reloader is not None else _never
    consumer = open_consumer(kafka, settings.batch.deadline_ms, replay.stretches if replay is not None else None)
    try:
        if replay is None:
            require_topics(consumer, kafka.topics, kafka)
        if cameras.challengers:
            require_topics(consumer, [kafka.challenger_scores_topic], kafka)
        require_uncompressed(kafka)
        exactly_once = kafka.delivery == "exactly_once"
        outlet = Transactions(kafka, watchdog.limit) if exactly_once else Delivery(kafka)
        try:
            losses = Losses()
            with mapped_errors(kafka):
                consumer.subscribe([kafka.frames_topic], listener=losses)
            loop = WorkerLoop(
                consumer, outlet, engine, settings, cameras, reloaded, metrics, probes, losses, ReadBack(kafka),
                watchdog.limit, replay=replay, traces=traces,
            )  # fmt: skip
            probes.answered()
            # Once the rest is known to be well: what a start ends with is one line.
            _say_untold(cameras, settings.drift)
            with StopSignals(loop.stop, settings.stop_seconds) as signals, SilenceWatch(probes):
                name = cameras.detector.bundle.reference
                where = {"provider": cameras.detector.provider, "bundle": f"{name.name} {name.version}"}
                where |= {"topic": kafka.frames_topic, "group": kafka.group_id}
                counts = {"bundles": len(cameras.bundles), "challengers": len(cameras.challengers)}
                _log.info("running", extra={**where, "http_port": http_port, **counts})
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
