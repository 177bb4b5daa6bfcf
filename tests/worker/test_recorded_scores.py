"""What is read back is what was recorded; what anyone else wrote is counted and passed over."""

import base64
import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from contract.errors import ConfigError
from contract.frame import FrameLimits
from tests.worker.recorded import as_record, recorded, score_of
from tests.worker.test_engine import BRIGHT, detector, frame
from tests.worker.test_score import VISIT, Made
from tests.worker.test_score import detector as score_detector
from worker.console.reading import read_score as read_for_console
from worker.engine import Engine
from worker.recorded_scores import Wanted, read_file, read_score
from worker.records import MAX_SCORE_BYTES, score_record
from worker.score import COLUMNS, score_clips, write_scores

HUGE = 10**400


def map_of(cells):
    held = np.asarray(cells, "<f2")
    return {"shape": held.shape, "float16": base64.b64encode(held.tobytes()).decode()}


def test_a_score_comes_back_as_it_was_recorded():
    engine = Engine(detector(), keep_maps=True)
    (outcome,) = engine.process([frame(7, BRIGHT)])
    (read,) = recorded([outcome], engine, with_map=True)
    assert (read.camera_id, read.topic, read.partition, read.offset) == ("door", "frames", 0, 7)
    assert (read.captured_at_ms, read.score, read.threshold) == (7000, outcome.anomaly_score, 6.0)
    assert read.anomaly_map.shape == (4, 4)
    assert read.anomaly_map == pytest.approx(outcome.anomaly_map, abs=0.004)


def test_a_map_is_recorded_where_it_is_asked_for_and_is_a_copy():
    fake = detector()
    engine = Engine(fake, keep_maps=True)
    (outcome,) = engine.process([frame(0, BRIGHT)])
    assert outcome.anomaly_map.base is None
    told = json.loads(score_record(outcome, "scores").value)["anomaly_map"]
    assert told["shape"] == [4, 4]
    cells = np.frombuffer(base64.b64decode(told["float16"]), "<f2").reshape(4, 4)
    assert np.argwhere(cells == cells.max()).tolist() == [[1, 2]]
    (without,) = Engine(fake).process([frame(0, BRIGHT)])
    assert without.anomaly_map is None
    assert "anomaly_map" not in json.loads(score_record(without, "scores").value)


def test_the_largest_map_there_can_be_is_read_here_and_by_the_console():
    cells = np.random.default_rng(0).normal(0, 30, (256, 256)).astype(np.float32)
    (outcome,) = Engine(detector()).process([frame(0, BRIGHT)])
    object.__setattr__(outcome, "anomaly_map", cells)
    sent = as_record(score_record(outcome, "scores"))
    assert len(sent.value) <= MAX_SCORE_BYTES
    assert read_score(sent, with_map=True).anomaly_map == pytest.approx(cells, rel=1e-3, abs=1e-3)
    assert read_for_console(SimpleNamespace(**vars(sent), timestamp=1), 2).score == outcome.anomaly_score


