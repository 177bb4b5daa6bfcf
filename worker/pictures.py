"""Pictures for people: the snapshot and heat map of an alert."""

import base64
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from contract.alert import Picture
from contract.frame import encode_jpeg
from contract.scoring import FloatArray

_LONGEST_SIDE_PX: Final = 640
_QUALITY: Final = 80


def snapshot(data: bytes, max_bytes: int) -> Picture | None:
    """Make a small JPEG of a frame; None where it would be too large or the decoder gives up.

    Args:
        data: The frame as it came, JPEG or PNG, checked before.
        max_bytes: Size of the JPEG above which there is none.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_BGR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        # The model's chain may have decoded it at a smaller scale; an alert without its picture is still an alert.
        return None
    if pixels is None:
        return None
    share = min(1.0, _LONGEST_SIDE_PX / max(pixels.shape[:2]))
    if share < 1:
        size_wh = max(1, round(pixels.shape[1] * share)), max(1, round(pixels.shape[0] * share))
        pixels = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA)
    return _picture(np.asarray(pixels, np.uint8), max_bytes)


def heat_map(anomaly_map: FloatArray, threshold: float, max_bytes: int, cell_px: int = 16) -> Picture | None:
    """Colour an anomaly map: black up to 0.6 of the threshold, white from 1.6 of it.

    Args:
        anomaly_map: float32 of shape (rows, columns).
        threshold: Score from which a cell is anomalous.
        max_bytes: Size of the JPEG above which there is none.
        cell_px: Side of a cell in the picture, pixels.
    """
    share = np.clip(anomaly_map / max(threshold, 1e-6) - 0.6, 0, 1)
    rows, columns = anomaly_map.shape
    levels = cv2.resize(
        (share * 255).astype(np.uint8), (columns * cell_px, rows * cell_px), interpolation=cv2.INTER_CUBIC
    )
    return _picture(np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), np.uint8), max_bytes)


def _picture(pixels: npt.NDArray[np.uint8], max_bytes: int) -> Picture | None:
    data = encode_jpeg(pixels, _QUALITY)
    if len(data) > max_bytes:
        return None
    return Picture(height=pixels.shape[0], width=pixels.shape[1], base64=base64.b64encode(data).decode())
