"""With the settings in force a replay of scores gives the worker's own events; with others, what they would give."""

import csv
import io
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rich.console import Console

import worker.rules
from contract.command_line import run_command_line
from contract.errors import ConfigError
from contract.event import EventRule, EventRuleChanges
from tests.calibrations import made_calibration
from tests.worker.recorded import recorded
from tests.worker.test_engine import BRIGHT, DARK, detector, frame, in_batches
from tests.worker.test_recorded_scores import write_file
from tests.worker.test_score import VISIT, Made
from worker.__main__ import app
from worker.engine import Engine
from worker.health_rule import HealthRule
from worker.profile import make_profile
from worker.recorded_scores import ScoredFrame
from worker.rules import Candidate, Replay
from worker.rules_curve import BINS, Curves, ScoreCurve
from worker.rules_plot import draw_rules
from worker.rules_report import COLUMNS, event_line, replay_scores, rows_of, table_of, write_csv, write_json_lines
from worker.rules_request import Asked, candidates, parse_thresholds, read_zones, wanted_frames
from worker.zones import Zones

BUNDLE = detector().bundle
RULE = BUNDLE.manifest.event_rule
RELEASE = BUNDLE.manifest.calibration.release_threshold
DIGEST = BUNDLE.reference.digest
SIMPLE = EventRule(min_frames=2, gap_frames=1)


def seen_by(name="in force", threshold=None, rule=RULE, release=RELEASE, in_zones=False):
    return Candidate(name, threshold, rule, release, in_zones)


def scored(score, offset, camera="door", **changes):
    fields = {"topic": "frames", "partition": 0, "captured_at_ms": 200 * offset, "threshold": 6.0, **changes}
    return ScoredFrame(camera_id=camera, offset=offset, score=score, **fields)


def replayed(frames, *tried, **more):
    """The replay at its end, and its events."""
    replay = Replay(tried or [seen_by(rule=SIMPLE, release=None)], **more)
    events = []
    replay_scores(frames, replay, [events.append], lambda _count: None)
    return replay, events


def places(events):
    return [(one.first.offset, one.peak.offset, one.last.offset, one.is_open) for one in events]


def facts_of(alert):
    data, frames = alert.data, alert.data.frames
    return (
        data.event_id, data.camera_id, frames.topic, frames.partition, frames.first_offset, frames.peak_offset,
        frames.last_offset, data.started_at_ms, data.peak_at_ms, data.ended_at_ms, data.peak_score, data.threshold,
    )  # fmt: skip


def facts(event):
    return (
        event.event_id, event.camera_id, event.topic, event.partition, event.first.offset, event.peak.offset,
        event.last.offset, event.first.captured_at_ms, event.peak.captured_at_ms, event.last.captured_at_ms,
        event.peak_score, event.threshold,
    )  # fmt: skip


def wandering(seed, count=400):
    """Frames of three cameras on two partitions, whose brightness wanders, holds still and is sometimes unreadable."""
    random = np.random.default_rng(seed)
    levels = dict.fromkeys("abc", 100.0)
    frames = []
    for offset in range(count):
        camera = "abc"[random.integers(3)]
        if random.random() > 0.3:
            levels[camera] = float(np.clip(levels[camera] + random.normal(0, 45), 20, 250))
        data = b"<html>" if random.random() < 0.03 else None
        frames.append(frame(offset, round(levels[camera]), camera, ord(camera) % 2, data))
    return frames


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("threshold", "changes"), [(None, {}), (5.0, {"gap_frames": 4}), (3.0, {"min_frames": 1}), (7.5, {"gap_frames": 0})]
)
def test_with_the_settings_in_force_the_events_are_the_worker_s_own(seed, threshold, changes):
    rule = EventRuleChanges(**changes)
    health = HealthRule(frozen_frames=3, gap_frames=0)
    engine = Engine(detector(), threshold=threshold, event_rule=rule.over(RULE), health_rule=health)
    outcomes = in_batches(engine, wandering(seed), 16)
    told = [alert for outcome in outcomes for alert in outcome.alerts] + engine.close_events()
    ended = [facts_of(one) for one in told if one.type == "framewatch.anomaly.ended.v1"]
    assert any(not outcome.counts and outcome.anomaly_score > 3 for outcome in outcomes if not outcome.error)
    tried = candidates(Asked(), SimpleNamespace(manifest=BUNDLE.manifest), rule)
    _, events = replayed(recorded(outcomes, engine), *tried, bundle_digest=DIGEST)
    assert len(ended) > 1
    assert sorted(map(facts, events)) == sorted(ended)


