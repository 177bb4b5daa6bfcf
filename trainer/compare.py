"""Two models side by side on the same footage: which events one finds and the other does not, and how they agree."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from pydantic import Field
from rich.console import Console
from scipy.stats import spearmanr

from contract.clip import Clip
from contract.scoring import SECONDS_A_DAY
from contract.settings import FrozenModel
from trainer.labels import Labels
from trainer.metrics import (
    LabelledStretch,
    detection_delay_seconds,
    is_false,
    labelled_events,
    normal_ms,
    overlapping,
)
from trainer.scored import ScoredStretch, ScoringModel, score_footage

EvidenceKind = Literal["normal", "labelled", "confirmed", "false_alarm"]
Side = Literal["champion", "challenger"]

KIND_TEXTS: Final[dict[EvidenceKind, str]] = {
    "normal": "normal footage",
    "labelled": "labelled footage",
    "confirmed": "events that people confirmed",
    "false_alarm": "events that people called false alarms",
}
"""What each kind of footage is, in words."""

_MAX_LISTED: Final = 200

_Pair = tuple[ScoredStretch, ScoredStretch]
"""The same stretch as the champion and as the challenger scored it."""


@dataclass(frozen=True)
class Evidence:
    """Footage of one kind on which two models are compared.

    Attributes:
        kind: What is known of it. In ``normal`` footage and in a ``false_alarm`` no event is right.
        clips: The footage; each clip that people confirmed is one event.
        labels: Which frames are anomalous; None where none is.
    """

    kind: EvidenceKind
    clips: Sequence[Clip]
    labels: Labels | None = None


class Figures(FrozenModel):
    """What one model did with footage of one kind."""

    events: int = Field(ge=0)
    """Events that it would have told of."""

    false_events: int = Field(ge=0)
    """Of those, how many overlap nothing that is labelled."""

    false_events_per_day: float | None
    """The same for each day of normal footage; null where there is none."""

    found: int = Field(ge=0)
    """Labelled events that it found."""

    delay_seconds: float | None
    """Median time from a labelled event's first frame to the alert, seconds; null where none was found."""


class EvidenceFigures(FrozenModel):
    """Both models on footage of one kind."""

    kind: EvidenceKind
    """Kind of the footage."""

    clips: int = Field(ge=0)
    """Clips in it."""

    frames: int = Field(ge=0)
    """Frames in it."""

    normal_seconds: float = Field(ge=0)
    """Seconds of it that are normal."""

    known_events: int = Field(ge=0)
    """Labelled events in it: runs of anomalous frames."""

    lost: int = Field(ge=0)
    """Labelled events that the champion found and the challenger did not."""

    gained: int = Field(ge=0)
    """Labelled events that the challenger found and the champion did not."""

    delay_rise_seconds: float | None
    """Median, over the labelled events that both found, of how much later the challenger told, seconds."""

    champion: Figures
    """The model in service."""

    challenger: Figures
    """The model that may replace it."""


class OneSided(FrozenModel):
    """An event that one of the two told of and the other did not."""

    side: Side
    """Which told of it."""

    kind: EvidenceKind
    """Kind of the footage."""

    clip: str
    """Clip."""

    first_ms: int
    """Capture time of its first frame, ms."""

    last_ms: int
    """Capture time of its last frame, ms."""

    peak_score: float
    """Its highest score."""

    is_right: bool
    """Whether it overlaps what is labelled."""


class Agreement(FrozenModel):
    """How alike two models score frames."""

    frames: int = Field(ge=0)
    """Frames compared."""

    same_decision: float | None = Field(ge=0, le=1)
    """Share of them that both put on the same side of their threshold."""

    rank_correlation: float | None = Field(ge=-1, le=1)
    """Spearman's; null where a model gives all frames one score."""


class Comparison(FrozenModel):
    """Two models on the same footage."""

    champion: str
    """Name of the model in service."""

    challenger: str
    """Name of the model that may replace it."""

    budget_per_day: float = Field(gt=0)
    """False events a camera and day that the challenger's threshold was set for."""

    evidence: tuple[EvidenceFigures, ...]
    """Figures by kind of footage."""

    one_sided: tuple[OneSided, ...]
    """Events that one alone told of, the highest of each side first; at most 200."""

    agreement: Agreement
    """How alike they score all of the footage."""

    @property
    def known_events(self) -> int:
        """Labelled events in all of the footage."""
        return sum(one.known_events for one in self.evidence)

    @property
    def normal_seconds(self) -> float:
        """Seconds of normal footage, all kinds taken together."""
        return sum(one.normal_seconds for one in self.evidence)

    def total(self, side: Side, figure: Literal["false_events", "found"]) -> int:
        """A figure of one model over all of the footage."""
        return sum(int(getattr(getattr(one, side), figure)) for one in self.evidence)


