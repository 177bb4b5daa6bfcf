"""Builds a bundle: export, convert, carry the calibration over where need be, compare, write all or nothing."""

import copy
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from contract.drift import DriftReference
from contract.errors import BundleError, ConfigError, ParityError
from contract.manifest import (
    MANIFEST_NAME,
    MODEL_CARD_NAME,
    Manifest,
    ModelShape,
    ParityRow,
    Precision,
    digest_file,
    open_bundle,
)
from contract.runtime import Detector as DetectorSession
from contract.runtime import open_session
from contract.scoring import (
    Calibration,
    Float64Array,
    FloatArray,
    Tail,
    cell_statistics,
    fit_tail,
    score_to_z,
    z_to_score,
)
from contract.whole_folder import require_free, whole_folder
from exporter.graphs import Feed, export_graph, halved, quantized
from exporter.model_card import model_card
from exporter.parity import Graph, in_batches, measure_parity, require_parity
from trainer.checkpoint import CHECKPOINT_NAME, Checkpoint, Samples, load_checkpoint, load_samples
from trainer.detector import CellErrors, Detector
from trainer.model import seen_images

_AUROC_LOSS_ACCEPTED: Final = {"fp32": 0.0, "fp16": 0.002, "int8": 0.01}
_PARITY_CLIPS: Final = 24
_QUANTIZATION_CLIPS: Final = 64
_BATCH: Final = 32


@dataclass(frozen=True)
class _Graphs:
    encoder: onnx.ModelProto
    decoder: onnx.ModelProto
    detector: onnx.ModelProto


def build_bundle(
    run: Path,
    out: Path,
    precision: Precision = "fp32",
    name: str | None = None,
    *,
    overwrite: bool = False,
    on_parity: Callable[[tuple[ParityRow, ...]], None] | None = None,
) -> Manifest:
    """Export a run to a bundle.

    The bundle is written into a folder beside ``out`` and renamed, so that ``out`` is whole or absent.

    Args:
        run: Run folder of the trainer.
        out: Folder of the bundle.
        precision: Format of weights and arithmetic.
        name: Name of the bundle; that of ``out`` where None.
        overwrite: Whether a bundle at ``out`` is replaced.
        on_parity: Shown the parity rows before they are judged.

    Raises:
        ConfigError: ``out`` is in use, or the name is not one.
        CheckpointError: The run cannot be used.
        ParityError: The graphs differ from PyTorch; nothing is written.
    """
    name = _check_target(out, name, overwrite=overwrite)
    checkpoint, samples = load_checkpoint(run), load_samples(run)
    reference, calibration, drift = checkpoint.detector, checkpoint.calibration, checkpoint.drift
    if precision == "int8":
        graphs, calibration, drift = _export_in_int8(reference, samples, calibration, drift)
    else:
        graphs = _export(copy.deepcopy(reference), precision, samples)
    clips = np.concatenate([_evenly(part, _PARITY_CLIPS) for part in (samples.calibration, samples.disturbed)])
    runnable = {part: _runnable(getattr(graphs, part), part) for part in ("encoder", "decoder", "detector")}
    thresholds = (checkpoint.calibration.threshold, calibration.threshold)
    rows = measure_parity(reference, runnable, clips, thresholds, precision)
    if on_parity is not None:
        on_parity(rows)
    require_parity(rows)
    quality = _quality(reference, runnable["detector"], samples, precision)
    return _write(out, name, run, checkpoint, calibration, drift, graphs, precision, rows, quality, overwrite=overwrite)


def _check_target(out: Path, name: str | None, *, overwrite: bool) -> str:
    bundle_there = (out / MANIFEST_NAME).is_file()
    if bundle_there and not overwrite:
        raise ConfigError(f"--out {out} holds a bundle; name another folder or add --overwrite")
    require_free(out, replaceable=bundle_there)
    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", out.resolve().name)
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name):
        raise ConfigError(f"--name {name!r} must be 1 to 128 of A-Z a-z 0-9 . _ -")
    return name


def _export_in_int8(
    reference: Detector, samples: Samples, before: Calibration, drift: DriftReference | None
) -> tuple[_Graphs, Calibration, DriftReference | None]:
    """Export in int8, with the comparator's inner layers where that loses little, and else without any of it."""
    for comparator_too in (True, False):
        # Quantization moves every cell's error, so its statistics are set anew and the thresholds carried over.
        detector, calibration, moved = _recalibrated(reference, samples, before, drift, comparator_too=comparator_too)
        graphs = _export(detector, "int8", samples, comparator_too=comparator_too)
        with_pytorch, in_int8 = _aurocs(reference, _runnable(graphs.detector, "detector"), samples)
        if with_pytorch - in_int8 <= _AUROC_LOSS_ACCEPTED["int8"]:
            break
    return graphs, calibration, moved


