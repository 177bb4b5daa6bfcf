"""What is known of the footage: which frames are anomalous, and, where masks are given, which pixels.

Labels are a CSV of ``clip,frame,label`` (0 or 1 for every frame), a CSV of ``clip,first_frame,last_frame,label``
(both included; frames not named are normal), or masks: a folder or archive of one folder a clip with one picture a
frame, above 0 where anomalous. Frames count from 0 in the whole clip, also where frame ranges were taken out of it.
The labels of public datasets are read as they are distributed; see `trainer.public_labels`.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from contract.errors import LabelError
from trainer.label_kinds import FrameLabels, Labels, Mask, RangeLabels
from trainer.mask_files import ARCHIVES, read_mask_archive, read_mask_folder
from trainer.public_labels import read_public_labels

__all__ = ["FRAME_HEADER", "RANGE_HEADER", "Labels", "Mask", "read_labels"]

FRAME_HEADER: Final = ["clip", "frame", "label"]
RANGE_HEADER: Final = ["clip", "first_frame", "last_frame", "label"]

_NORMAL: Final = ("", "0", "normal")
_MAX_FRAME: Final = 2**40
_MAX_CSV_BYTES: Final = 256 * 2**20


def read_labels(path: Path, clips: Sequence[str]) -> Labels:
    """Read labels and compare their clips with the source's.

    Args:
        path: CSV, folder of masks, archive of masks, or labels of a public dataset.
        clips: Names of the source's clips.

    Raises:
        LabelError: The file cannot be read, is not written as the module says, or names other clips.
    """
    if not path.exists():
        raise LabelError(f"labels {path}: no such file or folder")
    public = read_public_labels(path, clips)
    if public is not None:
        return public
    if path.is_dir():
        return read_mask_folder(path, clips)
    if path.name.lower().endswith(ARCHIVES):
        return read_mask_archive(path, clips)
    return _read_csv(path, set(clips))


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
            f"labels {path}: expected a CSV in UTF-8, a folder of masks or an archive {' '.join(ARCHIVES)}"
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
