"""Rows and offsets are written together, whatever comes twice changes nothing, and what is too old or too much goes."""

import itertools
import sqlite3
import stat

import cv2
import numpy as np
import pytest

from contract.errors import ConfigError
from tests.worker.console.records import NOW, anomaly, event_id, health, jpeg, picture, record, said, score
from worker.console import schema
from worker.console.cameras import list_cameras
from worker.console.queries import Wanted, curve, find_event, find_picture, list_bars, list_events, list_notices
from worker.console.reading import read_alert, read_score, read_verdict
from worker.console.schema import held, reading
from worker.console.store import Store

DAY_MS = 86_400_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "console.sqlite"


@pytest.fixture
def store(path):
    opened = Store(path, max_cameras=10)
    yield opened
    opened.close()


def alerts(*given, now=NOW):
    return [read_alert(record(value, timestamp=now), now) for value in given]


def scores(*given, now=NOW + 10**6):
    return [read_score(record(value, timestamp=now), now) for value in given]


def verdicts(*given):
    return [read_verdict(record(value), NOW) for value in given]


def put(store, rows, offsets=None):
    return store.apply(rows, offsets or {}, {})


def dump(path):
    with reading(path) as connection:
        return {
            table: sorted(map(tuple, connection.execute(f"SELECT * FROM {table}")), key=repr)
            for table in ("events", "pictures", "notices", "verdicts", "scores", "minutes", "offsets")
        }


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_latest_transition_wins_whatever_comes_first(store, path, order):
    told = [
        anomaly(),
        anomaly(transition="updated", update=1, peak_score=5.0, peak_at_ms=NOW + 900, snapshot=picture(jpeg(level=10))),
        anomaly(transition="updated", update=2, peak_score=6.0, peak_at_ms=NOW + 950, snapshot=picture(jpeg(level=20))),
        anomaly(transition="ended", peak_score=6.0, peak_at_ms=NOW + 950, snapshot=None, heat_map=None),
    ]
    for place in order:
        put(store, alerts(told[place]))
    with reading(path) as connection:
        event = find_event(connection, event_id(1))
        assert (event["state"], event["peak_score"], event["ended_at_ms"]) == ("ended", 6.0, NOW + 2_000)
        assert find_picture(connection, event_id(1), "snapshot") == jpeg(level=20), "the peak's own picture"


def test_what_comes_twice_changes_nothing(store, path):
    rows = [
        *alerts(anomaly(), anomaly(transition="ended"), health()), *verdicts(said()), *scores(score(1, 2), score(2, 4)),
    ]  # fmt: skip
    put(store, rows)
    before = dump(path)
    put(store, [*rows, *reversed(rows)])
    after = dump(path)
    latest = {"events", "pictures"}
    assert {name: rows for name, rows in after.items() if name not in latest} == {
        name: rows for name, rows in before.items() if name not in latest
    }
    assert after == before


def test_an_alert_of_another_camera_takes_no_event_over(store, path):
    put(store, alerts(anomaly()))
    other = anomaly(transition="ended", camera_id="yard").replace(event_id(1, "yard").encode(), event_id(1).encode())
    assert put(store, alerts(other)).event_ids == set()
    with reading(path) as connection:
        assert find_event(connection, event_id(1))["camera_id"] == "door"


def test_the_last_verdict_counts_and_only_of_the_event_s_own_camera(store, path):
    put(store, alerts(anomaly()))
    changed = put(store, verdicts(said(verdict="confirmed"), said(verdict="false_alarm", note="a cat")))
    assert changed.event_ids == {event_id(1)}
    with reading(path) as connection:
        assert find_event(connection, event_id(1))["said"]["verdict"] == "false_alarm"
        assert [event["said"]["note"] for event in list_events(connection, Wanted(text="CAT"), 10)] == ["a cat"]


def test_rows_and_offsets_stand_or_fall_together(store, path):
    put(store, alerts(anomaly()), {("alerts", 0): 7})
    broken = alerts(anomaly(2))[0]._replace(severity=None)
    with pytest.raises(sqlite3.IntegrityError):
        store.apply([*alerts(anomaly(3)), *scores(score(1, 2, "new")), broken], {("alerts", 0): 9}, {"alert": 1})
    assert store.offsets() == {("alerts", 0): 7}
    with reading(path) as connection:
        assert len(list_events(connection, Wanted(), 10)) == 1
    put(store, scores(score(1, 2, "new")))
    with reading(path) as connection:
        assert len(curve(connection, "new", NOW, NOW + 60_000, 100)["points"]) == 1


