"""A picture of ``worker rules``: scores with the would-be events, and events a day against the threshold.

The only module of the worker that needs matplotlib (``pip install framewatch[plots]``); it is imported when asked for.
"""

import io
import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from worker.rules import CameraTally, Replay, Tally
from worker.rules_curve import Curves, ScoreCurve

# Okabe and Ito's palette, told apart with any colour vision; line styles and markers differ too.
_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999")
_STYLES: Final = ("-", "--", ":")
_CURVE, _IN_FORCE = "#555555", "#D55E00"
_MAX_PANELS: Final = 12
_MAX_NAMED: Final = 6
_DPI: Final = 110
_MS_A_DAY: Final = 86_400_000.0
_YEAR_2000_MS: Final = 946_684_800_000
_MANY: Final = 3
_LEAST_SHARE: Final = 0.004
_MANY_DECADES: Final = 1000.0


class _Panel(NamedTuple):
    """One camera's curve.

    Attributes:
        name: What it is called.
        curve: Its curve.
        camera: What became of it.
    """

    name: str
    curve: ScoreCurve
    camera: CameraTally


def draw_rules(replay: Replay, curves: Curves, path: Path) -> None:
    """Draw the cameras with most events, at most twelve, one above another, and all of these cameras' events a day.

    Args:
        replay: What was counted, of one camera at least.
        curves: The scores that were replayed.
        path: PNG to write.
    """
    panels = _panels(replay, curves)
    rows = len(panels)
    height = 1.0 + (1.2 if rows > _MANY else 2.2) * rows
    rates_height = 4.2
    figure = Figure(figsize=(12, height + rates_height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[height, rates_height])
    _draw_curves(parts[0, 0], replay, panels, len(curves.held))
    _draw_rates(parts[1, 0], panels)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=_DPI, format="png")
    path.write_bytes(picture.getvalue())


def _panels(replay: Replay, curves: Curves) -> list[_Panel]:
    by_events = sorted(
        curves.held.items(), key=lambda one: (-sum(tally.events for tally in replay.cameras[one[0][0]].tallies), one[0])
    )
    chosen = sorted(by_events[:_MAX_PANELS], key=lambda one: one[0])
    names = [camera_id for (camera_id, _, _), _ in chosen]
    return [
        _Panel(
            camera_id if names.count(camera_id) == 1 else f"{camera_id} {topic}[{partition}]",
            curve, replay.cameras[camera_id],
        )
        for (camera_id, topic, partition), curve in chosen
    ]  # fmt: skip


def _draw_curves(figure: SubFigure, replay: Replay, panels: Sequence[_Panel], held: int) -> None:
    grid = list(figure.subplots(len(panels), 1, squeeze=False)[:, 0])
    colours = _threshold_colours(replay)
    for axes, panel in zip(grid, panels, strict=True):
        _draw_panel(axes, panel, colours)
    _share_times(grid)
    more = f" (the {len(panels)} with most events of {held})" if held > len(panels) else ""
    figure.suptitle(f"Anomaly score, and the events there would have been{more}")
    figure.supylabel("anomaly score", fontsize="medium")
    handles = [
        Line2D([], [], color=_CURVE, linewidth=1, label="score, lowest to highest"),
        *_threshold_handles(replay, colours),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize="small")


def _threshold_colours(replay: Replay) -> list[str]:
    """A colour for each of the settings: what was in force stands out, what is tried goes from light to dark."""
    tried = max(1, len(replay.candidates) - 1)
    shades = mpl.colormaps["viridis_r"](np.linspace(0.2, 0.95, tried))
    return [_IN_FORCE, *(mpl.colors.to_hex(shade) for shade in shades)]


def _threshold_handles(replay: Replay, colours: Sequence[str]) -> Iterator[Patch]:
    tried = range(1, len(replay.candidates))
    shown = {round(place) for place in np.linspace(1, len(tried), min(_MAX_NAMED, len(tried)))} if tried else set()
    yield Patch(facecolor=colours[0], label="event, and threshold, in force")
    for number in sorted(shown):
        one = replay.candidates[number]
        at = "recorded threshold" if one.threshold is None else f"threshold {one.threshold:.3g}"
        name = "" if one.name == "tried" else f" ({one.name})"
        yield Patch(facecolor=colours[number], alpha=0.5, label=f"event at {at}{name}")


