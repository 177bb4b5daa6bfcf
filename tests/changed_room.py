"""The room of the bundled clip after a lasting change: its lamps were turned down, and its table stands elsewhere."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np

ROOM = Path(__file__).resolve().parents[1] / "deploy" / "footage" / "room.mp4"
EMPTY = ((0, 60), (203, 227), (452, 501), (704, 744), (874, 920), (1206, 1234), (1366, 1393))
"""Stretches of the clip in which nobody is there, first and last frame."""

VISITS = ((61, 202), (228, 451), (502, 703), (745, 873), (921, 1205), (1235, 1365))
_TABLE = np.s_[70:345, 378:530]
_MOVED_PX = 230
_WALL_PX = 160
_LIGHT = 0.82
_SEEN = 40


@cache
def room():
    """Every frame of the clip, BGR."""
    capture = cv2.VideoCapture(str(ROOM))
    pictures = []
    while (read := capture.read())[0]:
        pictures.append(read[1])
    capture.release()
    return pictures


def change(picture):
    """The same moment with the lamps down and the table moved; whoever walks by stays whole."""
    before, after = _scenes()
    apart = np.abs(picture.astype(np.int16) - before.astype(np.int16)).max(axis=2) > _SEEN
    somebody = cv2.dilate(cv2.medianBlur(apart.astype(np.uint8), 5), np.ones((7, 7), np.uint8))[..., None]
    # What is not somebody keeps the noise of its own frame.
    noise = picture.astype(np.float32) - before
    scene = after + np.where(np.abs(noise) < _SEEN, noise, 0)
    return np.clip(_LIGHT * np.where(somebody, picture, scene), 0, 255).astype(np.uint8)


@cache
def _scenes():
    pictures = room()
    empty = [pictures[place] for first, last in EMPTY for place in range(first, last + 1, 8)]
    before = np.median(empty, axis=0).astype(np.float32)
    after = before.copy()
    rows, columns = _TABLE
    after[_TABLE] = before[rows, columns.start - _WALL_PX : columns.stop - _WALL_PX]
    after[rows, columns.start - _MOVED_PX : columns.stop - _MOVED_PX] = before[_TABLE]
    return before, after