def test_a_restart_goes_on_where_the_rows_end(store, path):
    put(store, [*alerts(anomaly()), *scores(score(1, 2))], {("alerts", 0): 1, ("scores", 3): 2})
    store.close()
    again = Store(path, max_cameras=10)
    try:
        assert again.offsets() == {("alerts", 0): 1, ("scores", 3): 2}
        before = dump(path)
        put(again, scores(score(1, 2)))
        assert dump(path) == before
    finally:
        again.close()


@pytest.mark.parametrize("damage", ["version", "garbage", "empty"])
def test_a_file_of_another_version_or_none_is_made_anew_and_read_from_the_beginning(store, path, damage, monkeypatch):
    put(store, alerts(anomaly()), {("alerts", 0): 1})
    store.close()
    if damage == "version":
        monkeypatch.setattr(schema, "SCHEMA_VERSION", "0")
    else:
        for one in path.parent.glob("console.sqlite*"):
            one.write_bytes(b"garbage" * 5_000 if damage == "garbage" else b"")
    again = Store(path, max_cameras=10)
    try:
        assert again.offsets() == {}
        assert dump(path)["events"] == []
        put(again, alerts(anomaly()), {("alerts", 0): 1})
    finally:
        again.close()


def test_rows_of_another_cluster_are_dropped(store, path):
    assert store.belongs_to("cluster-1 alerts")
    put(store, [*alerts(anomaly()), *scores(score(1, 2))], {("alerts", 0): 1})
    assert store.belongs_to("cluster-1 alerts")
    assert store.offsets()
    assert not store.belongs_to("cluster-2 alerts")
    assert {name for name, rows in dump(path).items() if rows} == set()
    put(store, scores(score(1, 2)))


def test_one_console_holds_a_database(path):
    with held(path), pytest.raises(ConfigError, match="another console"), held(path):
        pass
    with held(path):
        pass
    with pytest.raises(ConfigError, match="cannot be used"), held(path.parent / "nowhere" / "x"):
        pass


def test_its_owner_alone_may_read_it(store, path):
    put(store, alerts(anomaly()))
    for file in path.parent.glob("console.sqlite*"):
        assert not file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), file


def test_scores_of_too_many_cameras_are_counted_and_passed_over(store, path):
    put(store, scores(*(score(1, 2, f"camera-{number}") for number in range(13))))
    with reading(path) as connection:
        assert len(list_cameras(connection, NOW, 60)) == 10
        assert dict(map(tuple, connection.execute("SELECT * FROM counts"))) == {"too_many_cameras": 3}


def prune(store, now, days=30.0, hours=2.0, most=2**40):
    for _ in range(200):
        if not store.prune(now, days, hours, most):
            return
    pytest.fail("there is always more to delete")


def test_what_is_old_goes_and_what_is_young_stays(store, path):
    later = NOW + 40 * DAY_MS
    put(store, [*alerts(anomaly(1), health()), *verdicts(said(1)), *scores(score(1, 2), score(2, 5))])
    put(store, alerts(anomaly(2, at_ms=later), now=later))
    put(store, scores(score(3, 2, at_ms=later), now=later))
    prune(store, later)
    held_rows = dump(path)
    assert [row[0] for row in held_rows["events"]] == [event_id(2)]
    assert {row[0] for row in held_rows["pictures"]} == {event_id(2)}
    assert held_rows["notices"] == held_rows["verdicts"] == []
    assert len(held_rows["scores"]) == len(held_rows["minutes"]) == 1


def test_raw_scores_go_sooner_and_their_minute_keeps_the_highest(store, path):
    put(store, scores(*(score(number, number % 7, at_ms=NOW + number) for number in range(50))))
    prune(store, NOW + 3 * 3_600_000)
    assert dump(path)["scores"] == []
    with reading(path) as connection:
        points = curve(connection, "door", NOW - 60_000, NOW + 60_000, 100)["points"]
    assert [point[1:] for point in points] == [[6.0, 3.0]]


def test_a_camera_of_which_nothing_is_held_gives_its_place_up(store, path):
    put(store, scores(*(score(1, 2, f"camera-{number}") for number in range(10))))
    prune(store, NOW + 40 * DAY_MS)
    put(store, scores(score(1, 2, "new", at_ms=NOW + 40 * DAY_MS), now=NOW + 40 * DAY_MS))
    with reading(path) as connection:
        assert [camera["camera_id"] for camera in list_cameras(connection, NOW, 60)] == ["new"]


