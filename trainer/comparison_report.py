"""What people read of a comparison: a page, and a table for a terminal."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

from rich.table import Table

from trainer.compare import KIND_TEXTS, Comparison, EvidenceFigures, EvidenceKind, Figures, OneSided
from trainer.promotion import Verdict

_SHOWN_ONE_SIDED: Final = 40
_NUMBER: Final = ' class="number"'
_KINDS: Final[dict[EvidenceKind, str]] = {
    "normal": "normal", "labelled": "labelled", "confirmed": "confirmed", "false_alarm": "false alarm",
}  # fmt: skip
_YEAR_MS: Final = 366 * 86_400_000


def verdict_section(verdict: Verdict) -> str:
    """Show what the rule checked, in HTML."""
    rows = "".join(
        f'<tr><th scope="row">{escape(check.name)}</th><td>{"passed" if check.passed else "failed"}</td>'
        f"<td>{escape(check.text)}</td></tr>"
        for check in verdict.checks
    )
    if not rows:
        return ""
    return (
        '<h2>The rule</h2><div class="wide"><table><tr><th scope="col">check</th><th scope="col">result</th>'
        f'<th scope="col">found</th></tr>{rows}</table></div>'
    )


def comparison_section(comparison: Comparison) -> str:
    """Show both models side by side, in HTML."""
    names = (
        "footage",
        "clips",
        "frames",
        "hours",
        "known events",
        "model",
        "found",
        "false events",
        "a day",
        "delay, s",
    )
    head = "".join(f'<th scope="col"{"" if name in {"footage", "model"} else _NUMBER}>{name}</th>' for name in names)
    rows = "".join(_evidence_rows(one) for one in comparison.evidence)
    agreement = comparison.agreement
    alike = (
        f"They put {_share(agreement.same_decision)} of {agreement.frames} frames on the same side of their "
        f"thresholds; rank correlation {_number(agreement.rank_correlation)}."
    )
    return (
        f'<h2>Side by side</h2><div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
        f"<p>{escape(alike)}</p>{_one_sided(comparison.one_sided)}"
    )


def comparison_table(comparison: Comparison) -> Table:
    """Lay both models out for a terminal."""
    table = Table(title=f"{comparison.champion} in service, {comparison.challenger} beside it")
    for name in ("footage", "hours", "known events", "found", "false events", "a day", "delay s"):
        table.add_column(name, justify="left" if name == "footage" else "right")
    for one in comparison.evidence:
        sides = one.champion, one.challenger
        table.add_row(
            KIND_TEXTS[one.kind],
            f"{one.normal_seconds / 3600:.3g}",
            str(one.known_events),
            *(" / ".join(texts) for texts in zip(*map(_texts, sides), strict=True)),
        )
    return table


def _evidence_rows(one: EvidenceFigures) -> str:
    shared = (one.clips, one.frames, f"{one.normal_seconds / 3600:.3g}", one.known_events)
    cells = "".join(f'<td class="number" rowspan="2">{cell}</td>' for cell in shared)
    kind = f'<th scope="rowgroup" rowspan="2">{escape(KIND_TEXTS[one.kind])}</th>'
    return f"<tr>{kind}{cells}{_side('champion', one.champion)}</tr><tr>{_side('challenger', one.challenger)}</tr>"


def _side(name: str, figures: Figures) -> str:
    return f"<td>{name}</td>" + "".join(f'<td class="number">{text}</td>' for text in _texts(figures))


def _texts(figures: Figures) -> tuple[str, str, str, str]:
    wrong, rate = str(figures.false_events), _number(figures.false_events_per_day)
    return str(figures.found), wrong, rate, _number(figures.delay_seconds)


def _one_sided(events: Sequence[OneSided]) -> str:
    if not events:
        return "<p>No event was told by one alone.</p>"
    rows = "".join(
        f"<tr><td>{event.side}</td><td>{_KINDS[event.kind]}</td><td>{escape(event.clip)}</td>"
        f'<td class="number">{_moment(event.first_ms)}</td><td class="number">{_moment(event.last_ms)}</td>'
        f'<td class="number">{event.peak_score:.2f}</td><td>{"right" if event.is_right else "false"}</td></tr>'
        for event in events[:_SHOWN_ONE_SIDED]
    )
    more = f"<p>The first {_SHOWN_ONE_SIDED} of {len(events)}.</p>" if len(events) > _SHOWN_ONE_SIDED else ""
    names = ("told by", "footage", "clip", "from", "to", "peak score", "event")
    head = "".join(
        f'<th scope="col"{_NUMBER if name in {"from", "to", "peak score"} else ""}>{name}</th>' for name in names
    )
    return f'<h2>Told by one alone</h2>{more}<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _moment(at_ms: int) -> str:
    """A time of the world, or in a clip that only knows its own."""
    if at_ms < _YEAR_MS:
        return f"{at_ms / 1000:.1f} s"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
