"""The run folder: the checkpoint that rebuilds a calibrated detector, and samples of the footage it was made on.

settings.json        what was asked for
checkpoint.pt        best weights by held-out normal loss, cell statistics, calibration, provenance
samples.npz          held-out clips, normal and disturbed, for parity and for quantization
summary.json         what came out: frames, losses, seconds, calibration, event rule
curves.png           both losses over the steps
reconstructions.png  input, reconstruction and anomaly map of held-out frames
tensorboard/         the same curves for TensorBoard
last.pt              state to resume from; removed when the fit is done
"""

import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from contract.drift import DriftReference
from contract.errors import CheckpointError
from contract.event import EventRule
from contract.scene import SceneReference
from contract.scoring import Calibration
from contract.settings import one_line
from trainer.detector import Detector
from trainer.model import Autoencoder, ModelConfig

CHECKPOINT_NAME: Final = "checkpoint.pt"
LAST_NAME: Final = "last.pt"
SETTINGS_NAME: Final = "settings.json"
SAMPLES_NAME: Final = "samples.npz"
_FORMAT: Final = "framewatch-checkpoint"
_VERSION: Final = 6


@dataclass(frozen=True)
class Checkpoint:
    """A calibrated detector with all that the exporter writes down about it.

    Attributes:
        detector: In evaluation mode; on CPU when it was read from a file.
        calibration: Threshold and tail.
        event_rule: How scores become events.
        scene: What the camera usually shows; None where the footage showed no one place.
        drift: What blocks of normal footage are like; None where the footage was too short for them.
        training: Provenance: settings, footage, epochs, losses, versions; plain JSON values.
    """

    detector: Detector
    calibration: Calibration
    event_rule: EventRule
    scene: SceneReference | None
    drift: DriftReference | None
    training: dict[str, Any]


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint atomically into a run folder."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": checkpoint.detector.autoencoder.config.model_dump(mode="json"),
        "state": {name: tensor.detach().cpu() for name, tensor in checkpoint.detector.state_dict().items()},
        "calibration": checkpoint.calibration.model_dump(mode="json"),
        "event_rule": checkpoint.event_rule.model_dump(mode="json"),
        "scene": checkpoint.scene.model_dump(mode="json") if checkpoint.scene is not None else None,
        "drift": checkpoint.drift.model_dump(mode="json") if checkpoint.drift is not None else None,
        "training": checkpoint.training,
    }
    save_atomically(run / CHECKPOINT_NAME, content)


def load_checkpoint(run: Path) -> Checkpoint:
    """Read the checkpoint of a finished run.

    Raises:
        CheckpointError: It is missing, not a checkpoint, damaged, or of another version; no code in it is run.
    """
    path = run / CHECKPOINT_NAME
    if not run.is_dir():
        raise CheckpointError(f"run {run}: no such folder; make one with: trainer fit SOURCE --out {run}")
    if not path.is_file():
        unfinished = (run / LAST_NAME).is_file()
        todo = "the fit was stopped; run the same trainer fit again to go on" if unfinished else "is it a run folder?"
        raise CheckpointError(f"run {run} has no {CHECKPOINT_NAME}; {todo}")
    content = load_tensors(path)
    if content.get("format") != _FORMAT or content.get("version") != _VERSION:
        raise CheckpointError(
            f"{path}: expected {_FORMAT} version {_VERSION}, found {content.get('format')!r} "
            f"version {content.get('version')!r}; fit again with this release"
        )
    try:
        detector = Detector(Autoencoder(ModelConfig.model_validate(content["model"])))
        detector.load_state_dict(content["state"])
        calibration = Calibration.model_validate(content["calibration"])
        event_rule = EventRule.model_validate(content["event_rule"])
        scene = SceneReference.model_validate(content["scene"]) if content["scene"] is not None else None
        # Of runs from before there was such a thing, none.
        kept = content.get("drift")
        drift = DriftReference.model_validate(kept) if kept is not None else None
        training = dict(content["training"])
    except ValidationError as error:
        raise CheckpointError(f"{path}: {one_line(error)}; fit again with this release") from error
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this release: {str(error).splitlines()[0]}; fit again") from error
    return Checkpoint(detector.eval(), calibration, event_rule, scene, drift, training)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain values, running no code in it.

    Raises:
        CheckpointError: The file is damaged or holds anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or holds more than weights; fit again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint; fit again")
    return content


def save_atomically(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values so that the file is the old one or the new one, whenever the process dies."""
    part = path.with_suffix(path.suffix + ".part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True)
class Samples:
    """Held-out clips for measuring an export; uint8 of shape (n, clip_frames, height, width, channels) each.

    Attributes:
        validation: Normal clips, of those that set the cells' statistics.
        calibration: Normal clips, of those that set the threshold.
        disturbed: The calibration clips with something in the last frame that was never there.
    """

    validation: npt.NDArray[np.uint8]
    calibration: npt.NDArray[np.uint8]
    disturbed: npt.NDArray[np.uint8]


def save_samples(run: Path, samples: Samples) -> None:
    """Write the samples into a run folder."""
    np.savez_compressed(
        run / SAMPLES_NAME,
        validation=samples.validation,
        calibration=samples.calibration,
        disturbed=samples.disturbed,
    )


def load_samples(run: Path) -> Samples:
    """Read a run folder's samples.

    Raises:
        CheckpointError: They are missing or damaged.
    """
    path = run / SAMPLES_NAME
    try:
        with np.load(path, allow_pickle=False) as arrays:
            samples = Samples(arrays["validation"], arrays["calibration"], arrays["disturbed"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is missing or damaged; fit again") from error
    shapes = {array.shape[1:] for array in (samples.validation, samples.calibration, samples.disturbed)}
    if len(shapes) != 1 or samples.disturbed.ndim != 5 or samples.disturbed.dtype != np.uint8:
        raise CheckpointError(f"{path} does not hold clips of frames; fit again")
    return samples
