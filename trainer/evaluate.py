"""Measures a run or a bundle on footage and writes what people and programs read of it."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from contract.clip import Clip
from contract.drift import DriftReference
from contract.errors import CheckpointError, ConfigError, FramewatchError
from contract.event import EventRule
from contract.frame import Preprocessing
from contract.manifest import MANIFEST_NAME, Bundle, open_bundle
from contract.runtime import Autoencoder
from contract.runtime import Detector as BundleDetector
from contract.scoring import Calibration, FloatArray, frames_to_images
from contract.whole_folder import require_free, whole_folder
from trainer.checkpoint import load_checkpoint
from trainer.labels import Labels, read_labels
from trainer.metrics import (
    LabelledStretch,
    Measure,
    aupro,
    average_precision,
    count_pixels,
    detection_delay_seconds,
    event_recall,
    false_events_per_hour,
    frame_auroc,
    frame_auroc_per_clip,
    pixel_auroc,
)
from trainer.model import seen_images
from trainer.plots import draw_plots
from trainer.report import METRIC_TEXTS, write_report
from trainer.scored import ScoredFootage, ScoredStretch, ScoringModel, score_footage
from trainer.settings import Device

METRICS_NAME: Final = "metrics.json"
_COLUMNS: Final = ("camera_id", "clip", "frame", "captured_at_ms", "anomaly_score", "threshold", "is_anomalous")
_NOT_IN_CAMERA_ID: Final = re.compile(r"[^A-Za-z0-9._-]")
_NO_LABELS: Final = Measure(None, "no labels were given; add --labels for the figures that need them.")

Score = Callable[[npt.NDArray[np.uint8]], tuple[FloatArray, FloatArray]]
Encode = Callable[[npt.NDArray[np.uint8]], FloatArray]


@dataclass(frozen=True)
class LoadedModel:
    """A run or a bundle, ready to score; see `trainer.scored.ScoringModel`.

    Attributes:
        drift: What blocks of normal footage are like; None where that is not known.
        encode: Gives the latents of clips.
    """

    name: str
    preprocessing: Preprocessing
    clip_frames: int
    calibration: Calibration
    event_rule: EventRule
    score: Score
    drift: DriftReference | None
    encode: Encode


def open_model(path: Path, device: Device) -> LoadedModel:
    """Open a run folder, scored by PyTorch, or a bundle, scored by ONNX Runtime.

    Raises:
        ConfigError: The folder is neither, or the device asked for is not there.
        CheckpointError: The run cannot be used.
        BundleError: The bundle cannot be trusted.
    """
    if not path.is_dir():
        raise ConfigError(f"RUN|BUNDLE {path}: no such folder")
    if (path / MANIFEST_NAME).is_file():
        return _ready(open_bundle(path), device)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda was asked for and no CUDA device can be used; say --device cpu")
    checkpoint = load_checkpoint(path)
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    detector = checkpoint.detector.to(where)

    def score(frames: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        try:
            # TF32 would round what a fp32 bundle does not.
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                scores, maps = detector(torch.from_numpy(frames).to(where))
                scores, maps = scores.cpu().numpy(), maps.cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise FramewatchError(f"the device has no memory for {len(frames)} clips; say --device cpu") from error
        if not np.isfinite(scores).all() or not np.isfinite(maps).all():
            raise CheckpointError(f"run {path}: the detector gives scores that are not finite; fit again")
        return scores, maps

    config = detector.autoencoder.config

    def encode(frames: npt.NDArray[np.uint8]) -> FloatArray:
        with torch.inference_mode():
            latents = detector.autoencoder.encoder(seen_images(torch.from_numpy(frames).to(where), config))
        return np.asarray(latents.cpu().numpy(), np.float32)

    return LoadedModel(
        name=f"run {path.resolve().name}",
        preprocessing=config.preprocessing,
        clip_frames=config.detector_frames,
        calibration=checkpoint.calibration,
        event_rule=checkpoint.event_rule,
        score=score,
        drift=checkpoint.drift,
        encode=encode,
    )


def _ready(bundle: Bundle, device: Device) -> LoadedModel:
    manifest = bundle.manifest

    @cache
    def halves() -> Autoencoder:
        # Few ask for latents.
        return Autoencoder(bundle, device)

    return LoadedModel(
        name=f"bundle {manifest.name} {manifest.version} {manifest.precision}",
        preprocessing=manifest.preprocessing,
        clip_frames=manifest.shape.clip_frames,
        calibration=manifest.calibration,
        event_rule=manifest.event_rule,
        score=BundleDetector(bundle, device).score,
        drift=manifest.drift,
        encode=lambda frames: halves().encode(frames_to_images(frames[:, -manifest.shape.redrawn_frames :])),
    )


def evaluate(
    model: ScoringModel, clips: Sequence[Clip], labels: Path | Labels | None, out: Path, console: Console
) -> dict[str, Any]:
    """Score footage causally and write ``metrics.json``, ``scores.csv``, plots and ``report.html``.

    The folder is written beside ``out`` and renamed, so that ``out`` is whole or as it was.

    Args:
        model: What is measured.
        clips: Footage.
        labels: Labels, or the path of labels or masks; without them only what needs none is measured.
        out: Folder to write; an earlier evaluation there is replaced.
        console: Where progress is shown.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ConfigError: ``out`` holds other files, or a clip has no end.
        LabelError: The labels do not describe the footage.
        FootageError: A frame cannot be decoded, or there is none.
    """
    require_free(out, replaceable=(out / METRICS_NAME).is_file())
    if isinstance(labels, Path):
        labels = read_labels(labels, [clip.name for clip in clips])
    footage = score_footage(model, clips, labels, console)
    metrics = measure(model, footage, labels)
    with whole_folder(out, replaceable=(out / METRICS_NAME).is_file()) as folder:
        (folder / METRICS_NAME).write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        _write_scores(footage, model.calibration.threshold, folder / "scores.csv")
        plots = draw_plots(footage, model.calibration.threshold, folder)
        write_report(metrics, footage, plots, folder)
    return metrics


def measure(model: ScoringModel, footage: ScoredFootage, labels: Labels | None) -> dict[str, Any]:
    """All figures of ``metrics.json``; those that the footage cannot give are None, with a note that says why."""
    measures = _measures(footage, labels) if labels is not None else dict.fromkeys(METRIC_TEXTS, _NO_LABELS)
    stretches = footage.stretches
    notes = list(dict.fromkeys(measure.note for measure in measures.values() if measure.note))
    if not model.calibration.supported:
        notes.append(
            "threshold: the footage it was set on is too short to show the budget of "
            f"{model.calibration.false_events_per_day:g} false events a day; it was extrapolated."
        )
    return {
        **{name: measure.value for name, measure in measures.items()},
        "threshold": model.calibration.threshold,
        "frames": sum(len(stretch.scores) for stretch in stretches),
        "clips": len(footage.clips),
        "anomalous_frames": None if labels is None else sum(_labelled(stretch.labels) for stretch in stretches),
        "events": sum(len(stretch.events) for stretch in stretches),
        "model": model.name,
        "notes": notes,
    }


def _measures(footage: ScoredFootage, labels: Labels) -> dict[str, Measure]:
    stretches = footage.stretches
    names = footage.clips
    known = np.concatenate([stretch.labels for stretch in stretches if stretch.labels is not None])
    scores = np.concatenate([stretch.scores for stretch in stretches])
    numbers = np.concatenate([np.full(len(stretch.scores), names.index(stretch.clip)) for stretch in stretches])
    labelled = [
        LabelledStretch(stretch.labels, stretch.captured_at_ms, stretch.events)
        for stretch in stretches
        if stretch.labels is not None
    ]
    pixels, overlaps = _pixel_measures(stretches, labels)
    return {
        "frame_auroc": frame_auroc(known, scores),
        "frame_auroc_per_clip": frame_auroc_per_clip(known, scores, numbers),
        "frame_auroc_untrained": frame_auroc(known, np.concatenate([stretch.difference for stretch in stretches])),
        "frame_auroc_untrained_flow": frame_auroc(known, np.concatenate([stretch.flow for stretch in stretches])),
        "average_precision": average_precision(known, scores),
        "pixel_auroc": pixels,
        "aupro": overlaps,
        "event_recall": event_recall(labelled),
        "false_events_per_hour": false_events_per_hour(labelled),
        "detection_delay_seconds": detection_delay_seconds(labelled),
    }


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Lay the figures out for a terminal."""
    table = Table(title=f"{metrics['model']}: {metrics['frames']} frames of {metrics['clips']} clips")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name in METRIC_TEXTS:
        value = metrics[name]
        table.add_row(name, "-" if value is None else f"{value:.4g}")
    return table


