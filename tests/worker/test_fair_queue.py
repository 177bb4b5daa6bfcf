import random
from collections import defaultdict
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition

from worker.fair_queue import FairQueue, Finished

WINDOW = 2048
FIRST, SECOND = TopicPartition("frames", 0), TopicPartition("frames", 1)


def record(offset, camera="door", *, partition=0, size=100):
    key = camera.encode() if camera is not None else None
    return SimpleNamespace(
        topic="frames", partition=partition, offset=offset, key=key, value=b"x" * (size - len(key or b"")), headers=[]
    )


def a_queue(records=(), *, window=WINDOW, max_bytes=2**20):
    queue = FairQueue(max_bytes, window)
    queue.add(records)
    return queue


def offsets(records):
    return [one.offset for one in records]


def names(records):
    return "".join((one.key or b"?").decode()[0] for one in records)


def test_without_a_flood_records_come_as_they_arrived():
    records = [record(i, "abcde"[i % 5]) for i in range(50)]
    assert offsets(a_queue(records).take(50)) == list(range(50))


def test_records_that_arrive_late_come_after_those_that_were_there():
    queue = a_queue([record(0, "a"), record(1, "b")])
    assert names(queue.take(1)) == "a"
    queue.add([record(2, "c"), record(3, "a"), record(4, "d")])
    assert names(queue.take(9)) == "bcad"


def test_a_flood_takes_one_turn_a_round():
    queue = a_queue([record(i, "flood") for i in range(20)] + [record(20 + i, "ab"[i % 2]) for i in range(6)])
    assert names(queue.take(9)) == "fabfabfab"
    assert names(queue.take(99)) == "f" * 17


def test_cameras_of_all_partitions_take_turns_together():
    queue = a_queue([record(i, "flood") for i in range(20)] + [record(i, "ab"[i % 2], partition=1) for i in range(4)])
    assert names(queue.take(6)) == "fabfab"