@pytest.mark.parametrize("seed", range(3))
def test_another_threshold_gives_what_an_engine_under_it_would_tell(seed):
    frames = wandering(seed)
    engine = Engine(detector())
    scores = recorded(engine.process(frames), engine)
    other = Engine(detector(), threshold=4.5, event_rule=SIMPLE)
    told = [alert for outcome in other.process(frames) for alert in outcome.alerts] + other.close_events()
    ended = [facts_of(one) for one in told if one.type.startswith("framewatch.anomaly.ended")]
    tried = [seen_by(), *(seen_by("tried", one, SIMPLE) for one in (3.0, 4.5, 8.0))]
    _, events = replayed(scores, *tried, bundle_digest=DIGEST)
    assert sorted(facts(one) for one in events if one.candidate == 2) == sorted(ended)


def test_a_frame_recorded_again_counts_once():
    scores = [1, 7, 7, 7, 1, 1, 1, 7, 7]
    frames = [scored(score, offset) for offset, score in enumerate(scores)]
    once, expected = replayed(frames)
    again, events = replayed(frames[:6] + frames[2:8] + frames[6:])
    assert events == expected
    assert places(events) == [(1, 1, 3, False), (7, 7, 8, True)]
    assert again.cameras["door"].frames == once.cameras["door"].frames == len(scores)
    assert again.passed_over == {"recorded again": 6}


def test_a_topic_made_anew_begins_its_cameras_anew():
    before = [scored(7, 90 + one) for one in range(3)]
    after = [scored(7, one, captured_at_ms=60_000 + 200 * one) for one in range(3)]
    replay, events = replayed(before + after)
    assert places(events) == [(90, 90, 92, True), (0, 0, 2, True)]
    assert (replay.cameras["door"].frames, replay.cameras["door"].watched_ms) == (6, 800)


def test_an_event_ends_where_a_file_has_a_gap():
    frames = [scored(7, 1), scored(7, 2), scored(7, 9, begins_anew=True), scored(7, 10)]
    assert places(replayed(frames)[1]) == [(1, 1, 2, True), (9, 9, 10, True)]


def test_a_worker_with_another_threshold_begins_its_events_anew_and_what_is_tried_goes_on():
    frames = [scored(7, offset, threshold=6.0 if offset < 3 else 5.0) for offset in range(6)]
    replay, events = replayed(frames, seen_by(rule=SIMPLE), seen_by("tried", 4.0, SIMPLE))
    assert [(one.candidate, one.threshold) for one in events] == [(0, 6.0), (0, 5.0), (1, 4.0)]
    assert places(events) == [(0, 0, 2, True), (3, 3, 5, True), (0, 0, 5, True)]
    assert replay.cameras["door"].tallies[0].threshold == 5.0


def test_cameras_of_one_name_on_two_partitions_are_followed_apart_and_counted_together():
    frames = [scored(7, offset, partition=offset % 2) for offset in range(8)]
    replay, events = replayed(frames)
    assert [(one.partition, one.first.offset) for one in events] == [(0, 0), (1, 1)]
    assert (replay.cameras["door"].frames, replay.cameras["door"].tallies[0].events) == (8, 2)


def test_cameras_beyond_the_most_are_counted_and_passed_over(monkeypatch):
    monkeypatch.setattr(worker.rules, "MAX_STREAMS", 2)
    replay, _ = replayed([scored(7, 1, camera) for camera in ("a", "b", "c", "c", "a")])
    assert set(replay.cameras) == {"a", "b"}
    assert sum(replay.passed_over.values()) == 3


