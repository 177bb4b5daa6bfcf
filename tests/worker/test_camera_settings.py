"""What is set for single cameras: read whole or refused in one line, and inherited as people expect."""

from datetime import datetime, time
from pathlib import Path
from typing import Any

import pytest

from contract.errors import ConfigError
from contract.event import EventRuleChanges
from worker.camera_settings import CameraSettings, ProfileSettings, ScheduledSettings, load_cameras

TRIANGLE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))


def written(folder: Path, text: str) -> Path:
    path = folder / "cameras.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_names_cameras_and_a_folder_has_a_file_for_each(tmp_path: Path) -> None:
    one = load_cameras(written(tmp_path, "hall:\n  threshold: 3\nyard:\n"))
    folder = tmp_path / "cameras"
    folder.mkdir()
    (folder / "hall.yaml").write_text("threshold: 3\n")
    (folder / "yard.yml").write_text("")
    (folder / ".hidden.yaml").write_text("threshold: no number\n")
    (folder / "README.md").write_text("not settings\n")

    assert one == {"hall": CameraSettings(threshold=3), "yard": CameraSettings()}
    assert load_cameras(folder) == one


REFUSED = {
    "no mapping": ("- hall\n", "top level"),
    "an unknown field": ("hall:\n  treshold: 3\n", "hall.treshold: is not known"),
    "no camera id": ("ha ll: {}\n", "'ha ll'"),
    "two thresholds": ("hall: {threshold: 3, false_events_per_day: 1}\n", "give one"),
    "a polygon of two corners": ("hall: {zones: [[[0, 0], [1, 1]]]}\n", "hall.zones.0"),
    "a corner outside the picture": ("hall: {masks: [[[0, 0], [1, 1], [2, 0]]]}\n", "hall.masks.0"),
    "an unknown time zone": ("hall: {time_zone: Mars/Olympus}\n", "hall.time_zone"),
    "a time zone that is a path": ("hall: {time_zone: ../../etc/passwd}\n", "hall.time_zone"),
    "no time of a day": ("hall: {schedule: [{name: night, begins: 25:00, ends: 6:00}]}\n", "begins"),
    "a time with an offset": ('hall: {schedule: [{name: night, begins: "20:00+01:00", ends: 6:00}]}\n', "begins"),
    "no day": ("hall: {schedule: [{name: night, days: [monday], begins: 20:00, ends: 6:00}]}\n", "days.0"),
    "a name twice": (
        "hall: {schedule: [{name: a, begins: 1:00, ends: 2:00}, {name: a, begins: 3:00, ends: 4:00}]}\n", "same name",
    ),
    "a budget of none": ("hall: {false_events_per_day: 0}\n", "hall.false_events_per_day"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_cameras(written(tmp_path, text))

    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_place_that_cannot_be_looked_at_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        load_cameras(tmp_path / ("x" * 300))


def test_an_empty_folder_and_a_camera_named_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no"):
        load_cameras(tmp_path)
    for name in ("hall.yaml", "hall.yml"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match="two files for hall"):
        load_cameras(tmp_path)


def test_a_time_means_the_same_with_quotes_and_without(tmp_path: Path) -> None:
    text = "hall: {{schedule: [{{name: night, begins: {0}, ends: {1}}}]}}\n"
    bare = load_cameras(written(tmp_path, text.format("20:30", "6:05:30")))
    quoted = load_cameras(written(tmp_path, text.format('"20:30"', '"06:05:30"')))

    assert bare == quoted
    (night,) = bare["hall"].schedule
    assert (night.begins, night.ends) == (time(20, 30), time(6, 5, 30))


NIGHT: dict[str, Any] = {"name": "night", "begins": time(20), "ends": time(6)}


@pytest.mark.parametrize(
    ("changes", "at", "holds"),
    [
        ({}, "2026-11-26 19:59:59", False),
        ({}, "2026-11-26 20:00:00", True),
        ({}, "2026-11-27 05:59:59", True),
        ({}, "2026-11-27 06:00:00", False),
        # The 26th of November 2026 is a Thursday.
        ({"days": ("thu",)}, "2026-11-26 23:00:00", True),
        ({"days": ("thu",)}, "2026-11-27 03:00:00", True),
        ({"days": ("thu",)}, "2026-11-26 03:00:00", False),
        ({"days": ("sun",)}, "2026-11-30 03:00:00", True),
        ({"begins": time(8), "ends": time(18)}, "2026-11-26 12:00:00", True),
        ({"begins": time(8), "ends": time(18)}, "2026-11-26 18:00:00", False),
        ({"begins": time(8), "ends": time(18), "days": ("fri",)}, "2026-11-26 12:00:00", False),
        ({"begins": time(0), "ends": time(0)}, "2026-11-26 12:00:00", True),
    ],
)
def test_a_schedule_holds_from_when_it_begins_to_before_it_ends(
    changes: dict[str, Any], at: str, *, holds: bool
) -> None:
    assert ScheduledSettings(**{**NIGHT, **changes}).holds_at(datetime.fromisoformat(at)) is holds


BELOW = ProfileSettings(
    bundle=Path("all"), threshold=4.0, event_rule=EventRuleChanges(min_frames=3, gap_frames=9), masks=(TRIANGLE,)
)


def test_what_is_not_set_stays_as_it_is_below() -> None:
    assert ProfileSettings().over(BELOW) == BELOW
    changed = ProfileSettings(event_rule=EventRuleChanges(gap_frames=2), masks=(), zones=(TRIANGLE,)).over(BELOW)

    assert changed.event_rule == EventRuleChanges(min_frames=3, gap_frames=2)
    assert (changed.masks, changed.zones, changed.threshold) == ((), (TRIANGLE,), 4.0)


def test_a_threshold_holds_for_the_bundle_beside_which_it_was_set_and_a_budget_for_any() -> None:
    other = ProfileSettings(bundle=Path("hall"))

    assert other.over(BELOW).threshold is None
    budget = ProfileSettings(bundle=Path("all"), false_events_per_day=0.5)
    assert other.over(budget).false_events_per_day == 0.5
    # The nearer says it.
    assert ProfileSettings(threshold=5.0).over(budget) == ProfileSettings(bundle=Path("all"), threshold=5.0)
    nearer = ProfileSettings(false_events_per_day=2.0).over(BELOW)
    assert (nearer.threshold, nearer.false_events_per_day) == (None, 2.0)
