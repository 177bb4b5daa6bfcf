"""Pictures made equally light, since in a set of pictures their lightness alone may tell what is normal."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from contract.clip import Clip, SourceFrame
from trainer.datasets import Dataset
from trainer.metrics import frame_auroc

_HIGHEST = 255


class EqualLight(Clip):
    """A clip whose pictures are scaled so that each one's median is the same grey level.

    Args:
        clip: Of pictures.
        level: The median, grey levels.
    """

    def __init__(self, clip: Clip, level: float) -> None:
        self.name = clip.name
        self._clip = clip
        self._level = level

    def frames(self) -> Iterator[SourceFrame]:
        """Decode each picture, scale it and encode it as PNG."""
        for frame in self._clip.frames():
            picture = _decoded(frame)
            scaled = picture.astype(np.float64) * (self._level / max(_lightness(picture), 1.0))
            data = cv2.imencode(".png", np.clip(np.rint(scaled), 0, _HIGHEST).astype(np.uint8))[1].tobytes()
            yield SourceFrame(frame.index, frame.captured_at_ms, data)


def equally_light(dataset: Dataset) -> list[Clip]:
    """Make the test clips as light as the training pictures' median is."""
    level = float(np.median([_lightness(_decoded(frame)) for clip in dataset.train for frame in clip.frames()]))
    return [EqualLight(clip, level) for clip in dataset.test]


def lightness_auroc(clips: Sequence[Clip], dataset: Dataset) -> float:
    """AUROC of the pictures' lightness alone, whichever way it tells.

    Args:
        clips: The dataset's test clips, or what was made of them.
        dataset: Its labels.
    """
    levels, labels = [], []
    for clip in clips:
        frames = list(clip.frames())
        levels += [_lightness(_decoded(frame)) for frame in frames]
        labels.append(dataset.labels.of_frames(clip.name, [frame.index for frame in frames], whole=True))
    value = frame_auroc(np.concatenate(labels), np.array(levels, np.float64)).value
    return 0.5 if value is None else max(value, 1 - value)


def _decoded(frame: SourceFrame) -> npt.NDArray[np.uint8]:
    picture = cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None  # noqa: S101 - a source gives pictures that it could read
    return np.asarray(picture, np.uint8)


def _lightness(picture: npt.NDArray[np.uint8]) -> float:
    return float(np.median(picture))
