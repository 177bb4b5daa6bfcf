"""Footage without labels, parted into what is fitted and what is scored, and probes put into the latter."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from rich.console import Console

from contract.clip import Clip
from contract.source import open_source
from deploy.probes import Pictures, Probe, ProbeMaker
from trainer.scored import ScoredStretch, ScoringModel, score_footage

_MOST_ROWS: Final = 480
_FIT_SHARE: Final = 0.6
_LEAST_SECONDS: Final = 5


@dataclass(frozen=True)
class Footage:
    """Footage without labels.

    Attributes:
        path: Within the data.
        foreign: Footage that foreign pieces are cut from, within the data.
    """

    path: str
    foreign: str = "clips/car-detection.mp4"


@dataclass(frozen=True)
class Probed:
    """Footage ready to be measured on.

    Attributes:
        before: The first 60%, to fit.
        after: The rest, normal.
        probes: Put into the rest.
    """

    before: Sequence[Pictures]
    after: Sequence[Pictures]
    probes: Sequence[Probe]


@dataclass(frozen=True)
class ScoredProbes:
    """What a model says of footage and of the probes in it.

    Attributes:
        normal: The footage as it is.
        probes: Each with its scores.
    """

    normal: Sequence[ScoredStretch]
    probes: Sequence[tuple[Probe, ScoredStretch]]


def put_probes(root: Path, footage: Footage, kinds: Sequence[str], count: int, seed: int) -> Probed:
    """Read footage and put probes into its later part.

    Args:
        root: Folder of the data.
        footage: Which of it.
        kinds: Of `deploy.probes.KINDS`.
        count: Of each kind, the clips in turn; fewer where one cannot be made.
        seed: Of every choice.
    """
    before, after = split([read_pictures(clip) for clip in open_source(str(root / footage.path))])
    foreign = read_pictures(open_source(str(root / footage.foreign))[0]).pictures[::20]
    long_enough = [clip for clip in after if len(clip.pictures) / clip.frames_per_second > _LEAST_SECONDS]
    makers = [ProbeMaker(clip, foreign, seed + number) for number, clip in enumerate(long_enough)]

    def made() -> Iterator[Probe]:
        for kind in kinds:
            tried = (makers[number % len(makers)].make(kind) for number in range(count))
            yield from (probe for probe in tried if probe is not None)

    return Probed(before, after, list(made()))


def thinned(probed: Probed, step: int) -> Probed:
    """Keep every so many frames alone, as of a camera that is so much slower."""

    def thin(clip: Pictures) -> Pictures:
        return Pictures(clip.name, clip.pictures[::step], clip.frames_per_second / step)

    def thin_probe(probe: Probe) -> Probe:
        first = math.ceil(probe.first / step)
        boxes = None if probe.boxes is None else probe.boxes[first * step - probe.first :: step]
        return Probe(probe.kind, thin(probe.clip), first, boxes)

    return Probed(
        [thin(clip) for clip in probed.before],
        [thin(clip) for clip in probed.after],
        [thin_probe(probe) for probe in probed.probes],
    )


def score_probes(model: ScoringModel, probed: Probed, console: Console) -> ScoredProbes:
    """Score the later part as it is, and every probe."""
    normal = score_footage(model, probed.after, None, console).stretches
    quiet = Console(quiet=True)
    scored = [(probe, score_footage(model, [probe.clip], None, quiet).stretches[0]) for probe in probed.probes]
    return ScoredProbes(normal, scored)


def read_pictures(clip: Clip) -> Pictures:
    """Decode a clip, at most 480 rows high; its rate is that of its capture times."""
    pictures, times = [], []
    for frame in clip.frames():
        picture = cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None  # noqa: S101 - a source encodes what it decoded itself
        height, width = picture.shape[:2]
        if height > _MOST_ROWS:
            size = round(width * _MOST_ROWS / height), _MOST_ROWS
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        pictures.append(np.asarray(picture, np.uint8))
        times.append(frame.captured_at_ms)
    return Pictures(clip.name, pictures, 1000 / float(np.median(np.diff(times))))


def split(clips: Sequence[Pictures]) -> tuple[list[Pictures], list[Pictures]]:
    """Part footage in time at 60%: several clips between two of them, one clip within it."""
    if len(clips) > 1:
        cut = math.ceil(len(clips) * _FIT_SHARE)
        return list(clips[:cut]), list(clips[cut:])
    [clip] = clips
    cut = round(len(clip.pictures) * _FIT_SHARE)
    return (
        [Pictures(clip.name, clip.pictures[:cut], clip.frames_per_second)],
        [Pictures(clip.name, clip.pictures[cut:], clip.frames_per_second)],
    )