def test_a_camera_of_the_same_name_on_another_partition_has_a_turn_of_its_own():
    queue = a_queue([record(i, "a") for i in range(2)] + [record(i, "a", partition=1) for i in range(2)])
    assert [(one.partition, one.offset) for one in queue.take(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("name", [None, "../x", "tür"])
def test_records_that_name_no_camera_share_a_turn(name):
    letters = [record(i, name if i % 2 else None) for i in range(6)]
    assert offsets(a_queue([*letters, record(6, "a"), record(7, "a")]).take(4)) == [0, 6, 1, 7]


def test_what_is_finished_is_a_stretch_and_what_lies_ahead_of_it():
    queue = a_queue([record(i, "flood") for i in range(4)] + [record(4, "a"), record(5, "b")])
    queue.take(3)
    assert queue.finished(FIRST) == Finished(1, frozenset({4, 5}))
    queue.take(2)
    assert queue.finished(FIRST) == Finished(3, frozenset({4, 5}))
    queue.take(1)
    assert queue.finished(FIRST) == Finished(6, frozenset())


def test_offsets_that_never_come_hold_nothing_up():
    queue = a_queue([record(3, "flood"), record(7, "flood"), record(9, "a"), record(15, "a")])
    queue.take(2)
    assert queue.finished(FIRST) == Finished(7, frozenset({9}))
    queue.take(2)
    assert queue.finished(FIRST) == Finished(16, frozenset())


def test_what_was_finished_before_a_partition_began_is_passed_over_and_stays_finished():
    queue = a_queue([record(100, "flood"), record(101, "a")])
    queue.begin(FIRST, {101, 103, 107})
    queue.add([record(102, "flood"), record(103, "b")])
    assert queue.waiting(FIRST) == 2
    assert offsets(queue.take(1)) == [100]
    assert queue.finished(FIRST) == Finished(102, frozenset({103, 107}))
    assert offsets(queue.take(9)) == [102]
    assert queue.finished(FIRST) == Finished(104, frozenset({107}))
    queue.add([record(one, "a") for one in range(104, 110)])
    assert offsets(queue.take(9)) == [104, 105, 106, 108, 109]


def test_no_record_is_given_further_ahead_than_the_window():
    queue = a_queue([record(i, "flood") for i in range(6)] + [record(6 + i, "a") for i in range(9)], window=8)
    taken = queue.take(4)
    assert offsets(taken) == [0, 6, 1, 7]
    assert queue.finished(FIRST) == Finished(2, frozenset({6, 7}))
    # Its turn is the flood's while it is too far ahead.
    assert offsets(queue.take(11)) == [2, 8, 3, 9, 4, 10, 5, 11, 12, 13, 14]


def test_a_camera_that_waits_for_what_is_behind_a_flood_leaves_it_its_turns():
    flood = [record(i, "flood") for i in range(40)]
    others = [record(40 + i, "abcd"[i]) for i in range(4)]
    elsewhere = [record(i, "xyz"[i % 3], partition=1) for i in range(30)]
    queue = a_queue([*flood, *others, *elsewhere], window=44)
    assert names(queue.take(8)) == "fabcdxyz"
    assert queue.full([FIRST, SECOND]) == set()
    assert names(queue.take(8)) == "fxyzfxyz"
    queue.add([record(44 + i, "flood") for i in range(3)])
    assert queue.full([FIRST, SECOND]) == {FIRST}
    # Five turns of the eight are the first partition's cameras', as without the flood.
    assert names(queue.take(16)).count("f") == 10


def test_a_camera_left_behind_by_the_records_in_its_way_has_no_turn_to_leave():
    records = [record(i, "flood") for i in range(4)] + [record(4, "a")] + [record(5 + i, "flood") for i in range(15)]
    queue = a_queue([*records, *[record(i, "xy"[i % 2], partition=1) for i in range(18)]], window=20)
    queue.full([FIRST, SECOND])
    queue.take(2)
    assert queue.full([FIRST, SECOND]) == set()
    queue.add([record(20 + i, "flood") for i in range(10)])
    assert queue.full([FIRST, SECOND]) == {FIRST}
    queue.take(20)
    # What it waited for is done, all before its last record is finished.
    assert queue.oldest(FIRST) > 4
    assert names(queue.take(9)).count("f") == 3


def test_a_partition_is_full_once_half_is_used_and_it_has_its_share_of_the_other_half():
    queue = a_queue(max_bytes=8000)
    queue.add([record(i, "flood") for i in range(39)])
    assert queue.full([FIRST, SECOND]) == set()
    queue.add([record(39, "flood")])
    assert queue.full([FIRST, SECOND]) == {FIRST}
    queue.add([record(i, "a", partition=1) for i in range(19)])
    assert queue.full([FIRST, SECOND]) == {FIRST}
    queue.add([record(19, "a", partition=1)])
    assert queue.full([FIRST, SECOND]) == {FIRST, SECOND}


def test_what_waits_is_bounded_by_bytes_whatever_comes():
    drawn = random.Random(0)
    queue, held, at = a_queue(max_bytes=50_000), 0, defaultdict(int)
    partitions = [TopicPartition("frames", number) for number in range(6)]
    for _ in range(2000):
        room = [one.partition for one in partitions if one not in queue.full(partitions)]
        if room and drawn.random() < 0.8:
            number = drawn.choice([room[0], *room])
            size = drawn.randrange(50, 1000)
            queue.add([record(at[number], drawn.choice("abcdef"), partition=number, size=size)])
            at[number] += 1
            held += size
        else:
            held -= sum(len(one.key) + len(one.value) for one in queue.take(drawn.randrange(4)))
        assert sum(part.waiting_bytes for part in queue._parts.values()) == held
        # A record may come on top where there was room.
        assert held < 51_000


def test_a_partition_that_is_lost_is_forgotten_with_all_that_waits_of_it():
    queue = a_queue([record(i, "ab"[i % 2], partition=i % 4 // 2) for i in range(8)])
    queue.take(1)
    assert offsets(queue.drop(FIRST)) == [1, 4, 5]
    assert queue.drop(FIRST) == []
    assert queue.waiting(FIRST) == 0
    assert queue.waiting(SECOND) == 4
    assert queue
    assert {one.partition for one in queue.take(9)} == {1}
    queue.add([record(1, "b"), record(4, "a")])
    assert queue.oldest(FIRST) == 1
    assert offsets(queue.take(9)) == [1, 4]


def test_offsets_that_go_back_begin_the_partition_anew():
    elsewhere = [record(i, "b", partition=1) for i in range(2)]
    queue = a_queue([*[record(500 + i, "flood") for i in range(4)], record(504, "a"), *elsewhere])
    queue.begin(FIRST, {520})
    queue.take(2)
    queue.add([record(i, "a") for i in range(3)])
    assert [(one.partition, one.offset) for one in queue.take(9)] == [(1, 1), (0, 0), (0, 1), (0, 2)]
    assert queue.finished(FIRST) == Finished(3, frozenset())
    queue.add([record(i, "a") for i in range(3, 522)])
    assert 520 in offsets(queue.take(1000))


def test_names_that_fill_a_topic_hold_no_turns():
    queue, at = a_queue(window=64), 0
    for _ in range(200):
        while not queue.full([FIRST]):
            queue.add([record(at, "flood" if at % 2 else f"name-{at}")])
            at += 1
        queue.take(8)
    assert at > 1000
    assert len(queue._turns) <= 66
    queue.take(10**6)
    assert not queue
    assert not queue._turns
    assert not queue._parts[FIRST].order


arrivals = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcd"), st.integers(1, 3)), max_size=120)


@given(arrivals, st.integers(4, 40), st.integers(1, 9), st.randoms(use_true_random=False))
def test_nothing_is_lost_or_given_twice_and_what_is_called_finished_was_given(some, window, most, drawn):
    queue = a_queue(window=window)
    at, sent, given_out = defaultdict(int), [], []
    partitions = [TopicPartition("frames", number) for number in range(3)]
    for number, name, gap in some:
        one = record(at[number], name, partition=number)
        at[number] += gap
        sent.append(one)
        queue.add([one])
        queue.full(partitions)
        if drawn.random() < 0.3:
            given_out += queue.take(most)
            for partition in partitions:
                reached = queue.finished(partition)
                done = {other.offset for other in given_out if other.partition == partition.partition}
                came = {other.offset for other in sent if other.partition == partition.partition}
                assert {offset for offset in came if offset < reached.next_offset} <= done
                assert {offset for offset in done if offset >= reached.next_offset} == reached.ahead
                assert all(offset < reached.next_offset + window for offset in reached.ahead)
    while queue:
        given_out += queue.take(most)
    assert sorted(map(id, given_out)) == sorted(map(id, sent))
    for partition in partitions:
        for name in "abcd":
            mine = [o.offset for o in given_out if (o.partition, o.key) == (partition.partition, name.encode())]
            assert mine == sorted(mine)