def test_beyond_its_size_the_oldest_goes_first_and_the_file_shrinks(store, path):
    rng = np.random.default_rng(0)
    for number in range(120):
        noise = cv2.imencode(".jpg", rng.integers(0, 255, (160, 240, 3), np.uint8))[1].tobytes()
        value = anomaly(number, at_ms=NOW + number * 1000, snapshot=picture(noise), heat_map=None)
        put(store, alerts(value, now=NOW + number * 1000 + 1))
    store.close()
    before = path.stat().st_size
    store = Store(path, max_cameras=10)
    prune(store, NOW + 200_000, most=before // 2)
    store.close()
    assert path.stat().st_size <= before * 0.6
    with reading(path) as connection:
        events = list_events(connection, Wanted(), 200)
    assert 20 < len(events) < 100
    assert events[0]["event_id"] == event_id(119)
    assert [event["event_id"] for event in events] == [event_id(119 - place) for place in range(len(events))]


def test_a_curve_holds_the_highest_of_each_stretch(store, path):
    put(store, scores(*(score(number, 9.0 if number == 33 else 1.0) for number in range(100))))
    with reading(path) as connection:
        answer = curve(connection, "door", NOW, NOW + 20_000, 10)
        assert curve(connection, "nobody", NOW, NOW + 20_000, 10)["points"] == []
    assert len(answer["points"]) <= 11
    assert [point[1] for point in answer["points"]].count(9.0) == 1


def test_events_are_filtered_searched_and_paged(store, path):
    for number in range(7):
        severity = "low" if number % 2 else "critical"
        put(store, alerts(anomaly(number, at_ms=NOW + number // 2, severity=severity, bundle="100%_room")))
    put(store, alerts(anomaly(3, "ended", at_ms=NOW + 1, severity="low"), anomaly(9, camera_id="yard")))
    put(store, verdicts(said(2)))

    def ids(**wanted):
        with reading(path) as connection:
            return {event["event_id"] for event in list_events(connection, Wanted(**wanted), 100)}

    assert ids(camera_id="yard") == {event_id(9, "yard")}
    assert ids(state="ended") == {event_id(3)}
    assert len(ids(severity="critical")) == 4
    assert ids(verdict="confirmed") == {event_id(2)}
    assert len(ids(verdict="none")) == 7
    assert len(ids(text="100%_ROOM")) == 6
    assert ids(text="100%x") == set()
    assert ids(text="'; DROP TABLE events; --") == set()
    pages, before = [], None
    while True:
        with reading(path) as connection:
            page = list_events(connection, Wanted(before=before), 3)
        if not page:
            break
        pages += [event["event_id"] for event in page]
        before = page[-1]["sorted_at_ms"], page[-1]["event_id"]
    assert len(pages) == len(set(pages)) == 8


def test_bars_are_of_what_lies_in_the_time_asked_for(store, path):
    put(store, alerts(anomaly(1), anomaly(1, "ended"), anomaly(2, at_ms=NOW)))
    with reading(path) as connection:
        assert {bar["event_id"] for bar in list_bars(connection, NOW + 1_000, NOW + 9_000)} == {
            event_id(1),
            event_id(2),
        }
        assert {bar["event_id"] for bar in list_bars(connection, NOW + 3_000, NOW + 9_000)} == {event_id(2)}, "open"
        assert list_bars(connection, NOW - 9_000, NOW - 1_000) == []


def test_a_health_alert_is_trouble_until_it_has_ended(store, path):
    put(store, alerts(health("yard", "blind")))
    with reading(path) as connection:
        (camera,) = list_cameras(connection, NOW, 60)
    assert camera["trouble"]["state"] == "blind"
    put(store, alerts(health("yard", "blind", ended_at_ms=NOW + 100)))
    put(store, alerts(health("yard", "blind")))
    with reading(path) as connection:
        assert list_cameras(connection, NOW, 60) == []
        assert [notice["ended_at_ms"] for notice in list_notices(connection)] == [NOW + 100]


def test_a_camera_without_scores_for_long_is_silent(store, path):
    put(store, [*scores(score(0, 2), score(1, 3.5)), *alerts(anomaly(5))])
    with reading(path) as connection:
        (camera,) = list_cameras(connection, NOW + 1_000, 60)
        (later,) = list_cameras(connection, NOW + 100_000, 60)
    assert (camera["is_silent"], camera["frames_per_minute"], camera["last_score"]) == (False, 2, 3.5)
    assert (later["is_silent"], later["frames_per_minute"]) == (True, 0)
    assert (camera["events_a_day"], camera["open_events"]) == (1, 1)
