"""One fitted model, scored in several ways: what each choice between a cell's errors and a frame's score is worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from contract.scoring import FloatArray, align_streams, cell_statistics, z_to_score
from exporter.parity import in_batches
from trainer.checkpoint import load_checkpoint, load_samples
from trainer.detector import Detector
from trainer.evaluate import LoadedModel, open_model
from trainer.model import seen_images

_BATCH: Final = 32
_IQR_IN_SPREADS: Final = 1.349
_SHRINKAGE: Final = 1e-3
_LEAST_SPREAD: Final = 1e-6

Join = Callable[[FloatArray], FloatArray]
Statistics = Callable[[FloatArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class Scoring:
    """A way from cells' errors to a map.

    Attributes:
        streams: Which: 0 for the comparator, 1 for motion, 2 for the distance of latents.
        statistics: From errors of normal frames (frames, streams, rows, columns), the mean and spread of each cell.
        join: From counts of spreads (batch, streams, rows, columns) to one count for each cell.
    """

    streams: Sequence[int]
    statistics: Statistics
    join: Join


def _root_of_squares(z: FloatArray) -> FloatArray:
    highest = z.max(1)
    return np.asarray(np.where(highest > 0, np.sqrt(np.square(np.maximum(z, 0)).sum(1)), highest))


def _highest(z: FloatArray) -> FloatArray:
    return np.asarray(z.max(1))


def _sum(z: FloatArray) -> FloatArray:
    return np.asarray(z.sum(1))


def _of_all(errors: FloatArray) -> tuple[FloatArray, FloatArray]:
    return cell_statistics(errors, [False] * errors.shape[1])


def _by_place(errors: FloatArray) -> tuple[FloatArray, FloatArray]:
    return cell_statistics(errors, [True] * errors.shape[1])


def _robust(errors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Median and interquartile range of all cells in place of mean and spread."""
    low, median, high = np.quantile(errors, [0.25, 0.5, 0.75], axis=(0, 2, 3))
    spread = np.maximum((high - low) / _IQR_IN_SPREADS, _LEAST_SPREAD)
    shape = errors.shape[1:]
    return align_streams(errors, *(np.broadcast_to(values[:, None, None], shape) for values in (median, spread)))


SCORINGS: Final[dict[str, Scoring]] = {
    "the comparator alone": Scoring((0,), _of_all, _highest),
    "motion alone": Scoring((1,), _of_all, _highest),
    "the higher of both": Scoring((0, 1), _of_all, _highest),
    "the sum of both": Scoring((0, 1), _of_all, _sum),
    "both in spreads of their place": Scoring((0, 1), _by_place, _root_of_squares),
    "both from median and interquartile range": Scoring((0, 1), _robust, _root_of_squares),
    "the distance of latents alone": Scoring((2,), _of_all, _highest),
    "both and the distance of latents": Scoring((0, 1, 2), _of_all, _root_of_squares),
}
"""By what they score with; shipped is both in one spread each, the root of the sum of squares over the normal share."""


class LatentDistance:
    """Mahalanobis distance of each place's latent from those of normal frames, all places together.

    After Defard et al., PaDiM, ICPR 2021, with the autoencoder's own latents and one Gaussian.

    Args:
        detector: Its encoder keeps places apart.
        frames: Normal clips, uint8 of shape (n, detector_frames, height, width, input_channels).
    """

    def __init__(self, detector: Detector, frames: npt.NDArray[np.uint8]) -> None:
        self._encoder, self._config = detector.autoencoder.encoder, detector.autoencoder.config
        latents = self._latents(frames)
        flat = latents.transpose(0, 2, 3, 1).reshape(-1, latents.shape[1])
        self._mean = flat.mean(0)
        covariance = np.cov(flat - self._mean, rowvar=False).reshape(len(self._mean), -1)
        ridge = _SHRINKAGE * float(np.trace(covariance)) / len(covariance)
        self._precision = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))

    def measure(self, frames: npt.NDArray[np.uint8]) -> FloatArray:
        """Measure each place: float32 of shape (batch, rows, columns)."""
        away = self._latents(frames) - self._mean[:, None, None]
        squares = np.einsum("bihw,ij,bjhw->bhw", away, self._precision, away)
        return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float32)

    def _latents(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        with torch.inference_mode():
            batches = [torch.from_numpy(frames[start : start + _BATCH]) for start in range(0, len(frames), _BATCH)]
            latents = [self._encoder(seen_images(batch, self._config)).double() for batch in batches]
        return torch.cat(latents).numpy()


def rescored(run: Path) -> dict[str, LoadedModel]:
    """Open a run, once for each way to score.

    Args:
        run: Folder of a fit with comparator and motion, whose bottleneck is spatial.
    """
    detector, samples = load_checkpoint(run).detector.eval(), load_samples(run)
    latents = LatentDistance(detector, samples.validation)

    def measure(frames: npt.NDArray[Any]) -> FloatArray:
        with torch.inference_mode():
            errors = detector.cell_errors(torch.from_numpy(frames)).numpy()
        return np.concatenate([errors, latents.measure(frames)[:, None]], 1)

    normal = in_batches(lambda frames: [measure(frames)], samples.validation, _BATCH)[0]
    model = open_model(run, "cpu")
    return {name: replace(model, score=_score_by(scoring, measure, normal)) for name, scoring in SCORINGS.items()}


def _score_by(
    scoring: Scoring, measure: Callable[[npt.NDArray[np.uint8]], FloatArray], normal: FloatArray
) -> Callable[[npt.NDArray[np.uint8]], tuple[FloatArray, FloatArray]]:
    streams = list(scoring.streams)
    mean, spread = scoring.statistics(normal[:, streams])

    def score(frames: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        z = (measure(frames)[:, streams] - mean) / spread
        anomaly_map = z_to_score(scoring.join(z)).astype(np.float32)
        return anomaly_map.max((1, 2)), anomaly_map

    return score
