"""What is known of the footage: which frames are anomalous, and, where masks are given, which pixels.

Labels are a CSV of ``clip,frame,label`` (0 or 1 for every frame), a CSV of ``clip,first_frame,last_frame,label``
(both included; frames not named are normal), or masks: a folder or archive of one folder a clip with one picture a
frame, above 0 where anomalous. Frames count from 0 in the whole clip, also where frame ranges were taken out of it.
"""

import csv
import re
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from contract.errors import FrameError, LabelError
from contract.frame import FrameLimits, read_frame_header
from contract.source import natural_key

FRAME_HEADER: Final = ["clip", "frame", "label"]
RANGE_HEADER: Final = ["clip", "first_frame", "last_frame", "label"]

_ARCHIVES: Final = (".tar", ".tar.gz", ".tar.xz", ".tgz", ".txz", ".zip")
_MASK_SUFFIXES: Final = (".bmp", ".png")
_NORMAL: Final = ("", "0", "normal")
_MAX_FRAME: Final = 2**40
_MAX_CSV_BYTES: Final = 256 * 2**20
_MAX_MASK_BYTES: Final = 64 * 2**20
_MAX_MASKS_BYTES: Final = 2**30
_MASK_LIMITS: Final = FrameLimits(max_frame_bytes=_MAX_MASK_BYTES, min_side_px=1)
_DIGITS: Final = re.compile(r"\d{1,12}")

Mask = npt.NDArray[np.uint8]
"""uint8 of shape (height, width), above 0 where anomalous."""


class Labels(ABC):
    """Labels of a source's frames.

    Attributes:
        has_masks: Whether pixels are labelled too.
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

    def mask(self, clip: str, index: int) -> Mask:
        """Read the mask of a frame.

        Raises:
            LabelError: There is none, or it cannot be decoded.
        """
        raise LabelError(f"labels hold no masks, so none for clip {clip} frame {index}")


def read_labels(path: Path, clips: Sequence[str]) -> Labels:
    """Read labels and compare their clips with the source's.

    Args:
        path: CSV, folder of masks or archive of masks.
        clips: Names of the source's clips.

    Raises:
        LabelError: The file cannot be read, is not written as the module says, or names other clips.
    """
    if not path.exists():
        raise LabelError(f"labels {path}: no such file or folder")
    if path.is_dir():
        return MaskLabels(path, _index_masks(path, clips, _folder_masks(path)))
    if path.name.lower().endswith(_ARCHIVES):
        return MaskLabels(path, _index_masks(path, clips, _archive_masks(path, set(clips))))
    return _read_csv(path, set(clips))


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


class RangeLabels(Labels):
    """Labels given by ranges; ``ranges[clip]`` holds first and last frame, label and line."""

    def __init__(self, path: Path, ranges: dict[str, list[tuple[int, int, bool, int]]]) -> None:
        self._path = path
        self._ranges = ranges

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
                raise _outside(self._path, line, field, clip, frame, indices)
            anomalous |= label & (places >= first) & (places <= last)
        return anomalous


class MaskLabels(Labels):
    """Labels given as pictures; ``masks[clip][frame]`` is the mask's name and how its bytes are had."""

    has_masks = True

    def __init__(self, path: Path, masks: dict[str, dict[int, tuple[str, Callable[[], bytes]]]]) -> None:
        self._path = path
        self._masks = masks

    def of_frames(self, clip: str, indices: Sequence[int], *, whole: bool) -> npt.NDArray[np.bool_]:
        """Tell which frames have an anomalous pixel; every frame must have a mask.

        Raises:
            LabelError: The whole clip has another number of frames than of masks, or a mask cannot be read.
        """
        masks = self._masks[clip]
        if whole and len(masks) != len(indices):
            hint = "; are they numbered from 1?" if len(masks) and min(masks) > 0 else ""
            raise LabelError(
                f"labels {self._path}: clip {clip} has {len(indices)} frames and {len(masks)} masks; "
                f"expected one mask a frame{hint}"
            )
        return np.array([bool(self.mask(clip, index).any()) for index in indices], np.bool_)

    def mask(self, clip: str, index: int) -> Mask:
        """Read the mask of a frame: uint8 of shape (height, width), above 0 where anomalous.

        Raises:
            LabelError: The frame has no mask, or it cannot be read.
        """
        masks = self._masks[clip]
        if index not in masks:
            hint = "; masks must be numbered from 0" if min(masks) > 0 else ""
            raise LabelError(f"labels {self._path}: clip {clip} frame {index} has no mask{hint}")
        name, read = masks[index]
        where = f"labels {self._path}: mask {name}"
        try:
            data = read()
            if not data.startswith(b"BM"):
                read_frame_header(data, _MASK_LIMITS)
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise LabelError(f"{where} cannot be read: {error}") from error
        except (FrameError, cv2.error) as error:
            raise LabelError(f"{where} cannot be decoded: {error}") from error
        if picture is None or picture.ndim != 2:
            raise LabelError(f"{where} cannot be decoded; expected a PNG or BMP")
        return np.asarray(picture, np.uint8)


