"""Cameras that send nothing are told of, once, and what keeps the worker from hearing them is no silence."""

import itertools
import json
import os
import signal

import pytest
from kafka import TopicPartition
from kafka.structs import ConsumerGroupMetadata, MemberState

from contract.alert import read_alert
from tests.worker.deployment import frames_of, terminate
from tests.worker.test_loop import committed, make, record
from worker.state_text import unpack

PART = TopicPartition("frames", 0)
TURNS = 400
PATIENCE = 2.0


def heard(records, *, turns=TURNS, prepare=lambda _made: None, **more):
    """What a worker tells that goes on turning after the last record; its clock goes on with each look at it."""
    made = make(records, camera_health={"silent_seconds": PATIENCE, "enabled": True}, **more)
    made.source.highwater = lambda _partition: max((one.offset + 1 for one in records), default=0)
    made.source.position = lambda _partition, timeout_ms: len(records)
    left = iter(range(turns))
    made.source.on_empty = lambda: made.loop.stop() if next(left, None) is None else None
    prepare(made)
    made.loop.run()
    return made, [read_alert(value) for value in made.values["alerts"]]


def test_each_camera_is_told_of_once_and_what_is_kept_of_it_is_committed():
    records = [record(i, key=key) for i, key in enumerate([b"door", b"yard", b"door", b"door"])]
    made, alerts = heard(records)

    assert sorted((alert.subject, alert.type, alert.data.frames.last_offset) for alert in alerts) == [
        ("door", "framewatch.camera.silent.v1", 3), ("yard", "framewatch.camera.silent.v1", 1),
    ]  # fmt: skip
    assert committed(made.journal)[0] == 4
    kept = unpack(made.source.states[PART], 4)
    assert sorted((one.camera_id, one.conditions[-1].state) for one in kept.unwell) == [
        ("door", "silent"), ("yard", "silent"),
    ]  # fmt: skip


def test_silence_and_what_is_kept_of_it_are_one_transaction():
    made, alerts = heard([record(0), record(1)], fails=[])

    assert [alert.type for alert in alerts] == ["framewatch.camera.silent.v1"]
    assert unpack(made.source.states[PART], 2).unwell


def test_silence_that_begins_while_the_group_is_joined_anew_is_told_after_it():
    member = ConsumerGroupMetadata("group", 1, "me", None, MemberState.STABLE)
    joining = member._replace(generation_id=-1, member_id="", state=MemberState.REBALANCING)

    def join_anew(made):
        asked = itertools.count()
        made.source.group_metadata = lambda: joining if 5 < next(asked) < TURNS // 2 else member

    made, alerts = heard([record(0), record(1)], fails=[], prepare=join_anew)

    assert [alert.type for alert in alerts] == ["framewatch.camera.silent.v1"]
    assert unpack(made.source.states[PART], 2).unwell


LATE = {"policy": "skip_to_fresh", "max_age_seconds": 5}


@pytest.mark.parametrize(
    ("change", "more"),
    [({"value": b"no"}, {}), ({"headers": [("captured-at-ms", b"1000000000000")]}, {"late": LATE})],
    ids=["dead letters", "late"],
)
def test_a_camera_of_which_frames_come_that_are_not_scored_is_not_silent(change, more):
    """One goes on sending what is not scored, the other one nothing."""
    records = [record(0), record(1, key=b"yard")]

    def go_on_sending(made):
        stop_at_last = made.source.on_empty

        def send_another():
            stop_at_last()
            records.append(record(len(records), **change))
            made.source.waiting.append(records[-1])

        made.source.on_empty = send_another

    _, alerts = heard(records, prepare=go_on_sending, **more)
    assert [alert.subject for alert in alerts] == ["yard"]


def no_answer(made):
    made.source.silent_seconds = 60.0


def behind(made):
    made.source.highwater = lambda _partition: 1000


@pytest.mark.parametrize("prepare", [no_answer, behind])
def test_what_is_not_heard_for_another_reason_is_no_silence(prepare):
    assert heard([record(0), record(1)], prepare=prepare)[1] == []


@pytest.mark.parametrize("health", [{"silent_seconds": 0}, {"enabled": False, "silent_seconds": PATIENCE}])
def test_no_camera_is_silent_where_that_is_not_asked_for(health):
    made = make([record(0), record(1)], camera_health=health)
    made.source.highwater = lambda _partition: 2
    made.source.position = lambda _partition, timeout_ms: 2
    left = iter(range(TURNS))
    made.source.on_empty = lambda: made.loop.stop() if next(left, None) is None else None
    made.loop.run()
    assert made.values["alerts"] == []


@pytest.mark.broker
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_silence_outlives_the_worker_that_told_it(deployment, tiny_bundle, delivery):
    frames = frames_of(str(tiny_bundle.footage), "door")
    deployment.set(kafka={"delivery": delivery}, camera_health={"silent_seconds": 2}, threshold=90)
    with deployment.worker() as worker:
        deployment.send(frames[:5])
        (told,) = deployment.read("alerts", 1)
        # Committed, or done again under the same id.
        deployment.read("scores", 5)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    with deployment.worker() as worker:
        deployment.read("alerts", 1)
        deployment.send(frames[5:6])
        alerts = [read_alert(record.value) for record in deployment.read("alerts", 2)]
        assert terminate(worker) == 0
    assert json.loads(told.value)["type"] == "framewatch.camera.silent.v1"
    assert len({alert.data.event_id for alert in alerts}) == 1
    assert [alert.data.ended_at_ms is None for alert in alerts] == [True, False]
