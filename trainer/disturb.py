"""What was never there, put into normal footage: the autoencoder learns to redraw the footage without it.

An autoencoder that is only asked to redraw what it sees learns to redraw anomalies too. So it is shown normal crops
into which something was put, and the loss compares with the crop as it was (a denoising autoencoder, Vincent et al.,
JMLR 2010, whose noise is pseudo-anomalies: Astrid et al., Learning Not to Reconstruct Anomalies, BMVC 2021; Zavrtanik
et al., DRAEM, ICCV 2021). These things are put in, the first two within a soft blob or in the whole crop:

skip-frame  what moves here moves as it does when frames of the footage are skipped (`trainer.skipped`)
faster      what moves here moves 1.4 to 4.5 times as fast, or backwards
displaced   what moves in another crop is laid over this one, faster
foreign     a piece of another crop, lighter or darker, with more or less contrast, at rest or moving as things here do
covered     next to nothing is left of the whole crop, dark or light, and nothing moves
scar        a thin, turned piece of another place or crop, lighter or darker (Li et al., CutPaste, CVPR 2021); in images
            that have no motion alone, since what cameras are to see is larger
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from contract.frame import FLOW_FRAMES, FLOW_STEPS_A_PIXEL
from trainer.model import CELL_PX, ModelConfig, motion_at_rest, pictures_and_motion

PseudoAnomaly = Literal["skip-frame", "faster", "displaced", "foreign", "covered", "scar"]
PSEUDO_ANOMALIES: Final[tuple[PseudoAnomaly, ...]] = get_args(PseudoAnomaly)
"""All kinds."""

_WITHOUT_MOTION: Final[tuple[PseudoAnomaly, ...]] = ("foreign", "covered", "scar")
_WITH_MOTION: Final[tuple[PseudoAnomaly, ...]] = ("skip-frame", "faster", "displaced", "foreign", "covered")

_UNDISTURBED: Final = 0.25
_SHARES: Final[dict[PseudoAnomaly, float]] = {
    "skip-frame": 0.2,
    "faster": 0.1,
    "displaced": 0.05,
    "foreign": 0.45,
    "covered": 0.04,
    "scar": 0.9,
}
_SLOW_PX_A_FRAME: Final = 0.25
_SLOW_LEVELS: Final = 8.0
_PLAIN_LEVELS: Final = 20.0
_PLAIN_PX_A_FRAME: Final = 0.6
_SPAN: Final = 64
"""Side of the pictures that the sizes below are shares of, pixels."""


@dataclass(frozen=True)
class _Split:
    """A batch's channels apart: pictures 0..1 and motion in levels away from rest, (batch, clip_frames, c, h, w)."""

    pictures: Tensor
    motion: Tensor


class Disturbed(NamedTuple):
    """Images with something put in, shape (batch, clip_frames * input_channels, height, width) both, 0..1.

    Attributes:
        images: What the autoencoder is shown.
        target: What it is to make of them: the images as they were, and a cover as it is, behind which nothing shows.
    """

    images: Tensor
    target: Tensor


def possible_kinds(config: ModelConfig) -> tuple[PseudoAnomaly, ...]:
    """Kinds that can be put into this model's images."""
    return _WITHOUT_MOTION if config.motion == "none" else _WITH_MOTION


