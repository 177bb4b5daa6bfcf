"""Small made footage: a noisy, slowly changing scene, and the same with a square that was never there."""

from pathlib import Path

import cv2
import numpy as np

from contract.frame import FrameLimits, Preprocessing, decode_frame
from deploy.bench import room_frames
from trainer.settings import FitSettings

TINY = {
    "model": {
        "height": 64,
        "width": 64,
        "widths": [8, 8, 8],
        "latent": 8,
        "bottleneck": "frame",
        "clip_frames": 1,
        "motion": "none",
        "comparator": None,
    },
    "pseudo_anomalies": (),
    "augment": False,
    "batch": 8,
    "min_epoch_steps": 4,
    "precision": "fp32",
    "device": "cpu",
}


def tiny_settings(**changes):
    model = {**TINY["model"], **changes.pop("model", {})}
    return FitSettings(**{**TINY, "model": model, "epochs": 2, **changes})


def write_scene(folder: Path, frames: int = 48, *, side: int = 96, anomalous: range = range(0), seed: int = 0) -> Path:
    """Write PNG frames; those in the anomalous range hold a white square."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    slope = np.linspace(60, 160, side, dtype=np.float64)
    for index in range(frames):
        scene = slope[None, :] + 20 * np.sin(index / 9) + random.normal(0, 3, (side, side))
        if index in anomalous:
            scene[20:44, 30:54] = 250
        cv2.imwrite(str(folder / f"{index:04d}.png"), np.clip(scene, 0, 255).astype(np.uint8))
    return folder


def room_pictures(width: int, height: int) -> np.ndarray:
    """The room clip as a model of a size sees it, uint8 (frames, height, width, 1)."""
    preprocessing = Preprocessing(height=height, width=width)
    return np.stack([decode_frame(data, preprocessing, FrameLimits()) for data in room_frames()])
