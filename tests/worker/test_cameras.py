"""What is in force for each camera, by its settings and its bundles."""

from types import SimpleNamespace

import pytest

from contract.errors import BundleError, ConfigError, FrameError
from tests.worker.test_engine import detector
from worker.cameras import Resolver
from worker.settings import WorkerSettings
from worker.warm_up import WarmUp

EVENING = 1_795_806_000_000  # 2026-11-27 19:00 UTC, 20:00 in Berlin
NOON = EVENING - 7 * 3_600_000
TRIANGLE = "[[[0, 0], [1, 0], [1, 1]]]"


@pytest.fixture
def bundles(monkeypatch):
    """Bundles by folder, that open without files; a test may change their versions."""
    digests = {"all": "a", "hall": "b", "night": "c"}
    opened = []

    def open_bundle(folder, _public_key):
        if folder.name not in digests:
            raise BundleError(f"bundle {folder}: no such folder")
        bundle = detector().bundle
        bundle.manifest.shape.anomaly_map = (4, 4)
        digest = "sha256:" + digests[folder.name] * 64
        reference = bundle.reference.model_copy(update={"name": folder.name, "digest": digest})
        return SimpleNamespace(manifest=bundle.manifest, reference=reference, digest=digest)

    def open_detector(bundle):
        opened.append(bundle.reference.name)
        return SimpleNamespace(**{**vars(detector()), "bundle": bundle})

    monkeypatch.setattr("worker.cameras.open_bundle", open_bundle)
    return SimpleNamespace(digests=digests, opened=opened, resolver=Resolver(open_detector))


def resolved(bundles, tmp_path, text=None, **more):
    if text is not None:
        (tmp_path / "cameras.yaml").write_text(text)
        more["cameras"] = tmp_path / "cameras.yaml"
    return bundles.resolver.resolve(WorkerSettings(bundle="all", **more))


def test_a_camera_has_its_own_bundle_threshold_rule_and_zones(bundles, tmp_path):
    text = f"hall:\n  bundle: hall\n  zones: {TRIANGLE}\n  event_rule: {{min_frames: 7}}\nyard: {{threshold: 9}}\n"
    cameras = resolved(bundles, tmp_path, text, event_rule={"gap_frames": 5}, threshold=8)
    hall, yard, other = (cameras.profile(name, NOON) for name in ("hall", "yard", "other"))

    assert [one.terms.bundle.name for one in (hall, yard, other)] == ["hall", "all", "all"]
    # The threshold of the settings is for their bundle.
    assert [one.threshold for one in (hall, yard, other)] == [detector().bundle.manifest.calibration.threshold, 9, 8]
    assert [(one.rule.min_frames, one.rule.gap_frames) for one in (hall, other)] == [(7, 5), (2, 5)]
    assert hall.region is not None
    assert other.region is None
    assert len({one.terms.rule_version for one in (hall, yard, other)}) == 3
    assert bundles.opened == ["all", "hall"]


def test_a_schedule_is_by_capture_time_where_the_camera_is(bundles, tmp_path):
    text = "hall: {time_zone: Europe/Berlin, schedule: [{name: night, bundle: night, begins: 20:00, ends: 6:00}]}\n"
    cameras = resolved(bundles, tmp_path, text)

    names = [cameras.profile("hall", at).terms.bundle.name for at in (NOON, EVENING - 1, EVENING, EVENING + 36 * 10**6)]
    assert names == ["all", "all", "night", "all"]
    # A camera is asked for each frame: what is in force is one object while it is the same.
    assert cameras.profile("hall", EVENING) is cameras.profile("hall", EVENING + 1000)


@pytest.mark.parametrize("at", [-(10**15), 0, 10**18])
def test_a_capture_time_that_cannot_be_true_has_a_profile_too(bundles, tmp_path, at):
    text = "hall: {time_zone: Pacific/Auckland, schedule: [{name: x, begins: 1:00, ends: 0:30}]}\n"
    assert resolved(bundles, tmp_path, text).profile("hall", at).terms.bundle.name == "all"


def test_a_budget_sets_the_threshold_by_the_calibration_of_the_bundle(bundles, tmp_path):
    calibration = detector().bundle.manifest.calibration
    cameras = resolved(bundles, tmp_path, "hall: {false_events_per_day: 1.0e-40}\nyard:\n", false_events_per_day=100)

    assert cameras.profile("hall", NOON).threshold == calibration.threshold_for(1e-40)
    assert cameras.profile("yard", NOON).threshold == calibration.threshold_for(100)
    assert calibration.threshold_for(1e-40) > calibration.threshold_for(100)


def test_unknown_cameras_are_taken_warmed_up_or_refused(bundles, tmp_path):
    text = "hall:\n"
    taken = resolved(bundles, tmp_path, text)
    warmed = resolved(bundles, tmp_path, text, unknown_cameras="warm_up", warm_up_frames=800)
    refusing = resolved(bundles, tmp_path, text, unknown_cameras="refuse")

    assert taken.profile("new", NOON).warm_up_frames == 0
    assert (warmed.profile("new", NOON).warm_up_frames, warmed.profile("hall", NOON).warm_up_frames) == (800, 0)
    refusing.require("hall")
    assert not refusing.admits("new")
    for ask in (lambda: refusing.require("new"), lambda: refusing.profile("new", NOON)):
        with pytest.raises(FrameError, match="new") as refused:
            ask()
        assert refused.value.reason == "camera_unknown"


