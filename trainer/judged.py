"""Events that people judged, as footage on which models are compared."""

from collections.abc import Iterator
from typing import Final, get_args

from rich.console import Console

from contract.feedback import Verdict
from contract.kafka_source import KafkaClip
from trainer.compare import Evidence
from trainer.label_kinds import ImageLabels
from trainer.settings import FitSettings
from trainer.topic_footage import read_spans
from trainer.topic_planning import camera_spans

# Before what people confirmed there may have been more of it; before a false alarm, another world.
_LEAD_IN_SECONDS: Final = 2.0
_VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)


def judged_events(address: KafkaClip, settings: FitSettings, console: Console) -> Iterator[Evidence]:
    """Read what people confirmed and what they called false alarms, as far as the topic still holds its frames.

    Args:
        address: Camera, topic and range.
        settings: Topics of alerts and feedback, the cache, and how many frames are read of each kind.
        console: Where progress is shown.

    Raises:
        BrokerUnavailableError: No broker answers, or it does not let us in.
        ConfigError: A topic that is needed is not there.
        FootageError: The topic of frames is not there, or holds no record of the range.
    """
    spans = camera_spans(address, settings.topic, lambda line: console.print(line, highlight=False, soft_wrap=True))
    for verdict in _VERDICTS:
        judged = [span for span in spans if span.verdict == verdict]
        if judged:
            is_right = verdict == "confirmed"
            clips = read_spans(address, judged, settings, console, lead_in_seconds=_LEAD_IN_SECONDS if is_right else 0)
            labels = ImageLabels({clip.name: True for clip in clips}, None, None) if is_right else None
            yield Evidence(verdict, clips, labels)