def test_the_recorded_maps_give_the_scores_within_zones():
    engine = Engine(detector(), keep_maps=True)
    frames = recorded(engine.process([frame(i, level) for i, level in enumerate([DARK, BRIGHT, BRIGHT, DARK])]), engine,
                      with_map=True)  # fmt: skip
    bright_cell = ((0.5, 0.25), (0.75, 0.25), (0.75, 0.5), (0.5, 0.5))
    heard = []
    for zones in (Zones(), Zones(zones=(bright_cell,)), Zones(masks=(bright_cell,))):
        scores = []
        _, events = replayed(
            frames, seen_by(rule=SIMPLE), seen_by("tried", 6.0, SIMPLE, in_zones=True), zones=zones,
            on_score=lambda _frame, score, scores=scores: scores.append(score),
        )  # fmt: skip
        heard.append((scores, [one.candidate for one in events]))
    exact = [one.score for one in frames]
    # Where the cell is the highest of the frame, the score is the recorded one, to the last bit.
    assert heard[0] == (exact, [0, 1])
    assert heard[1] == (exact, [0, 1])
    assert heard[2] == ([pytest.approx(DARK / 25.5, abs=0.001)] * 4, [0])


def test_zones_that_are_tried_give_the_events_that_they_would_give_in_force():
    zones = Zones(masks=(((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)),))
    scorer = detector()
    scorer.bundle.manifest.shape.anomaly_map = (4, 4)
    drawn = np.random.default_rng(2)
    frames = []
    for number in range(120):
        pixels = drawn.integers(0, 60, (64, 64)).astype(np.uint8)
        if 20 <= number < 40 or 70 <= number < 75:
            pixels[:16, :16] = 200 + drawn.integers(0, 30)
        if number % 10 == 0:
            pixels[:16, 48:] = 255
        frames.append(frame(number, 0, data=cv2.imencode(".png", pixels)[1].tobytes()))
    without, within = Engine(scorer, keep_maps=True), Engine(scorer)
    profile = make_profile(scorer, zones=zones)
    within.use(lambda _camera, _at: profile)
    expected = {
        alert.data.event_id: alert.data.frames.last_offset
        for alert in [a for outcome in within.process(frames) for a in outcome.alerts] + within.close_events()
    }
    scores = recorded(without.process(frames), without, with_map=True)
    rule = scorer.bundle.manifest.event_rule
    release = scorer.bundle.manifest.calibration.release_threshold
    tried = Candidate("tried", 6.0, rule, release, in_zones=True)
    _, events = replayed(scores, tried, zones=zones, bundle_digest=scorer.bundle.reference.digest)

    assert len(events) == 2
    assert {one.event_id: one.last.offset for one in events} == expected


def test_frames_without_a_map_or_a_place_in_it_are_counted_and_passed_over():
    small = np.ones((1, 1), np.float32)
    zones = Zones(zones=(((0, 0), (0.3, 0), (0.3, 0.3)),))
    frames = [scored(7, 1), scored(7, 2, anomaly_map=small), scored(1, 3, anomaly_map=np.ones((8, 8), np.float32))]
    replay, _ = replayed(frames, seen_by(in_zones=True), zones=zones)
    assert sum(replay.passed_over.values()) == 2
    assert replay.passed_over["without a map"] == 1
    assert replay.cameras["door"].frames == 1


def test_a_silence_counts_as_a_minute_and_no_clock_runs_backwards():
    times = [0, 1000, 500, 86_400_000, 86_401_000]
    replay, _ = replayed([scored(1, i, captured_at_ms=at_ms) for i, at_ms in enumerate(times)])
    assert replay.cameras["door"].watched_ms == 1000 + 0 + 60_000 + 1000


# What is asked


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), []),
        (("3",), [3.0]),
        (("2.0:3.0:0.5", "2.5"), [2.0, 2.5, 3.0]),
        (("2.0:2.3:0.1",), [2.0, 2.1, 2.2, 2.3]),
        (("-1:1:1.5",), [-1.0, 0.5]),
    ],
)
def test_thresholds_are_scores_and_ranges_with_both_ends(texts, expected):
    assert parse_thresholds(texts) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "high",
        "nan",
        "inf",
        "100",
        "2:3",
        "2:3:0",
        "2:3:-1",
        "3:2:0.5",
        "2:3:1e-300",
        "2:3:0.001",
        "1:2:3:4",
        "2::1",
    ],
)
def test_what_is_no_threshold_is_named(text):
    with pytest.raises(ConfigError, match="--threshold") as caught:
        parse_thresholds((text,))
    assert text in str(caught.value)