def _draw_panel(axes: Axes, panel: _Panel, colours: Sequence[str]) -> None:
    times, scores = panel.curve.points()
    tallies = list(enumerate(panel.camera.tallies))
    levels = sorted((tally.threshold, number) for number, tally in tallies if number)
    low = min([0.0, float(np.nanmin(scores)), *(tally.threshold for _, tally in tallies)])
    high = max([float(np.nanmax(scores)), *(tally.threshold for _, tally in tallies)])
    margin = 0.08 * (high - low) or 1.0
    top = high + margin
    axes.set_ylim(low - margin, top)
    first, last = _limits(times / _MS_A_DAY)
    axes.set_xlim(first, last)
    least = _LEAST_SHARE * (last - first)
    # Each event at the height of its threshold, up to the next one's; below all of them what was in force.
    axes.broken_barh(_days(panel.curve, 0, least), (low - margin, 1.2 * margin), color=_IN_FORCE, lw=0)
    for (level, number), (above, _) in zip(levels, [*levels[1:], (top, 0)], strict=True):
        spans = _days(panel.curve, number, least)
        axes.broken_barh(spans, (level, above - level), color=colours[number], alpha=0.6, lw=0)
        axes.axhline(level, color=colours[number], linewidth=0.5, alpha=0.5)
    in_force = panel.camera.tallies[0].threshold
    axes.axhline(in_force, color=_IN_FORCE, linestyle="--", linewidth=1.2)
    axes.plot(times / _MS_A_DAY, scores, color=_CURVE, linewidth=0.5)
    axes.set_ylabel(_short(panel.name, 18), rotation=0, ha="right", va="center")
    axes.grid(visible=True, axis="x", alpha=0.25)


def _days(curve: ScoreCurve, number: int, least: float) -> list[tuple[float, float]]:
    """Where there would have been events, days; short ones are drawn wide enough to be seen."""
    spans = [(begin / _MS_A_DAY, length / _MS_A_DAY) for begin, length in curve.spans(number)]
    return [(begin - max(0.0, least - length) / 2, max(least, length)) for begin, length in spans]


def _limits(days: np.typing.NDArray[np.float64]) -> tuple[float, float]:
    first, last = float(np.nanmin(days)), float(np.nanmax(days))
    return (first, last) if last > first else (first, first + 1 / _MS_A_DAY)


def _share_times(grid: Sequence[Axes]) -> None:
    """Give all panels one time axis, unless their cameras' clocks are too far apart to see anything on it."""
    limits = [axes.get_xlim() for axes in grid]
    first, last = min(begin for begin, _ in limits), max(end for _, end in limits)
    is_shared = last - first <= _MANY * max(end - begin for begin, end in limits)
    for axes, (begin, end) in zip(grid, limits, strict=True):
        if is_shared:
            begin, end = first, last  # noqa: PLW2901
            axes.set_xlim(begin, end)
        if begin * _MS_A_DAY >= _YEAR_2000_MS:
            locator = AutoDateLocator(maxticks=10)  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        else:
            # Files count from the clip's start.
            axes.xaxis.set_major_formatter(lambda days, _place: f"{days * _MS_A_DAY / 1000:g}")
        if is_shared and axes is not grid[-1]:
            axes.tick_params(labelbottom=False)
    is_dated = min(begin for begin, _ in limits) * _MS_A_DAY >= _YEAR_2000_MS
    grid[-1].set_xlabel("capture time (UTC)" if is_dated else "time since the clip's start, seconds")


def _draw_rates(figure: SubFigure, panels: Sequence[_Panel]) -> None:
    axes = figure.subplots()
    looks = zip(cycle(_COLOURS), (style for style in _STYLES for _ in _COLOURS), strict=False)
    cameras = {panel.name.partition(" ")[0]: panel.camera for panel in panels}
    rates = []
    for (name, camera), (colour, style) in zip(cameras.items(), looks, strict=False):
        in_force, *tried = camera.tallies
        tried = sorted(tried, key=lambda tally: tally.threshold)
        own = [camera.events_a_day(tally) or 0.0 for tally in tried]
        rates += [*own, camera.events_a_day(in_force) or 0.0]
        thresholds = [tally.threshold for tally in tried]
        axes.plot(thresholds, own, style, marker="o", markersize=4, color=colour, label=_short(name, 24))
        axes.plot(*_star(camera, in_force), "*", markersize=13, color=colour, markeredgecolor="white")
    least = min((rate for rate in rates if rate > 0), default=1.0)
    # Zero has a place of its own below the least rate.
    axes.set_yscale("symlog", linthresh=least, linscale=0.5)
    most = max([*rates, least])
    axes.set_ylim(-0.15 * least, most * 1.6)
    axes.set_yticks(_ticks(least, most * 1.6), minor=False)
    axes.yaxis.set_major_formatter(lambda rate, _place: f"{rate:,g}")
    axes.set(xlabel="threshold (anomaly score)", ylabel="events a day", title="Events a day against the threshold")
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.25)
    handles, _ = axes.get_legend_handles_labels()
    star = Line2D([], [], linestyle="", marker="*", markersize=11, color="#444444", label="in force")
    figure.legend(handles=[*handles, star], loc="outside right upper", frameon=False, fontsize="small")


def _ticks(least: float, most: float) -> list[float]:
    """Zero, and round numbers between two others, fewer where these are far apart."""
    steps = (1,) if most / least > _MANY_DECADES else (1, 2, 5)
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    return [0.0, *(step * 10.0**power for power in powers for step in steps if least <= step * 10.0**power <= most)]


def _star(camera: CameraTally, in_force: Tally) -> tuple[list[float], list[float]]:
    return [in_force.threshold], [camera.events_a_day(in_force) or 0.0]


def _short(name: str, most: int) -> str:
    """Cut a long name; a dollar sign would start a formula."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")
