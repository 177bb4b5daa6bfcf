"""Cameras take turns: who floods delays itself alone, and whoever is killed meanwhile, all is told as if nobody was."""

import itertools
import json
import random
import time
from collections import Counter, defaultdict

import pytest
from kafka import TopicPartition

from tests.worker.test_engine import BRIGHT, DARK, frame
from tests.worker.test_loop import committed, lose, make, record, scrape
from tests.worker.test_state import remembering_detector
from worker import loop
from worker.state import AHEAD_OFFSETS
from worker.state_text import unpack

CAMERAS, PARTITIONS, BATCH, FLOOD = 64, 6, 64, 20
STILL = frame(0, DARK).data


def a_backlog(rounds, flood, padding=0):
    """Rounds of one frame a camera and so many of the first one, spread over its partition's round."""
    ends, records = Counter(), []
    for _ in range(rounds):
        for camera in range(CAMERAS):
            repeats = flood if camera == 0 else 1
            for _ in range(repeats):
                partition = camera % PARTITIONS
                key = f"camera-{camera:02}".encode()
                value = STILL + bytes(padding)
                records.append(record(ends[partition], partition=partition, key=key, value=value))
                ends[partition] += 1
    return records


def batches_of(records, max_bytes_waiting=2**20):
    """Number of the batch in which each frame of each camera was finished, by camera and the frame's number; checks
    that every one was, once and in its order, and that the waiting ones had room."""
    batches, seen, most = {}, Counter(), 0

    def deliver(sent):
        scores = [json.loads(one.value) for one in sent if one.topic == "scores"]
        for score in scores:
            name = score["camera_id"]
            batches[name, seen[name]] = len(made.batches), score["partition"], score["offset"]
            seen[name] += 1
        made.batches.append(len(scores))

    made = make(records, batch=BATCH, deliver=deliver, max_bytes_waiting=max_bytes_waiting)
    made.batches = []
    made.source.assigned = {TopicPartition("frames", number) for number in range(PARTITIONS)}
    made.source.is_backlog = True
    take = made.loop._queue.take

    def watched(wanted):
        nonlocal most
        most = max(most, sum(part.waiting_bytes for part in made.loop._queue._parts.values()))
        return take(wanted)

    made.loop._queue.take = watched
    made.loop.run()
    places = defaultdict(list)
    for (name, _), (_, _, offset) in batches.items():
        places[name].append(offset)
    wanted = defaultdict(list)
    for one in records:
        wanted[one.key.decode()].append(one.offset)
    assert places == wanted
    ends = Counter(one.partition for one in records)
    assert committed(made.journal) == dict(ends)
    # What one poll brings may come on top.
    assert most <= max_bytes_waiting + BATCH * max(len(one.value) for one in records) * 2
    return batches, made


def later(flooded, calm, cameras):
    """By how many batches each frame of some cameras is finished later than without the flood."""
    return [flooded[key][0] - calm[key][0] for key in calm if int(key[0][-2:]) in cameras]


def test_a_flood_of_twenty_times_the_rate_delays_no_other_camera_by_more_than_one_batch():
    calm, _ = batches_of(a_backlog(40, 1))
    flooded, made = batches_of(a_backlog(40, FLOOD))
    delays = later(flooded, calm, range(1, CAMERAS))
    assert len(delays) == 40 * (CAMERAS - 1)
    assert max(delays) <= 1
    # What the flood is too much is done at the end, in full batches.
    assert all(size == BATCH for size in made.batches[:-1])
    assert flooded["camera-00", 40 * FLOOD - 1][0] == len(made.batches) - 1


@pytest.mark.parametrize(
    ("window", "padding", "max_bytes"), [(192, 0, 2**20), (AHEAD_OFFSETS, 3000, 2**22)], ids=["window", "bytes"]
)
def test_a_flood_beyond_what_may_wait_delays_its_own_partition_alone(monkeypatch, window, padding, max_bytes):
    monkeypatch.setattr(loop, "AHEAD_OFFSETS", window)
    calm, _ = batches_of(a_backlog(40, 1, padding), max_bytes)
    flooded, _ = batches_of(a_backlog(40, FLOOD, padding), max_bytes)
    beside = [camera for camera in range(CAMERAS) if camera % PARTITIONS == 0]
    delays = later(flooded, calm, set(range(CAMERAS)) - set(beside))
    assert max(delays) <= 1
    assert max(later(flooded, calm, beside)) > 1
    # The partition is not starved: it is done at the pace that its cameras have without the flood.
    when_calm, when_flooded = (
        Counter(batch for batch, partition, _ in batches.values() if partition == 0) for batches in (calm, flooded)
    )
    done_calm = done_flooded = 0
    for batch in range(35):
        done_calm += when_calm[batch]
        done_flooded += when_flooded[batch]
        assert done_flooded >= done_calm - 2 * len(beside)


