"""Labels of public datasets, as they are distributed.

UCSD Ped1 and Ped2 (Mahadevan et al., CVPR 2010): ``UCSDped1.m`` lists frame ranges of ``Test001``, ``Test002`` and so
on, from 1 and both ends included; folders ``Test003_gt`` hold one mask a frame, in Ped1 of some clips only.
CUHK Avenue (Lu et al., ICCV 2013): ``1_label.mat`` holds the masks of ``01.avi`` as the cell array ``volLabel``.
ShanghaiTech Campus (Liu et al., CVPR 2018): ``test_frame_mask/01_0014.npy`` holds a label a frame,
``test_pixel_mask/01_0014.npy`` a mask a frame.
MVTec AD (Bergmann et al., CVPR 2019): ``ground_truth/KIND/000_mask.png`` is the mask of ``test/KIND/000.png``; images
of ``test/good`` are normal and have none.
"""

import re
import tokenize
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contract.errors import LabelError
from contract.source import natural_key
from trainer.label_kinds import ArrayLabels, ImageLabels, Labels, Mask, MaskedLabels, MaskLabels, RangeLabels, ReadMask
from trainer.mask_files import in_order, list_mask_folders
from trainer.mat_file import read_mat_masks

FRAME_MASKS: Final = "test_frame_mask"
PIXEL_MASKS: Final = "test_pixel_mask"
NORMAL_KIND: Final = "good"

_MASKS_OF: Final = "_gt"
_MASK_STEM: Final = "_mask"
_MAT_NAME: Final = re.compile(r"(\d{1,9})_label", re.ASCII)
_MAX_M_BYTES: Final = 2**20
_MAX_FRAMES: Final = 10**6
_RANGES: Final = re.compile(r"\w+\{end\+1\}\.gt_frame=\[([^\]]*)\];?", re.ASCII)
_RANGE: Final = re.compile(r"(\d{1,9})(?::(\d{1,9}))?", re.ASCII)
_RANGES_EXAMPLE: Final = "TestVideoFile{end+1}.gt_frame = [60:152];"
# What NumPy raises of headers that are damaged or made to be.
_NPY_ERRORS: Final = (
    ValueError, TypeError, EOFError, SyntaxError, OverflowError, RecursionError, MemoryError, tokenize.TokenError,
)  # fmt: skip


def read_public_labels(path: Path, clips: Sequence[str]) -> Labels | None:
    """Read labels that are in the form of a public dataset, told by the names of files.

    Args:
        path: UCSD's ``.m`` file or ``Test`` folder, Avenue's ``testing_label_mask``, ShanghaiTech's ``testing``,
            ``test_frame_mask`` or ``test_pixel_mask``, or MVTec AD's ``ground_truth``.
        clips: Names of the source's clips.

    Returns:
        None where the path is in no such form.

    Raises:
        LabelError: The labels cannot be read or are of other clips.
    """
    if not path.is_dir():
        return read_ucsd_ranges(path, clips) if path.suffix.lower() == ".m" else None
    names = [entry.name for entry in _list(path)]
    if any(name.endswith(".m") for name in names) or any(_masked_clip(name) and name not in clips for name in names):
        return read_ucsd_labels(path, clips)
    if any(_MAT_NAME.fullmatch(Path(name).stem) and name.endswith(".mat") for name in names):
        return read_avenue_labels(path, clips)
    if any(name.endswith(".npy") for name in names):
        return _read_frames(path, clips) if _holds_labels(path) else _read_pixels(path, clips)
    if FRAME_MASKS in names or PIXEL_MASKS in names:
        return read_shanghaitech_labels(path, clips)
    masks = list_mask_folders(path)
    if masks and all(mask.stem.endswith(_MASK_STEM) for found in masks.values() for mask in found):
        return read_mvtec_labels(path, clips, [clip for clip in clips if clip not in masks or clip == NORMAL_KIND])
    return None


def read_ucsd_labels(path: Path, clips: Sequence[str]) -> Labels:
    """Read UCSD's ``Test`` folder: its frame ranges, and masks of the clips that have them.

    Raises:
        LabelError: There are neither ranges nor masks of every clip, or they are of other clips.
    """
    entries = _list(path)
    folders = {name: masks for name, masks in list_mask_folders(path).items() if _masked_clip(name)}
    for name in folders:
        if _masked_clip(name) not in clips:
            raise LabelError(f"labels {path}: masks {name} are of clip {_masked_clip(name)!r}, not in the source")
    masks = {_masked_clip(name): in_order(path, found) for name, found in folders.items()}
    ranges = [entry for entry in entries if entry.suffix == ".m"]
    if len(ranges) > 1:
        raise LabelError(f"labels {path}: holds {ranges[0].name} and {ranges[1].name}; expected one file of ranges")
    if ranges:
        frames = read_ucsd_ranges(ranges[0], clips)
        return MaskedLabels(frames, MaskLabels(path, masks)) if masks else frames
    for clip in clips:
        if clip not in masks:
            raise LabelError(f"labels {path}: neither masks {clip}{_MASKS_OF} nor a file UCSDped1.m or UCSDped2.m")
    return MaskLabels(path, masks)


