"""The mirrored convolutional autoencoder, and the detector made of it.

    encoder   strided convolutions, activation  ->  bottleneck: flatten and fully connected, or 1x1  ->  latent
    decoder   the mirror: bottleneck back, upsampling convolutions, activation  ->  reconstruction of the input
    detector  uint8 frames -> both halves -> error by cell -> calibrated anomaly map -> anomaly score

After Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, Science 2006, and, for
video, Hasan et al., Learning Temporal Regularity in Video Sequences, CVPR 2016.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from contract.frame import Preprocessing
from contract.settings import FrozenModel

CELL_PX = 8
"""Side of an anomaly map's cell in the model's input, pixels."""

_ERROR_WINDOW_PX = 24
_ERROR_FLOOR = 1e-6

Bottleneck = Literal["frame", "tile", "spatial"]


class ModelConfig(FrozenModel):
    """Everything that rebuilds the autoencoder."""

    height: int = Field(default=128, ge=32, le=2048)
    """Rows of the input, pixels."""

    width: int = Field(default=192, ge=32, le=2048)
    """Columns of the input, pixels."""

    channels: Literal[1, 3] = 1
    """1 for grey, 3 for colour in BGR order."""

    clip_frames: int = Field(default=1, ge=1, le=64)
    """Consecutive frames that make one input, T; the last one is scored."""

    widths: tuple[int, ...] = Field(default=(16, 32, 64, 64), min_length=1, max_length=8)
    """Feature maps of each convolution; each halves height and width."""

    bottleneck: Bottleneck = "frame"
    """``frame``: one fully connected layer over the whole picture. ``tile``: one over each tile, weights shared.
    ``spatial``: 1x1 convolution."""

    latent: int = Field(default=64, ge=1, le=65_536)
    """Numbers in a latent, by picture, tile or place as the bottleneck says."""

    tile: int = Field(default=4, ge=1, le=64)
    """Side of a tile, in places of the last convolution; for the ``tile`` bottleneck."""

    @model_validator(mode="after")
    def _sides_divide(self) -> Self:
        step = 2 ** len(self.widths) * (self.tile if self.bottleneck == "tile" else 1)
        for name, side in (("height", self.height), ("width", self.width)):
            if side % step or side % CELL_PX:
                raise ValueError(f"{name} must be a multiple of {max(step, CELL_PX)} for these layers, found {side}")
        if any(width < 1 or width > 4096 for width in self.widths):
            raise ValueError("widths must lie between 1 and 4096")
        return self

    @property
    def preprocessing(self) -> Preprocessing:
        """How a frame becomes this model's input."""
        return Preprocessing(height=self.height, width=self.width, channels=self.channels)

    @property
    def map_shape(self) -> tuple[int, int]:
        """Rows and columns of an anomaly map."""
        return self.height // CELL_PX, self.width // CELL_PX


class Encoder(nn.Sequential):
    """Images (batch, clip_frames * channels, height, width), 0..1, to latents.

    A latent has shape (latent,) for the ``frame`` bottleneck, otherwise (latent, rows, columns).
    """

    def __init__(self, config: ModelConfig) -> None:
        layers: list[nn.Module] = []
        before = config.clip_frames * config.channels
        for width in config.widths:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]
            before = width
        rows, columns = _last_places(config)
        if config.bottleneck == "frame":
            layers += [nn.Flatten(), nn.Linear(before * rows * columns, config.latent)]
        else:
            # A convolution whose stride is its kernel is the fully connected layer of each tile.
            side = config.tile if config.bottleneck == "tile" else 1
            layers += [nn.Conv2d(before, config.latent, side, stride=side)]
        super().__init__(*layers)


class Decoder(nn.Sequential):
    """The encoder's mirror: latents to reconstructions (batch, clip_frames * channels, height, width), 0..1."""

    def __init__(self, config: ModelConfig) -> None:
        rows, columns = _last_places(config)
        before = config.widths[-1]
        layers: list[nn.Module] = []
        if config.bottleneck == "frame":
            layers += [nn.Linear(config.latent, before * rows * columns), nn.Unflatten(1, (before, rows, columns))]
        else:
            side = config.tile if config.bottleneck == "tile" else 1
            layers += [nn.ConvTranspose2d(config.latent, before, side, stride=side)]
        for width in (*config.widths[-2::-1], config.clip_frames * config.channels):
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

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images.

        Args:
            images: float of shape (batch, clip_frames * channels, height, width), 0..1.

        Returns:
            Reconstructions of the same shape, 0..1.
        """
        reconstruction: Tensor = self.decoder(self.encoder(images))
        return reconstruction


class Detector(nn.Module):
    """The whole path from uint8 frames to calibrated scores, in one graph.

    Attributes:
        autoencoder: The model.
        cell_mean: Mean root error of each cell over normal footage, shape (rows, columns).
        cell_spread: Its spread, above 0, same shape.
    """

    cell_mean: Tensor
    cell_spread: Tensor

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        shape = autoencoder.config.map_shape
        self.register_buffer("cell_mean", torch.zeros(shape))
        self.register_buffer("cell_spread", torch.ones(shape))

    def cell_errors(self, frames: Tensor) -> Tensor:
        """Root mean squared error of the last frame around each cell.

        Args:
            frames: uint8 of shape (batch, clip_frames, height, width, channels).

        Returns:
            float32 of shape (batch, rows, columns).
        """
        images = to_images(frames)
        return pooled_error(self.autoencoder(images), images, self.autoencoder.config.channels)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Score clips of frames.

        Args:
            frames: uint8 of shape (batch, clip_frames, height, width, channels).

        Returns:
            ``anomaly_score`` of shape (batch,) and ``anomaly_map`` of shape (batch, rows, columns), float32 on the
            scale that `contract.scoring` describes.
        """
        spreads = (self.cell_errors(frames) - self.cell_mean) / self.cell_spread
        anomaly_map = torch.sign(spreads) * torch.log1p(torch.abs(spreads))
        return torch.amax(anomaly_map, dim=(1, 2)), anomaly_map


def to_images(frames: Tensor) -> Tensor:
    """Turn uint8 clips into the autoencoder's input; `contract.scoring.frames_to_images` in PyTorch.

    Args:
        frames: uint8 of shape (batch, clip_frames, height, width, channels).

    Returns:
        float32 of shape (batch, clip_frames * channels, height, width), 0..1.
    """
    return frames.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 255.0


def pooled_error(reconstruction: Tensor, images: Tensor, channels: int) -> Tensor:
    """Root of the squared error of the last frame, averaged over a window around each cell.

    Pooling over about an object's size keeps small objects, which vanish in a mean over the frame.

    Args:
        reconstruction: Shape (batch, clip_frames * channels, height, width).
        images: Same shape.
        channels: Channels of one frame.

    Returns:
        Shape (batch, rows, columns), rows = height / 8.
    """
    squared = torch.square(reconstruction[:, -channels:].float() - images[:, -channels:]).mean(1, keepdim=True)
    cells = functional.avg_pool2d(squared, CELL_PX)  # (batch, 1, rows, columns)
    around = _ERROR_WINDOW_PX // CELL_PX // 2
    smooth = functional.avg_pool2d(cells, 2 * around + 1, stride=1, padding=around, count_include_pad=False)
    return torch.sqrt(smooth.squeeze(1) + _ERROR_FLOOR)


def _last_places(config: ModelConfig) -> tuple[int, int]:
    step = 2 ** len(config.widths)
    return config.height // step, config.width // step
