"""What a retraining tells: one page for people, the same as JSON for programs."""

from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from contract.manifest import Manifest
from contract.scoring import say_rate
from contract.settings import FrozenModel
from trainer.compare import Comparison
from trainer.comparison_report import comparison_section, verdict_section
from trainer.page import figure, page
from trainer.promotion import Verdict

PAGE_NAME: Final = "report.html"

Outcome = Literal["promoted", "held", "refused"]
"""``promoted``: it is in service. ``held``: it is in the registry as challenger, the model before it stays.
``refused``: no model came of it that could be used."""

_TITLES: Final[dict[Outcome, str]] = {
    "promoted": "the new model is in service",
    "held": "the model in service stays",
    "refused": "no usable model, the one in service stays",
}


_USED: Final = "{training} trained it, {validation} chose the best epoch, {calibration} set its threshold"
_READ: Final = (
    "{frames_read} frames in {stretches} stretches; left out: {events_left_out} events, {seconds_left_out:.0f} s with "
    "what is around them, and {frames_no_picture} frames that are no pictures; kept: {false_alarms_kept} false alarms"
)


class RetrainReport(FrozenModel):
    """How a retraining ended."""

    camera: str
    """The camera."""

    outcome: Outcome
    """How it ended."""

    reason: str
    """Why, in one line."""

    from_ms: int
    """First capture time of the frames that were looked at, ms since 1970."""

    split_ms: int
    """Capture time before which frames were fitted to, and from which models were compared."""

    to_ms: int
    """Capture time before which frames were taken."""

    champion: str | None
    """Address of the model that was in service when it began; null where there was none."""

    challenger: str | None = None
    """Address of the new model in the registry; null where there is none."""

    drift: str | None = None
    """How the footage differs from what the champion was calibrated on; null where that was not measured."""

    footage: dict[str, Any] = Field(default_factory=dict)
    """How many ``frames`` trained it, chose the epoch and set the threshold, and what of a ``topic`` was read."""

    verdict: Verdict | None = None
    """What the rule said; null where there was nothing to judge."""

    comparison: Comparison | None = None
    """Both models on the same footage; null where there was no champion."""


def write_page(report: RetrainReport, manifest: Manifest | None, run: Path, path: Path) -> None:
    """Write the page.

    Args:
        report: What it tells.
        manifest: Of the new bundle, if there is one.
        run: Run folder, whose curves are shown where there are any.
        path: The file.
    """
    title = f"{report.camera}: {_TITLES[report.outcome]}"
    span = " to ".join(_moment(at_ms) for at_ms in (report.from_ms, report.to_ms))
    about = f"{report.reason[:1].upper()}{report.reason[1:]}. Footage of {span}."
    facts = "".join(f'<tr><th scope="row">{name}</th><td>{escape(text)}</td></tr>' for name, text in _facts(report))
    curves = run / "curves.png"
    body = (
        f'<p class="about">{escape(about)}</p>'
        f'<div class="wide"><table>{facts}{_calibration_rows(manifest)}</table></div>'
        + (verdict_section(report.verdict) if report.verdict else "")
        + (comparison_section(report.comparison) if report.comparison else "")
        + (f"<h2>Training</h2>{figure(curves, 'Loss of the new model by epoch')}" if curves.is_file() else "")
    )
    part = path.with_name(f"{path.name}.part")
    part.write_text(page(title, body), encoding="utf-8")
    part.replace(path)


def _facts(report: RetrainReport) -> list[tuple[str, str]]:
    facts = [
        ("in service before", report.champion or "none"),
        ("new model", report.challenger or "none"),
        ("fitted to", f"{_moment(report.from_ms)} to {_moment(report.split_ms)}"),
        ("compared on", f"{_moment(report.split_ms)} to {_moment(report.to_ms)}, and what else is named below"),
    ]
    if report.drift is not None:
        facts.append(("drift", report.drift))
    if "frames" in report.footage:
        facts.append(("frames", _USED.format(**report.footage["frames"])))
    if "topic" in report.footage:
        facts.append(("read from the topic", _READ.format(**report.footage["topic"])))
    return facts


def _calibration_rows(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    calibration = manifest.calibration
    low, high = (
        say_rate(rate) for rate in (calibration.false_events_per_day_low, calibration.false_events_per_day_high)
    )
    shown = "" if calibration.supported else ", extrapolated: the footage is too short to show it"
    text = (
        f"{calibration.threshold:.3f} for {calibration.false_events_per_day:g} false events a day{shown}; "
        f"95% interval {low} to {high}"
    )
    return f'<tr><th scope="row">threshold</th><td>{escape(text)}</td></tr>'


def _moment(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