def disturb(
    images: Tensor,
    config: ModelConfig,
    random: torch.Generator,
    kinds: Collection[PseudoAnomaly] = PSEUDO_ANOMALIES,
    skipped: Tensor | None = None,
) -> Disturbed:
    """Put pseudo-anomalies into three quarters of the images.

    Args:
        images: Float of shape (batch, clip_frames * input_channels, height, width), 0..1; crops or whole pictures.
        config: Says which channels are motion.
        random: On the CPU; the same state gives the same disturbances.
        kinds: What is put in; of motion's kinds nothing where the model is given none.
        skipped: Motion of skipped frames, in levels 0..1, (batch, clip_frames * channels of motion, height, width);
            None leaves ``skip-frame`` out.
    """
    others = torch.randperm(len(images), generator=random)
    chosen = [
        kind for kind in possible_kinds(config) if kind in kinds and (kind != "skip-frame" or skipped is not None)
    ]
    drawn = torch.rand(len(images), generator=random)
    disturbed, target, start = images.clone(), images, _UNDISTURBED
    for kind in chosen:
        stop = start + (1 - _UNDISTURBED) * _SHARES[kind] / sum(_SHARES[one] for one in chosen)
        among = torch.nonzero((drawn >= start) & (drawn < stop)).squeeze(1)
        if len(among):
            here, there = (_apart(images[which], config) for which in (among, others[among]))
            fast = None if skipped is None else skipped[among].reshape(here.motion.shape) * 255 - motion_at_rest(config)
            disturbed[among] = _together(_put(kind, here, there, fast, config, random), config)
            if kind == "covered":
                target = images.clone()
                target[among] = disturbed[among]
        start = stop
    return Disturbed(disturbed, target)


def put_in(disturbed: Tensor, images: Tensor, config: ModelConfig) -> Tensor:
    """Tell how much was put into each cell of the last frame.

    Args:
        disturbed: What `disturb` made of the images.
        images: The images before.
        config: Says which channels are motion.

    Returns:
        Shape (batch, 1, height / 8, width / 8): 0 for nothing, 1 for what is plain to see.
    """
    last = config.preprocessing.last_frame
    change = (disturbed[:, last] - images[:, last]) * 255
    picture = change[:, : config.channels].abs().mean(1, keepdim=True) / _PLAIN_LEVELS
    shares = functional.avg_pool2d(picture, CELL_PX)
    if config.motion != "none":
        plain = _PLAIN_PX_A_FRAME * FLOW_STEPS_A_PIXEL * FLOW_FRAMES if config.sees_flow else _PLAIN_LEVELS
        motion = torch.sqrt(torch.square(change[:, config.channels :]).sum(1, keepdim=True)) / plain
        shares = torch.maximum(shares, functional.avg_pool2d(motion, CELL_PX))
    return shares.clamp(max=1)


def moving_places(images: Tensor, config: ModelConfig) -> Tensor:
    """Tell where something moves.

    Args:
        images: Single frames, float of shape (batch, input_channels, height, width), 0..1.
        config: Says which channels are motion; it has some.

    Returns:
        bool of shape (batch, height, width).
    """
    return _moves(images[:, config.channels :] * 255 - motion_at_rest(config), config).squeeze(1)


def between(low: float, high: float, images: Tensor, random: torch.Generator) -> Tensor:
    """Draw one number for each image, (batch, 1, 1, 1, 1), on the images' device."""
    return (torch.rand(len(images), 1, 1, 1, 1, generator=random) * (high - low) + low).to(images.device)


def _apart(images: Tensor, config: ModelConfig) -> _Split:
    pictures, motion = pictures_and_motion(images, config)
    return _Split(pictures, motion * 255 - motion_at_rest(config))


def _together(split: _Split, config: ModelConfig) -> Tensor:
    motion = (split.motion + motion_at_rest(config)) / 255
    return torch.cat([split.pictures, motion], 2).clamp(0, 1).flatten(1, 2)


def _moves(motion: Tensor, config: ModelConfig) -> Tensor:
    """Where motion (..., c, h, w) is more than slow: bool of shape (..., 1, h, w)."""
    return torch.square(motion).sum(-3, keepdim=True) > _slow(config) ** 2


def _slow(config: ModelConfig) -> float:
    """Length of motion that is hardly any, levels."""
    return _SLOW_PX_A_FRAME * FLOW_STEPS_A_PIXEL * FLOW_FRAMES if config.sees_flow else _SLOW_LEVELS