@pytest.mark.parametrize("min_frames", [200, 201])
def test_a_warm_up_that_would_never_end_is_refused(bundles, tmp_path, min_frames):
    def warming():
        rule = {"min_frames": min_frames}
        return resolved(bundles, tmp_path, unknown_cameras="warm_up", warm_up_frames=400, event_rule=rule)

    if min_frames > 200:
        with pytest.raises(ConfigError, match="settings: warm_up_frames 400 must be at least 402"):
            warming()
        return
    given = warming().profile("new", NOON)
    warm_up = WarmUp(given.terms)
    assert [warm_up.add(1.0, 100 * number, given) for number in range(400)] == [False] * 399 + [True]


def test_allowed_cameras_bound_the_known_ones_too(bundles, tmp_path):
    cameras = resolved(bundles, tmp_path, "hall:\nyard:\n", allowed_cameras=("hall",))

    assert cameras.admits("hall")
    for ask in (lambda: cameras.require("yard"), lambda: cameras.profile("yard", NOON)):
        with pytest.raises(FrameError) as refused:
            ask()
        assert refused.value.reason == "camera_not_allowed"


def test_late_frames_are_as_the_camera_says_or_as_the_settings_do(bundles, tmp_path):
    text = "hall: {late: {policy: skip_to_fresh, max_age_seconds: 2}}\nyard:\n"
    cameras = resolved(bundles, tmp_path, text, late={"policy": "skip_to_fresh", "max_age_seconds": 9})

    ages = [cameras.late(name).max_age_seconds for name in ("hall", "yard", "other")]
    assert ages == [2, 9, 9]


def test_a_bundle_that_did_not_change_is_opened_once_and_one_that_did_anew(bundles, tmp_path):
    text = "hall: {bundle: hall}\n"
    before = resolved(bundles, tmp_path, text)
    same = resolved(bundles, tmp_path, text)
    assert same.detector is before.detector
    bundles.digests["hall"] = "d"
    after = resolved(bundles, tmp_path, text)

    assert bundles.opened == ["all", "hall", "hall"]
    assert before.profile("hall", NOON).terms.bundle != after.profile("hall", NOON).terms.bundle
    assert after.detector is before.detector


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hall: {zones: [[[0, 0], [0.01, 0], [0.01, 0.01]]]}\n", "cameras: hall: zones and masks leave no place"),
        (
            "hall: {schedule: [{name: night, begins: 1:00, ends: 2:00, masks: [[[0, 0], [1, 0], [1, 1], [0, 1]]]}]}\n",
            "cameras: hall: schedule: night: zones and masks leave no place",
        ),
        ("hall: {bundle: gone}\n", "no such folder"),
    ],
)
def test_what_cannot_be_in_force_is_refused(bundles, tmp_path, text, said):
    with pytest.raises((ConfigError, BundleError), match=said):
        resolved(bundles, tmp_path, text)


def test_refusing_all_is_no_setting():
    with pytest.raises(ValueError, match="refuse needs cameras"):
        WorkerSettings(bundle="all", unknown_cameras="refuse")
    with pytest.raises(ValueError, match="give one"):
        WorkerSettings(bundle="all", threshold=2, false_events_per_day=2)


def named_challenger(profile):
    return profile.challenger.bundle.name if profile.challenger is not None else None


def test_a_challenger_is_the_camera_s_or_the_one_of_the_bundle_in_force(bundles, tmp_path):
    text = (
        "hall: {bundle: hall}\n"
        "gate: {bundle: hall, challenger: night}\n"
        "yard: {threshold: 9, schedule: [{name: late, begins: 19:00, ends: 6:00, bundle: night}]}\n"
    )
    cameras = resolved(bundles, tmp_path, text, challenger="hall", false_events_per_day=100)
    challengers = [named_challenger(cameras.profile(name, NOON)) for name in ("hall", "gate", "yard", "other")]

    assert challengers == [None, "night", "hall", "hall"]
    # Whoever challenges the bundle of the day does not challenge that of the night.
    assert named_challenger(cameras.profile("yard", EVENING)) is None
    assert [one.bundle.reference.name for one in cameras.challengers] == ["hall", "night"]
    assert bundles.opened == ["all", "hall", "night"]
    # The threshold of a camera is for its bundle; the budget is for both.
    calibration = detector().bundle.manifest.calibration
    assert cameras.profile("yard", NOON).threshold == 9
    assert cameras.profile("yard", NOON).challenger.threshold == calibration.threshold
    assert cameras.profile("other", NOON).challenger.threshold == calibration.threshold_for(100)
    assert resolved(bundles, tmp_path, text).profile("other", NOON).challenger is None


def test_what_challenges_does_not_change_what_is_told(bundles, tmp_path):
    one, other = (resolved(bundles, tmp_path, challenger=name).profile("door", NOON) for name in (None, "hall"))
    assert one.terms == other.terms


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("hall: {challenger: gone}\n", {}, "no such folder"),
        (None, {"challenger": "gone"}, "no such folder"),
        (None, {"challenger": "hall", "kafka": {"challenger_scores_topic": "alerts"}}, "must differ"),
        ("hall: {challenger: night}\n", {"kafka": {"scores_topic": "scores.challenger"}}, "must differ"),
    ],
)
def test_a_challenger_that_cannot_be_in_force_is_refused(bundles, tmp_path, text, more, said):
    with pytest.raises((ConfigError, BundleError), match=said):
        resolved(bundles, tmp_path, text, **more)


def test_the_name_of_a_topic_that_no_challenger_uses_is_free(bundles, tmp_path):
    assert not resolved(bundles, tmp_path, kafka={"scores_topic": "scores.challenger"}).challengers
