"""Which footage a retraining fits to, and on which it compares."""

from pathlib import Path
from typing import Final

from rich.console import Console

from contract.kafka_source import KafkaClip, parse_kafka_source
from contract.source import open_source
from trainer.compare import Evidence
from trainer.compare_command import open_evidence
from trainer.fit import fit
from trainer.judged import judged_events
from trainer.retrain_job import Job
from trainer.retrain_settings import RetrainSettings
from trainer.settings import FitSettings
from trainer.topic_footage import TopicFootage

_MS_A_DAY: Final = 86_400_000


def fit_to(settings: RetrainSettings, job: Job, run: Path, cache: Path, console: Console) -> None:
    """Fit to the footage before the split, or go on with that.

    Args:
        settings: Of the retraining.
        job: What was pinned.
        run: Run folder.
        cache: Folder that keeps what is read of a topic, where none is set.
        console: Where progress is shown.

    Raises:
        BrokerUnavailableError: No broker answers.
        FramewatchError: As `trainer.fit.fit`.
    """
    source, to_fit = settings.named(settings.source), settings.fit_settings(cache)
    if not settings.is_topic:
        fit(open_source(source), source, to_fit, run, console)
        return
    address = _range(settings, job.from_ms, job.split_ms)
    # The same footage as before it was stopped, also where somebody has judged an event since.
    clips = TopicFootage(address, to_fit, console, goes_on=run.exists())
    fit(clips, f"{source} from {job.from_ms} to {job.split_ms}", to_fit, run, console)


def evidence_of(settings: RetrainSettings, job: Job, cache: Path, console: Console) -> list[Evidence]:
    """Open what both models are compared on; a topic is read.

    Args:
        settings: Of the retraining.
        job: What was pinned.
        cache: Folder that keeps what is read of a topic, where none is set.
        console: Where progress is shown.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: A source is none.
        FootageError: The topic gives no frame since the split.
        LabelError: Labels do not describe their footage.
    """
    named = settings.named
    evidence = open_evidence(
        [named(source) for source in settings.normal],
        [(named(one.source), Path(named(str(one.labels)))) for one in settings.labelled],
        settings.fit_settings(cache),
        console,
    )
    if settings.is_topic:
        few = _with_fewer_frames(settings.fit_settings(cache), settings.compare_frames)
        evidence.append(Evidence("normal", TopicFootage(_range(settings, job.split_ms, job.to_ms), few, console)))
        since_ms = max(0, job.to_ms - round(settings.confirmed_days * _MS_A_DAY))
        if since_ms < job.to_ms:
            evidence += judged_events(_range(settings, since_ms, job.to_ms), few, console)
    return evidence


def _with_fewer_frames(settings: FitSettings, most: int) -> FitSettings:
    topic = settings.topic.model_copy(update={"max_frames": min(most, settings.topic.max_frames)})
    return settings.model_copy(update={"topic": topic})


def _range(settings: RetrainSettings, from_ms: int, to_ms: int) -> KafkaClip:
    source = settings.named(settings.source)
    return parse_kafka_source(f"{source}{'&' if '?' in source else '?'}from={from_ms}&to={to_ms}", settings.kafka)
