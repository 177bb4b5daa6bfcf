"""Footage on disk: whole stretches after any end, the same clips each time, and never much of it in memory."""

import os
import signal
import sqlite3
import tracemalloc

import pytest

from contract.errors import CacheError, FootageError
from trainer.footage_cache import CacheFolder, StoredClip, StoredFrame, Taken

REQUEST = "0" * 16
STRETCHES = 4
FRAMES = 5


def stretch(number, frames=FRAMES, size=50):
    for place in range(frames):
        data = bytes([number, place]) * size
        yield StoredFrame(place, 0, 100 * number + place, 1_000 * number + place, 36, 64, data)
    yield Taken(number, seen=frames, kept=frames, partitions="0")


def fill(folder):
    """What a fit does: one stretch after another, those that are there passed over."""
    cache = folder.use(REQUEST, "plan")
    cache.remember(plan={"from_ms": 1})
    for number in range(STRETCHES):
        if number not in cache.taken():
            cache.add(number, stretch(number))
    cache.remember(done=True)
    return cache


def footage(cache):
    clips = [StoredClip(f"clip{number}", cache, ((number, 0, FRAMES - 1, 0),)) for number in sorted(cache.taken())]
    return [[(frame.index, frame.captured_at_ms, frame.data) for frame in clip.frames()] for clip in clips]


def killed_at(folder, statement):
    """Fill in a process that is killed before its statement of a number; say whether it was."""
    child = os.fork()
    if not child:
        left = [statement]

        def count(_):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        connect = sqlite3.connect

        def watched(*arguments, **options):
            connection = connect(*arguments, **options)
            connection.set_trace_callback(count)
            return connection

        sqlite3.connect = watched
        try:
            fill(folder)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_process_killed_before_any_statement_leaves_whole_stretches_and_another_goes_on(tmp_path):
    expected = footage(fill(CacheFolder(tmp_path / "whole")))
    statement = 0
    part_way = set()
    while True:
        folder = CacheFolder(tmp_path / str(statement))
        was_killed = killed_at(folder, statement)
        cache = folder.use(REQUEST, "plan")
        taken = cache.taken()
        part_way.add(len(taken))
        assert footage(cache) == expected[: len(taken)]
        assert len(list(cache.sizes())) == FRAMES * len(taken)
        assert (cache.fact("done") is None) == was_killed or len(taken) == STRETCHES
        cache.close()
        assert footage(fill(folder)) == expected
        if not was_killed:
            break
        statement += 1
    assert part_way == set(range(STRETCHES + 1))
    assert statement > STRETCHES * (FRAMES + 3)


def test_a_stretch_that_breaks_off_is_not_there(tmp_path):
    cache = CacheFolder(tmp_path).use(REQUEST, "plan")

    def broken():
        yield from list(stretch(1))[:2]
        raise FootageError("the broker is gone")

    with pytest.raises(FootageError, match="the broker is gone"):
        cache.add(1, broken())
    assert (cache.taken(), list(cache.sizes())) == ({}, [])
    assert cache.add(1, stretch(1)).kept == FRAMES
    assert cache.taken()[1] == Taken(1, seen=FRAMES, kept=FRAMES, partitions="0")


def test_a_stretch_of_any_size_takes_the_memory_of_a_few_frames(tmp_path):
    cache = CacheFolder(tmp_path).use(REQUEST, "plan")
    frame_bytes = 400_000
    tracemalloc.start()
    cache.add(0, stretch(0, frames=200, size=frame_bytes // 2))
    read = sum(len(frame.data) for frame in StoredClip("clip", cache, ((0, 0, 199, 0),)).frames())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read == 200 * frame_bytes
    assert most < 10 * frame_bytes


def test_the_newest_plan_of_a_request_is_the_one_used_last(tmp_path):
    folder = CacheFolder(tmp_path)
    assert folder.newest(REQUEST) is None
    for plan in ("one", "two"):
        folder.use(REQUEST, plan).close()
    folder.use("1" * 16, "other").close()
    os.utime(tmp_path / f"{REQUEST}-two.sqlite", (1, 1))
    assert folder.newest(REQUEST) == "one"
    folder.use(REQUEST, "two").close()
    assert folder.newest(REQUEST) == "two"


def test_what_nobody_used_for_long_is_removed_but_not_what_somebody_uses(tmp_path):
    folder = CacheFolder(tmp_path)
    held = folder.use(REQUEST, "held")
    clip = StoredClip("clip", held, ())
    folder.use(REQUEST, "old").close()
    folder.use(REQUEST, "new").close()
    for plan in ("held", "old"):
        os.utime(tmp_path / f"{REQUEST}-{plan}.sqlite", (1, 1))
    (tmp_path / "not-ours.txt").write_text("keep")
    assert folder.prune(days=1) == 1
    names = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    assert names == {f"{REQUEST}-held", f"{REQUEST}-new", "folder", "not-ours"}
    del held
    assert folder.prune(days=1) == 0, "a clip of it is still held"
    del clip
    assert folder.prune(days=1) == 1


def test_a_file_that_is_no_cache_is_said_in_one_line(tmp_path):
    folder = CacheFolder(tmp_path)
    (tmp_path / f"{REQUEST}-plan.sqlite").write_bytes(b"no database, but long enough to look like one" * 100)
    with pytest.raises(CacheError, match=r"plan\.sqlite: .*remove it"):
        folder.use(REQUEST, "plan")


def test_what_cameras_saw_is_its_owner_s_alone(tmp_path):
    CacheFolder(tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
