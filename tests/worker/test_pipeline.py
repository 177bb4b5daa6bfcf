import threading
import time

import pytest

from worker.pipeline import Pipeline

PATIENCE = 10


def test_items_pass_the_steps_in_their_order():
    told = []
    with Pipeline([("a", lambda item: item * 2), ("b", lambda item: item + 1), ("c", told.append)]) as pipeline:
        for item in range(50):
            pipeline.submit(item)
        pipeline.drain()
    assert told == [item * 2 + 1 for item in range(50)]


def test_steps_overlap():
    meets = threading.Barrier(2, timeout=PATIENCE)

    def meet(item):
        # The second item must reach the first step while the first is in the second.
        meets.wait()
        return item

    def first(item):
        return meet(item) if item == 1 else item

    def second(item):
        return meet(item) if item == 0 else item

    with Pipeline([("first", first), ("second", second)]) as pipeline:
        pipeline.submit(0)
        pipeline.submit(1)
        pipeline.drain()
    assert not meets.broken


def test_no_more_than_two_items_a_step_are_under_way():
    goes_on, submitted = threading.Event(), []

    def submit_all(pipeline):
        for item in range(10):
            pipeline.submit(item)
            submitted.append(item)

    with Pipeline([("a", lambda item: item), ("b", lambda _item: goes_on.wait(PATIENCE))]) as pipeline:
        giver = threading.Thread(target=submit_all, args=(pipeline,), daemon=True)
        giver.start()
        deadline = time.monotonic() + PATIENCE
        while len(submitted) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        assert len(submitted) == 4
        goes_on.set()
        giver.join(PATIENCE)
        pipeline.drain()
    assert submitted == list(range(10))


def test_what_is_under_way_weighs_no_more_than_is_allowed():
    goes_on, submitted = threading.Event(), []

    def submit_all(pipeline):
        for item, weight in enumerate([4, 5, 2, 30, 1]):
            pipeline.submit(item, weight)
            submitted.append(item)

    with Pipeline([("a", lambda item: item), ("b", lambda _item: goes_on.wait(PATIENCE))], 10) as pipeline:
        giver = threading.Thread(target=submit_all, args=(pipeline,), daemon=True)
        giver.start()
        time.sleep(0.3)
        assert submitted == [0, 1]
        goes_on.set()
        giver.join(PATIENCE)
        pipeline.drain()
    assert submitted == [0, 1, 2, 3, 4]


def test_an_error_lets_go_of_who_waits_for_room():
    def fail(_item):
        raise ValueError("broken")

    with Pipeline([("a", lambda item: time.sleep(0.2) or fail(item))], 10) as pipeline:
        pipeline.submit(1, 10)
        with pytest.raises(ValueError, match="broken"):
            pipeline.submit(2, 10)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_of_a_step_is_raised_where_items_are_submitted_and_ends_it(failing):
    told = []

    def fail(item):
        if item == 3:
            raise OSError("no more")
        return item

    steps = [("a", lambda item: item), ("b", lambda item: item), ("c", told.append)]
    steps[failing] = (steps[failing][0], lambda item: steps_made[failing](fail(item)))
    steps_made = [lambda item: item, lambda item: item, told.append]

    def submit_all(pipeline):
        for item in range(100):
            pipeline.submit(item)
        pipeline.drain()

    with Pipeline(steps) as pipeline, pytest.raises(OSError, match="no more"):
        submit_all(pipeline)
    assert told == list(range(len(told)))
    assert len(told) <= 3


def test_draining_raises_too():
    def fail(_item):
        raise ValueError("broken")

    with Pipeline([("a", fail)]) as pipeline:
        pipeline.submit(1)
        with pytest.raises(ValueError, match="broken"):
            pipeline.drain()


def test_leaving_does_not_wait_for_what_was_not_drained():
    told = []
    with Pipeline([("a", lambda item: item), ("b", lambda item: told.append(item) or time.sleep(0.1))]) as pipeline:
        for item in range(3):
            pipeline.submit(item)
    assert len(told) < 3
    assert not [thread for thread in threading.enumerate() if thread.name in ("a", "b")]
