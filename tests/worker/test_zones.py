"""Zones and masks become the cells of an anomaly map that count."""

import numpy as np
import pytest
from pydantic import ValidationError

from worker.zones import Zones, map_within, score_within

LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
TOP = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5))


def test_without_zones_and_masks_every_cell_counts() -> None:
    assert Zones().region((4, 6)) is None


def test_a_zone_keeps_what_lies_within_it() -> None:
    region = Zones(zones=(LEFT,)).region((4, 6))

    assert region is not None
    assert region[:, :3].all()
    assert not region[:, 3:].any()


def test_a_mask_is_cut_out_of_a_zone_and_of_the_whole_picture() -> None:
    within = Zones(zones=(LEFT,), masks=(TOP,)).region((4, 6))
    whole = Zones(masks=(TOP,)).region((4, 6))

    assert within is not None
    assert whole is not None
    assert np.argwhere(within).tolist() == [[row, column] for row in (2, 3) for column in range(3)]
    assert whole.tolist() == [[False] * 6] * 2 + [[True] * 6] * 2


def test_zones_add_up() -> None:
    region = Zones(zones=(LEFT, TOP)).region((4, 6))

    assert region is not None
    assert int(region.sum()) == 4 * 3 + 2 * 3


@pytest.mark.parametrize(("width", "cells"), [(0.2, []), (0.3, [True, False]), (0.8, [True, True])])
def test_a_cell_counts_from_half_of_it(width: float, cells: list[bool]) -> None:
    strip = ((0.0, 0.0), (width, 0.0), (width, 1.0), (0.0, 1.0))

    if width < 0.25:
        with pytest.raises(ValueError, match="no place"):
            Zones(zones=(strip,)).region((1, 2))
    else:
        region = Zones(zones=(strip,)).region((1, 2))
        assert region is not None
        assert region.tolist() == [cells]


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        Zones(zones=(TOP,), masks=(TOP,)).region((4, 6))


@pytest.mark.parametrize(
    "polygon",
    [
        [[0, 0], [1, 1]],
        [[0, 0], [1, 0], [1.5, 1]],
        [[0, 0], [1, 0], [float("nan"), 1]],
        [[0, 0], [1, 0], [1]],
        [[0, 0], [1, 0], [1, 1, 1]],
    ],
)
def test_what_is_no_polygon_within_the_picture_is_refused(polygon: object) -> None:
    with pytest.raises(ValidationError):
        Zones.model_validate({"zones": [polygon]})


def test_the_score_is_that_of_the_highest_cell_that_counts() -> None:
    anomaly_map = np.array([[1, 9], [4, 2]], np.float32)
    region = np.array([[True, False], [True, True]])

    assert score_within(anomaly_map, region) == 4
    assert map_within(anomaly_map, region).tolist() == [[1, 1], [4, 2]]
    assert map_within(anomaly_map, None) is anomaly_map