BAD = [
    b"", None, b"[]", b"{}", b"\xff", b"[" * 100_000, b"x" * (MAX_SCORE_BYTES + 1),
    *(
        score_of(1, 2.0, **{name: value}).value
        for name, value in (
            ("camera_id", "<b>"), ("camera_id", "door\n"), ("topic", ""), ("topic", "x" * 250), ("topic", None),
            ("partition", -1), ("offset", -1), ("offset", HUGE), ("offset", "one"), ("captured_at_ms", -1),
            ("captured_at_ms", HUGE), ("anomaly_score", float("nan")), ("anomaly_score", 101),
            ("anomaly_score", None), ("threshold", float("inf")), ("threshold", -101), ("counts", "perhaps"),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_score_is_refused(value):
    with pytest.raises(ValueError, match=r"no score|too large"):
        read_score(SimpleNamespace(key=b"door", value=value), with_map=False)


@pytest.mark.parametrize("key", [None, b"", b"yard", b"\xff"])
def test_a_score_under_another_key_is_refused(key):
    with pytest.raises(ValueError, match="of another key"):
        read_score(score_of(1, 2.0, key=key), with_map=False)


@pytest.mark.parametrize(
    "held",
    [
        {}, [], {"shape": [2, 2]}, {**map_of([[1, 2]]), "shape": [2, 2]}, {**map_of([[1, 2]]), "shape": [1, 300]},
        {**map_of([[1, 2]]), "shape": [0, 2]}, {**map_of([[1, 2]]), "shape": [HUGE, 2]},
        {**map_of([[1, 2]]), "float16": "%%%"}, {**map_of([[1, 2]]), "float16": "AAA"},
        map_of([[1, np.nan]]), map_of([[1, np.inf]]),
    ],
)  # fmt: skip
def test_what_is_no_map_is_refused_where_maps_are_wanted_and_otherwise_passed_over(held):
    record = score_of(1, 2.0, anomaly_map=held)
    assert read_score(record, with_map=False).anomaly_map is None
    with pytest.raises(ValueError, match=r"no map|no score"):
        read_score(record, with_map=True)


def write_file(path, *clips):
    rows = score_clips(score_detector(), clips, camera_id=None, threshold=None, batch=4, limits=FrameLimits())
    return write_scores(rows, path, None)


def test_a_file_gives_its_scores_to_the_last_bit(tmp_path):
    write_file(tmp_path / "scores.csv", Made("door", VISIT), Made("yard", VISIT[:3]))
    read = list(read_file(tmp_path / "scores.csv", Wanted()))
    bright = float(np.float32(np.mean(np.full((16, 16), 220, np.uint8))) / np.float32(25.5))
    assert [one.score == bright for one in read[:8]] == [False, True, True, True] + [False] * 4
    assert [(one.camera_id, one.topic, one.offset) for one in read[7:9]] == [("door", "door", 7), ("yard", "yard", 0)]
    assert [one.begins_anew for one in read] == [True] + [False] * 7 + [True] + [False] * 2
    assert [one.camera_id for one in read_file(tmp_path / "scores.csv", Wanted(camera_id="yard"))] == ["yard"] * 3
    assert [one.offset for one in read_file(tmp_path / "scores.csv", Wanted("door", 200, 500))] == [2, 3, 4]


def test_a_gap_in_a_file_begins_anew_and_an_unwell_camera_s_high_score_does_not_count(tmp_path):
    lines = [
        ("door", "clip", 4, 400, 7.0, 6.0, 1),
        ("door", "clip", 5, 500, 7.0, 6.0, 0),
        ("door", "clip", 9, 900, 2.0, 6.0, 0),
    ]
    with (tmp_path / "s.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
    read = list(read_file(tmp_path / "s.csv", Wanted()))
    assert [(one.begins_anew, one.counts) for one in read] == [(True, True), (False, False), (True, True)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("door,clip,1,100,2.0,6.0", "line 2"),
        ("door,clip,one,100,2.0,6.0,0", "line 2"),
        ("door,clip,1,100,nan,6.0,0", "score or threshold"),
        ("door,clip,1,100,1e99,6.0,0", "score or threshold"),
        ("door,clip,-1,100,2.0,6.0,0", "out of range"),
        ("<b>,clip,1,100,2.0,6.0,0", "no such name"),
        (f"door,{'x' * 2000},1,100,2.0,6.0,0", "no such name"),
        (f"door,{'x' * 200_000},1,100,2.0,6.0,0", "line 2: field larger"),
        ("door,\xff,1,100,2.0,6.0,0", "not UTF-8"),
    ],
)
def test_a_line_that_worker_score_did_not_write_is_named(tmp_path, line, said):
    path = tmp_path / "s.csv"
    path.write_bytes((",".join(COLUMNS) + "\n" + line + "\n").encode("latin-1"))
    with pytest.raises(ConfigError, match=said):
        list(read_file(path, Wanted()))
