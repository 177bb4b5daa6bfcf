"""Decodes a video or a camera in a process of its own and hands its frames over as JPEG.

Decoders of damaged video can abort the process they run in. Here that costs one clip: the parent sees the pipe
close and says so. Run as ``python -m contract.video_process`` by `read_video` alone, which writes the request as a line
of JSON to its standard input: a camera's password may stand in it, and every user of a machine can read command lines.

On the pipe: one record a frame, ``<qqI`` index, capture time in ms, length, then the JPEG; a record of index -1
ends the clip, one of index -2 carries an error text.
"""

import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Final

import cv2
import numpy as np

from contract.address import without_credentials
from contract.errors import FootageError
from contract.frame import encode_jpeg

VIDEO_JPEG_QUALITY: Final = 90
_RECORD: Final = struct.Struct("<qqI")
_END, _ERROR = -1, -2
_LIVE_TIMEOUT_MS: Final = 10_000


def read_video(
    address: str, ranges: Sequence[tuple[int, int]] = (), *, live: bool = False
) -> Iterator[tuple[int, int, bytes]]:
    """Decode a video in a child process, which ends when the iterator is closed.

    Args:
        address: File, device or network address.
        ranges: Inclusive 0-based frame ranges, rising; empty for all.
        live: Whether frames carry the clock's time in place of their time within the video.

    Yields:
        Frame index, capture time in milliseconds, and the frame as JPEG.

    Raises:
        FootageError: The address cannot be opened, gives no frame, ends before a range asked for, or the decoder dies.
    """
    request = json.dumps({"address": address, "ranges": list(ranges), "live": live})
    child = subprocess.Popen(
        [sys.executable, "-m", "contract.video_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None  # noqa: S101
    assert child.stdout is not None  # noqa: S101
    try:
        # A child that has died already is noticed where its frames are awaited.
        with suppress(BrokenPipeError), child.stdin:
            child.stdin.write(request.encode() + b"\n")
        yield from _receive(child.stdout, without_credentials(address), child)
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


def _receive(pipe: IO[bytes], shown: str, child: subprocess.Popen[bytes]) -> Iterator[tuple[int, int, bytes]]:
    while True:
        head = pipe.read(_RECORD.size)
        if len(head) < _RECORD.size:
            raise FootageError(f"video {shown}: the decoder died (exit {child.wait()}); is the file damaged?")
        index, captured_at_ms, length = _RECORD.unpack(head)
        data = pipe.read(length)
        if index == _END:
            return
        if index == _ERROR:
            raise FootageError(f"video {shown}: {data.decode()}")
        yield index, captured_at_ms, data


def _send(address: str, ranges: Sequence[Sequence[int]], *, live: bool, pipe: IO[bytes]) -> None:
    def put(index: int, captured_at_ms: int, data: bytes) -> None:
        pipe.write(_RECORD.pack(index, captured_at_ms, len(data)) + data)

    video = _open(address)
    if video is None:
        put(_ERROR, 0, b"cannot be opened; is it a video, and can it be reached?")
        return
    fps = video.get(cv2.CAP_PROP_FPS) or 25.0
    last = ranges[-1][1] if ranges else None
    index = 0
    while (last is None or index <= last) and video.grab():
        if not ranges or any(first <= index <= end for first, end in ranges):
            ok, picture = video.retrieve()
            if not ok:
                break
            when = time.time() * 1000 if live else index * 1000 / fps
            put(index, round(when), encode_jpeg(np.asarray(picture, np.uint8), VIDEO_JPEG_QUALITY))
            if live:
                pipe.flush()
        index += 1
    if index == 0:
        put(_ERROR, 0, b"gives no frame; is it damaged?")
    elif last is not None and index <= last:
        put(_ERROR, 0, f"ends at frame {index - 1}, before frame {last} that was asked for".encode())
    else:
        put(_END, 0, b"")


def _open(address: str) -> cv2.VideoCapture | None:
    device = re.fullmatch(r"(?:/dev/video)?(\d{1,3})", address)
    if device is not None:
        video = cv2.VideoCapture(int(device[1]))
        return video if video.isOpened() else None
    try:
        address.encode()
    except UnicodeEncodeError:
        # OpenCV takes text alone; a name that is not UTF-8 is reached through the number of an open file.
        address = f"/dev/fd/{os.open(address, os.O_RDONLY)}"
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _LIVE_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _LIVE_TIMEOUT_MS]
    video = cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts)
    if not video.isOpened():
        video = cv2.VideoCapture(address)
    return video if video.isOpened() else None


if __name__ == "__main__":
    _request = json.loads(sys.stdin.buffer.readline())
    try:
        _send(_request["address"], _request["ranges"], live=_request["live"], pipe=sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        sys.exit(0)