def compare_models(
    champion: ScoringModel, challenger: ScoringModel, evidence: Sequence[Evidence], console: Console
) -> Comparison:
    """Score footage with both models, each by its own thresholds and event rule.

    Args:
        champion: The model in service.
        challenger: The model that may replace it.
        evidence: Footage, by kind.
        console: Where progress is shown.

    Raises:
        ConfigError: A clip has no end.
        FootageError: A frame cannot be decoded, or there is none.
        LabelError: Labels do not describe the footage.
    """
    figures: list[EvidenceFigures] = []
    alone: list[OneSided] = []
    pairs: list[_Pair] = []
    for one in evidence:
        if not one.clips:
            continue
        both = [score_footage(model, one.clips, one.labels, console).stretches for model in (champion, challenger)]
        together = list(zip(*both, strict=True))
        figures.append(_figures(one.kind, together))
        alone += [event for pair in together for event in _one_sided(one.kind, pair)]
        pairs += together
    alone.sort(key=lambda event: (event.side, -event.peak_score))
    half = _MAX_LISTED // 2
    listed = [event for side in ("champion", "challenger") for event in [e for e in alone if e.side == side][:half]]
    return Comparison(
        champion=champion.name,
        challenger=challenger.name,
        budget_per_day=challenger.calibration.false_events_per_day,
        evidence=tuple(figures),
        one_sided=tuple(listed),
        agreement=_agreement(pairs, champion.calibration.threshold, challenger.calibration.threshold),
    )


def _figures(kind: EvidenceKind, pairs: Sequence[_Pair]) -> EvidenceFigures:
    sides = [[_labelled(pair[side]) for pair in pairs] for side in (0, 1)]
    runs = [(place, run) for place, stretch in enumerate(sides[0]) for run in labelled_events(stretch.labels)]
    found = [{(place, run) for place, run in runs if overlapping(side[place], run)} for side in sides]
    seconds = sum(normal_ms(stretch) for stretch in sides[0]) / 1000
    champion, challenger = (_side(side, len(which), seconds) for side, which in zip(sides, found, strict=True))
    return EvidenceFigures(
        kind=kind,
        clips=len({pair[0].clip for pair in pairs}),
        frames=sum(len(stretch.labels) for stretch in sides[0]),
        normal_seconds=seconds,
        known_events=len(runs),
        lost=len(found[0] - found[1]),
        gained=len(found[1] - found[0]),
        delay_rise_seconds=_delay_rise(sides, found[0] & found[1]),
        champion=champion,
        challenger=challenger,
    )


def _delay_rise(
    sides: Sequence[Sequence[LabelledStretch]], both: Iterable[tuple[int, tuple[int, int]]]
) -> float | None:
    """Median of how much later the second told of the runs that both found, seconds."""

    def told_ms(side: Sequence[LabelledStretch], place: int, run: tuple[int, int]) -> int:
        # One that was open before was told when the run began.
        return int(side[place].captured_at_ms[max(overlapping(side[place], run)[0].told, run[0])])

    rises = [told_ms(sides[1], *one) - told_ms(sides[0], *one) for one in both]
    return float(np.median(rises)) / 1000 if rises else None


def _side(stretches: Sequence[LabelledStretch], found: int, normal_seconds: float) -> Figures:
    wrong = sum(is_false(stretch, event) for stretch in stretches for event in stretch.events)
    return Figures(
        events=sum(len(stretch.events) for stretch in stretches),
        false_events=wrong,
        false_events_per_day=wrong * SECONDS_A_DAY / normal_seconds if normal_seconds else None,
        found=found,
        delay_seconds=detection_delay_seconds(stretches).value,
    )


def _one_sided(kind: EvidenceKind, pair: _Pair) -> list[OneSided]:
    one, other = (_labelled(stretch) for stretch in pair)
    sides: tuple[tuple[Side, LabelledStretch, LabelledStretch], ...] = (
        ("champion", one, other), ("challenger", other, one),
    )  # fmt: skip
    return [
        OneSided(
            side=side,
            kind=kind,
            clip=pair[0].clip,
            first_ms=int(stretch.captured_at_ms[event.first]),
            last_ms=int(stretch.captured_at_ms[event.last]),
            peak_score=event.peak_score,
            is_right=not is_false(stretch, event),
        )
        for side, stretch, beside in sides
        for event in stretch.events
        if not overlapping(beside, (event.first, event.last))
    ]


def _agreement(pairs: Sequence[_Pair], threshold: float, other_threshold: float) -> Agreement:
    if not pairs:
        return Agreement(frames=0, same_decision=None, rank_correlation=None)
    one, other = (np.concatenate([pair[side].scores for pair in pairs]) for side in (0, 1))
    same = float(np.mean((one >= threshold) == (other >= other_threshold)))
    varied = len(one) > 1 and np.ptp(one) > 0 and np.ptp(other) > 0
    correlation = float(np.clip(spearmanr(one, other).statistic, -1, 1)) if varied else None
    return Agreement(frames=len(one), same_decision=same, rank_correlation=correlation)


def _labelled(stretch: ScoredStretch) -> LabelledStretch:
    """The stretch with labels; where there are none, nothing in it is anomalous."""
    labels = np.zeros(len(stretch.scores), np.bool_) if stretch.labels is None else stretch.labels
    return LabelledStretch(labels, stretch.captured_at_ms, stretch.events)