def some_flood():
    """Frames of five cameras on two partitions, of whom one floods and some see something, and what is no frame."""
    drawn = random.Random(7)
    ends, records = Counter(), []
    visits = {b"a": range(3, 9), b"b": range(5, 7), b"c": range(4, 12), b"flood": range(2, 9)}
    for number in range(14):
        names = [b"flood"] * 9 + [b"a", b"b", None]
        for partition, name in [*((0, one) for one in drawn.sample(names, len(names))), (1, b"c"), (1, b"d")]:
            inside = number in visits.get(name, ())
            level = BRIGHT + drawn.randrange(30) if inside else DARK + drawn.randrange(20)
            value = b"<html>" if drawn.random() < 0.05 else None
            at_ms = 1_790_000_000_000 + 100 * len(records)
            records.append(record(ends[partition], level, partition=partition, key=name, value=value, timestamp=at_ms))
            ends[partition] += 1
    return records


class KilledError(Exception):
    pass


def a_life(
    records, kept, told, *, once, dies_after=None, comes_through=True, batch=7, change=lambda _made: None, **more
):
    """Run a loop that goes on from what is committed, until all is done or it dies.

    Args:
        kept: Offset and state committed of each partition; changed as they are.
        told: Records told so far, those alone that a transaction committed where there are some; added to.
        once: Whether there are transactions.
        dies_after: Number of batches, or of transactions, that it outlives.
        comes_through: Whether what it dies of is told.
        batch: Frames in a batch at the most.
        change: What else is done to the loop and its surroundings before it runs.
        more: For the loop.
    """
    left = [dies_after]

    def die_of(step, what):
        dies = left[0] == 0
        left[0] = None if left[0] is None else left[0] - 1
        if not dies or comes_through:
            step(what)
        if dies:
            raise KilledError

    def tell(sent):
        told.extend((one.topic, one.key, one.value) for one in sent)

    made = make(
        records, batch=batch, deliver=lambda sent: die_of(tell, sent), fails=[0] if once else (),
        scorer=remembering_detector(), **{"commit_interval_ms": 40, **more},
    )  # fmt: skip
    source, transactions = made.source, made.loop._transactions
    for partition, entry in kept.items():
        source.commit({partition: entry})
        source.seek(partition, entry.offset)
    source.starts, source.is_backlog = {0: 0, 1: 0}, True
    commit = source.commit

    def keep(offsets):
        kept.update(offsets)
        commit(offsets)

    source.commit = keep
    if once:
        transactions.age, transactions.write_down = 0.05, tell
        end = transactions.commit
        transactions.commit = lambda offsets: die_of(end, offsets) if transactions.is_open else None
    change(made)
    made.loop.run()
    return made


def wait_for_each_batch(made):
    """Let a turn begin once all batches before it are done, with the commit of them due."""
    poll = made.source.poll

    def waiting(timeout_ms, max_records):
        made.loop._pipeline.drain()
        if made.loop._transactions is None:
            made.loop._commit()
        return poll(timeout_ms, max_records)

    made.source.poll = waiting


def ahead_of(kept):
    """Whether frames are finished ahead of a committed offset."""
    states = [unpack(entry.metadata, entry.offset) for entry in kept.values() if entry.metadata]
    return any(state.ahead for state in states)


