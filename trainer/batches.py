"""What a training step and the held-out loss see: clips or crops of them, as they are and with something put in."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.augment import augment
from trainer.crops import CropChooser, whole_pictures
from trainer.disturb import disturb
from trainer.footage import Footage, Part
from trainer.model import to_images
from trainer.settings import FitSettings
from trainer.skipped import SkippedMotion, part_skipped


@dataclass(frozen=True)
class Batch:
    """Images to redraw, float of shape (batch, clip_frames * input_channels, height, width), 0..1.

    Attributes:
        images: As they were.
        disturbed: The same with something put into most of them, in channels-last memory.
        target: What is to be made of the disturbed ones; see `trainer.disturb.Disturbed`.
        position: Of each crop's places, shape (batch, 2, height, width); None for whole pictures.
    """

    images: Tensor
    disturbed: Tensor
    target: Tensor
    position: Tensor | None


class BatchMaker:
    """Makes batches of footage.

    Args:
        footage: Whose frames they are.
        settings: Say what is put in and how large crops are.
        skipped: Motion of skipped frames; None where none is put in.
        position: Of the places of a whole picture, shape (2, height, width), on the device that batches go to.
    """

    def __init__(
        self, footage: Footage, settings: FitSettings, skipped: SkippedMotion | None, position: Tensor
    ) -> None:
        self._sources = [footage.frames] if skipped is None else [footage.frames, skipped.motion]
        self._settings = settings
        self._position = position
        whole = settings.crop_px is None or settings.model.bottleneck == "frame"
        self._crops = None if whole else CropChooser(footage.frames, settings.crop_px or 0, settings.model)

    def training(self, part: Part, which: npt.NDArray[np.int64], random: torch.Generator) -> Batch:
        """Make a batch in other light too, as the settings say.

        Args:
            part: Frames to train on.
            which: Indices into it, shape (batch,).
            random: On the CPU; the same state gives the same batch.
        """
        return self._make(part, which, random, augmented=self._settings.augment)

    def held_out(self, part: Part, which: npt.NDArray[np.int64], random: torch.Generator) -> Batch:
        """Make a batch in the footage's own light; arguments as for `training`."""
        return self._make(part, which, random, augmented=False)

    def _make(self, part: Part, which: npt.NDArray[np.int64], random: torch.Generator, *, augmented: bool) -> Batch:
        model = self._settings.model
        places = part.clip_places(which, model.clip_frames)
        window = (
            whole_pictures(len(places), model) if self._crops is None else self._crops.choose(places[:, -1], random)
        )
        position = None if self._crops is None else window.positions(self._position)
        images = to_images(torch.from_numpy(window.cut(self._sources, places)).to(self._position.device))
        if augmented:
            images = augment(images, model, random)
        images, skipped = (images, None) if len(self._sources) == 1 else part_skipped(images, model)
        kinds = self._settings.kinds_put_in
        shown, target = disturb(images, model, random, kinds, skipped) if kinds else (images, images)
        return Batch(images, shown.contiguous(memory_format=torch.channels_last), target, position)
