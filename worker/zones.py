"""Where in a camera's picture anomalies count: zones, and masks that are cut out of them."""

from typing import Annotated, Final

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from contract.scoring import FloatArray
from contract.settings import FrozenModel

_PIXELS_A_CELL: Final = 16
_COUNTS_FROM: Final = 0.5
_MOST_POLYGONS: Final = 64
_MOST_CORNERS: Final = 256

Share = Annotated[float, Field(ge=0, le=1)]
Polygon = Annotated[tuple[tuple[Share, Share], ...], Field(min_length=3, max_length=_MOST_CORNERS)]
"""Corners, each a share of the picture's width and one of its height, from the top left."""

Region = npt.NDArray[np.bool_]
"""Cells of an anomaly map that count, shape (rows, columns)."""


class Zones(FrozenModel):
    """Where anomalies count."""

    zones: tuple[Polygon, ...] = Field(default=(), max_length=_MOST_POLYGONS)
    """Polygons within which anomalies count, corners as [x, y] in shares of the picture, 0..1 from the top left; none
    for all of the picture."""

    masks: tuple[Polygon, ...] = Field(default=(), max_length=_MOST_POLYGONS)
    """Polygons within which they do not, whatever the zones: a screen, a tree, a road behind a fence."""

    def region(self, map_shape: tuple[int, int]) -> Region | None:
        """Cells of a map that count: those of which half or more lies within a zone and outside all masks.

        Args:
            map_shape: Rows and columns of the anomaly map.

        Returns:
            bool of shape (rows, columns); None where there are neither zones nor masks and so every cell counts.

        Raises:
            ValueError: No cell is left.
        """
        if not self.zones and not self.masks:
            return None
        rows, columns = map_shape
        canvas = np.full((rows * _PIXELS_A_CELL, columns * _PIXELS_A_CELL), 0 if self.zones else 1, np.uint8)
        for polygons, value in ((self.zones, 1), (self.masks, 0)):
            for polygon in polygons:
                corners = np.round(np.array(polygon) * (canvas.shape[1], canvas.shape[0])).astype(np.int32)
                cv2.fillPoly(canvas, [corners], value)
        shares = canvas.reshape(rows, _PIXELS_A_CELL, columns, _PIXELS_A_CELL).mean((1, 3))
        region = np.asarray(shares >= _COUNTS_FROM)
        if not region.any():
            raise ValueError("zones and masks leave no place where anomalies count")
        return region


def score_within(anomaly_map: FloatArray, region: Region) -> float:
    """Score of a frame by the cells that count: their maximum.

    Args:
        anomaly_map: float32 of shape (rows, columns).
        region: Cells that count, at least one.
    """
    return float(anomaly_map[region].max())


def map_within(anomaly_map: FloatArray, region: Region | None) -> FloatArray:
    """The map with every cell that does not count at its lowest value.

    Args:
        anomaly_map: float32 of shape (rows, columns).
        region: Cells that count; None for all of them.
    """
    if region is None:
        return anomaly_map
    return np.where(region, anomaly_map, anomaly_map.min()).astype(np.float32)
