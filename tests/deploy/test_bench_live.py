import os

import pytest

from deploy.bench import frame_records
from deploy.bench_live import bound_ms, page, quantiles
from deploy.worker_process import peak_resident_bytes
from worker.settings import BatchSettings


def test_a_batch_is_allowed_its_deadline_and_twice_its_frames():
    batch = BatchSettings(max_frames=32, deadline_ms=50)
    assert bound_ms(200, 4.0, 2, batch) == pytest.approx(50 + 2 * 10 * 4 / 2)
    assert bound_ms(10_000, 4.0, 2, batch) == pytest.approx(50 + 2 * 32 * 4 / 2)


def test_quantiles_are_of_the_frames():
    told = quantiles(range(1001))
    assert told == {"p50": 500, "p99": 990, "p99.9": 999}


def test_cameras_come_in_turn_and_do_not_show_the_same_at_once():
    encoded = [b"%d" % number for number in range(100)]
    records = list(frame_records(encoded, 8, "live"))
    assert [record.key for record in records[:5]] == [b"room-0", b"room-1", b"room-2", b"room-3", b"room-0"]
    assert len({record.value for record in records}) == 8
    assert {record.topic for record in records} == {"live"}


def test_the_most_memory_is_that_of_the_process():
    assert peak_resident_bytes(os.getpid()) > 2**20


def test_the_page_tells_every_figure():
    told = {
        "versions": {"python": "3.11"},
        "cores": 2,
        "preset": "balanced",
        "backlog": 1000,
        "backlog_bytes": 2**30,
        "start_seconds": [2.0, 3.0, 2.5],
        "frames_per_second": 360.0,
        "workers": {"1": {"measured": 360.0, "simulated": 370.0}, "2": {"measured": 365.0, "simulated": 380.0}},
        "resident_bytes": 500 * 2**20,
        "resident_bytes_early": 490 * 2**20,
        "rate": 180.0,
        "seconds": 600.0,
        "bound_ms": 86.0,
        "delay_ms": {name: {"p50": 40.0, "p99": 80.0, "p99.9": 99.0} for name in ("all", "first half", "second half")},
    }
    lines = page(told).splitlines()
    assert "| start to first score, s | 2.5 (2.0 to 3.0) |" in lines
    assert "| resident at most, MiB | 500 |" in lines
    assert "| 2 | 365 | 380 |" in lines
    assert "| second half | 40 | 80 | 99 | 86 |" in lines
    assert max(map(len, lines)) < 120