def test_what_was_in_force_comes_first_and_changes_are_over_it():
    asked = Asked(("5", "4"), (1.0,), 3.5, EventRuleChanges(min_frames=9))
    bundle = SimpleNamespace(manifest=BUNDLE.manifest)
    in_force, *tried = candidates(asked, bundle, EventRuleChanges(gap_frames=7))
    assert in_force == Candidate("in force", None, RULE.model_copy(update={"gap_frames": 7}), RELEASE)
    budget = made_calibration().threshold_for(1.0)
    assert [(one.name, one.threshold) for one in tried] == sorted(
        [("tried", 4.0), ("tried", 5.0), ("1 a day", budget)], key=lambda one: one[1]
    )
    assert {(one.rule.min_frames, one.rule.gap_frames, one.release_threshold) for one in tried} == {(9, 7, 3.5)}


def test_a_rule_alone_is_tried_at_the_recorded_threshold():
    _, tried = candidates(Asked(rule=EventRuleChanges(min_frames=2)), None, EventRuleChanges())
    assert (tried.threshold, tried.rule.min_frames, tried.release_threshold) == (None, 2, None)
    assert tried.tracker(5.5).threshold == tried.tracker(5.5).release_threshold == 5.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zones: [[[0, 0], [1, 0]]]", "zones.0"),
        ("zones: [[[0, 0], [1, 0], [2, 2]]]", "zones.0.2"),
        ("masks: all", "masks"),
        ("areas: []", "areas"),
        ("- 1", "top level"),
        ("zones: [", "YAML"),
    ],
)
def test_a_wrong_file_of_zones_names_its_field(tmp_path, text, said):
    (tmp_path / "z.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_zones(tmp_path / "z.yaml")


def test_a_range_of_time_is_that_of_captures():
    wanted = wanted_frames(None, "2026-11-01T00:00:00Z", "1793491201000", maps=False)
    at_ms = 1_793_491_200_000
    assert [wanted.has(scored(1, 1, captured_at_ms=at_ms + one)) for one in (-1, 0, 999, 1000)] == [
        False, True, True, False,
    ]  # fmt: skip


# What is told


def told():
    frames = [scored(score, i) for i, score in enumerate([1, 7, 8, 1, 1, 1, 7, 7])]
    return replayed([*frames, scored(1, 0, "[yard]")], seen_by(rule=SIMPLE), seen_by("tried", 7.5, SIMPLE))


def test_rows_are_numbers_for_scripts_and_a_table_for_people():
    replay, _ = told()
    rows = list(rows_of(replay))
    assert [(one["camera_id"], one["settings"], one["events"]) for one in rows] == [
        ("[yard]", "in force", 0), ("[yard]", "tried", 0), ("door", "in force", 2), ("door", "tried", 0),
    ]  # fmt: skip
    assert rows[2] == {
        "camera_id": "door", "frames": 8, "hours": 0.0004, "settings": "in force", "threshold": 6.0, "events": 2,
        "open_events": 1, "events_a_day": round(2 * 86_400 / 1.4, 3), "longest_seconds": 0.2, "highest_peak": 8,
    }  # fmt: skip
    assert (rows[0]["events_a_day"], rows[0]["highest_peak"]) == (None, None)
    as_csv, as_json = io.StringIO(), io.StringIO()
    write_csv(rows, as_csv)
    write_json_lines(rows, as_json)
    assert as_csv.getvalue().splitlines()[0] == ",".join(COLUMNS)
    assert [row["events"] for row in csv.DictReader(io.StringIO(as_csv.getvalue()))] == ["0", "0", "2", "0"]
    assert [json.loads(line) for line in as_json.getvalue().splitlines()] == rows
    shown = io.StringIO()
    Console(file=shown, width=160).print(table_of(rows))
    assert "[yard]" in shown.getvalue()
    assert "2 (1 open)" in shown.getvalue()


def test_each_event_is_a_line():
    replay, events = told()
    lines = [json.loads(event_line(replay, one)) for one in events]
    assert [(one["started_at_ms"], one["peak_at_ms"], one["ended_at_ms"], one["is_open"]) for one in lines] == [
        (200, 400, 400, False), (1200, 1200, None, True),
    ]  # fmt: skip
    assert lines[0]["frames"] == {
        "topic": "frames", "partition": 0, "first_offset": 1, "peak_offset": 2, "last_offset": 2,
    }  # fmt: skip


# The curve and the picture


@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_a_curve_keeps_the_lowest_and_the_highest_of_each_stretch(order):
    random = np.random.default_rng(2)
    times = np.sort(random.integers(0, 50_000_000, 20_000))
    scores = random.normal(0, 1, len(times)).astype(np.float32)
    places_of = {"rising": slice(None), "falling": slice(None, None, -1), "shuffled": random.permutation(len(times))}
    curve = ScoreCurve()
    for at_ms, score in zip(times[places_of[order]].tolist(), scores[places_of[order]].tolist(), strict=True):
        curve.add(at_ms, score)
    drawn_times, drawn = curve.points()
    drawn = drawn[~np.isnan(drawn)]
    assert BINS // 2 - 2 <= len(drawn) <= 2 * BINS
    assert (drawn.min(), drawn.max()) == (scores.min(), scores.max())
    width = np.diff(np.unique(drawn_times)).min()
    assert width >= 50_000_000 / BINS
    for begin in np.unique(drawn_times)[::50]:
        within = scores[(times >= begin) & (times < begin + width)]
        assert drawn[np.flatnonzero(curve.points()[0] == begin)].tolist() == [within.min(), within.max()]


def test_a_silence_breaks_the_curve_and_events_are_marked_where_they_were():
    curve = ScoreCurve()
    for at_ms in [*range(0, 100_000, 100), *range(900_000, 1_000_000, 100)]:
        curve.add(at_ms, 1.0)
    curve.mark(3, 20_000, 30_000)
    curve.mark(3, 950_000, 960_000)
    curve.add(20_000_000, 2.0)
    assert np.isnan(curve.points()[1]).sum() == 2
    width = np.diff(np.unique(curve.points()[0])).min()
    spans = list(curve.spans(3))
    assert [begin for begin, _ in spans] == [pytest.approx(20_000, abs=width), pytest.approx(950_000, abs=width)]
    assert all(length <= 10_000 + 2 * width for _, length in spans)
    assert list(curve.spans(0)) == []


@pytest.mark.parametrize(
    "frames",
    [
        [scored(1, 1)],
        [scored(-100, 1), scored(100, 2), scored(100, 3)],
        [scored(7, 1, captured_at_ms=0), scored(7, 2, captured_at_ms=253_402_300_799_000), scored(7, 3)],
        [scored(one % 9, one // 14, f"cam{one % 14}$") for one in range(1400)],
        [
            scored(one % 9, one, f"cam{one % 2}", captured_at_ms=(one % 2) * 1_795_000_000_000 + one)
            for one in range(99)
        ],
    ],
)
def test_whatever_was_recorded_is_drawn(tmp_path, frames):
    curves = Curves()
    tried = [seen_by(rule=SIMPLE), *(seen_by("tried", 2.0 + one / 4, SIMPLE) for one in range(12))]
    replay = Replay(tried, on_score=curves.add)
    replay_scores(frames, replay, [curves.mark], lambda _count: None)
    draw_rules(replay, curves, tmp_path / "rules.png")
    picture = cv2.imread(str(tmp_path / "rules.png"))
    assert picture.shape[1] == 1320
    assert (picture == 255).mean() > 0.5


# The command


def run(*arguments):
    return run_command_line(app, "worker", ["rules", *map(str, arguments)])


def test_a_file_is_replayed_from_the_command_line(tmp_path, capsys):
    write_file(tmp_path / "scores.csv", Made("door", VISIT * 3))
    events, plot = tmp_path / "events.jsonl", tmp_path / "rules.png"
    code = run(
        "--scores", tmp_path / "scores.csv", "--threshold", "8:9:1", "--min-frames", 2, "--gap-frames", 1,
        "--events", events, "--plot", plot,
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "no bundle named" in said.err
    rows = list(csv.DictReader(io.StringIO(said.out)))
    # The default rule in force asks for four frames; each visit has three, of 8.6.
    assert [(row["threshold"], row["events"]) for row in rows] == [("6.0", "0"), ("8.0", "3"), ("9.0", "0")]
    assert [json.loads(line)["frames"]["first_offset"] for line in events.read_text().splitlines()] == [1, 9, 17]
    assert cv2.imread(str(plot)) is not None
    assert run("--scores", tmp_path / "scores.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["camera_id"] == "door"


def test_where_there_is_no_such_score_nothing_is_written(tmp_path, capsys):
    write_file(tmp_path / "scores.csv", Made("door", VISIT))
    events = tmp_path / "events.jsonl"
    assert run("--scores", tmp_path / "scores.csv", "--camera-id", "yard", "--events", events) == 1
    assert "holds no score" in capsys.readouterr().err
    assert not events.exists()
