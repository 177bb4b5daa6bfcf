"""What labels say of frames and pixels, whatever they were read from; see `trainer.labels.read_labels`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.errors import LabelError

Mask = npt.NDArray[np.uint8]
"""uint8 of shape (height, width), above 0 where anomalous."""

ReadMask = Callable[[], Mask]
"""Reads one mask; raises LabelError where it cannot."""


class Labels(ABC):
    """Labels of a source's frames.

    Attributes:
        has_masks: Whether pixels are labelled too, in one clip at least.
    """

    has_masks: bool = False

    @abstractmethod
    def of_frames(self, clip: str, indices: Sequence[int], *, whole: bool) -> npt.NDArray[np.bool_]:
        """Tell which frames are anomalous.

        Args:
            clip: Name of the clip.
            indices: Places of its frames in the whole clip, rising.
            whole: Whether these are all frames of the clip.

        Returns:
            bool of shape (frames,).

        Raises:
            LabelError: The labels name frames that the clip does not have, or miss some that it has.
        """

    def has_masks_of(self, clip: str) -> bool:  # noqa: ARG002 (some labels tell clips apart)
        """Whether the pixels of this clip are labelled."""
        return self.has_masks

    def mask(self, clip: str, index: int) -> Mask:
        """Read the mask of a frame.

        Raises:
            LabelError: There is none, or it cannot be decoded.
        """
        raise LabelError(f"labels hold no masks, so none for clip {clip} frame {index}")


class FrameLabels(Labels):
    """Labels given frame by frame; ``labels[clip][frame]`` is the label and the line it stands in."""

    def __init__(self, path: Path, labels: dict[str, dict[int, tuple[bool, int]]]) -> None:
        self._path = path
        self._labels = labels

    def of_frames(self, clip: str, indices: Sequence[int], *, whole: bool) -> npt.NDArray[np.bool_]:
        """Tell which frames are anomalous; every frame must be labelled.

        Raises:
            LabelError: A frame has no line, or a line names a frame that the whole clip does not have.
        """
        labels = self._labels[clip]
        for index in indices:
            if index not in labels:
                raise LabelError(f"labels {self._path}: clip {clip} frame {index} has no line; label every frame")
        if whole:
            for index in sorted(labels.keys() - set(indices)):
                raise _outside(self._path, labels[index][1], "frame", clip, index, indices)
        return np.array([labels[index][0] for index in indices], np.bool_)


class ArrayLabels(Labels):
    """Labels given as one array a clip, bool of shape (frames,)."""

    def __init__(self, path: Path, labels: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        self._path = path
        self._labels = labels

    def of_frames(self, clip: str, indices: Sequence[int], *, whole: bool) -> npt.NDArray[np.bool_]:
        """Tell which frames are anomalous; every frame must be labelled.

        Raises:
            LabelError: The whole clip has another number of frames than of labels, or a frame lies beyond these.
        """
        labels = self._labels[clip]
        if whole and len(labels) != len(indices):
            raise LabelError(
                f"labels {self._path}: clip {clip} has {len(indices)} frames and {len(labels)} labels; "
                "expected one label a frame"
            )
        places = np.asarray(indices, np.int64)
        if len(places) and places[-1] >= len(labels):
            raise LabelError(
                f"labels {self._path}: clip {clip} frame {places[-1]} has no label; there are {len(labels)}"
            )
        return labels[places]


class RangeLabels(Labels):
    """Labels given by ranges; ``ranges[clip]`` holds first and last frame from 0, label and line.

    Messages count frames as the file does, from ``first_frame``.
    """

    def __init__(
        self, path: Path, ranges: dict[str, list[tuple[int, int, bool, int]]], *, first_frame: int = 0
    ) -> None:
        self._path = path
        self._ranges = ranges
        self._first_frame = first_frame

    def of_frames(self, clip: str, indices: Sequence[int], *, whole: bool) -> npt.NDArray[np.bool_]:
        """Tell which frames are anomalous; those in no range are normal.

        Raises:
            LabelError: A range reaches beyond the whole clip.
        """
        places = np.asarray(indices, np.int64)
        anomalous = np.zeros(len(places), np.bool_)
        for first, last, label, line in self._ranges.get(clip, ()):
            if whole and (not len(places) or last > places[-1]):
                field = "last_frame" if len(places) and first <= places[-1] else "first_frame"
                frame = last if field == "last_frame" else first
                raise _outside(self._path, line, field, clip, frame, indices, counted_from=self._first_frame)
            anomalous |= label & (places >= first) & (places <= last)
        return anomalous


class MaskLabels(Labels):
    """Labels given as pictures; ``masks[clip][frame]`` reads the mask of a frame."""

    has_masks = True

    def __init__(self, path: Path, masks: Mapping[str, Mapping[int, ReadMask]]) -> None:
        self._path = path
        self._masks = masks

    def has_masks_of(self, clip: str) -> bool:
        """Whether the pixels of this clip are labelled."""
        return clip in self._masks

    def of_frames(self, clip: str, indices: Sequence[int], *, whole: bool) -> npt.NDArray[np.bool_]:
        """Tell which frames have an anomalous pixel; every frame must have a mask.

        Raises:
            LabelError: The whole clip has another number of frames than of masks, or a mask cannot be read.
        """
        self.require_one_a_frame(clip, indices, whole=whole)
        return np.array([bool(self.mask(clip, index).any()) for index in indices], np.bool_)

    def require_one_a_frame(self, clip: str, indices: Sequence[int], *, whole: bool) -> None:
        """Compare the masks with the frames, reading no mask.

        Raises:
            LabelError: The whole clip has another number of frames than of masks, or a frame has none.
        """
        masks = self._masks[clip]
        hint = "; are they numbered from 1?" if len(masks) and min(masks) > 0 else ""
        if whole and len(masks) != len(indices):
            raise LabelError(
                f"labels {self._path}: clip {clip} has {len(indices)} frames and {len(masks)} masks; "
                f"expected one mask a frame{hint}"
            )
        for index in indices:
            self._reader(clip, index)

    def mask(self, clip: str, index: int) -> Mask:
        """Read the mask of a frame: uint8 of shape (height, width), above 0 where anomalous.

        Raises:
            LabelError: The frame has no mask, or it cannot be read.
        """
        return self._reader(clip, index)()

    def _reader(self, clip: str, index: int) -> ReadMask:
        masks = self._masks.get(clip, {})
        if index not in masks:
            hint = "; masks must be numbered from 0" if masks and min(masks) > 0 else ""
            raise LabelError(f"labels {self._path}: clip {clip} frame {index} has no mask{hint}")
        return masks[index]


class MaskedLabels(Labels):
    """Labels of frames from one place, and masks of all clips or some of them from another."""

    has_masks = True

    def __init__(self, frames: Labels, masks: MaskLabels) -> None:
        self._frames = frames
        self._masks = masks

    def has_masks_of(self, clip: str) -> bool:
        """Whether the pixels of this clip are labelled."""
        return self._masks.has_masks_of(clip)

    def of_frames(self, clip: str, indices: Sequence[int], *, whole: bool) -> npt.NDArray[np.bool_]:
        """Tell which frames are anomalous by the labels of frames.

        Raises:
            LabelError: Labels or masks describe other frames than the clip has.
        """
        if self._masks.has_masks_of(clip):
            self._masks.require_one_a_frame(clip, indices, whole=whole)
        return self._frames.of_frames(clip, indices, whole=whole)

    def mask(self, clip: str, index: int) -> Mask:
        """Read the mask of a frame.

        Raises:
            LabelError: There is none, or it cannot be decoded.
        """
        return self._masks.mask(clip, index)


class ImageLabels(Labels):
    """Labels of independent images: those of one clip are all normal or all anomalous.

    Masks, where there are any, are of the anomalous clips; in the others no pixel of ``normal_mask`` is.
    """

    def __init__(self, anomalous: Mapping[str, bool], masks: MaskLabels | None, normal_mask: Mask | None) -> None:
        self._anomalous = anomalous
        self._masks = masks
        self._normal_mask = normal_mask
        self.has_masks = masks is not None

    def of_frames(self, clip: str, indices: Sequence[int], *, whole: bool) -> npt.NDArray[np.bool_]:
        """Tell which images are anomalous.

        Raises:
            LabelError: An anomalous clip has another number of images than of masks.
        """
        anomalous = self._anomalous[clip]
        if anomalous and self._masks is not None:
            self._masks.require_one_a_frame(clip, indices, whole=whole)
        return np.full(len(indices), anomalous, np.bool_)

    def mask(self, clip: str, index: int) -> Mask:
        """Read the mask of an image.

        Raises:
            LabelError: There is none, or it cannot be decoded.
        """
        if self._masks is None or self._normal_mask is None:
            return super().mask(clip, index)
        return self._masks.mask(clip, index) if self._anomalous[clip] else self._normal_mask


def _outside(
    path: Path, line: int, field: str, clip: str, frame: int, indices: Sequence[int], *, counted_from: int = 0
) -> LabelError:
    held = f"frames {counted_from} to {indices[-1] + counted_from}" if len(indices) else "no frame"
    return LabelError(
        f"labels {path} line {line}: {field} {frame + counted_from} is outside clip {clip}, which has {held}"
    )
