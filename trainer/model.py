"""The mirrored convolutional autoencoder.

    encoder   strided convolutions, activation  ->  bottleneck: flatten and fully connected, or 1x1  ->  latent
    decoder   the mirror: bottleneck back, upsampling convolutions, activation  ->  reconstruction of the input

After Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, Science 2006, and, for
video, Hasan et al., Learning Temporal Regularity in Video Sequences, CVPR 2016.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from contract.frame import FLOW_NEUTRAL, Motion, Preprocessing
from contract.settings import FrozenModel

CELL_PX = 8
"""Side of an anomaly map's cell in the model's input, pixels."""

Bottleneck = Literal["frame", "tile", "spatial"]


class ModelConfig(FrozenModel):
    """Everything that rebuilds the autoencoder."""

    height: int = Field(default=128, ge=32, le=2048)
    """Rows of the input, pixels."""

    width: int = Field(default=192, ge=32, le=2048)
    """Columns of the input, pixels."""

    channels: Literal[1, 3] = 1
    """1 for grey, 3 for colour in BGR order."""

    motion: Motion = "flow-dis-fast-2"
    """What is computed from a camera's frames and given to the model beside them: nothing, ``none``, for images that
    are not a camera's; the difference from the frame before, ``difference-1``; optical flow, ``flow-dis-fast-2``,
    or finer and slower, ``flow-dis-2``."""

    clip_frames: int = Field(default=1, ge=1, le=64)
    """Consecutive frames that the autoencoder sees and redraws, T; the last one is scored."""

    motion_frames: int = Field(default=5, ge=1, le=64)
    """Consecutive frames over which the detector averages how fast things move; the last one is scored."""

    widths: tuple[int, ...] = Field(default=(24, 48, 64), min_length=1, max_length=8)
    """Feature maps of each convolution; each halves height and width."""

    bottleneck: Bottleneck = "spatial"
    """``frame``: one fully connected layer over the whole picture. ``tile``: one over each tile, weights shared.
    ``spatial``: 1x1 convolution."""

    latent: int = Field(default=16, ge=1, le=65_536)
    """Numbers in a latent, by picture, tile or place as the bottleneck says."""

    tile: int = Field(default=4, ge=1, le=64)
    """Side of a tile, in places of the last convolution; for the ``tile`` bottleneck."""

    comparator: tuple[int, int, int] | None = (24, 48, 64)
    """Feature maps of each convolution of the network that compares input and reconstruction, which learns from what
    is put into the training frames; null to measure their pooled residual."""

    @model_validator(mode="after")
    def _sides_divide(self) -> Self:
        step = self.step_px
        for name, side in (("height", self.height), ("width", self.width)):
            if side % step or side % CELL_PX:
                raise ValueError(f"{name} must be a multiple of {max(step, CELL_PX)} for these layers, found {side}")
        if any(width < 1 or width > 4096 for width in (*self.widths, *(self.comparator or ()))):
            raise ValueError("widths and comparator must lie between 1 and 4096")
        return self

    @property
    def step_px(self) -> int:
        """Side of the square that one latent place stands for, pixels; of one place before the ``frame`` bottleneck."""
        return int(2 ** len(self.widths) * (self.tile if self.bottleneck == "tile" else 1))

    @property
    def preprocessing(self) -> Preprocessing:
        """How a frame becomes this model's input."""
        return Preprocessing(height=self.height, width=self.width, channels=self.channels, motion=self.motion)

    @property
    def sees_flow(self) -> bool:
        """Whether its motion is optical flow."""
        return self.motion.startswith("flow")

    @property
    def detector_frames(self) -> int:
        """Consecutive frames that the detector takes."""
        return self.clip_frames if self.motion == "none" else max(self.clip_frames, self.motion_frames)

    @property
    def map_shape(self) -> tuple[int, int]:
        """Rows and columns of an anomaly map."""
        return self.height // CELL_PX, self.width // CELL_PX


