"""What a person looks at after an evaluation: curves, scores over time, and the frames that scored highest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from contract.frame import FrameLimits, Preprocessing, decode_frame, read_frame_header
from trainer.metrics import labelled_events
from trainer.scored import ScoredFootage, ScoredStretch, WorstFrame

# Okabe and Ito's palette, told apart with any colour vision; line styles differ too.
_MODEL, _NORMAL, _ANOMALOUS = "#0072B2", "#0072B2", "#D55E00"
_OTHERS: Final = (("#E69F00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))
_THRESHOLD: Final = "#333333"
_MAX_CLIPS: Final = 12
_MAX_POINTS: Final = 2000
_DPI: Final = 110
_SHOWN_WIDTH_PX: Final = 480

Vector = npt.NDArray[np.floating[Any]]


class Plot(NamedTuple):
    """A picture in the output folder.

    Attributes:
        name: File name.
        title: What it shows, in a few words.
    """

    name: str
    title: str


def draw_plots(footage: ScoredFootage, threshold: float, folder: Path) -> list[Plot]:
    """Draw every picture that the footage allows; curves need both normal and anomalous frames.

    Args:
        footage: What was scored.
        threshold: Score from which a frame is anomalous.
        folder: Where the PNGs are written.

    Returns:
        The pictures written, in the order they should be shown.
    """
    stretches = footage.stretches
    scores = np.concatenate([stretch.scores for stretch in stretches])
    known = [stretch.labels for stretch in stretches if stretch.labels is not None]
    labels = np.concatenate(known) if known else None
    plots = [Plot("timeline.png", "Score over time")]
    draw_timeline(footage, threshold, folder / plots[-1].name)
    if labels is not None and labels.any() and not labels.all():
        rankings = {
            "model": scores,
            "frame difference": np.concatenate([stretch.difference for stretch in stretches]),
            "optical flow": np.concatenate([stretch.flow for stretch in stretches]),
        }
        plots += [Plot("roc.png", "ROC curve"), Plot("precision_recall.png", "Precision and recall")]
        draw_roc(labels, rankings, folder / "roc.png")
        draw_precision_recall(labels, rankings, folder / "precision_recall.png")
    plots.append(Plot("histogram.png", "Scores of frames"))
    draw_histogram(scores, labels, threshold, folder / plots[-1].name)
    if footage.worst:
        plots.append(Plot("worst_frames.png", "Frames of the highest scores"))
        draw_worst(footage, threshold, folder / plots[-1].name)
    return plots


def draw_roc(labels: npt.NDArray[np.bool_], rankings: Mapping[str, Vector], path: Path) -> None:
    """Draw ROC curves over the same frames, the model's first.

    Args:
        labels: True where anomalous, shape (frames,), some of both.
        rankings: Scores by name, shape (frames,) each.
        path: PNG to write.
    """
    figure, axes = _start((6, 5.4))
    for (name, scores), (colour, style) in zip(rankings.items(), ((_MODEL, "-"), *_OTHERS), strict=False):
        false_rate, true_rate, _ = roc_curve(labels, scores)
        axes.plot(false_rate, true_rate, style, color=colour, label=name, linewidth=2)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="chance")
    axes.set(
        xlabel="share of normal frames called anomalous", ylabel="share of anomalous frames found", title="ROC curve"
    )
    _finish(figure, axes, path, "lower right")


def draw_precision_recall(labels: npt.NDArray[np.bool_], rankings: Mapping[str, Vector], path: Path) -> None:
    """Draw precision over recall; arguments as `draw_roc`."""
    figure, axes = _start((6, 5.4))
    for (name, scores), (colour, style) in zip(rankings.items(), ((_MODEL, "-"), *_OTHERS), strict=False):
        precision, recall, _ = precision_recall_curve(labels, scores)
        axes.plot(recall, precision, style, color=colour, label=name, linewidth=2, drawstyle="steps-pre")
    share = float(labels.mean())
    axes.axhline(share, color="#999999", linewidth=1, label=f"chance ({share:.2f})")
    axes.set(
        xlabel="recall: share of anomalous frames found",
        ylabel="precision: share of calls that are right",
        ylim=(0, 1.03),
        title="Precision and recall",
    )
    _finish(figure, axes, path, "lower left")


def draw_timeline(footage: ScoredFootage, threshold: float, path: Path) -> None:
    """Draw the score of every frame, one row a clip, with labelled stretches shaded and the threshold.

    Args:
        footage: What was scored.
        threshold: Score from which a frame is anomalous.
        path: PNG to write.
    """
    names = footage.clips[:_MAX_CLIPS]
    rows = len(names)
    figure = Figure(figsize=(10, 1.3 + (1.25 if rows > 3 else 2.2) * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 1, squeeze=False)
    shown = [stretch for stretch in footage.stretches if stretch.clip in names]
    low = min(0.0, *(float(stretch.scores.min()) for stretch in shown), threshold)
    high = max(threshold, *(float(stretch.scores.max()) for stretch in shown))
    for axes, name in zip(grid[:, 0], names, strict=True):
        own = [stretch for stretch in shown if stretch.clip == name]
        for stretch in own:
            _draw_stretch(axes, stretch)
        axes.axhline(threshold, color=_THRESHOLD, linestyle="--", linewidth=1, label="threshold")
        margin = 0.06 * (high - low) or 1.0
        axes.set(ylim=(low - margin, high + margin), xlim=(own[0].indices[0], max(own[-1].indices[-1], 1)))
        axes.set_ylabel(_short(name, 14), rotation=0, ha="right", va="center")
        axes.grid(visible=True, alpha=0.25)
    grid[-1, 0].set_xlabel("frame of the clip")
    handles = {text: handle for axes in grid[:, 0] for handle, text in zip(*axes.get_legend_handles_labels())}  # noqa: B905
    more = len(footage.clips) - rows
    figure.suptitle("Anomaly score over time" + (f" (first {rows} clips of {rows + more})" if more else ""))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=_DPI)


def draw_histogram(scores: Vector, labels: npt.NDArray[np.bool_] | None, threshold: float, path: Path) -> None:
    """Draw how scores are spread, normal and anomalous frames apart, with the threshold.

    Args:
        scores: Shape (frames,), at least one.
        labels: True where anomalous, same shape; None where there are no labels.
        threshold: Score from which a frame is anomalous.
        path: PNG to write.
    """
    figure, axes = _start((7.5, 4.4))
    edges = np.linspace(min(float(scores.min()), threshold), max(float(scores.max()), threshold) + 1e-6, 61)
    groups = [("frames", scores, _NORMAL, "")] if labels is None else [
        ("normal frames", scores[~labels], _NORMAL, ""),
        ("anomalous frames", scores[labels], _ANOMALOUS, "///"),
    ]  # fmt: skip
    for name, values, colour, hatch in groups:
        if len(values):
            axes.hist(values, edges.tolist(), color=colour, alpha=0.6, hatch=hatch, edgecolor="white", label=name)
    axes.axvline(threshold, color=_THRESHOLD, linestyle="--", linewidth=1.5, label=f"threshold {threshold:.2f}")
    axes.set(xlabel="anomaly score", ylabel="frames", yscale="log", ylim=(0.7, None), title="Scores of frames")
    _finish(figure, axes, path, "best")


def draw_worst(footage: ScoredFootage, threshold: float, path: Path) -> None:
    """Draw the frames of the highest scores, each with its heat map beside it.

    Args:
        footage: What was scored.
        threshold: Score from which a frame is anomalous; it sets the heat map's range.
        path: PNG to write.
    """
    frames = footage.worst
    rows = (len(frames) + 1) // 2
    figure = Figure(figsize=(13, 0.9 + 2.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 4, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    top = max(threshold, *(frame.score for frame in frames))
    heat = None
    for number, frame in enumerate(frames):
        plain, mapped = grid[number // 2, 2 * (number % 2)], grid[number // 2, 2 * (number % 2) + 1]
        picture = _decode_shown(frame)
        height, width = picture.shape[:2]
        label = _label_of(footage.stretches, frame)
        plain.imshow(picture)
        plain.set_title(f"{_short(frame.clip, 24)} frame {frame.index}{label}", fontsize=9)
        grown = cv2.resize(frame.anomaly_map.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        mapped.imshow(picture)
        heat = mapped.imshow(grown, cmap="inferno", vmin=0, vmax=max(top, 1e-6), alpha=0.65)
        if grown.min() < threshold <= grown.max():
            mapped.contour(grown, [threshold], colors="white", linewidths=1)
        mapped.set_title(f"score {frame.score:.2f}", fontsize=9)
    if heat is not None:
        figure.colorbar(heat, ax=grid, shrink=0.6, label="anomaly map (white line: threshold)")
    figure.suptitle("Frames of the highest scores, at most one in fifty frames of a clip")
    figure.savefig(path, dpi=_DPI)


def _start(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, path: Path, legend: Literal["lower right", "lower left", "best"]) -> None:
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc=legend)
    figure.savefig(path, dpi=_DPI)


def _draw_stretch(axes: Axes, stretch: ScoredStretch) -> None:
    if stretch.labels is not None:
        for first, last in labelled_events(stretch.labels):
            axes.axvspan(
                stretch.indices[first] - 0.5, stretch.indices[last] + 0.5, color=_ANOMALOUS, alpha=0.22, lw=0,
                label="labelled anomalous",
            )  # fmt: skip
    indices, scores = _thinned(stretch)
    axes.plot(indices, scores, color=_MODEL, linewidth=1, label="anomaly score")


def _thinned(stretch: ScoredStretch) -> tuple[npt.NDArray[np.int64], Vector]:
    """Keep the highest score of each group of frames, so that a day of footage can be drawn and no peak is lost."""
    step = -(-len(stretch.scores) // _MAX_POINTS)
    starts = range(0, len(stretch.scores), step)
    peaks = np.array([start + int(np.argmax(stretch.scores[start : start + step])) for start in starts])
    return stretch.indices[peaks], stretch.scores[peaks]


def _decode_shown(frame: WorstFrame) -> npt.NDArray[np.uint8]:
    """Decode in colour, RGB of shape (height, width, 3), keeping the aspect ratio."""
    limits = FrameLimits()
    header = read_frame_header(frame.data, limits)
    height = min(max(round(_SHOWN_WIDTH_PX * header.height / header.width), 16), 4 * _SHOWN_WIDTH_PX)
    pixels = decode_frame(frame.data, Preprocessing(height=height, width=_SHOWN_WIDTH_PX, channels=3), limits)
    return np.ascontiguousarray(pixels[..., ::-1])


def _label_of(stretches: Sequence[ScoredStretch], frame: WorstFrame) -> str:
    for stretch in stretches:
        if stretch.clip == frame.clip and stretch.labels is not None:
            place = np.flatnonzero(stretch.indices == frame.index)
            if len(place):
                return ", labelled anomalous" if stretch.labels[place[0]] else ", labelled normal"
    return ""


def _short(name: str, most: int) -> str:
    """Cut a long name; a dollar sign would start a formula."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")
