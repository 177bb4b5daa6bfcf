"""Footage from anywhere, as the encoded frames that would travel on Kafka.

A source is written as one string; see `open_source`. Frames that are JPEG or PNG already pass through byte for byte;
video frames are encoded as JPEG and other pictures as PNG, so that training, offline scoring and live scoring
decode the same bytes by the same chain.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from contract.address import name_of_address, without_credentials
from contract.clip import Clip, SourceFrame
from contract.errors import ConfigError, FootageError
from contract.kafka_connection import KafkaConnection
from contract.video_process import read_video

__all__ = [
    "FOLDER_FRAMES_PER_SECOND", "IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "Clip", "FrameRange", "ImageClip", "SourceFrame",
    "VideoClip", "in_ranges", "natural_key", "open_source", "split_ranges", "without_credentials",
]  # fmt: skip

VIDEO_SUFFIXES: Final = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})
IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_WIRE_SUFFIXES: Final = frozenset({".jpeg", ".jpg", ".png"})
_MASKS_OF: Final = "_gt"
FOLDER_FRAMES_PER_SECOND: Final = 10.0
"""Rate assumed for a folder of images, which does not say."""

_LIVE = re.compile(r"(rtsp|rtsps|rtmp|http|https)://.+|/dev/video\d+|\d{1,2}")
_RANGE = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")

FrameRange = tuple[int, int]
"""First and last frame, 0-based, both included."""


@dataclass(frozen=True)
class VideoClip(Clip):
    """A video file or a camera, decoded in a process of its own so that a decoder's crash costs this clip alone."""

    name: str
    address: str
    ranges: Sequence[FrameRange] = ()
    live: bool = False

    def frames(self) -> Iterator[SourceFrame]:
        """Read frames as JPEG; blocks while a camera has none.

        Raises:
            FootageError: The video cannot be opened, breaks off, or ends before a range asked for.
        """
        for index, captured_at_ms, data in read_video(self.address, self.ranges, live=self.live):
            yield SourceFrame(index, captured_at_ms, data)


@dataclass(frozen=True)
class ImageClip(Clip):
    """A folder of images, one clip in the natural order of their names."""

    name: str
    paths: Sequence[Path]
    ranges: Sequence[FrameRange] = ()

    def frames(self) -> Iterator[SourceFrame]:
        """Read the files; those that are neither JPEG nor PNG are encoded as PNG.

        Raises:
            FootageError: A file cannot be read or decoded, or a range asked for reaches beyond the last.
        """
        for index, path in enumerate(self.paths):
            if in_ranges(index, self.ranges):
                yield SourceFrame(index, round(index * 1000 / FOLDER_FRAMES_PER_SECOND), _read_image(path))
        if self.ranges and self.ranges[-1][1] >= len(self.paths):
            last = self.ranges[-1][1]
            raise FootageError(
                f"{self.name} ends at frame {len(self.paths) - 1}, before frame {last} that was asked for"
            )


def open_source(source: str, connection: KafkaConnection | None = None) -> list[Clip]:
    """Find the clips that a source names; reads no frame.

    Args:
        source: A video file, a folder of videos, a folder of images (one clip), a folder of such folders (a video
            in one is named ``FOLDER/STEM``), a camera (``/dev/video0``, ``0``), an RTSP or HTTP address, or
            ``kafka://HOST:PORT/TOPIC?camera=ID&from=TIME&to=TIME``, with ``&allow_plaintext=true`` where the host is
            not this machine and the connection has no TLS. A single clip may end in frame ranges,
            ``room.mp4#0:60,203:227``, 0-based and inclusive. Hidden entries and other files are passed over,
            and so are folders ``NAME_gt`` beside ``NAME``, which hold its masks.
        connection: How the broker of ``kafka://`` is spoken to; without TLS and login where None.

    Returns:
        At least one clip, in the natural order of their names.

    Raises:
        ConfigError: The source does not exist, holds nothing that can be read, holds videos, images and folders of them
            side by side, or is not written as above.
    """
    if not source.strip():
        raise ConfigError(
            "SOURCE is empty; give a video, a folder, a camera address or kafka://HOST:PORT/TOPIC?camera=ID"
        )
    if is_topic(source):
        from contract.kafka_source import parse_kafka_source

        return [parse_kafka_source(source, connection)]
    address, ranges = (source, ()) if _exists(source) else split_ranges(source)
    if _LIVE.fullmatch(address) and not (Path(address).is_file() or Path(address).is_dir()):
        return [VideoClip(name_of_address(address), address, ranges, live=True)]
    path = Path(address)
    if not _exists(address):
        raise ConfigError(f"SOURCE {without_credentials(source)}: no such file or folder")
    clips = _open_path(path, ranges)
    if ranges and len(clips) > 1:
        raise ConfigError(f"SOURCE {source}: frame ranges need a single clip, this folder holds {len(clips)}")
    return clips


def is_topic(source: str) -> bool:
    """Whether footage comes from Kafka."""
    return source.startswith("kafka://")


