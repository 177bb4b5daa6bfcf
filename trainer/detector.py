"""The detector: uint8 frames -> autoencoder -> what stands out, by cell -> calibrated anomaly map -> anomaly score.

The comparator is the discriminative half of Zavrtanik et al., DRAEM: A Discriminatively Trained Reconstruction
Embedding for Surface Anomaly Detection, ICCV 2021, as small as the autoencoder, and by cell.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from contract.frame import FLOW_FRAMES, FLOW_NEUTRAL, FLOW_STEPS_A_PIXEL
from trainer.around import mean_around
from trainer.model import CELL_PX, Autoencoder, ModelConfig, seen_images

_PLACE_PX: Final = 4
_RESIDUAL_PX: Final = 12
_MOTION_SHARE: Final = 0.16
_SLOW_PX_A_FRAME: Final = 0.5
_SLOW_LEVELS: Final = 8.0
_ERROR_FLOOR: Final = 1e-6
_LEAST_NORMAL_SHARE: Final = 0.01


class Comparator(nn.Module):
    """Looks at the last frame and at its reconstruction, and says by cell whether something was put in.

    Input: (batch, 2 * input_channels + 2, height, width): frame and reconstruction, 0..1, and the places' position.
    Output: logits (batch, 1, height / 8, width / 8).
    """

    def __init__(self, config: ModelConfig, widths: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 2 * config.preprocessing.input_channels + 2
        # Each of three convolutions halves the sides, to cells of 8 pixels; the fourth sees the cells around.
        for width, stride in (*((width, 2) for width in widths), (widths[-1], 1)):
            layers += [nn.Conv2d(before, width, 3, stride=stride, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]
            before = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 1))

    def forward(self, seen: Tensor) -> Tensor:
        """Compare; shapes as the class says."""
        logits: Tensor = self.layers(seen)
        return logits


class Detector(nn.Module):
    """The whole path from uint8 frames to calibrated scores, in one graph.

    It sees by one or two streams: ``appearance``, what the comparator says of the last frame and its reconstruction, or
    their pooled residual where there is no comparator; and ``motion``, how fast what moves there is, where the model is
    given motion. Each is counted in its own spreads over normal footage, and the map shows the root of the sum of
    squares of what stands out: what does so in both ways at one place does so more. What stands out is divided by the
    share of the picture that the comparator takes for normal, which is nearly all but where the lens is covered.

    Attributes:
        autoencoder: The model.
        comparator: Compares input and reconstruction; None where the residual is measured.
        cell_mean: Mean of each stream and cell over normal footage, shape (streams, rows, columns).
        cell_spread: Its spread, above 0, same shape.
    """

    cell_mean: Tensor
    cell_spread: Tensor
    position: Tensor

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        config = autoencoder.config
        self.comparator = None if config.comparator is None else Comparator(config, config.comparator)
        self.register_buffer("position", autoencoder.encoder.position, persistent=False)
        shape = (len(self.by_place), *config.map_shape)
        self.register_buffer("cell_mean", torch.zeros(shape))
        self.register_buffer("cell_spread", torch.ones(shape))

    @property
    def by_place(self) -> tuple[bool, ...]:
        """Whether each stream's cells are counted in spreads of their own place.

        A residual's are: some places are redrawn worse. The comparator is shown the place and has learnt what to expect
        there; its logits mean the same everywhere. So does speed, of which one day does not show what is usual where.
        """
        appearance = self.comparator is None
        return (appearance,) if self.autoencoder.config.motion == "none" else (appearance, False)

    def redraw_and_compare(self, images: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Redraw images, or crops of them, and compare; what a fit trains.

        Args:
            images: Float of shape (batch, clip_frames * input_channels, height, width), 0..1.
            position: Of each crop's places, shape (batch, 2, height, width); that of the whole picture where None.

        Returns:
            Reconstructions of the same shape, and the comparator's logits (batch, 1, rows, columns), whose gradient
            does not reach the autoencoder; None where there is no comparator.
        """
        reconstruction = self.autoencoder(images, position)
        if self.comparator is None:
            return reconstruction, None
        if position is None:
            position = self.position.expand(images.shape[0], -1, -1, -1)
        last = self.autoencoder.config.preprocessing.last_frame
        seen = [images[:, last], reconstruction[:, last].detach().to(images.dtype), position.to(images.dtype)]
        return reconstruction, self.comparator(torch.cat(seen, 1))

    def cell_errors(self, frames: Tensor) -> Tensor:
        """Measure each cell of the last frame by each stream.

        Args:
            frames: uint8 of shape (batch, detector_frames, height, width, input_channels).

        Returns:
            float32 of shape (batch, streams, rows, columns).
        """
        config = self.autoencoder.config
        images = seen_images(frames, config)
        reconstruction, logits = self.redraw_and_compare(images)
        appearance = pooled_residual(reconstruction, images, config) if logits is None else logits.float().squeeze(1)
        if config.motion == "none":
            return appearance[:, None]
        return torch.stack([appearance, pooled_motion(frames[:, -config.motion_frames :], config)], 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Score clips of frames.

        Args:
            frames: uint8 of shape (batch, detector_frames, height, width, input_channels).

        Returns:
            ``anomaly_score`` of shape (batch,) and ``anomaly_map`` of shape (batch, rows, columns), float32 on the
            scale that `contract.scoring` describes.
        """
        errors = self.cell_errors(frames)
        by_stream = (errors - self.cell_mean) / self.cell_spread
        highest = torch.amax(by_stream, 1)
        standing_out = torch.sqrt(torch.square(torch.relu(by_stream)).sum(1))
        if self.comparator is not None:
            foreign_share = torch.sigmoid(errors[:, 0]).mean((1, 2), keepdim=True)
            standing_out = standing_out / (1 - foreign_share).clamp(min=_LEAST_NORMAL_SHARE)
        spreads = torch.where(highest > 0, standing_out, highest)
        anomaly_map = torch.sign(spreads) * torch.log1p(torch.abs(spreads))
        return torch.amax(anomaly_map, dim=(1, 2)), anomaly_map


class CellErrors(nn.Module):
    """A detector as far as its cells' errors, which quantization moves and which are then calibrated anew."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, frames: Tensor) -> Tensor:
        """Measure cells; see `Detector.cell_errors`."""
        return self.detector.cell_errors(frames)


def pooled_residual(reconstruction: Tensor, images: Tensor, config: ModelConfig) -> Tensor:
    """Difference of the last frame from its reconstruction, averaged around each cell before its size is taken.

    An edge redrawn a little beside its place is lighter on one side and darker on the other, and vanishes; something
    that is not redrawn stays. Motion's channels are left out.

    Args:
        reconstruction: Shape (batch, clip_frames * input_channels, height, width).
        images: Same shape.
        config: Says which channels are the last frame's.

    Returns:
        Shape (batch, rows, columns), rows = height / 8.
    """
    own = config.preprocessing.last_picture
    apart = reconstruction[:, own].float() - images[:, own]
    places = _places(apart.flatten(0, 1).unsqueeze(-1))
    residual = _around(places.reshape(images.shape[0], config.channels, *places.shape[2:]), _RESIDUAL_PX)
    return _cells(torch.sqrt(torch.square(residual).mean(1, keepdim=True) + _ERROR_FLOOR))


def pooled_motion(frames: Tensor, config: ModelConfig) -> Tensor:
    """How fast what moves around each cell is: length of the flow, in pixels a frame, or difference, in grey levels.

    The mean over a neighbourhood about as large as a person, each place weighted by how fast it is itself: something
    fast counts as much among things that rest as among others that move. Averaged over the frames.

    Args:
        frames: uint8 of shape (batch, frames, height, width, input_channels).
        config: Says which channels are motion.

    Returns:
        Shape (batch, rows, columns).
    """
    if config.motion == "difference-1":
        places, slow = _places(frames.flatten(0, 1).float(), channel=config.channels), _SLOW_LEVELS
    else:
        # Turned first: to part channels within pixels would take ONNX Runtime a tenth of the graph's time.
        motion = frames.permute(0, 1, 4, 2, 3)[:, :, config.channels :].flatten(0, 1).float()
        steps = FLOW_STEPS_A_PIXEL * FLOW_FRAMES
        displacement = motion - FLOW_NEUTRAL
        # ONNX Runtime multiplies in a third of the time that it takes to raise to a power.
        squares = (displacement * displacement).sum(1, keepdim=True)
        speeds = torch.sqrt(squares + _ERROR_FLOOR * steps**2)
        places, slow = _places(speeds.squeeze(1).unsqueeze(-1)) / steps, _SLOW_PX_A_FRAME
    around_px = config.height * _MOTION_SHARE
    speeds = _cells(_around(torch.square(places), around_px) / (_around(places, around_px) + slow))
    return speeds.reshape(frames.shape[0], frames.shape[1], *speeds.shape[1:]).mean(1)


def _places(pictures: Tensor, channel: int = 0) -> Tensor:
    """Average one channel over each place of 4x4 pixels: (batch, height, width, channels) to (batch, 1, rows, columns).

    Products of matrices: ONNX Runtime's pooling of single channels takes several times as long, and to part channels
    within pixels more than that.
    """
    height, width, channels = pictures.shape[1:]
    rows, columns = height // _PLACE_PX, width // _PLACE_PX
    by_row = pictures.reshape(pictures.shape[0], rows, _PLACE_PX, width * channels).mean(2)
    weights = torch.zeros(columns, _PLACE_PX, channels, columns, device=pictures.device)
    weights[:, :, channel] = torch.eye(columns, device=pictures.device)[:, None] / _PLACE_PX
    return (by_row @ weights.reshape(width * channels, columns)).unsqueeze(1)


def _around(places: Tensor, side_px: float) -> Tensor:
    """Average over an odd number of places around each, at most the side given."""
    reach = max(1, int(side_px / _PLACE_PX - 1) // 2)
    return mean_around(places, reach)


def _cells(places: Tensor) -> Tensor:
    """Highest place of each cell: (batch, 1, height / 4, width / 4) to (batch, rows, columns)."""
    return functional.max_pool2d(places, CELL_PX // _PLACE_PX).squeeze(1)
