"""Which footage a retraining fits to, and on which it compares."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from contract.clip import Clip
from contract.kafka_source import KafkaClip, parse_kafka_source
from contract.source import open_source
from trainer.compare import Evidence
from trainer.compare_command import open_evidence
from trainer.fit import fit
from trainer.retrain_job import Job
from trainer.retrain_settings import RetrainSettings
from trainer.topic_footage import TopicFootage

_COMPARING = "comparing"


def fit_to(settings: RetrainSettings, job: Job, run: Path, console: Console) -> None:
    """Fit to the footage before the split, or go on with that.

    Raises:
        BrokerUnavailableError: No broker answers.
        FramewatchError: As `trainer.fit.fit`.
    """
    source = settings.named(settings.source)
    if not settings.is_topic:
        fit(open_source(source), source, settings.fit_settings, run, console)
        return
    address = _range(settings, job.from_ms, job.split_ms)
    clips = TopicFootage(address, settings.fit_settings, console, goes_on=run.exists())
    fit(clips, f"{source} {job.from_ms} to {job.split_ms}", settings.fit_settings, run, console)


def evidence_of(settings: RetrainSettings, job: Job, folder: Path, console: Console) -> list[Evidence]:
    """Open what both models are compared on.

    Args:
        settings: Of the retraining.
        job: What was pinned.
        folder: Of the retraining.
        console: Where progress is shown.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: A source is none.
        FootageError: The topic gives none.
        LabelError: Labels do not describe their footage.
    """
    named = settings.named
    evidence = open_evidence(
        [named(source) for source in settings.normal],
        [(named(one.source), Path(named(str(one.labels)))) for one in settings.labelled],
    )
    if settings.is_topic:
        begun = folder / _COMPARING
        recent = TopicFootage(
            _range(settings, job.split_ms, job.to_ms), settings.fit_settings, console, goes_on=begun.exists()
        )
        begun.touch()
        evidence.append(Evidence("normal", recent))
    return evidence


def _range(settings: RetrainSettings, from_ms: int, to_ms: int) -> KafkaClip:
    source = settings.named(settings.source)
    return parse_kafka_source(f"{source}{'&' if '?' in source else '?'}from={from_ms}&to={to_ms}")