def _labelled(labels: npt.NDArray[np.bool_] | None) -> int:
    return 0 if labels is None else int(labels.sum())


def _pixel_measures(stretches: Sequence[ScoredStretch], labels: Labels) -> tuple[Measure, Measure]:
    """Pixel AUROC and AUPRO over the clips that have masks; datasets exist where only some do."""
    masked = [stretch for stretch in stretches if labels.has_masks_of(stretch.clip)]
    if not masked:
        none = Measure(None, "pixel AUROC and AUPRO need masks; the labels name frames only.")
        return none, none
    counts = count_pixels(np.concatenate([stretch.maps for stretch in masked]), _masks(masked, labels))
    clips, of_clips = ({stretch.clip for stretch in of} for of in (masked, stretches))
    note = f"pixel AUROC and AUPRO: of the {len(clips)} of {len(of_clips)} clips that have masks."
    measures = pixel_auroc(counts), aupro(counts)
    if len(clips) == len(of_clips):
        return measures
    first, second = (Measure(measure.value, measure.note or note) for measure in measures)
    return first, second


def _masks(stretches: Sequence[ScoredStretch], labels: Labels) -> Iterator[npt.NDArray[np.uint8]]:
    for stretch in stretches:
        for index in stretch.indices.tolist():
            yield labels.mask(stretch.clip, index)


def _write_scores(footage: ScoredFootage, threshold: float, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for stretch in footage.stretches:
            camera_id = _NOT_IN_CAMERA_ID.sub("-", stretch.clip)[:128] or "camera"
            rows = zip(stretch.indices.tolist(), stretch.captured_at_ms.tolist(), stretch.scores.tolist(), strict=True)
            for index, captured_at_ms, score in rows:
                anomalous = int(score >= threshold)
                # Nine digits give back the float32 exactly.
                fields = (index, captured_at_ms, f"{score:.9g}", threshold, anomalous)
                writer.writerow((camera_id, stretch.clip, *fields))