def _export(detector: Detector, precision: Precision, samples: Samples, *, comparator_too: bool = True) -> _Graphs:
    if precision == "fp16":
        detector = halved(detector)
    autoencoder = detector.autoencoder
    frames = torch.from_numpy(np.concatenate([samples.validation[:1], samples.disturbed[:1]]))
    images = seen_images(frames, autoencoder.config)
    with torch.inference_mode():
        latent = autoencoder.encoder(images)
    graphs = _Graphs(
        export_graph(autoencoder.encoder, images, "images", ["latent"]),
        export_graph(autoencoder.decoder, latent, "latent", ["reconstruction"]),
        export_graph(detector, frames, "frames", ["anomaly_score", "anomaly_map"]),
    )
    return _quantized(graphs, detector, samples, comparator_too=comparator_too) if precision == "int8" else graphs


def _quantized(graphs: _Graphs, detector: Detector, samples: Samples, *, comparator_too: bool) -> _Graphs:
    autoencoder = detector.autoencoder
    clips = _quantization_clips(samples)
    with torch.inference_mode():
        images = seen_images(torch.from_numpy(clips), autoencoder.config)
        latents = autoencoder.encoder(images).numpy()

    def feeds(name: str, values: npt.NDArray[np.generic]) -> list[Feed]:
        return [{name: value[None]} for value in values]

    return _Graphs(
        quantized(graphs.encoder, feeds("images", images.numpy()), (0,)),
        quantized(graphs.decoder, feeds("latent", latents)),
        quantized(graphs.detector, feeds("frames", clips), _layers_in_fp32(detector, comparator_too=comparator_too)),
    )


def _layers_in_fp32(detector: Detector, *, comparator_too: bool) -> tuple[int, ...]:
    """Layers that stay in fp32, by their places among those that could be converted.

    The encoder's first, whose few channels are slower in 8 bits; and of the comparator, the last layers, all or the
    first, in which 8 bits cannot tell the small differences that it looks for, and the last, which would cut off high
    scores.
    """
    layers = () if detector.comparator is None else detector.comparator.modules()
    compared = sum(isinstance(layer, nn.Conv2d) for layer in layers)
    if not compared:
        return (0,)
    return (0, -compared, -1) if comparator_too else (0, *range(-compared, 0))