def _outside(path: Path, line: int, field: str, clip: str, frame: int, indices: Sequence[int]) -> LabelError:
    held = f"frames 0 to {indices[-1]}" if len(indices) else "no frame"
    return LabelError(f"labels {path} line {line}: {field} {frame} is outside clip {clip}, which has {held}")


def _read_csv(path: Path, clips: set[str]) -> Labels:
    try:
        if path.stat().st_size > _MAX_CSV_BYTES:
            raise LabelError(f"labels {path}: larger than {_MAX_CSV_BYTES} bytes; is it a CSV?")
        # Spreadsheets put a byte order mark before the first field.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = ((reader.line_num, [field.strip() for field in row]) for row in reader if row)
            if header == FRAME_HEADER:
                return FrameLabels(path, _parse_frames(path, clips, rows))
            if header == RANGE_HEADER:
                return RangeLabels(path, _parse_ranges(path, clips, rows))
    except OSError as error:
        raise LabelError(f"labels {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelError(
            f"labels {path}: expected a CSV in UTF-8, a folder of masks or an archive {' '.join(_ARCHIVES)}"
        ) from error
    except csv.Error as error:
        raise LabelError(f"labels {path} line {reader.line_num}: not a CSV: {error}") from error
    raise LabelError(
        f"labels {path} line 1: expected the header {','.join(FRAME_HEADER)} or {','.join(RANGE_HEADER)}, "
        f"found {','.join(header)[:80]!r}"
    )


def _parse_frames(
    path: Path, clips: set[str], rows: Iterator[tuple[int, list[str]]]
) -> dict[str, dict[int, tuple[bool, int]]]:
    labels: dict[str, dict[int, tuple[bool, int]]] = {clip: {} for clip in clips}
    for line, row in rows:
        clip, frame, label = _fields(path, line, row, FRAME_HEADER, clips)
        index = _frame(path, line, "frame", frame)
        if label not in ("0", "1"):
            raise LabelError(f"labels {path} line {line}: label must be 0 or 1, found {label[:80]!r}")
        if index in labels[clip]:
            raise LabelError(f"labels {path} line {line}: frame {index} of clip {clip} has a line already")
        labels[clip][index] = label == "1", line
    for clip in sorted(clips):
        if not labels[clip]:
            raise LabelError(f"labels {path}: clip {clip} of the source has no line; label every frame")
    return labels


def _parse_ranges(
    path: Path, clips: set[str], rows: Iterator[tuple[int, list[str]]]
) -> dict[str, list[tuple[int, int, bool, int]]]:
    ranges: dict[str, list[tuple[int, int, bool, int]]] = {}
    for line, row in rows:
        clip, *ends, label = _fields(path, line, row, RANGE_HEADER, clips)
        first, last = (_frame(path, line, name, end) for name, end in zip(RANGE_HEADER[1:3], ends, strict=True))
        if last < first:
            raise LabelError(f"labels {path} line {line}: last_frame {last} is before first_frame {first}")
        ranges.setdefault(clip, []).append((first, last, label.lower() not in _NORMAL, line))
    return ranges


