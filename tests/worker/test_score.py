"""``worker score`` refuses up front what it could not finish, and its files appear whole or not at all."""

import csv
import json
import os
from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from contract.alert import Alert, BundleReference
from contract.clip import Clip, SourceFrame, require_end
from contract.errors import ConfigError, FootageError
from contract.event import EventRule
from contract.frame import FrameLimits, Preprocessing
from contract.kafka_source import CAMERA_ID
from contract.source import open_source
from tests.calibrations import made_calibration
from tests.footage import write_scene
from worker.latents import denoise
from worker.score import COLUMNS, check_request, score_clips, write_scores

BRIGHT, DARK = 220, 40
VISIT = [DARK, BRIGHT, BRIGHT, BRIGHT, DARK, DARK, DARK, DARK]


def detector():
    """A detector whose map is the brightness of each 16 px cell, 0..10."""
    manifest = SimpleNamespace(
        preprocessing=Preprocessing(height=64, width=64),
        shape=SimpleNamespace(clip_frames=1, redrawn_frames=1),
        calibration=made_calibration(),
        event_rule=EventRule(min_frames=2, gap_frames=1, update_rise=0.5, update_frames=1),
        scene=None,
        drift=None,
    )
    reference = BundleReference(name="fake", version="1", digest="sha256:" + "a" * 64)

    def score(clips):
        cells = clips[:, -1, :, :, 0].reshape(len(clips), 4, 16, 4, 16).mean((2, 4)).astype(np.float32) / 25.5
        return cells.max((1, 2)), cells

    bundle = SimpleNamespace(manifest=manifest, reference=reference)
    return SimpleNamespace(bundle=bundle, score=score, scores_whole_batches=True)


@dataclass
class Made(Clip):
    name: str
    levels: list
    live: bool = False
    ranges: tuple = ()
    breaks: bool = False

    def frames(self):
        for index, level in enumerate(self.levels):
            pixels = np.full((64, 64), DARK, np.uint8)
            pixels[16:32, 32:48] = level
            yield SourceFrame(index, 100 * index, cv2.imencode(".png", pixels)[1].tobytes())
        if self.breaks:
            raise FootageError("it broke")


def rows_of(*clips, camera_id=None):
    return score_clips(detector(), clips, camera_id=camera_id, threshold=None, batch=4, limits=FrameLimits())


def read(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_scores_and_alerts_are_written_whole(tmp_path):
    out, events = tmp_path / "scores.csv", tmp_path / "events.jsonl"
    count, ended = write_scores(rows_of(Made("door", VISIT)), out, events)
    written = read(out)
    assert (count, tuple(written[0])) == (8, COLUMNS)
    assert [row["is_anomalous"] for row in written] == list("01110000")
    alerts = [Alert.model_validate_json(line) for line in events.read_text().splitlines()]
    assert [alert.type.split(".")[2] for alert in alerts][:: len(alerts) - 1] == ["started", "ended"]
    assert [alert.id for alert in ended] == [alerts[-1].id]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl", "scores.csv"]
    assert out.stat().st_mode & 0o777 == events.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_alerts_that_are_told_keep_no_picture(tmp_path):
    _, ended = write_scores(rows_of(Made("door", VISIT)), tmp_path / "s.csv", tmp_path / "e.jsonl")
    (alert,) = ended
    assert alert.data.snapshot is alert.data.heat_map is None
    assert json.loads((tmp_path / "e.jsonl").read_text().splitlines()[-1])["data"]["snapshot"] is not None


def test_a_failure_leaves_what_was_there_and_nothing_more(tmp_path):
    out, events = tmp_path / "scores.csv", tmp_path / "events.jsonl"
    for path in (out, events, tmp_path / "scores.csv.part", tmp_path / "events.jsonl.part"):
        path.write_text("mine")
    with pytest.raises(FootageError, match="it broke"):
        write_scores(rows_of(Made("door", VISIT, breaks=True)), out, events)
    names = ("scores.csv", "events.jsonl", "scores.csv.part", "events.jsonl.part")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "mine")
    write_scores(rows_of(Made("door", VISIT)), out, events)
    assert (tmp_path / "scores.csv.part").read_text() == (tmp_path / "events.jsonl.part").read_text() == "mine"


