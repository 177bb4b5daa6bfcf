"""Whether a camera still shows what it should: its usual picture, and how a frame compares with it.

A frame is compared by its edges, which light and those in view change little: in each block of the picture, the cosine
between its gradients and those of the usual picture. A block whose edges are others is lost, and hidden where there are
few at all. A camera that was turned shows other edges in place of those it lost, one that is covered hides them, and
one out of focus has fewer fine edges for its coarse ones. Of the blocks only those count that usually have edges, so
that a wall does not matter, and of them so large a share as no one who stands in view takes.

A camera that usually shows colours and shows none has switched to infrared light.
"""

import base64
import math
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from contract.frame import Frame
from contract.settings import FrozenModel

Condition = Literal["black", "overexposed", "covered", "moved"]
Grey = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.float32]

_COARSE_WIDTH: Final = 96
_BLOCKS_WH: Final = (8, 6)
_LEAST_ENERGY: Final = 4.0
_SAME_COSINE: Final = 0.5
_FEW_EDGES: Final = 0.35
_HIDDEN_SHARE: Final = 0.4
_LESS_DETAIL: Final = 0.8
_LOST_SHARE: Final = 0.65
_LOST_BEYOND_USUAL: Final = 0.35
_BLURRED: Final = 0.8
_BLACK: Final = 10.0
_OVEREXPOSED: Final = 240.0
_COLOURED: Final = 1.0
_COLOURLESS: Final = 1.0
_COLOUR_LEFT: Final = 0.1
_MAX_PICTURE_BYTES: Final = 512 * 1024
_REFERENCE_FRAMES: Final = 64
_READ_SMALL: Final = cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION


class Look(NamedTuple):
    """How a frame compares with the usual picture.

    Attributes:
        lightness: Mean of its pixels, 0..255.
        spread: Their standard deviation.
        lost: Share of the blocks with edges whose edges are others, 0..1.
        hidden: Share of those with few edges at all, 0..1.
        detail: Edges in all of it, over those of the usual picture; 1 is as usual.
        sharpness: Fine edges for coarse ones, over those of the usual picture; 1 is as usual.
    """

    lightness: float
    spread: float
    lost: float
    hidden: float
    detail: float
    sharpness: float


class SceneReference(FrozenModel):
    """A camera's usual picture."""

    picture: str = Field(max_length=_MAX_PICTURE_BYTES)
    """Median of normal frames, grey: PNG, base64 (RFC 4648 section 4)."""

    usually_lost: float = Field(ge=0, le=1)
    """Share of blocks that normal frames lose at the most, 0..1."""

    least_colour: float = Field(default=0.0, ge=0, le=255)
    """Colour that normal frames show at the least, see `colour_of`, 0..255; 0 where that is not known."""

    @field_validator("picture")
    @classmethod
    def _is_a_picture(cls, text: str) -> str:
        _decode(text)
        return text

    @classmethod
    def of(cls, frames: npt.NDArray[np.uint8], channels: int, least_colour: float = 0.0) -> "SceneReference | None":
        """Make it of normal frames, taken evenly over the footage.

        Args:
            frames: uint8 of shape (n, height, width, at least the channels).
            channels: Of a picture, 1 or 3; they come first.
            least_colour: That they show at the least, 0..255.

        Returns:
            None where they show no one place: what they usually show would tell nothing.
        """
        chosen = np.unique(np.linspace(0, len(frames) - 1, _REFERENCE_FRAMES).round().astype(int))
        pictures = [_grey(np.ascontiguousarray(frames[place][..., :channels])) for place in chosen]
        median = np.median(np.stack(pictures), axis=0).astype(np.uint8)
        _, png = cv2.imencode(".png", median)
        made = cls(
            picture=base64.b64encode(png.tobytes()).decode(), usually_lost=0.0, least_colour=round(least_colour, 2)
        )
        scene = Scene(made)
        if not scene.has_edges:
            return None
        lost = max(scene.look(picture[..., None]).lost for picture in pictures)
        if lost + _LOST_BEYOND_USUAL > 1:
            return None
        return made.model_copy(update={"usually_lost": lost})