def split_ranges(source: str) -> tuple[str, tuple[FrameRange, ...]]:
    """Split ``ADDRESS#FIRST:LAST,FIRST:LAST`` into its address and ranges.

    Raises:
        ConfigError: A range is not two numbers, or the ranges do not rise.
    """
    address, mark, text = source.rpartition("#")
    if not mark:
        return source, ()
    where = without_credentials(source)
    matches = [_RANGE.fullmatch(part.strip()) for part in text.split(",")]
    if not all(matches):
        raise ConfigError(f"SOURCE {where}: expected frame ranges such as #0:60,203:227 after '#'")
    ranges = tuple((int(match[1]), int(match[2])) for match in matches if match)
    if any(first > last for first, last in ranges) or any(a[1] >= b[0] for a, b in pairwise(ranges)):
        raise ConfigError(f"SOURCE {where}: frame ranges must rise and not overlap")
    return address, ranges


def _exists(address: str) -> bool:
    try:
        return Path(address).exists()
    except OSError:
        return False  # a name too long, or in a folder that may not be looked into


def in_ranges(index: int, ranges: Sequence[FrameRange]) -> bool:
    """Whether a frame is wanted; no ranges means all are."""
    return not ranges or any(first <= index <= last for first, last in ranges)


def _open_path(path: Path, ranges: Sequence[FrameRange]) -> list[Clip]:
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return [ImageClip(_shown(path.stem), (path,), ranges)]
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ConfigError(f"SOURCE {path}: {path.suffix or 'no suffix'} is not one of {_list(VIDEO_SUFFIXES)}")
        return [VideoClip(_shown(path.stem), str(path), ranges)]
    here = _list_folder(path)
    inner = [_list_folder(folder) for folder in here.folders]
    inner = [folder for folder in inner if folder.videos or folder.images]
    if inner and (here.videos or here.images):
        kind, name = ("videos", here.videos[0].name) if here.videos else ("images", here.images[0].name)
        raise ConfigError(
            f"SOURCE {path}: holds both {kind} ({name}) and folders of footage ({inner[0].path.name}); "
            "give one or the other"
        )
    clips = here.clips(ranges) + [clip for folder in inner for clip in folder.clips(ranges, within=True)]
    if not clips:
        raise ConfigError(
            f"SOURCE {path}: no video ({_list(VIDEO_SUFFIXES)}) and no image ({_list(IMAGE_SUFFIXES)}) in it"
        )
    return clips


@dataclass(frozen=True)
class _Folder:
    """What one folder holds, in natural order; hidden entries, other files and masks are left out."""

    path: Path
    videos: Sequence[Path]
    images: Sequence[Path]
    folders: Sequence[Path]

    def clips(self, ranges: Sequence[FrameRange], *, within: bool = False) -> list[Clip]:
        """One clip of all images, or one a video, named after the folder too where it lies within the source."""
        if self.images:
            return [ImageClip(_shown(self.path.resolve().name), self.images, ranges)]
        before = f"{self.path.name}/" if within else ""
        names = [_shown(before + video.stem) for video in self.videos]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"SOURCE {self.path}: two videos are named {twice[0]}; clips are told apart by name without suffix"
            )
        return [VideoClip(name, str(video), ranges) for name, video in zip(names, self.videos, strict=True)]


def _list_folder(path: Path) -> _Folder:
    entries = sorted((entry for entry in path.iterdir() if not entry.name.startswith(".")), key=natural_key)
    videos = [entry for entry in entries if entry.suffix.lower() in VIDEO_SUFFIXES and entry.is_file()]
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
    if videos and images:
        raise ConfigError(
            f"SOURCE {path}: holds both videos and images ({videos[0].name}, {images[0].name}); "
            "keep them in folders of their own"
        )
    folders = [entry for entry in entries if entry.is_dir()]
    names = {folder.name for folder in folders}
    # UCSD's datasets keep the masks of Test001 beside it, as Test001_gt.
    masked = {name + _MASKS_OF for name in names}
    return _Folder(path, videos, images, [folder for folder in folders if folder.name not in masked])


def _shown(name: str) -> str:
    # Names travel in CSV, JSON and alerts, which are UTF-8; those of files need not be.
    return os.fsencode(name).decode(errors="backslashreplace")


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts ``frame10`` after ``frame9``, and names that differ in zeros alone by their characters."""
    parts = [part for part in re.split(r"(\d+)", path.name) if part]
    return [*((int(part), "") if part.isdecimal() else (-1, part) for part in parts), (-2, path.name)]


def _read_image(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FootageError(f"image {path} cannot be read: {error.strerror}") from error
    if path.suffix.lower() in _WIRE_SUFFIXES:
        return data
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise FootageError(f"image {path} cannot be decoded: {error.err}") from error
    if picture is None:
        raise FootageError(f"image {path} cannot be decoded; is it damaged?")
    return bytes(cv2.imencode(".png", picture)[1])


def _list(suffixes: frozenset[str]) -> str:
    return " ".join(sorted(suffixes))
