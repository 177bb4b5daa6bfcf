import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from contract.event import EventRule
from deploy.probed import Probed, read_pictures, split, thinned
from deploy.probes import KINDS, Box, Pictures, Probe, ProbeMaker
from deploy.recall import BUDGETS, is_found, page
from trainer.metrics import track_events
from trainer.scored import ScoredStretch

RATE = 10.0


@pytest.fixture(scope="module")
def street() -> Pictures:
    """A noisy street at 10 frames/s on which a bright thing moves 3 pixels a frame to the right, again and again."""
    random = np.random.default_rng(0)
    houses = random.uniform(40, 160, (8, 12, 3)).astype(np.float32)
    ground = cv2.GaussianBlur(cv2.resize(houses, (180, 120), interpolation=cv2.INTER_NEAREST), (0, 0), 1)
    texture = random.uniform(180, 250, (18, 10, 3))
    pictures = []
    for index in range(120):
        picture = ground + random.normal(0, 1.5, ground.shape)
        left = 3 * index % 160
        picture[50:68, left : left + 10] = texture
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    return Pictures("street", pictures, RATE)


@pytest.fixture
def maker(street: Pictures) -> ProbeMaker:
    other = np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8)
    return ProbeMaker(street, [other], seed=3)


def changed(probe: Probe, street: Pictures) -> np.ndarray:
    start = int(probe.clip.name.rsplit(" ", 1)[1])
    before = street.pictures[start : start + len(probe.clip.pictures)]
    return np.stack([cv2.absdiff(one, other).max(2) for one, other in zip(probe.clip.pictures, before, strict=True)])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"sped up", "reversed", "covered"}])
def test_something_is_put_in_within_its_box_and_nowhere_else(kind, maker, street):
    probe = maker.make(kind)
    assert probe.first == 10
    assert len(probe.clip.pictures) == 35
    levels = changed(probe, street)
    assert levels[: probe.first].max() == 0
    for step, box in enumerate(probe.boxes):
        picture = levels[probe.first + step]
        left, top = int(box.left) - 2, int(box.top) - 2
        inside = picture[max(top, 0) : int(box.bottom) + 3, max(left, 0) : int(box.right) + 3].copy()
        assert inside.max() > 8
        picture[max(top, 0) : int(box.bottom) + 3, max(left, 0) : int(box.right) + 3] = 0
        assert picture.max() == 0


def test_what_is_fast_moves_at_two_to_four_times_the_pace(maker):
    steps = {kind: np.diff([box.left for box in maker.make(kind).boxes]) for kind in ("fast", "foreign", "abandoned")}
    assert np.all((steps["fast"] > 2 * 2.2) & (steps["fast"] < 4 * 3.8))
    assert np.all((steps["foreign"] > 2.2) & (steps["foreign"] < 3.8))
    assert not steps["abandoned"].any()


def test_the_whole_picture_runs_faster_backwards_or_dark(maker, street):
    fast, back, dark = (maker.make(kind) for kind in ("sped up", "reversed", "covered"))
    assert [probe.boxes for probe in (fast, back, dark)] == [None, None, None]
    names = {picture.tobytes(): index for index, picture in enumerate(street.pictures)}
    assert set(np.diff([names[picture.tobytes()] for picture in fast.clip.pictures[10:]])) == {3}
    assert set(np.diff([names[picture.tobytes()] for picture in back.clip.pictures[10:]])) == {-1}
    assert max(picture.mean() for picture in dark.clip.pictures[10:]) < 25


def test_where_nothing_moves_nothing_can_be_made_of_it():
    still = Pictures("still", [np.full((120, 180, 3), 90, np.uint8)] * 80, RATE)
    maker = ProbeMaker(still, [np.zeros((50, 50, 3), np.uint8)], seed=0)
    assert maker.make("fast") is None
    assert maker.make("missing") is None
    assert maker.make("abandoned") is not None