def _chance(share: float, images: Tensor, random: torch.Generator) -> Tensor:
    return between(0, 1, images, random) < share


def _put(
    kind: PseudoAnomaly, here: _Split, there: _Split, fast: Tensor | None, config: ModelConfig, random: torch.Generator
) -> _Split:
    """Put one kind into images: ``there`` is another for each of them, ``fast`` what skipped frames move."""
    match kind:
        case "skip-frame":
            assert fast is not None  # noqa: S101 - `disturb` leaves the kind out otherwise
            return _skip_frame(here, fast, random)
        case "faster":
            return _faster(here, config, random)
        case "displaced":
            return _displaced(here, there, config, random)
        case "foreign":
            return _foreign(here, there, config, random)
        case "covered":
            return _covered(here, random)
        case "scar":
            return _scar(here, there, random)


def _skip_frame(here: _Split, fast: Tensor, random: torch.Generator) -> _Split:
    fast = fast * between(0.8, 1.3, fast, random)
    return _Split(here.pictures, torch.lerp(here.motion, fast, _soft_blobs(fast, random)))


def _faster(here: _Split, config: ModelConfig, random: torch.Generator) -> _Split:
    pictures = here.pictures
    factor = torch.where(
        _chance(0.85, pictures, random), between(1.4, 4.5, pictures, random), between(-2.0, -0.5, pictures, random)
    )
    # What rests has noise alone, and something fast does not make it noisier.
    speed = torch.sqrt(torch.square(here.motion).sum(-3, keepdim=True))
    moving = (speed / _slow(config) - 0.5).clamp(0, 1)
    return _Split(pictures, here.motion * (1 + (factor - 1) * _soft_blobs(pictures, random) * moving))


def _soft_blobs(images: Tensor, random: torch.Generator) -> Tensor:
    """Gaussians with a flat top, 0..1, and three images of ten that are 1 all over: (batch, 1, 1, height, width)."""
    rows, columns = _offsets(images, random)
    blob = torch.exp(
        -(
            torch.square(rows / between(6 / _SPAN, 25 / _SPAN, images, random))
            + torch.square(columns / between(6 / _SPAN, 25 / _SPAN, images, random))
        )
        / 2
    )
    return torch.where(_chance(0.3, images, random), torch.ones_like(blob), (1.5 * blob).clamp(max=1))


def _displaced(here: _Split, there: _Split, config: ModelConfig, random: torch.Generator) -> _Split:
    shape = _soft_shapes(here.pictures, random)
    moves = _moves(there.motion, config).float()
    near = _wider(moves.flatten(0, 1))
    mask = shape * functional.avg_pool2d(near, 3, 1, 1).view_as(moves)
    factor = between(1.3, 4.0, here.pictures, random)
    return _Split(torch.lerp(here.pictures, there.pictures, mask), torch.lerp(here.motion, there.motion * factor, mask))


def _foreign(here: _Split, there: _Split, config: ModelConfig, random: torch.Generator) -> _Split:
    pictures, shape = here.pictures, _soft_shapes(here.pictures, random)
    weight = shape.sum((-2, -1), keepdim=True).clamp(min=1)
    around = (pictures * shape).sum((-2, -1), keepdim=True) / weight
    mean = (there.pictures * shape).sum((-2, -1), keepdim=True) / weight
    sign = torch.where(_chance(0.5, pictures, random), 1.0, -1.0)
    shade = sign * between(0.06, 0.3, pictures, random)
    texture = (there.pictures - mean) * between(0.5, 2.0, pictures, random) + around + shade
    pictures = torch.lerp(pictures, texture.clamp(0, 1), shape)
    if config.motion == "none":
        return _Split(pictures, here.motion)
    moves = _moves(here.motion, config).float()
    pace = (here.motion * moves).sum((-2, -1), keepdim=True) / moves.sum((-2, -1), keepdim=True).clamp(min=1)
    pace = torch.where(_chance(0.6, pictures, random), pace, torch.zeros_like(pace))
    wider = _wider(shape.squeeze(1)).unsqueeze(1)
    return _Split(pictures, torch.lerp(here.motion, pace.expand_as(here.motion), wider))


