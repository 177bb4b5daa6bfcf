import pytest

from deploy.soak import Look, page, trend_of


def looks(slope, *, noise=0.0, descriptors=(40, 40), lag=10):
    """Two hours, looked at each minute; memory settles in the first quarter and then rises by so many MiB an hour."""
    return [
        Look(
            minute * 60.0,
            300 + min(minute, 30) + slope * minute / 60 + noise * (-1) ** minute,
            descriptors[minute >= 60],
            lag,
            1 + (minute % 5 == 0),
        )
        for minute in range(121)
    ]


def test_the_trend_is_that_of_the_memory_after_the_first_quarter():
    trend = trend_of(looks(2.0))
    assert trend.mebibytes_an_hour == pytest.approx(2.0)
    assert not trend.holds(60)
    assert trend_of(looks(0.5)).holds(60)


def test_a_trend_that_is_not_told_from_none_is_none():
    trend = trend_of(looks(3.0, noise=40.0))
    assert trend.error > 2
    assert trend.holds(60)


def test_descriptors_and_lag_must_not_grow_either():
    assert not trend_of(looks(0.0, descriptors=(40, 45))).holds(60)
    assert trend_of(looks(0.0, descriptors=(40, 44))).holds(60)
    assert not trend_of(looks(0.0, lag=301)).holds(60)


def test_the_page_tells_every_figure():
    seen = [vars(look) for look in looks(0.25)]
    told = {
        "versions": {"python": "3.11"}, "minutes": 120.0, "rate": 60.0, "preset": "balanced",
        "finished_frames": 400_000, "dead_letters": 8640, "holds": True, "looks": seen,
        "trend": {"mebibytes_an_hour": 0.25, "error": 0.01, "more_descriptors": 0, "last_lag": 10},
    }  # fmt: skip
    lines = page(told).splitlines()
    assert "| memory after the first quarter, MiB an hour | +0.25 ± 0.01 |" in lines
    assert "| 120.0 | 2 | 330.5 | 40 | 10 |" in lines
    assert max(map(len, lines)) < 120
