"""What blocks of held-out normal footage are like, for later ones to be compared with; see `contract.drift`."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from contract.drift import DriftReference, LatentReference, block_values, latent_distance
from contract.scoring import Float64Array, FloatArray, score_to_z
from trainer.budget import MIN_BLOCKS
from trainer.thresholds import correlation_frames

_BLOCK_SECONDS: Final = 10.0
_FEWEST_FRAMES: Final = 5
_AIMED_BLOCKS: Final = 2 * MIN_BLOCKS
_MOST_BLOCKS: Final = 200
_MOST_COMPONENTS: Final = 1024
_SPREAD_FLOOR_SHARE: Final = 0.1
_LEAST_SPREAD: Final = 1e-6
_DIGITS: Final = 6


def drift_reference(
    scores: Sequence[npt.NDArray[np.floating]],
    latents: tuple[FloatArray, Sequence[FloatArray]],
    frames_per_second: float,
) -> DriftReference | None:
    """Cut held-out normal footage into blocks.

    A block is twice as long as scores are correlated over, and ten seconds where there is footage enough.

    Args:
        scores: Of each unbroken stretch of the calibration part, shapes (frames,).
        latents: Averaged over the picture, of the validation part and of each stretch of the calibration part, shapes
            (frames, components).
        frames_per_second: Rate of the footage, frames/s.

    Returns:
        None where there are fewer than twenty blocks: of so few, what they are correlated over cannot be told either.
    """
    stretches = [np.asarray(stretch, np.float64) for stretch in scores if len(stretch)]
    total = sum(map(len, stretches))
    correlated = 2 * correlation_frames([score_to_z(stretch) for stretch in stretches])
    length = math.ceil(max(correlated, min(_BLOCK_SECONDS * frames_per_second, total / _AIMED_BLOCKS), _FEWEST_FRAMES))
    blocks = _in_blocks(stretches, length)
    if len(blocks) < MIN_BLOCKS:
        return None
    values = block_values(blocks[_evenly(len(blocks))])
    floor, middle = (tuple(np.round(column, _DIGITS).tolist()) for column in values.T)
    return DriftReference(
        block_seconds=length / frames_per_second, floor=floor, middle=middle, latent=_latent_reference(latents, length)
    )


def pool(latents: FloatArray) -> FloatArray:
    """Average latents over the picture, (batch, components, rows, columns) to (batch, components)."""
    return np.asarray(latents.reshape(*latents.shape[:2], -1).mean(-1), np.float32)


def _latent_reference(latents: tuple[FloatArray, Sequence[FloatArray]], length: int) -> LatentReference | None:
    """Mean and spread from the validation part; distances from the calibration part, which set neither."""
    setting, others = latents[0], _in_blocks(latents[1], length)
    if not len(setting) or len(others) < MIN_BLOCKS or setting.shape[1] > _MOST_COMPONENTS:
        return None
    mean, spread = setting.mean(0, np.float64), setting.std(0, np.float64)
    spread = np.maximum(spread, max(_SPREAD_FLOOR_SHARE * float(spread.mean()), _LEAST_SPREAD))
    distances = latent_distance(others[_evenly(len(others))].mean(1), mean, spread)
    return LatentReference(mean=_rounded(mean), spread=_rounded(spread), distances=_rounded(distances))


def _in_blocks(stretches: Sequence[npt.NDArray[np.floating]], length: int) -> Float64Array:
    """Whole blocks of stretches, shape (blocks, length, ...); what is left at the end of each is not used."""
    whole = [stretch[: len(stretch) // length * length] for stretch in stretches]
    return np.concatenate([stretch.reshape(-1, length, *stretch.shape[1:]) for stretch in whole]).astype(np.float64)


def _evenly(count: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, _MOST_BLOCKS).round().astype(np.int64))


def _rounded(values: Float64Array) -> tuple[float, ...]:
    # Significant digits: latents have any scale.
    return tuple(float(f"{value:.6g}") for value in values.tolist())