def test_the_same_seed_makes_the_same_probes(street):
    one, two = (ProbeMaker(street, [np.zeros((50, 50, 3), np.uint8)], seed=5).make("abandoned") for _ in range(2))
    assert one.boxes == two.boxes
    assert all(np.array_equal(*pair) for pair in zip(one.clip.pictures, two.clip.pictures, strict=True))


def found(probe: Probe, scores: list[float], maps: np.ndarray) -> bool:
    values, none = np.array(scores), np.zeros(0)
    events = track_events(values, EventRule(min_frames=2), 3, 2)
    places = np.arange(len(scores))
    stretch = ScoredStretch("a", places, places * 100, values, maps.astype(np.float16), none, none, None, [])
    return is_found(probe, stretch, events, 3)


def test_a_probe_is_found_by_an_event_over_it_and_at_it():
    clip = Pictures("a", [np.zeros((64, 96, 3), np.uint8)] * 6, RATE)
    probe = Probe("abandoned", clip, 2, [Box(32, 32, 47, 47)] * 4)
    maps = np.zeros((6, 8, 12))
    maps[3:5, 4, 4] = 5
    assert found(probe, [0, 0, 0, 5, 5, 0], maps)
    assert not found(probe, [0, 0, 0, 5, 0, 0], maps)
    elsewhere = np.zeros((6, 8, 12))
    elsewhere[3:5, 0, 11] = 5
    assert not found(probe, [0, 0, 0, 5, 5, 0], elsewhere)
    assert found(Probe("covered", clip, 2, None), [0, 0, 0, 5, 5, 0], elsewhere)
    assert not found(Probe("covered", clip, 5, None), [0, 5, 5, 0, 0, 0], np.roll(elsewhere, -2, 0))


def test_footage_is_parted_in_time(street):
    before, after = split([street])
    assert [len(part.pictures) for part in (*before, *after)] == [72, 48]
    before, after = split([street] * 5)
    assert (len(before), len(after)) == (3, 2)


def test_a_slower_camera_sees_the_same_probe(street, maker):
    probe = maker.make("fast")
    [thin] = thinned(Probed([street], [street], [probe]), 3).probes
    assert len(thin.clip.pictures) == len(thin.boxes) + thin.first
    assert thin.clip.frames_per_second == pytest.approx(street.frames_per_second / 3)
    for index, box in enumerate(thin.boxes, thin.first):
        assert thin.clip.pictures[index] is probe.clip.pictures[3 * index]
        assert box == probe.boxes[3 * index - probe.first]


def test_pictures_survive_their_encoding(street):
    again = read_pictures(street)
    assert again.frames_per_second == RATE
    assert np.abs(again.pictures[7].astype(int) - street.pictures[7]).mean() < 4


def test_the_page_has_a_row_for_each_budget_of_each_footage():
    counts = {kind: [3, 10] for kind in KINDS} | {"fast": [0, 0]}
    budgets = [
        {"false_events_per_day": budget, "false_events": 0, "allowed": budget / 100, "found": counts}
        for budget in BUDGETS
    ]
    result = {
        "footage": "clips/a.mp4", "preset": "balanced", "minutes": 5.0, "fitted_seconds": 60.0, "scored_seconds": 40.0,
        "allowed_low_high": [0.001, 0.2], "budgets": budgets,
    }  # fmt: skip
    rows = [line for line in page([result]).splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert "| clips/a.mp4 | balanced, 5 | 60, 40 | 1 | 0 | 0.01, 0.001 to 0.2 | none to make | 3 of 10 |" in rows[-3]
    assert "| 24 | 0 | 0.24 | none to make | 3 of 10 |" in rows[-2]
    assert "| 480 | 0 | 4.8 |" in rows[-1]


def test_a_folder_without_footage_is_one_line_and_exit_2(tmp_path):
    command = [sys.executable, "-m", "deploy.recall", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 2
    assert "holds no ped2/train and no clips" in done.stderr