def _covered(here: _Split, random: torch.Generator) -> _Split:
    pictures, motion = here.pictures, here.motion
    # A hand or a cloth leaves a little light; what flow makes of noise is about as strong as at rest.
    left = between(0, 0.15, pictures, random) * (pictures - pictures.mean((-2, -1), keepdim=True))
    noise = torch.randn(pictures.shape, generator=random).to(pictures.device) * between(0, 0.02, pictures, random)
    return _Split((between(0, 1, pictures, random) + left + noise).clamp(0, 1), 0.1 * motion)


def _scar(here: _Split, there: _Split, random: torch.Generator) -> _Split:
    pictures, shape = here.pictures, _thin_shapes(here.pictures, random)
    height, width = pictures.shape[-2:]
    shift = [int(torch.randint(1, side, (), generator=random)) for side in (height, width)]
    elsewhere = pictures.roll(shift, (-2, -1))
    texture = torch.where(_chance(0.5, pictures, random), elsewhere, there.pictures)
    shade = between(-0.25, 0.25, pictures, random)
    mean = pictures.mean((-2, -1), keepdim=True)
    texture = (texture - mean) * between(0.3, 1.3, pictures, random) + shade + mean
    return _Split(torch.lerp(pictures, texture.clamp(0, 1), shape), here.motion)


def _thin_shapes(images: Tensor, random: torch.Generator) -> Tensor:
    """Turned rectangles a few pixels wide, 0..1, (batch, 1, 1, height, width)."""
    rows, columns = _offsets(images, random)
    turn = between(0, math.pi, images, random)
    along, across = rows * turn.cos() + columns * turn.sin(), columns * turn.cos() - rows * turn.sin()
    along = along.abs() / between(2 / _SPAN, 12 / _SPAN, images, random)
    across = across.abs() / between(1 / _SPAN, 5 / _SPAN, images, random)
    return ((1 - torch.maximum(along, across)) * between(2, 8, images, random)).clamp(0, 1)


def _wider(images: Tensor) -> Tensor:
    """The greatest of the 5x5 values around each; along one side and then the other is less than half the work."""
    return functional.max_pool2d(functional.max_pool2d(images, (5, 1), 1, (2, 0)), (1, 5), 1, (0, 2))


def _soft_shapes(images: Tensor, random: torch.Generator) -> Tensor:
    """Ellipses and rectangles with edges of several softnesses, 0..1, (batch, 1, 1, height, width)."""
    rows, columns = _offsets(images, random)
    rows = rows / between(4 / _SPAN, 22 / _SPAN, images, random)
    columns = columns / between(4 / _SPAN, 22 / _SPAN, images, random)
    ellipse, rectangle = torch.square(rows) + torch.square(columns), torch.maximum(rows.abs(), columns.abs())
    distance = torch.where(_chance(0.5, images, random), ellipse, rectangle)
    return ((1 - distance) * between(2, 8, images, random)).clamp(0, 1)


def _offsets(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows (batch, 1, 1, height, 1) and columns (batch, 1, 1, 1, width) from a centre within each image, in spans."""
    height, width = images.shape[-2:]
    # Sizes count in spans of 64 pixels on crops and whole pictures alike, since objects are of one size in both.
    rows = torch.arange(height, device=images.device).view(1, 1, 1, -1, 1) / _SPAN
    columns = torch.arange(width, device=images.device).view(1, 1, 1, 1, -1) / _SPAN
    centre_row = between(height / _SPAN / 8, height / _SPAN * 7 / 8, images, random)
    centre_column = between(width / _SPAN / 8, width / _SPAN * 7 / 8, images, random)
    return rows - centre_row, columns - centre_column