@pytest.mark.parametrize("comes_through", [True, False])
@pytest.mark.parametrize("once", [True, False], ids=["exactly_once", "at_least_once"])
def test_a_worker_killed_anywhere_in_a_flood_is_followed_by_one_that_tells_the_rest(once, comes_through):
    records, expected = some_flood(), []
    a_life(records, {}, expected, once=once)
    kinds = Counter(topic for topic, _, _ in expected)
    assert kinds["scores"] + kinds["frames.dead-letter"] == len(records)
    assert kinds["alerts"] >= 6
    were_ahead = 0
    for cut in range(len(records) // 7):
        kept, told = {}, []
        with pytest.raises(KilledError):
            a_life(records, kept, told, once=once, dies_after=cut, comes_through=comes_through)
        were_ahead += ahead_of(kept)
        a_life(records, kept, told, once=once)
        if once:
            assert Counter(told) == Counter(expected)
        assert set(told) == set(expected)
        assert {partition.partition: entry.offset for partition, entry in kept.items()} == {0: 168, 1: 28}
        assert not ahead_of(kept)
    assert were_ahead > 10


@pytest.mark.parametrize("once", [True, False], ids=["exactly_once", "at_least_once"])
@pytest.mark.parametrize("lives", [1, 2, 3])
def test_a_flood_passes_through_the_hands_of_workers_that_are_killed_one_after_another(once, lives):
    records, expected = some_flood(), []
    a_life(records, {}, expected, once=once)
    kept, told, killed = {}, [], 0
    while sum(entry.offset for entry in kept.values()) < len(records):
        size, comes_through = 3 + killed % 5, bool(killed % 4 < 2)
        # Every other one commits what it has done before it goes on, or nothing would ever be committed on a machine
        # that is quick to tell and slow to commit.
        change = wait_for_each_batch if killed % 2 else lambda _made: None
        try:
            a_life(
                records, kept, told, once=once, dies_after=lives, comes_through=comes_through, batch=size, change=change
            )
        except KilledError:
            killed += 1
        assert killed < 200
    assert killed > 5
    if once:
        assert Counter(told) == Counter(expected)
    assert set(told) == set(expected)


def in_turn(made, number, step):
    """Do something before the first poll of a turn, once all batches until then are done."""
    poll, turns = made.source.poll, itertools.count()
    began = [True]

    def watched(timeout_ms, max_records):
        if began[0] and next(turns) == number:
            made.loop._pipeline.drain()
            step()
        polled = poll(timeout_ms, max_records)
        began[0] = not polled
        return polled

    made.source.poll = watched


@pytest.mark.parametrize("once", [True, False], ids=["exactly_once", "at_least_once"])
@pytest.mark.parametrize("turn", [5, 7, 9])
def test_a_partition_that_comes_back_in_a_flood_goes_on_where_it_was(once, turn):
    records, expected, told, kept = some_flood(), [], [], {}
    a_life(records, {}, expected, once=once)

    def change(made):
        if not once:
            in_turn(made, turn - 2, made.loop._commit)
        in_turn(made, turn, lambda: (states.append(ahead_of(kept)), lose(made, 0, comes_back=True)))
        stops = itertools.count()
        made.source.on_empty = lambda: made.loop.stop() if not made.loop._queue and next(stops) > 30 else None

    states = []
    a_life(records, kept, told, once=once, change=change)
    assert states == [True]
    if once:
        assert Counter(told) == Counter(expected)
    assert set(told) == set(expected)


@pytest.mark.parametrize("turn", [1, 4, 8])
def test_a_partition_that_comes_back_before_anything_was_committed_goes_on_where_it_was(turn):
    records, expected, told, kept = some_flood(), [], [], {}
    a_life(records, {}, expected, once=False)

    def change(made):
        in_turn(made, turn, lambda: (states.append(dict(kept)), lose(made, 0, comes_back=True)))

    states = []
    a_life(records, kept, told, once=False, change=change, commit_interval_ms=60_000)
    assert states == [{}]
    assert Counter(told) == Counter(expected)


def test_of_a_partition_lost_in_a_flood_nothing_that_waits_is_finished():
    records, kept, told, at = some_flood(), {}, [], []

    def change(made):
        def step():
            at.append(sum(json.loads(value)["partition"] == 0 for topic, _, value in told if topic == "scores"))
            assert made.loop._queue.waiting(TopicPartition("frames", 0)) > 50
            lose(made, 0, comes_back=False)

        in_turn(made, 4, step)

    made = a_life(records, kept, told, once=False, change=change)
    scores = [json.loads(value) for topic, _, value in told if topic == "scores"]
    assert sum(score["partition"] == 0 for score in scores) == at[0] < 60
    assert kept[TopicPartition("frames", 1)].offset == 28
    assert kept[TopicPartition("frames", 0)].offset < 60
    text = scrape(made.metrics)
    assert 'framewatch_waiting_frames{partition="1"} 0.0' in text
    assert 'framewatch_waiting_frames{partition="0"}' not in text


@pytest.mark.parametrize("fails", [[1], [3], [2, 3, 7]])
def test_transactions_lost_in_a_flood_are_done_again_and_told_once(fails):
    records, expected, told = some_flood(), [], []
    a_life(records, {}, expected, once=True)

    def change(made):
        made.loop._transactions.fails = set(fails)
        stops = itertools.count()
        made.source.on_empty = lambda: (
            made.loop.stop() if not made.loop._queue and next(stops) > 30 else time.sleep(0.01)
        )

    a_life(records, {}, told, once=True, change=change)
    assert Counter(told) == Counter(expected)


def test_what_waits_and_what_is_paused_is_told():
    made = make(a_backlog(4, FLOOD, padding=30_000), batch=8, max_bytes_waiting=2**20)
    made.source.assigned = {TopicPartition("frames", number) for number in range(PARTITIONS)}
    made.source.is_backlog = True
    with made.loop._pipeline:
        made.loop._turn()
        text = scrape(made.metrics)
        assert 'framewatch_partition_paused{partition="0"} 1.0' in text
        waiting = float(text.split('framewatch_waiting_frames{partition="0"} ')[1].split()[0])
        assert waiting == made.loop._queue.waiting(TopicPartition("frames", 0)) > 8
        while made.loop._queue:
            made.loop._turn()
        made.loop._turn()
        made.loop._pipeline.drain()
    text = scrape(made.metrics)
    assert 'framewatch_partition_paused{partition="0"} 0.0' in text
    assert 'framewatch_waiting_frames{partition="0"} 0.0' in text
