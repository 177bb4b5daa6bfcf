"""``worker run``: wires real clients to the loop."""

import logging

from contract.manifest import open_bundle
from contract.runtime import Detector
from worker.engine import Engine
from worker.kafka_clients import deliver, mapped_errors, open_consumer, open_producer, require_topics
from worker.loop import Losses, WorkerLoop
from worker.settings import WorkerSettings
from worker.telemetry import Metrics, Probes, TelemetryServer

_CLOSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


def run_worker(settings: WorkerSettings) -> None:
    """Score frames from Kafka until SIGTERM or SIGINT.

    Checks the bundle, the provider, the broker and the topics before it reads a frame.

    Raises:
        ConfigError: A setting, a topic or the provider is wrong.
        BundleError: The bundle cannot be trusted.
        BrokerUnavailableError: No broker answers.
        DeliveryError: A record was not confirmed.
    """
    bundle = open_bundle(settings.bundle)
    detector = Detector(bundle, settings.provider, settings.threads)
    metrics = Metrics()
    probes = Probes(settings.kafka.max_poll_interval_ms / 1000)
    engine = Engine(
        detector,
        threshold=settings.threshold,
        event_rule=settings.event_rule,
        limits=settings.limits,
        picture_max_bytes=settings.picture_max_bytes,
        on_stage=metrics.begin_stage,
    )
    name = bundle.reference
    metrics.bundle.info(
        {"name": name.name, "version": name.version, "digest": name.digest, "provider": detector.provider}
    )
    kafka = settings.kafka
    with TelemetryServer(settings.http, metrics, probes) as server:
        consumer = open_consumer(kafka)
        try:
            require_topics(consumer, kafka.topics, kafka)
            producer = open_producer(kafka)
            try:
                losses = Losses()
                with mapped_errors(kafka):
                    consumer.subscribe([kafka.frames_topic], listener=losses)
                loop = WorkerLoop(
                    consumer,
                    lambda records: deliver(producer, records, kafka),
                    engine,
                    settings,
                    metrics,
                    probes,
                    losses,
                )
                loop.stop_on_signals()
                where = {
                    "provider": detector.provider,
                    "bundle": f"{name.name} {name.version}",
                    "http_port": server.port,
                }
                _log.info("running", extra={**where, "topic": kafka.frames_topic, "group": kafka.group_id})
                loop.run()
            finally:
                producer.close(timeout=_CLOSE_SECONDS)
        finally:
            probes.ready = False
            consumer.close(autocommit=False, timeout_ms=round(_CLOSE_SECONDS * 1000))
