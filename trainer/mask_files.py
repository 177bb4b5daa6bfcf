"""Masks as picture files: a folder or an archive of one folder a clip, with one PNG or BMP a frame."""

import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Final

import cv2
import numpy as np

from contract.errors import FrameError, LabelError
from contract.frame import FrameLimits, read_frame_header
from contract.source import natural_key
from trainer.label_kinds import Mask, MaskLabels, ReadMask

ARCHIVES: Final = (".tar", ".tar.gz", ".tar.xz", ".tgz", ".txz", ".zip")

_SUFFIXES: Final = (".bmp", ".png")
_MAX_MASK_BYTES: Final = 64 * 2**20
_MAX_MASKS_BYTES: Final = 2**30
_LIMITS: Final = FrameLimits(max_frame_bytes=_MAX_MASK_BYTES, min_side_px=1)
_DIGITS: Final = re.compile(r"\d{1,12}")

_NamedMask = tuple[str, Callable[[], bytes]]
"""``CLIP/FILE`` and how its bytes are had."""


def read_mask_folder(path: Path, clips: Sequence[str]) -> MaskLabels:
    """Index a folder of one folder a clip; masks are decoded when they are asked for.

    Raises:
        LabelError: A clip has no masks, masks are of a clip that is not in the source, or two are of one frame.
    """
    return MaskLabels(path, _index(path, clips, _folder_masks(path)))


def read_mask_archive(path: Path, clips: Sequence[str]) -> MaskLabels:
    """Read the masks of an archive into memory, as they are packed; they are decoded when they are asked for.

    Raises:
        LabelError: The archive cannot be read or holds too much, or as `read_mask_folder`.
    """
    return MaskLabels(path, _index(path, clips, _archive_masks(path, set(clips))))


def list_mask_folders(path: Path) -> dict[str, list[Path]]:
    """Masks of each folder by its name, in natural order; hidden entries and folders without masks are left out.

    Raises:
        LabelError: A folder cannot be read.
    """
    try:
        folders = sorted(
            (entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")), key=natural_key
        )
        listed = {folder.name: _list_masks(folder) for folder in folders}
    except OSError as error:
        raise LabelError(f"labels {path} cannot be read: {error.strerror}") from error
    return {name: masks for name, masks in listed.items() if masks}


def in_order(path: Path, masks: Sequence[Path]) -> dict[int, ReadMask]:
    """Take masks in the order given as those of frames 0, 1, 2, whatever numbers are in their names."""
    return {
        index: partial(_decode, f"labels {path}: mask {mask.parent.name}/{mask.name}", mask.read_bytes)
        for index, mask in enumerate(masks)
    }


def _list_masks(folder: Path) -> list[Path]:
    masks = (entry for entry in folder.iterdir() if entry.suffix.lower() in _SUFFIXES)
    return sorted((mask for mask in masks if mask.is_file() and not mask.name.startswith(".")), key=natural_key)


def _decode(where: str, read: Callable[[], bytes]) -> Mask:
    try:
        data = read()
        if not data.startswith(b"BM"):
            read_frame_header(data, _LIMITS)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise LabelError(f"{where} cannot be read: {error}") from error
    except (FrameError, cv2.error) as error:
        raise LabelError(f"{where} cannot be decoded: {error}") from error
    if picture is None or picture.ndim != 2:
        raise LabelError(f"{where} cannot be decoded; expected a PNG or BMP")
    return np.asarray(picture, np.uint8)


def _folder_masks(path: Path) -> Iterator[_NamedMask]:
    for folder, masks in list_mask_folders(path).items():
        for mask in masks:
            yield f"{folder}/{mask.name}", mask.read_bytes


def _archive_masks(path: Path, clips: set[str]) -> Iterator[_NamedMask]:
    """Read the members in one pass, as a compressed tar cannot be read from its middle; a mask packs to a few KB."""
    members = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    total = 0
    try:
        for name, size, read in members(path):
            parts = PurePosixPath(name).parts
            if len(parts) < 2 or not name.lower().endswith(_SUFFIXES) or parts[-1].startswith("."):
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


def _index(path: Path, clips: Sequence[str], masks: Iterator[_NamedMask]) -> dict[str, dict[int, ReadMask]]:
    by_clip: dict[str, list[_NamedMask]] = {clip: [] for clip in clips}
    for name, read in masks:
        clip = name.partition("/")[0]
        if clip not in by_clip:
            raise LabelError(f"labels {path}: mask {name} is of clip {clip!r}, which is not in the source")
        by_clip[clip].append((name, read))
    for clip, found in by_clip.items():
        if not found:
            raise LabelError(f"labels {path}: clip {clip} of the source has no folder with masks (PNG or BMP)")
    return {
        clip: {
            index: partial(_decode, f"labels {path}: mask {name}", read)
            for index, (name, read) in _number(path, found).items()
        }
        for clip, found in by_clip.items()
    }


def _number(path: Path, masks: list[_NamedMask]) -> dict[int, _NamedMask]:
    """Give each mask the number in its name; where some have none, its place in the natural order of names."""
    ordered = sorted(masks, key=lambda mask: natural_key(Path(mask[0])))
    numbers = [_DIGITS.findall(PurePosixPath(name).stem) for name, _ in ordered]
    if not all(len(found) == 1 for found in numbers):
        return dict(enumerate(ordered))
    numbered: dict[int, _NamedMask] = {}
    for (digits,), mask in zip(numbers, ordered, strict=True):
        if int(digits) in numbered:
            raise LabelError(f"labels {path}: masks {numbered[int(digits)][0]} and {mask[0]} are of the same frame")
        numbered[int(digits)] = mask
    return numbered