def test_alerts_stand_in_their_file_before_the_footage_ends(tmp_path):
    events = tmp_path / "events.jsonl"
    seen = []

    def rows():
        yield from rows_of(Made("door", VISIT * 400))
        seen.extend(path.stat().st_size for path in tmp_path.glob(".framewatch-*/*"))

    write_scores(rows(), tmp_path / "scores.csv", events)
    assert max(seen) > events.stat().st_size / 2


def check(tmp_path, clips=(), camera_id=None, out="scores.csv", events=None):
    events = tmp_path / events if events is not None else None
    check_request(clips, camera_id=camera_id, out=tmp_path / out, events=events)


@pytest.mark.parametrize("camera_id", ["my door", "", "a/b", "door\n", "\u0434", "a" * 129])
def test_a_camera_id_that_is_none_is_refused_before_any_work(tmp_path, camera_id):
    with pytest.raises(ConfigError, match="--camera-id"):
        check(tmp_path, camera_id=camera_id)
    check(tmp_path, camera_id="door-1_a.b")


def test_one_file_for_both_is_refused_however_it_is_named(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "scores.csv").write_text("mine")
    (tmp_path / "hard").hardlink_to(tmp_path / "scores.csv")
    (tmp_path / "soft").symlink_to(tmp_path / "scores.csv")
    for events in ("scores.csv", "inner/../scores.csv", "hard", "soft"):
        with pytest.raises(ConfigError, match="--events"):
            check(tmp_path, events=events)
    with pytest.raises(ConfigError, match="--events"):
        check(tmp_path, out="new", events="new")
    check(tmp_path, events="events.jsonl")


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "loop"):
        with pytest.raises(ConfigError, match="no regular file"):
            check(tmp_path, out=name)
        with pytest.raises(ConfigError, match="no regular file"):
            check(tmp_path, events=name)
    for name in (".", "nowhere/scores.csv"):
        with pytest.raises(ConfigError, match="folder"):
            check(tmp_path, out=name)


def test_a_camera_without_an_end_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="#0:2999"):
        check(tmp_path, [Made("door", VISIT, live=True)])
    check(tmp_path, [Made("door", VISIT, live=True, ranges=((0, 5),)), Made("yard", VISIT)])
    with pytest.raises(ConfigError, match="door has no end"):
        require_end([Made("yard", VISIT), Made("door", VISIT, live=True)])


@pytest.mark.parametrize("name", ["monday/door", "my door", "\u0434\u0432\u0435\u0440\u044c", "a" * 300, "caf\\xe9"])
def test_any_clip_s_name_gives_a_camera_id(tmp_path, name):
    write_scores(rows_of(Made(name, VISIT)), tmp_path / "scores.csv", tmp_path / "events.jsonl")
    row = read(tmp_path / "scores.csv")[0]
    assert CAMERA_ID.fullmatch(row["camera_id"])
    assert row["clip"] == name


def test_a_file_name_that_is_not_utf_8_is_scored(tmp_path):
    # Renamed afterwards: OpenCV itself crashes on such a name.
    folder = write_scene(tmp_path / "scene", 3).rename(tmp_path / os.fsdecode(b"caf\xe9"))
    write_scores(rows_of(*open_source(str(folder))), tmp_path / "scores.csv", None)
    row = read(tmp_path / "scores.csv")[0]
    assert row["clip"] == "caf\\xe9"
    out = tmp_path / os.fsdecode(b"\xe9.csv")
    write_scores(rows_of(Made("door", VISIT)), out, None)
    assert out.is_file()


@pytest.mark.parametrize(
    ("name", "place"),
    [("monday/door", "monday/door"), ("..", "__"), ("../up", "__/up"), (".", "_"), ("a..b", "a..b")],
)
def test_a_denoised_clip_has_its_own_folder_within_the_one_asked_for(tmp_path, name, place):
    shape = SimpleNamespace(clip_frames=1, redrawn_frames=1)
    manifest = SimpleNamespace(preprocessing=Preprocessing(height=64, width=64), shape=shape)
    halves = SimpleNamespace(encode=lambda images: images, decode=lambda latents: latents)
    assert denoise(halves, manifest, [Made(name, [DARK])], tmp_path / "out", FrameLimits()) == 1
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")] == [f"out/{place}/000000.png"]