def _fields(path: Path, line: int, row: list[str], header: list[str], clips: set[str]) -> list[str]:
    if len(row) != len(header):
        raise LabelError(
            f"labels {path} line {line}: expected {len(header)} fields {','.join(header)}, found {len(row)}"
        )
    if row[0] not in clips:
        known = ", ".join(sorted(clips)[:5]) + (", ..." if len(clips) > 5 else "")
        raise LabelError(f"labels {path} line {line}: clip {row[0][:80]!r} is not in the source, which has {known}")
    return row


def _frame(path: Path, line: int, field: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > _MAX_FRAME:
        raise LabelError(f"labels {path} line {line}: {field} must be a number of a frame, from 0, found {text[:80]!r}")
    return int(text)


def _folder_masks(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for folder in sorted((entry for entry in path.iterdir() if entry.is_dir()), key=natural_key):
        for mask in sorted(folder.iterdir(), key=natural_key):
            if mask.suffix.lower() in _MASK_SUFFIXES and mask.is_file():
                yield f"{folder.name}/{mask.name}", mask.read_bytes


def _archive_masks(path: Path, clips: set[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Read the members in one pass, as a compressed tar cannot be read from its middle; a mask packs to a few KB."""
    members = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    total = 0
    try:
        for name, size, read in members(path):
            parts = PurePosixPath(name).parts
            if len(parts) < 2 or not name.lower().endswith(_MASK_SUFFIXES) or parts[-1].startswith("."):
                continue
            total += size
            if size > _MAX_MASK_BYTES or total > _MAX_MASKS_BYTES:
                raise LabelError(
                    f"labels {path}: mask {name} passes the limit of {_MAX_MASK_BYTES} bytes a mask, "
                    f"{_MAX_MASKS_BYTES} together; give a folder of PNG masks"
                )
            # Of a clip that is not in the source the name is enough to complain of it.
            data = read() if parts[-2] in clips else b""
            yield f"{parts[-2]}/{parts[-1]}", lambda data=data: data  # type: ignore[misc]
    except (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError) as error:
        raise LabelError(f"labels {path}: the archive cannot be read: {error}") from error


def _tar_members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name, member.size, file.read


def _zip_members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, member.file_size, lambda member=member: archive.read(member)  # type: ignore[misc]


def _index_masks(
    path: Path, clips: Sequence[str], masks: Iterator[tuple[str, Callable[[], bytes]]]
) -> dict[str, dict[int, tuple[str, Callable[[], bytes]]]]:
    by_clip: dict[str, list[tuple[str, Callable[[], bytes]]]] = {clip: [] for clip in clips}
    for name, read in masks:
        clip = name.partition("/")[0]
        if clip not in by_clip:
            raise LabelError(f"labels {path}: mask {name} is of clip {clip!r}, which is not in the source")
        by_clip[clip].append((name, read))
    for clip, found in by_clip.items():
        if not found:
            raise LabelError(f"labels {path}: clip {clip} of the source has no folder with masks (PNG or BMP)")
    return {clip: _number(path, found) for clip, found in by_clip.items()}


def _number(path: Path, masks: list[tuple[str, Callable[[], bytes]]]) -> dict[int, tuple[str, Callable[[], bytes]]]:
    """Give each mask the number in its name; where some have none, its place in the natural order of names."""
    ordered = sorted(masks, key=lambda mask: natural_key(Path(mask[0])))
    numbers = [_DIGITS.findall(PurePosixPath(name).stem) for name, _ in ordered]
    if not all(len(found) == 1 for found in numbers):
        return dict(enumerate(ordered))
    numbered: dict[int, tuple[str, Callable[[], bytes]]] = {}
    for (digits,), mask in zip(numbers, ordered, strict=True):
        if int(digits) in numbered:
            raise LabelError(f"labels {path}: masks {numbered[int(digits)][0]} and {mask[0]} are of the same frame")
        numbered[int(digits)] = mask
    return numbered
