"""``worker check``: each thing the worker needs, one line each, before it is needed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from contract.errors import BundleError, FramewatchError
from contract.manifest import Bundle, open_bundle
from contract.runtime import Detector
from worker.cameras import Resolver
from worker.kafka_clients import open_consumer, require_topics, require_uncompressed
from worker.models import open_models
from worker.settings import WorkerSettings


class CheckLine(NamedTuple):
    """One thing that was checked.

    Attributes:
        name: What.
        text: What was found, or what is wrong and what to do.
        error: None where it is well.
    """

    name: str
    text: str
    error: FramewatchError | None


def check_all(settings: WorkerSettings) -> Iterator[CheckLine]:
    """Check settings, bundle, provider, challenger, cameras, broker and topics, in that order, whatever fails."""
    yield CheckLine("settings", "valid", None)
    bundle: Bundle | None = None
    models, topics = open_models(settings), settings.kafka.topics

    def see(named: Path) -> tuple[Bundle, str]:
        key = settings.bundle_public_key
        opened = open_bundle(models.folder(named, key), key)
        version = models.version(named)
        registered = "" if version is None else f", version {version} of {named}"
        return opened, _describe(opened, is_signed=key is not None) + registered

    def see_bundle() -> str:
        nonlocal bundle
        bundle, said = see(settings.bundle)
        return said

    def see_provider() -> str:
        if bundle is None:
            raise BundleError("not tried, there is no bundle to run")
        return Detector(bundle, settings.provider, settings.threads).provider

    yield _try("bundle", see_bundle)

    def see_cameras() -> str:
        nonlocal topics
        resolver = Resolver(lambda bundle: Detector(bundle, settings.provider, settings.threads), models)
        cameras = resolver.resolve(settings)
        if cameras.challengers:
            topics = [*settings.kafka.topics, settings.kafka.challenger_scores_topic]
        those = f"{len(cameras.bundles)} bundles, {len(cameras.challengers)} of them challengers"
        return f"{cameras.known} known, {those}, unknown ones: {settings.unknown_cameras}"

    yield _try("provider", see_provider)
    challenger = settings.challenger
    if challenger is not None:
        yield _try("challenger", lambda: see(challenger)[1])
    if settings.cameras is not None or challenger is not None:
        yield _try("cameras", see_cameras)
    yield from _check_broker(settings, topics)


def _describe(bundle: Bundle, *, is_signed: bool) -> str:
    manifest = bundle.manifest
    p = manifest.preprocessing
    return (
        f"{manifest.name} {manifest.version} {manifest.precision}, {p.width}x{p.height}, threshold "
        f"{manifest.calibration.threshold:.3f}, digests match{', signed by the key' if is_signed else ''}"
    )


def _check_broker(settings: WorkerSettings, topics: Sequence[str]) -> Iterator[CheckLine]:
    try:
        consumer = open_consumer(settings.kafka, settings.batch.deadline_ms)
    except FramewatchError as error:
        yield CheckLine("broker", str(error), error)
        return
    try:
        yield CheckLine("broker", f"{settings.kafka.bootstrap_servers} answers", None)

        def see_topics() -> str:
            require_topics(consumer, topics, settings.kafka)
            require_uncompressed(settings.kafka)
            return "all there"

        yield _try("topics", see_topics)
    finally:
        consumer.close(autocommit=False)


def _try(name: str, see: Callable[[], str]) -> CheckLine:
    try:
        return CheckLine(name, see(), None)
    except FramewatchError as error:
        return CheckLine(name, str(error), error)
