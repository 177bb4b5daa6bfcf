import os
import threading

import pytest

from worker import cores
from worker.cores import Crew, cores_given


@pytest.mark.parametrize(
    ("text", "given"),
    [("max 100000", 3), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 3), ("nonsense", 3), ("1 0", 3)],
)
def test_a_container_s_limit_counts(monkeypatch, tmp_path, text, given):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(cores, "_CGROUP_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 4, 5})
    assert cores_given() == given


@pytest.mark.parametrize(("quota", "given"), [("-1", 3), ("200000", 2)])
def test_that_of_older_kernels_too(monkeypatch, tmp_path, quota, given):
    (tmp_path / "quota").write_text(f"{quota}\n")
    (tmp_path / "period").write_text("100000\n")
    monkeypatch.setattr(cores, "_CGROUP_LIMIT", tmp_path / "none")
    monkeypatch.setattr(cores, "_OLD_QUOTA", tmp_path / "quota")
    monkeypatch.setattr(cores, "_OLD_PERIOD", tmp_path / "period")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 4, 5})
    assert cores_given() == given


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 37])
def test_results_come_in_the_order_of_the_items(threads, count):
    with Crew(threads) as crew:
        assert crew.map(lambda item: item * item, range(count)) == [item * item for item in range(count)]


def test_calls_run_at_the_same_time():
    meets = threading.Barrier(3, timeout=10)
    with Crew(3) as crew:
        crew.map(lambda _item: meets.wait(), range(3))


def test_a_thread_that_is_done_takes_the_next_item():
    others_done = threading.Semaphore(0)

    def call(item):
        if item == 0:
            assert all(others_done.acquire(timeout=10) for _ in range(8))
        else:
            others_done.release()
        return item

    with Crew(2) as crew:
        assert crew.map(call, range(9)) == list(range(9))


def test_the_first_error_is_raised_when_all_were_called():
    called = []

    def fail(item):
        called.append(item)
        if item > 4:
            raise ValueError(f"item {item}")

    with Crew(2) as crew, pytest.raises(ValueError, match="item 5"):
        crew.map(fail, range(9))
    assert sorted(called) == list(range(9))
