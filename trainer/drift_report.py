"""Whether footage differs from what a model was calibrated on: ``trainer drift``, and the reason for a retraining."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from rich.console import Console

from contract.clip import Clip
from contract.drift import (
    Direction,
    DriftReference,
    LatentReference,
    Measure,
    block_values,
    enough_of,
    latent_distance,
    limits_of,
    most_left_beyond,
    spread_of,
)
from contract.drift_tracker import FEWEST_FRAMES
from contract.errors import ConfigError, FootageError
from contract.scoring import Float64Array, FloatArray
from contract.settings import FrozenModel
from trainer.budget import say_seconds
from trainer.drift import pool
from trainer.evaluate import LoadedModel
from trainer.scored import score_footage

ALLOWED: Final = 0.001
"""Probability that normal footage is called changed for good, at the most, over all measures and directions."""

FEWEST_BLOCKS: Final = 8
"""Blocks of footage that are compared, at the least."""

AnyMeasure = Literal[Measure, "latent"]


class MeasuredDrift(FrozenModel):
    """How blocks of footage compare with normal ones by one measure."""

    measure: AnyMeasure
    """The ``floor`` or the ``middle`` of blocks of scores, or how far their ``latent`` is from normal ones."""

    direction: Direction
    """Where to."""

    spreads: float
    """How far the median block lies in that direction, in the spread of normal blocks."""

    share_percent: float = Field(ge=0, le=100)
    """Blocks beyond the limit, percent."""

    p_value: float = Field(ge=0, le=1)
    """Of Mann and Whitney's test of both sides: probability that blocks of one kind differ as much in rank."""

    lasts: bool
    """Whether nearly all blocks lie beyond the limit, as a drift that a worker tells of."""


class DriftReport(FrozenModel):
    """Whether footage differs from what a model was calibrated on."""

    model: str
    """The model."""

    blocks: int = Field(ge=1)
    """Blocks of the footage."""

    normal_blocks: int = Field(ge=1)
    """Blocks that the model was calibrated on."""

    block_seconds: float = Field(gt=0)
    """Length of a block, seconds."""

    measures: tuple[MeasuredDrift, ...]
    """By each measure that is known."""

    changed: bool
    """Whether scores changed for good; latents alone do not say so."""

    reason: str
    """What that means, in a sentence."""


def measure_drift(model: LoadedModel, clips: Sequence[Clip], console: Console) -> DriftReport:
    """Score footage and compare blocks of it with those that a model was calibrated on.

    Args:
        model: What it is measured with.
        clips: Footage.
        console: Where progress is shown.

    Raises:
        ConfigError: The model holds no blocks of normal footage, or too few, or a clip has no end.
        FootageError: A frame cannot be decoded, there is none, or there are fewer than eight blocks.
    """
    reference = model.drift
    if reference is None:
        raise ConfigError(f"RUN|BUNDLE {model.name} holds no blocks of normal footage to compare with; fit it anew")
    pooled: list[FloatArray] = []

    def score(frames: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        if reference.latent is not None:
            pooled.append(pool(model.encode(frames)))
        return model.score(frames)

    footage = score_footage(replace(model, score=score), clips, None, console)
    numbers, count = [], 0
    for stretch in footage.stretches:
        block = stretch.captured_at_ms // max(1, round(1000 * reference.block_seconds))
        # Stretches do not share blocks.
        numbers.append(np.unique(block, return_inverse=True)[1] + count)
        count = int(numbers[-1][-1]) + 1
    scores = np.concatenate([stretch.scores for stretch in footage.stretches])
    latents = np.concatenate(pooled) if pooled else None
    return compare_blocks(model.name, reference, np.concatenate(numbers), scores, latents)


def compare_blocks(
    name: str,
    reference: DriftReference,
    numbers: npt.NDArray[np.int64],
    scores: Float64Array,
    latents: FloatArray | None,
) -> DriftReport:
    """Compare blocks of scores, and of latents, with normal ones.

    Args:
        name: Of the model.
        reference: Its normal blocks.
        numbers: Number of each frame's block, rising, shape (frames,).
        scores: Of each frame, shape (frames,).
        latents: Averaged over the picture, shape (frames, components); None where they are not known.

    Raises:
        ConfigError: There are too few normal blocks.
        FootageError: There are fewer than eight blocks.
    """
    counts = np.bincount(numbers)
    kept = [block for block, frames in enumerate(counts.tolist()) if frames >= FEWEST_FRAMES]
    if len(kept) < FEWEST_BLOCKS:
        raise FootageError(
            f"the footage has {len(kept)} blocks of {say_seconds(reference.block_seconds)}, and {FEWEST_BLOCKS} are "
            "needed; give more"
        )
    starts = np.searchsorted(numbers, kept)
    parts = [slice(start, start + int(counts[block])) for start, block in zip(starts.tolist(), kept, strict=True)]
    values = np.array([block_values(scores[part]) for part in parts])
    measured = [
        _compared("floor", reference.floor, values[:, 0]),
        _compared("middle", reference.middle, values[:, 1]),
    ]
    if latents is not None and reference.latent is not None:
        means = np.array([latents[part].mean(0) for part in parts])
        measured.append(_compared_latents(reference.latent, means))
    lasting = [one for one in measured if one.lasts and one.measure != "latent"]
    return DriftReport(
        model=name,
        blocks=len(kept),
        normal_blocks=len(reference.floor),
        block_seconds=reference.block_seconds,
        measures=tuple(measured),
        changed=bool(lasting),
        reason=_reason(measured, lasting),
    )


def _compared_latents(reference: LatentReference, means: Float64Array) -> MeasuredDrift:
    return _compared("latent", reference.distances, latent_distance(means, reference.mean, reference.spread))


def _compared(measure: AnyMeasure, normal: Sequence[float], blocks: Float64Array) -> MeasuredDrift:
    from scipy.stats import mannwhitneyu

    left = most_left_beyond(len(normal), len(blocks), ALLOWED / 5)
    if left is None:
        raise ConfigError(f"{len(normal)} blocks of normal footage are too few to compare with; fit to longer footage")
    low, high = (float(limit) for limit in limits_of(normal, left))
    apart = (float(np.median(blocks)) - float(np.median(normal))) / spread_of(normal)
    # Latents cannot be nearer to normal ones than normal ones are.
    beyond = {"higher": int((blocks > high).sum()), "lower": 0 if measure == "latent" else int((blocks < low).sum())}
    direction: Direction = max(("higher", "lower"), key=lambda one: (beyond[one], (one == "higher") == (apart >= 0)))
    count = beyond[direction]
    return MeasuredDrift(
        measure=measure,
        direction=direction,
        spreads=round(apart if direction == "higher" else -apart, 2),
        share_percent=round(100 * count / len(blocks), 1),
        p_value=float(f"{float(mannwhitneyu(blocks, normal).pvalue):.3g}"),
        lasts=count >= enough_of(len(blocks)),
    )


def _reason(measured: Sequence[MeasuredDrift], lasting: Sequence[MeasuredDrift]) -> str:
    most = max(lasting or measured[:2], key=lambda one: (one.share_percent, one.spreads))
    said = (
        f"{most.share_percent:.0f}% of the blocks have a {most.measure} of scores {most.direction} than normal footage "
        f"had (by {most.spreads:.1f} spreads, p {most.p_value:.2g})"
    )
    return f"the scene changed for good: {said}" if lasting else f"no lasting change of scores: {said}"