def _quantization_clips(samples: Samples) -> npt.NDArray[np.uint8]:
    """Clips whose activations set the ranges."""
    few = _evenly(samples.disturbed, _QUANTIZATION_CLIPS // 4)
    return np.concatenate([_evenly(samples.validation, _QUANTIZATION_CLIPS), few])


def _recalibrated(
    detector: Detector, samples: Samples, before: Calibration, drift: DriftReference | None, *, comparator_too: bool
) -> tuple[Detector, Calibration, DriftReference | None]:
    scores_before = in_batches(_in_torch(detector), samples.calibration, _BATCH)[0]
    detector = copy.deepcopy(detector)
    with torch.inference_mode():
        frames = torch.from_numpy(np.concatenate([samples.validation[:1], samples.disturbed[:1]]))
        errors = export_graph(CellErrors(detector), frames, "frames", ["cell_errors"])
        feeds = [{"frames": clip[None]} for clip in _quantization_clips(samples)]
        errors = quantized(errors, feeds, _layers_in_fp32(detector, comparator_too=comparator_too))
        mean, spread = cell_statistics(
            in_batches(_runnable(errors, "cell errors"), samples.validation, _BATCH)[0], detector.by_place
        )
        detector.cell_mean.copy_(torch.from_numpy(mean))
        detector.cell_spread.copy_(torch.from_numpy(spread))
    graph = _runnable(_export(detector, "int8", samples, comparator_too=comparator_too).detector, "detector")
    scores = in_batches(graph, samples.calibration, _BATCH)[0]
    if not np.isfinite(scores).all():
        raise ParityError("int8 scores are not finite; no bundle was written; build with --precision fp32")
    return detector, _carried_over(before, scores_before, scores), _drift_carried_over(drift, scores_before, scores)


def _carried_over(calibration: Calibration, scores: FloatArray, new_scores: FloatArray) -> Calibration:
    """Move thresholds and tails as the same normal clips' scores moved from one detector to another.

    The run folder keeps too few clips to show a budget, and not consecutive ones, but enough to show how location and
    scale of z changed.
    """
    before, after = fit_tail(scores), fit_tail(new_scores)
    stretch = after.scale / before.scale

    def score(old: float) -> float:
        return float(_moved(old, before, after))

    def tail(old: Tail) -> Tail:
        return Tail(location=after.location + stretch * (old.location - before.location), scale=stretch * old.scale)

    changes = {
        "threshold": score(calibration.threshold),
        "release_threshold": score(calibration.release_threshold),
        "tail": tail(calibration.tail),
        "event_tail": tail(calibration.event_tail),
        "highest_normal_score": score(calibration.highest_normal_score),
    }
    return Calibration(**{**dict(calibration), **changes})


def _drift_carried_over(
    drift: DriftReference | None, scores: FloatArray, new_scores: FloatArray
) -> DriftReference | None:
    """Move blocks' numbers likewise; what the latents were says nothing of those in int8."""
    if drift is None:
        return None
    tails = fit_tail(scores), fit_tail(new_scores)
    floor, middle = (tuple(_moved(row, *tails).tolist()) for row in (drift.floor, drift.middle))
    return DriftReference(block_seconds=drift.block_seconds, floor=floor, middle=middle)


def _moved(scores: npt.ArrayLike, before: Tail, after: Tail) -> Float64Array:
    """Scores as they are once the tail moved."""
    return z_to_score(after.location + after.scale / before.scale * (score_to_z(scores) - before.location))


def _in_torch(detector: Detector) -> Graph:
    def run(clips: npt.NDArray[np.generic]) -> list[FloatArray]:
        with torch.inference_mode():
            return [detector(torch.from_numpy(clips))[0].numpy()]

    return run


def _runnable(model: onnx.ModelProto, part: str) -> Graph:
    session = open_session(model.SerializeToString(), "cpu", where=f"{part}.onnx")
    input_name = session.get_inputs()[0].name

    def run(inputs: npt.NDArray[np.generic]) -> list[FloatArray]:
        return [np.asarray(output, np.float32) for output in session.run(None, {input_name: inputs})]

    return run


def _quality(reference: Detector, graph: Graph, samples: Samples, precision: Precision) -> dict[str, float]:
    """AUROC between normal and disturbed clips, in PyTorch and in the graph."""
    before, after = _aurocs(reference, graph, samples)
    loss = before - after
    if precision != "fp32" and loss > _AUROC_LOSS_ACCEPTED[precision]:
        raise ParityError(
            f"{precision} loses {loss:.4f} of AUROC on disturbed held-out frames, at most "
            f"{_AUROC_LOSS_ACCEPTED[precision]} is accepted; no bundle was written"
        )
    return {"auroc_disturbed_pytorch": before, "auroc_disturbed": after, "auroc_loss": loss}


def _aurocs(reference: Detector, graph: Graph, samples: Samples) -> tuple[float, float]:
    kinds = samples.calibration, samples.disturbed
    runs = _in_torch(reference), graph
    torch_scores, graph_scores = ([in_batches(run, clips, _BATCH)[0] for clips in kinds] for run in runs)
    return _auroc(*torch_scores), _auroc(*graph_scores)


def _evenly(clips: npt.NDArray[np.uint8], most: int) -> npt.NDArray[np.uint8]:
    which = np.unique(np.linspace(0, len(clips) - 1, most).round().astype(np.int64))
    return np.asarray(clips[which])


def _auroc(normal: FloatArray, anomalous: FloatArray) -> float:
    """Share of pairs in which the anomalous score is the higher one, ties counted half (Mann and Whitney, 1947)."""
    higher = (anomalous[:, None] > normal[None]).mean()
    return float(higher + (anomalous[:, None] == normal[None]).mean() / 2)


def _write(
    out: Path, name: str, run: Path, checkpoint: Checkpoint, calibration: Calibration, drift: DriftReference | None,
    graphs: _Graphs, precision: Precision, rows: tuple[ParityRow, ...], quality: dict[str, float], *, overwrite: bool,
) -> Manifest:  # fmt: skip
    config = checkpoint.detector.autoencoder.config
    latent_shape = _latent_shape(graphs.encoder)
    with whole_folder(out, replaceable=(out / MANIFEST_NAME).is_file() and overwrite) as folder:
        for part in ("encoder", "decoder", "detector"):
            (folder / f"{part}.onnx").write_bytes(getattr(graphs, part).SerializeToString())
        draft = Manifest(
            name=name,
            version=hashlib.sha256((run / CHECKPOINT_NAME).read_bytes()).hexdigest()[:12],
            precision=precision,
            files={},
            preprocessing=config.preprocessing,
            shape=ModelShape(
                clip_frames=config.detector_frames,
                redrawn_frames=config.clip_frames,
                latent=latent_shape,
                anomaly_map=config.map_shape,
            ),
            calibration=calibration,
            event_rule=checkpoint.event_rule,
            scene=checkpoint.scene,
            drift=drift,
            training=checkpoint.training,
            parity=rows,
            quality=quality,
        )
        (folder / MODEL_CARD_NAME).write_text(model_card(draft), encoding="utf-8")
        files = {path.name: digest_file(path) for path in sorted(folder.iterdir())}
        manifest = Manifest.model_validate({**draft.model_dump(), "files": files})
        text = json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n"
        (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
        # The worker's own start-up checks: what it would refuse is never put in place.
        try:
            DetectorSession(open_bundle(folder), "cpu")
        except BundleError as error:
            raise ParityError(f"the worker would refuse this bundle: {error}") from error
    return manifest


def _latent_shape(encoder: onnx.ModelProto) -> tuple[int, ...]:
    dimensions = encoder.graph.output[0].type.tensor_type.shape.dim
    return tuple(dimension.dim_value for dimension in dimensions[1:])
