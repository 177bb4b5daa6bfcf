"""One self-contained page about an evaluation: figures, plots and events, with nothing fetched from anywhere."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from trainer.page import figure, page
from trainer.plots import Plot
from trainer.scored import ScoredFootage

METRIC_TEXTS: Final[Mapping[str, str]] = {
    "frame_auroc": "Chance that an anomalous frame scores higher than a normal one; one ranking over all frames, each "
    "scored from itself and earlier frames only.",
    "frame_auroc_per_clip": "The same after each clip's scores were scaled to 0..1, as papers report it; a live system "
    "cannot do that.",
    "frame_auroc_untrained": "The same ranking by blurred frame difference, with no training at all.",
    "frame_auroc_untrained_flow": "The same ranking by the magnitude of dense optical flow, with no training at all.",
    "average_precision": "Area under the precision-recall curve over frames.",
    "pixel_auroc": "Chance that an anomalous pixel scores higher than a normal one.",
    "aupro": "Overlap with each anomalous region, averaged up to a false positive rate of 0.3.",
    "event_recall": "Share of labelled events that an event found overlaps.",
    "false_events_per_hour": "Events that overlap nothing labelled, for each hour of normal footage.",
    "detection_delay_seconds": "Median time from a labelled event's start until its alert.",
}

_CARDS: Final = ("frame_auroc", "event_recall", "false_events_per_hour", "detection_delay_seconds")
_MAX_EVENTS: Final = 200


def write_report(metrics: Mapping[str, Any], footage: ScoredFootage, plots: Sequence[Plot], folder: Path) -> None:
    """Write ``report.html``; whatever came from file names is escaped, and pictures travel inside the page.

    Args:
        metrics: What ``metrics.json`` holds.
        footage: What was scored.
        plots: Pictures in the folder, in the order to show.
        folder: Where it is written.
    """
    title = f"Evaluation of {metrics['model']}"
    labelled = metrics["anomalous_frames"]
    about = (
        f"{metrics['frames']} frames of {_count(metrics['clips'], 'clip')}, threshold {metrics['threshold']:.3f}"
        + ("" if labelled is None else f", {labelled} frames labelled anomalous")
    )
    cards = "".join(
        f'<div class="card"><b>{_number(metrics[name])}</b><span>{_words(name)}</span></div>' for name in _CARDS
    )
    rows = "".join(
        f'<tr><th scope="row">{_words(name)}</th><td class="number">{_number(metrics[name])}</td>'
        f"<td>{escape(text)}</td></tr>"
        for name, text in METRIC_TEXTS.items()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in metrics["notes"])
    figures = "".join(figure(folder / plot.name, plot.title) for plot in plots)
    body = f"""<p class="about">{escape(about)}</p>
<div class="cards">{cards}</div>
<h2>All figures</h2>
<div class="wide"><table>
<tr><th scope="col">figure</th><th scope="col" class="number">value</th><th scope="col">what it says</th></tr>
{rows}</table></div>
{f"<ul>{notes}</ul>" if notes else ""}
<h2>Plots</h2>
{figures}
<h2>Events found</h2>
{_events(footage)}"""
    (folder / "report.html").write_text(page(title, body), encoding="utf-8")


def _events(footage: ScoredFootage) -> str:
    rows = []
    for stretch in footage.stretches:
        for event in stretch.events:
            first, told, last, peak = (
                int(stretch.indices[i]) for i in (event.first, event.told, event.last, event.peak)
            )
            right = (
                "" if stretch.labels is None else "yes" if stretch.labels[event.first : event.last + 1].any() else "no"
            )
            cells = (first, told, last, peak, f"{event.peak_score:.2f}", right)
            numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
            rows.append(f"<tr><td>{escape(stretch.clip)}</td>{numbers}</tr>")
    if not rows:
        return "<p>None.</p>"
    names = ("first frame", "told at", "last frame", "peak at", "peak score", "labelled")
    head = "".join(f'<th scope="col" class="number">{name}</th>' for name in names)
    more = f"<p>The first {_MAX_EVENTS} of {len(rows)}.</p>" if len(rows) > _MAX_EVENTS else ""
    body = "".join(rows[:_MAX_EVENTS])
    return f'{more}<div class="wide"><table><tr><th scope="col">clip</th>{head}</tr>{body}</table></div>'


def _words(name: str) -> str:
    words = name.replace("_", " ").replace("auroc", "AUROC").replace("aupro", "AUPRO")
    return escape(words[0].upper() + words[1:])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _number(value: float | None) -> str:
    # Four digits, so that 0.9997 does not pass for 1.
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