def read_ucsd_ranges(path: Path, clips: Sequence[str]) -> Labels:
    """Read UCSD's ``.m`` file, whose lines are of ``Test001``, ``Test002`` and so on.

    Raises:
        LabelError: It cannot be read, a line is written otherwise, or the source has other clips.
    """
    try:
        if path.stat().st_size > _MAX_M_BYTES:
            raise LabelError(f"labels {path}: larger than {_MAX_M_BYTES} bytes; expected lines {_RANGES_EXAMPLE}")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise LabelError(f"labels {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelError(f"labels {path}: expected text with lines {_RANGES_EXAMPLE}") from error
    found = [
        _parse_ranges(path, number, line.partition("%")[0])
        for number, line in enumerate(lines, 1)
        if "gt_frame" in line.partition("%")[0]
    ]
    if not found:
        raise LabelError(f"labels {path}: no line like {_RANGES_EXAMPLE}")
    ranges = {f"Test{number:03d}": of_clip for number, of_clip in enumerate(found, 1)}
    if set(ranges) != set(clips):
        raise LabelError(
            f"labels {path}: its {len(ranges)} lines are of clips Test001 to Test{len(ranges):03d}, "
            f"the source has {_names(clips)}"
        )
    return RangeLabels(path, ranges, first_frame=1)


def read_avenue_labels(path: Path, clips: Sequence[str]) -> Labels:
    """Read Avenue's folder of ``N_label.mat``; blocks for some seconds, as every mask is inflated once.

    Raises:
        LabelError: A file cannot be read, a clip has none, or one is of a clip that is not in the source.
    """
    files: dict[int, Path] = {}
    for entry in _list(path):
        match = _MAT_NAME.fullmatch(entry.stem)
        if match and entry.suffix == ".mat" and files.setdefault(int(match[1]), entry) != entry:
            raise LabelError(f"labels {path}: {files[int(match[1])].name} and {entry.name} are of the same clip")
    numbers = {clip: int(clip) if clip.isascii() and clip.isdigit() else -1 for clip in clips}
    for number, file in files.items():
        if number not in numbers.values():
            raise LabelError(f"labels {path}: {file.name} is of clip {number:02d}, which is not in the source")
    masks: dict[str, dict[int, ReadMask]] = {}
    for clip, number in numbers.items():
        if number not in files:
            raise LabelError(f"labels {path}: clip {clip} of the source has no N_label.mat of its number")
        masks[clip] = {i: mask.unpack for i, mask in enumerate(read_mat_masks(files[number], "volLabel"))}
    return MaskLabels(path, masks)


def read_shanghaitech_labels(path: Path, clips: Sequence[str]) -> Labels:
    """Read ShanghaiTech's ``testing`` folder: labels of frames, and masks where they are there.

    Raises:
        LabelError: A file cannot be read, a clip has none, or one is of a clip that is not in the source.
    """
    frames, pixels = path / FRAME_MASKS, path / PIXEL_MASKS
    if not frames.is_dir() and not pixels.is_dir():
        raise LabelError(f"labels {path}: expected {FRAME_MASKS} or {PIXEL_MASKS} in it")
    if not frames.is_dir():
        return _read_pixels(pixels, clips)
    labels = _read_frames(frames, clips)
    return MaskedLabels(labels, _read_pixels(pixels, clips, every_clip=False)) if pixels.is_dir() else labels


def read_mvtec_labels(path: Path, clips: Sequence[str], normal: Sequence[str]) -> Labels:
    """Read MVTec AD's ``ground_truth`` folder; masks are taken in the order of their names.

    Args:
        path: The folder.
        clips: Names of the source's clips, each a kind of defect or normal.
        normal: Those that are normal.

    Raises:
        LabelError: A kind of defect has no masks, or masks are of a kind that is not in the source.
    """
    found = list_mask_folders(path)
    for kind in found:
        if kind not in clips:
            raise LabelError(f"labels {path}: masks {kind} are of a kind that is not in the source")
    for kind in clips:
        if kind not in normal and kind not in found:
            raise LabelError(f"labels {path}: clip {kind} of the source has no folder with masks")
    masks = {kind: in_order(path, of_kind) for kind, of_kind in found.items() if kind not in normal}
    if not masks:
        return unmasked_images(clips, normal)
    # Images of one category have one size.
    return ImageLabels(
        {kind: kind not in normal for kind in clips},
        MaskLabels(path, masks),
        np.zeros_like(next(iter(masks.values()))[0]()),
    )


def unmasked_images(clips: Sequence[str], normal: Sequence[str]) -> Labels:
    """Label images by their kind alone.

    Args:
        clips: Names of the source's clips, each a kind of defect or normal.
        normal: Those that are normal.
    """
    return ImageLabels({kind: kind not in normal for kind in clips}, None, None)


def _list(path: Path) -> list[Path]:
    try:
        return sorted((entry for entry in path.iterdir() if not entry.name.startswith(".")), key=natural_key)
    except OSError as error:
        raise LabelError(f"labels {path} cannot be read: {error.strerror}") from error


def _names(clips: Sequence[str]) -> str:
    return ", ".join(clips[:5]) + (f", ... ({len(clips)})" if len(clips) > 5 else "")


def _masked_clip(name: str) -> str:
    """Name of the clip that a folder of UCSD's masks is of; empty where it is no such folder."""
    return name.removesuffix(_MASKS_OF) if name.endswith(_MASKS_OF) else ""


def _parse_ranges(path: Path, number: int, line: str) -> list[tuple[int, int, bool, int]]:
    where = f"labels {path} line {number}"
    match = _RANGES.fullmatch(re.sub(r"\s*([:{}+.=\[\];])\s*", r"\1", line.strip()))
    if not match:
        raise LabelError(f"{where}: expected {_RANGES_EXAMPLE} or [5:90, 140:200], found {line.strip()[:80]!r}")
    ranges = []
    for part in re.split(r"[,\s]+", match[1].strip(", \t")):
        ends = _RANGE.fullmatch(part)
        if part and not ends:
            raise LabelError(f"{where}: expected ranges of frames such as 60:152, found {part[:80]!r}")
        if ends:
            first, last = int(ends[1]), int(ends[2] or ends[1])
            if not 1 <= first <= last:
                raise LabelError(f"{where}: ranges count frames from 1 and rise, found {part}")
            ranges.append((first - 1, last - 1, True, number))
    return ranges


def _holds_labels(path: Path) -> bool:
    """Whether the first array of a folder is of labels; otherwise it is of masks."""
    return _open_array(next(entry for entry in _list(path) if entry.suffix == ".npy")).ndim == 1


def _arrays(path: Path, clips: Sequence[str], *, every_clip: bool = True) -> Mapping[str, Path]:
    files = {entry.stem: entry for entry in _list(path) if entry.suffix == ".npy"}
    for name, file in files.items():
        if name not in clips:
            raise LabelError(f"labels {path}: {file.name} is of clip {name!r}, which is not in the source")
    for clip in clips:
        if every_clip and clip not in files:
            raise LabelError(f"labels {path}: clip {clip} of the source has no {clip}.npy")
    return files


def _read_frames(path: Path, clips: Sequence[str]) -> ArrayLabels:
    labels: dict[str, npt.NDArray[np.bool_]] = {}
    for clip, file in _arrays(path, clips).items():
        values = _open_array(file)
        if values.ndim != 1 or len(values) > _MAX_FRAMES or not np.isin(values, (0, 1)).all():
            raise LabelError(f"labels {file}: expected 0 or 1 a frame, found values of shape {values.shape}")
        labels[clip] = np.array(values, np.bool_)
    return ArrayLabels(path, labels)


def _read_pixels(path: Path, clips: Sequence[str], *, every_clip: bool = True) -> MaskLabels:
    masks: dict[str, dict[int, ReadMask]] = {}
    for clip, file in _arrays(path, clips, every_clip=every_clip).items():
        shape = _open_array(file).shape
        if len(shape) != 3 or not min(shape) or shape[0] > _MAX_FRAMES:
            raise LabelError(f"labels {file}: expected masks of shape frames x height x width, found {shape}")
        masks[clip] = {index: partial(_read_mask, file, index) for index in range(shape[0])}
    return MaskLabels(path, masks)


def _read_mask(file: Path, index: int) -> Mask:
    masks = _open_array(file)
    if masks.ndim != 3 or index >= len(masks):
        raise LabelError(f"labels {file}: it changed while it was read")
    return np.asarray(masks[index] > 0, np.uint8)


def _open_array(file: Path) -> npt.NDArray[Any]:
    """Map an array's file into memory, so that a mask costs its own pages; pickled objects are never loaded."""
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except OSError as error:
        raise LabelError(f"labels {file} cannot be read: {error.strerror or error}") from error
    except _NPY_ERRORS as error:
        why = " ".join(str(error).split())[:200]
        raise LabelError(f"labels {file}: no array of numbers as NumPy saves it: {why}") from error
    if array.dtype.kind not in "buif":
        raise LabelError(f"labels {file}: expected numbers, found {array.dtype}"[:300])
    return array