class Encoder(nn.Module):
    """Images (batch, clip_frames * input_channels, height, width), 0..1, to latents.

    Each place's row and column, -1..1, are two further channels, so that one set of weights can know what is normal
    where (Liu et al., An Intriguing Failing of Convolutional Neural Networks and the CoordConv Solution, 2018). A
    latent has shape (latent,) for the ``frame`` bottleneck, otherwise (latent, rows, columns).
    """

    position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        rows, columns = torch.linspace(-1, 1, config.height), torch.linspace(-1, 1, config.width)
        position = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        self.register_buffer("position", position, persistent=False)  # (2, height, width)
        layers: list[nn.Module] = []
        before = config.clip_frames * config.preprocessing.input_channels + len(position)
        for width in config.widths:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]
            before = width
        rows_left, columns_left = _last_places(config)
        if config.bottleneck == "frame":
            layers += [nn.Flatten(), nn.Linear(before * rows_left * columns_left, config.latent)]
        else:
            # A convolution whose stride is its kernel is the fully connected layer of each tile.
            side = config.tile if config.bottleneck == "tile" else 1
            layers += [nn.Conv2d(before, config.latent, side, stride=side)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor, position: Tensor | None = None) -> Tensor:
        """Encode images, or crops of them.

        Args:
            images: Float, 0..1, of shape (batch, clip_frames * input_channels, height, width); smaller for crops.
            position: Of each crop's places, shape (batch, 2, height, width); that of the whole picture where None.
        """
        if position is None:
            position = self.position.expand(images.shape[0], -1, -1, -1)
        latent: Tensor = self.layers(torch.cat([images, position.to(images.dtype)], 1))
        return latent


class Decoder(nn.Sequential):
    """The encoder's mirror: latents to reconstructions (batch, clip_frames * input_channels, height, width), 0..1."""

    def __init__(self, config: ModelConfig) -> None:
        rows, columns = _last_places(config)
        before = config.widths[-1]
        layers: list[nn.Module] = []
        if config.bottleneck == "frame":
            layers += [nn.Linear(config.latent, before * rows * columns), nn.Unflatten(1, (before, rows, columns))]
        else:
            side = config.tile if config.bottleneck == "tile" else 1
            layers += [nn.ConvTranspose2d(config.latent, before, side, stride=side)]
        for width in (*config.widths[-2::-1], config.clip_frames * config.preprocessing.input_channels):
            # Kernel 2 stride 2 is the upsampling convolution that ONNX Runtime runs fastest on CPU.
            layers += [nn.BatchNorm2d(before), nn.LeakyReLU(0.1), nn.ConvTranspose2d(before, width, 2, stride=2)]
            before = width
        super().__init__(*layers, nn.Sigmoid())


class Autoencoder(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, images: Tensor, position: Tensor | None = None) -> Tensor:
        """Reconstruct images, or crops of them.

        Args:
            images: Float of shape (batch, clip_frames * input_channels, height, width), 0..1.
            position: Of each crop's places, shape (batch, 2, height, width); not for the ``frame`` bottleneck.

        Returns:
            Reconstructions of the same shape, 0..1.
        """
        latent = self.encoder(images) if position is None else self.encoder(images, position)
        reconstruction: Tensor = self.decoder(latent)
        return reconstruction


def to_images(frames: Tensor) -> Tensor:
    """Turn uint8 clips into the autoencoder's input; `contract.scoring.frames_to_images` in PyTorch.

    Args:
        frames: uint8 of shape (batch, clip_frames, height, width, input_channels).

    Returns:
        float32 of shape (batch, clip_frames * input_channels, height, width), 0..1.
    """
    return frames.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 255.0


def seen_images(frames: Tensor, config: ModelConfig) -> Tensor:
    """Turn the detector's clips into the autoencoder's input, which are the last of their frames.

    Args:
        frames: uint8 of shape (batch, detector_frames, height, width, input_channels).
        config: Says how many the autoencoder sees.

    Returns:
        float32 of shape (batch, clip_frames * input_channels, height, width), 0..1.
    """
    return to_images(frames[:, -config.clip_frames :])


def pictures_and_motion(images: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Part the channels of images: pictures and their motion, (batch, clip_frames, channels, height, width) each."""
    frames = images.reshape(images.shape[0], config.clip_frames, -1, *images.shape[2:])
    return frames[:, :, : config.channels], frames[:, :, config.channels :]


def motion_at_rest(config: ModelConfig) -> float:
    """Level, 0..255, of the motion's channels where nothing moves."""
    return float(FLOW_NEUTRAL) if config.sees_flow else 0.0


def _last_places(config: ModelConfig) -> tuple[int, int]:
    step = 2 ** len(config.widths)
    return config.height // step, config.width // step
