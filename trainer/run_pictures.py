"""What a person looks at after a fit: curves, and reconstructions of held-out frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.checkpoint import Samples
from trainer.detector import Detector
from trainer.model import seen_images

_TRAINING, _HELD_OUT = "#0072B2", "#D55E00"
_SHOWN = 4


@dataclass(frozen=True)
class EpochRecord:
    """Figures of one epoch.

    Attributes:
        epoch: 1-based.
        steps: Training steps so far.
        seconds: Training time so far.
        training_loss: Mean over the epoch's steps.
        validation_loss: On held-out normal frames.
        learning_rate: At the epoch's end.
    """

    epoch: int
    steps: int
    seconds: float
    training_loss: float
    validation_loss: float
    learning_rate: float


def draw_curves(records: Sequence[EpochRecord], path: Path) -> None:
    """Draw both losses over the steps, and mark the epoch that was kept.

    Args:
        records: Figures of every epoch, at least one.
        path: PNG file to write.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [record.steps for record in records]
    axes.plot(steps, [record.training_loss for record in records], color=_TRAINING, label="training")
    axes.plot(steps, [record.validation_loss for record in records], color=_HELD_OUT, label="held-out normal")
    best = min(records, key=lambda record: record.validation_loss)
    axes.plot([best.steps], [best.validation_loss], "o", color=_HELD_OUT, label=f"kept: epoch {best.epoch}")
    axes.set(xlabel="training steps", ylabel="loss", yscale="log", title="Loss")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_reconstructions(detector: Detector, samples: Samples, path: Path) -> None:
    """Draw input, reconstruction and anomaly map of held-out frames, as they came and disturbed.

    Args:
        detector: In evaluation mode.
        samples: Held-out clips; the first few are drawn.
        path: PNG file to write.
    """
    count = min(_SHOWN, len(samples.calibration))
    clips = np.concatenate([samples.calibration[:count], samples.disturbed[:count]])
    device = detector.cell_mean.device
    with torch.inference_mode():
        frames = torch.from_numpy(clips).to(device)
        images = seen_images(frames, detector.autoencoder.config)
        config = detector.autoencoder.config
        reconstruction = detector.autoencoder(images)[:, config.preprocessing.last_picture].float().cpu().numpy()
        score, anomaly_map = (output.cpu().numpy() for output in detector(frames))
    rows = [clips[:, -1, :, :, : config.channels], reconstruction.transpose(0, 2, 3, 1), anomaly_map]
    figure = Figure(figsize=(2.4 * len(clips), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, len(clips), squeeze=False)
    for row, (pictures, title) in enumerate(zip(rows, ("input", "reconstruction", "anomaly map"), strict=True)):
        for column, picture in enumerate(pictures):
            axes = grid[row][column]
            axes.set(xticks=[], yticks=[])
            if row == 2:
                axes.imshow(picture, cmap="inferno", vmin=0, vmax=max(4.0, float(anomaly_map.max())))
                axes.set_xlabel(f"score {score[column]:.2f}")
            else:
                axes.imshow(_displayable(picture), cmap="gray", vmin=0, vmax=1)
            if row == 0:
                axes.set_title("as it came" if column < count else "disturbed", fontsize=9)
            if column == 0:
                axes.set_ylabel(title)
    figure.savefig(path, dpi=100)


def _displayable(picture: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    scaled = picture.astype(np.float32) / np.float32(255 if picture.dtype == np.uint8 else 1)
    return scaled[..., 0] if scaled.shape[-1] == 1 else scaled[..., ::-1]