class Scene:
    """Compares frames with a usual picture.

    Args:
        reference: The picture.
    """

    def __init__(self, reference: SceneReference) -> None:
        picture = _decode(reference.picture)
        self._horizontal, self._vertical, self._energy, fine = _edges(picture)
        self._used = self._energy >= max(float(np.median(self._energy)), _LEAST_ENERGY)
        self._fineness = np.sqrt(fine / np.maximum(self._energy, 1.0))
        self._most_lost = max(_LOST_SHARE, reference.usually_lost + _LOST_BEYOND_USUAL)
        self.has_edges = bool(self._used.any())
        # What noise and a date in the picture leave of colours is little of what a scene usually shows.
        is_coloured = reference.least_colour >= _COLOURED
        self._colourless = min(_COLOURLESS, _COLOUR_LEFT * reference.least_colour) if is_coloured else None

    def look(self, frame: Frame) -> Look:
        """Compare a frame, uint8 (height, width, channels), of the size of the usual picture."""
        picture = _grey(frame)
        horizontal, vertical, energy, fine = _edges(picture)
        common = _by_block(horizontal * self._horizontal + vertical * self._vertical)
        cosine = (common / np.sqrt(np.maximum(energy * self._energy, 1.0)))[self._used]
        edges = np.sqrt(energy / np.maximum(self._energy, 1.0))[self._used]
        fineness = (np.sqrt(fine / np.maximum(energy, 1.0)) / np.maximum(self._fineness, 1e-3))[self._used]
        mean, spread = cv2.meanStdDev(picture)
        lost = cosine < _SAME_COSINE
        hidden = lost & (edges < _FEW_EDGES)
        detail = math.sqrt(float(energy.mean()) / max(float(self._energy.mean()), 1.0))
        return Look(
            float(mean[0, 0]), float(spread[0, 0]), float(lost.mean()), float(hidden.mean()), detail,
            float(np.median(fineness)),
        )  # fmt: skip

    @property
    def is_coloured(self) -> bool:
        """Whether it usually shows colours."""
        return self._colourless is not None

    def has_lost_colours(self, data: bytes) -> bool:
        """Whether an encoded frame shows no colours though it usually does."""
        return self._colourless is not None and colour_of(data) < self._colourless

    def condition(self, frame: Frame) -> Condition | None:
        """What is wrong with the camera that gave a frame; None where nothing is."""
        look = self.look(frame)
        if look.lightness <= _BLACK and look.spread <= _BLACK:
            return "black"
        if look.lightness >= _OVEREXPOSED and look.hidden >= _HIDDEN_SHARE:
            return "overexposed"
        if (look.hidden >= _HIDDEN_SHARE and look.detail < _LESS_DETAIL) or look.sharpness < _BLURRED:
            return "covered"
        return "moved" if look.lost >= self._most_lost else None


def colour_of(data: bytes) -> float:
    """Mean difference between the strongest and the weakest colour of a pixel, 0..255: 0 is grey.

    Args:
        data: A JPEG or PNG that can be decoded; an eighth of its size is read.
    """
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), _READ_SMALL)
    return float((picture.max(2) - picture.min(2)).mean()) if picture is not None else 0.0


def _decode(text: str) -> Grey:
    try:
        data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except ValueError as error:
        raise ValueError("the usual picture is no base64") from error
    picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if picture is None:
        raise ValueError("the usual picture is no PNG")
    return np.asarray(picture, np.uint8)


def _grey(frame: Frame) -> Grey:
    return frame[..., 0] if frame.shape[2] == 1 else np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)


def _edges(picture: Grey) -> tuple[Blocks, Blocks, Blocks, Blocks]:
    """Coarse gradients in both directions, and the energy of the coarse ones and of the fine ones by block."""
    height, width = picture.shape
    coarse_wh = min(_COARSE_WIDTH, width), max(_BLOCKS_WH[1], round(height * min(_COARSE_WIDTH, width) / width))
    coarse = cv2.resize(picture, coarse_wh, interpolation=cv2.INTER_AREA)
    horizontal, vertical = _gradients(np.asarray(coarse, np.uint8))
    fine_horizontal, fine_vertical = _gradients(picture)
    energy = _by_block(horizontal * horizontal + vertical * vertical)
    return horizontal, vertical, energy, _by_block(fine_horizontal**2 + fine_vertical**2)


def _gradients(picture: Grey) -> tuple[Blocks, Blocks]:
    return (
        np.asarray(cv2.Sobel(picture, cv2.CV_32F, 1, 0), np.float32),
        np.asarray(cv2.Sobel(picture, cv2.CV_32F, 0, 1), np.float32),
    )


def _by_block(values: Blocks) -> Blocks:
    return np.asarray(cv2.resize(values, _BLOCKS_WH, interpolation=cv2.INTER_AREA), np.float32)
