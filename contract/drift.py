"""Whether the world before a camera changed for good: blocks of its scores against those of the calibration.

Time is cut into blocks so long that one hardly knows of the next. Of the scores in a block two numbers are kept: its
floor, which stays low while something that is in view leaves it for a part of the block, and its middle. The last
blocks make a window. The world changed where nearly all of them, nine in ten, lie beyond nearly all blocks of held-out
normal footage, on one side. So an anomaly, however high, that leaves more than a tenth of the window as it was is none,
and whatever stays for a whole window is a lasting change by definition.

How often chance alone does that needs no distribution of scores, only that normal blocks may come in any order: it is
the precedence test (Nelson, Technometrics 5, 1963), which as a control chart is that of Chakraborti, van der Laan and
van de Wiel (Applied Statistics 53, 2004). A window is looked at whenever a block ends. Windows overlap, but the chances
of all looks add up to no less than that of any of them (Boole's inequality), so each look is allowed its share of what
a year is.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from contract.scoring import Float64Array
from contract.settings import FrozenModel

Direction = Literal["higher", "lower"]
Measure = Literal["floor", "middle"]
MEASURES: Final[tuple[Measure, ...]] = ("floor", "middle")
DIRECTIONS: Final[tuple[Direction, ...]] = ("higher", "lower")
NEARLY_ALL: Final = 0.9
"""Share of a window's blocks that make a drift."""

LEAST_SPREAD: Final = 0.01
"""Spread of blocks, at the least, that differences are measured in."""

DRIFT_VERSION: Final = "1-drift"
"""Changes whenever the same scores, rule and normal footage would give other drifts."""

_QUANTILES: Final = (0.2, 0.5)
_FEWEST_BLOCKS, _MOST_BLOCKS = 10, 360
# What blocks still know of each other had a window lie beyond a limit up to 2.1 times as often: docs/decisions, 56.
_STILL_CORRELATED: Final = 2.5
_SECONDS_A_YEAR: Final = 365.25 * 86_400
# Interquartile range of a normal distribution, in standard deviations.
_QUARTILES_APART: Final = 1.349


class LatentReference(FrozenModel):
    """What the latents of normal footage are, each averaged over the picture."""

    mean: tuple[float, ...] = Field(min_length=1, max_length=1024)
    """Mean of each component over normal frames."""

    spread: tuple[float, ...]
    """Standard deviation of each, above 0."""

    distances: tuple[float, ...] = Field(min_length=2, max_length=1000)
    """How far the means of blocks that set neither are from it, in spreads; see `latent_distance`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.spread) != len(self.mean) or not all(0 < one < math.inf for one in self.spread):
            raise ValueError("spread must have one positive number for each of mean")
        return self


class DriftReference(FrozenModel):
    """Blocks of held-out normal footage, with which later ones are compared."""

    block_seconds: float = Field(gt=0, le=86_400)
    """Length of a block, seconds: twice what its scores are correlated over, or longer."""

    floor: tuple[float, ...] = Field(min_length=2, max_length=1000)
    """20% quantile of the scores in each block."""

    middle: tuple[float, ...]
    """Their median in each block."""

    latent: LatentReference | None = None
    """The same footage's latents; None where they are not known."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.middle) != len(self.floor):
            raise ValueError("floor and middle must have one number a block each")
        if not all(map(math.isfinite, (*self.floor, *self.middle))):
            raise ValueError("floor and middle must be finite")
        return self


class DriftRule(FrozenModel):
    """When a camera's world counts as changed for good."""

    enabled: bool = True
    """Whether that is looked for, with bundles that say what blocks of normal footage are like."""

    window_seconds: float = Field(default=3600, ge=60, le=7 * 86_400)
    """How long a change must last, seconds; longer than anomalies do."""

    false_alarms_per_year: float = Field(default=0.1, gt=0, le=366)
    """Drifts a camera and year that may be told by chance alone, where later normal footage is as the held-out is."""

    @property
    def version(self) -> str:
        """Name what tells of drift, by a digest of what is in force."""
        return f"{DRIFT_VERSION}-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class DriftTest:
    """Limits of normal blocks, and how many blocks of a window must lie beyond one.

    Attributes:
        block_ms: Length of a block, ms.
        every: Of so many blocks one is taken, so that a window has few.
        window_blocks: Blocks in a window.
        reference_blocks: Blocks of normal footage.
        left_beyond: How many of those lie beyond a limit.
        low: Lower limit of each measure, shape (measures,).
        high: Upper limits.
        usual: Medians of normal blocks.
        spread: Their spreads, from the quartiles.
    """

    block_ms: int
    every: int
    window_blocks: int
    reference_blocks: int
    left_beyond: int
    low: Float64Array
    high: Float64Array
    usual: Float64Array
    spread: Float64Array

    @property
    def enough(self) -> int:
        """Blocks of a window that make a drift."""
        return enough_of(self.window_blocks)

    def p_value(self, beyond: int) -> float:
        """Probability that so many of a normal window's blocks, or more, lie beyond one limit."""
        return chance_beyond(self.reference_blocks, self.left_beyond, self.window_blocks, beyond)


def enough_of(blocks: int) -> int:
    """Nearly all of so many blocks: nine in ten, or the next whole number."""
    return -(-9 * blocks // 10)


def block_values(scores: npt.ArrayLike) -> Float64Array:
    """Floor and middle of a block's scores, shape (2,); of many blocks (..., frames), shape (..., 2)."""
    return np.moveaxis(np.quantile(np.asarray(scores, np.float64), _QUANTILES, axis=-1), 0, -1)


def latent_distance(latent: npt.ArrayLike, mean: npt.ArrayLike, spread: npt.ArrayLike) -> Float64Array:
    """How far blocks' mean latents are from normal ones, in spreads: root mean square over the components.

    Args:
        latent: Shape (..., components).
        mean: Of normal frames, shape (components,).
        spread: Of them, the same shape.
    """
    apart = (np.asarray(latent, np.float64) - np.asarray(mean)) / np.asarray(spread)
    return np.asarray(np.sqrt(np.square(apart).mean(-1)))


@lru_cache(maxsize=4096)
def chance_beyond(reference_blocks: int, left_beyond: int, window_blocks: int, at_least: int) -> float:
    """Probability that so many blocks of a window lie beyond a limit, where all orders of all blocks are alike.

    The limit is one of the reference's blocks. How many of the window's lie beyond it follows the beta-binomial
    distribution with parameters ``left_beyond + 1`` and ``reference_blocks - left_beyond``; ties make it rarer.

    Args:
        reference_blocks: Blocks of normal footage.
        left_beyond: How many of them lie beyond the limit.
        window_blocks: Blocks of the window.
        at_least: How many of those lie beyond it, or more.
    """
    within = reference_blocks - left_beyond - 1
    ways = sum(
        math.comb(left_beyond + there, there) * math.comb(within + window_blocks - there, window_blocks - there)
        for there in range(at_least, window_blocks + 1)
    )
    return ways / math.comb(reference_blocks + window_blocks, window_blocks)


def most_left_beyond(reference_blocks: int, window_blocks: int, allowed: float) -> int | None:
    """How many normal blocks limits may leave beyond them: a tenth, or fewer where that is not rare enough.

    Args:
        reference_blocks: Blocks of normal footage.
        window_blocks: Blocks of a window.
        allowed: Probability that nearly all of a normal window lies beyond a limit, at the most.

    Returns:
        None where there are too few normal blocks for so small a probability.
    """
    enough = enough_of(window_blocks)
    for left in range(reference_blocks - enough_of(reference_blocks), -1, -1):
        if chance_beyond(reference_blocks, left, window_blocks, enough) <= allowed:
            return left
    return None


def limits_of(blocks: npt.ArrayLike, left: int) -> tuple[Float64Array, Float64Array]:
    """Lower and upper limits that leave so many of normal blocks beyond them, shapes (...) of blocks (..., n)."""
    ordered = np.sort(np.asarray(blocks, np.float64), axis=-1)
    return np.asarray(ordered[..., left]), np.asarray(ordered[..., -1 - left])


def make_test(reference: DriftReference, rule: DriftRule) -> DriftTest | None:
    """Set the limits for a window that is looked at whenever a block ends.

    Returns:
        None where the normal footage has too few blocks for so few false alarms, or the rule is not enabled.
    """
    if not rule.enabled:
        return None
    every = math.ceil(rule.window_seconds / (_MOST_BLOCKS * reference.block_seconds))
    step_seconds = every * reference.block_seconds
    window_blocks = max(_FEWEST_BLOCKS, round(rule.window_seconds / step_seconds))
    looks_a_year = _SECONDS_A_YEAR / step_seconds
    allowed = rule.false_alarms_per_year / (looks_a_year * len(MEASURES) * len(DIRECTIONS) * _STILL_CORRELATED)
    left = most_left_beyond(len(reference.floor), window_blocks, allowed)
    if left is None:
        return None
    values = np.array([reference.floor, reference.middle])
    low, high = limits_of(values, left)
    return DriftTest(
        block_ms=max(1, round(1000 * reference.block_seconds)),
        every=every,
        window_blocks=window_blocks,
        reference_blocks=len(reference.floor),
        left_beyond=left,
        low=low,
        high=high,
        usual=np.median(values, axis=1),
        spread=np.array([spread_of(row) for row in values]),
    )


def why_untold(reference: DriftReference | None, rule: DriftRule) -> str | None:
    """Say why no drift will be told though it is looked for; None where it can be, or is not to be."""
    if not rule.enabled:
        return None
    if reference is None:
        return "the bundle holds no blocks of normal footage; fit and build it anew, with more footage if it was short"
    if make_test(reference, rule) is None:
        return (
            f"the bundle holds {len(reference.floor)} blocks of normal footage, too few for so few false alarms; raise "
            "drift.false_alarms_per_year or fit to longer footage"
        )
    return None


def spread_of(values: npt.ArrayLike) -> float:
    """Spread of blocks' numbers, from their quartiles, as a standard deviation."""
    low, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.75])
    return max(float(high - low) / _QUARTILES_APART, LEAST_SPREAD)
