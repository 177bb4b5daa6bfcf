"""Two models on the same footage: what one finds and the other does not is counted, and a rule judges it."""

import json
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import pytest
from rich.console import Console

from contract.clip import Clip, SourceFrame
from contract.event import EventRule
from contract.frame import Preprocessing
from contract.scoring import Calibration, Tail
from tests.calibrations import made_calibration
from trainer.compare import Agreement, Evidence, compare_models
from trainer.comparison_report import comparison_section, comparison_table, verdict_section
from trainer.label_kinds import RangeLabels
from trainer.promotion import PromotionRule, judge, judge_first

_QUIET = Console(quiet=True)
_DARK, _DUSK, _BRIGHT = 20, 110, 220


def _calibration(threshold=100.0, budget=1.0):
    return made_calibration(
        threshold=threshold, release_threshold=0.8 * threshold, tail=Tail(location=0.0, scale=1.0),
        false_events_per_day=budget,
    )  # fmt: skip


@dataclass
class _Brightness:
    """Scores the brightest cell; what it takes for normal is its threshold."""

    name: str = "champion"
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(height=32, width=48))
    clip_frames: int = 1
    calibration: Calibration = field(default_factory=_calibration)
    event_rule: EventRule = field(default_factory=lambda: EventRule(min_frames=2, gap_frames=1))

    def score(self, frames):
        maps = frames[:, -1, ::8, ::8, 0].astype(np.float32)
        return maps.max((1, 2)), maps


@dataclass(frozen=True)
class _Levels(Clip):
    """A clip of even frames, ten a second."""

    name: str
    levels: tuple[int, ...]

    def frames(self):
        for index, level in enumerate(self.levels):
            picture = cv2.imencode(".png", np.full((32, 48), level, np.uint8))[1]
            yield SourceFrame(index, 100 * index, bytes(picture))


def _challenger(threshold, **more):
    return replace(_Brightness(**more), name="challenger", calibration=_calibration(threshold))


def _quiet(seconds):
    return _Levels("quiet", (_DARK,) * (10 * seconds))


def _visits(*levels, long=5):
    """A clip in which something comes, so many times, and its labels."""
    frames, ranges = [], []
    for level in levels:
        frames += [_DARK] * 10
        ranges.append((len(frames), len(frames) + long - 1, True, len(ranges)))
        frames += [level] * long
    clip = _Levels("visits", (*frames, *[_DARK] * 10))
    return Evidence("labelled", [clip], RangeLabels("labels.csv", {"visits": ranges}))


def _compare(challenger, *evidence, champion=None):
    return compare_models(champion or _Brightness(), challenger, evidence, _QUIET)


def test_what_one_alone_finds_is_counted_and_named():
    # To the champion dusk is an anomaly, to the challenger it is none.
    evidence = _visits(_BRIGHT, _DUSK, _BRIGHT), Evidence("normal", [_Levels("evening", (_DARK,) * 20 + (_DUSK,) * 9)])
    comparison = _compare(_challenger(150.0), *evidence)
    labelled, normal = comparison.evidence
    assert (labelled.known_events, labelled.champion.found, labelled.challenger.found) == (3, 3, 2)
    assert (labelled.lost, labelled.gained) == (1, 0)
    assert (normal.champion.false_events, normal.challenger.false_events) == (1, 0)
    assert normal.champion.false_events_per_day == pytest.approx(86_400 / 2.9)
    assert normal.normal_seconds == pytest.approx(2.9)
    assert [(one.side, one.kind, one.is_right) for one in comparison.one_sided] == [
        ("champion", "labelled", True),
        ("champion", "normal", False),
    ]
    assert comparison.one_sided[1].first_ms == 2000
    assert comparison.agreement.rank_correlation == pytest.approx(1)
    assert comparison.agreement.same_decision == pytest.approx(1 - (5 + 9) / (40 + 15 + 29))


def test_the_other_way_round_it_is_gained():
    comparison = _compare(_Brightness(), _visits(_DUSK), champion=_challenger(150.0))
    assert (comparison.evidence[0].lost, comparison.evidence[0].gained) == (0, 1)
    assert [one.side for one in comparison.one_sided] == ["challenger"]


def test_delay_is_from_the_first_labelled_frame_to_the_alert():
    slow = _challenger(100.0, event_rule=EventRule(min_frames=5, gap_frames=1))
    figures = _compare(slow, _visits(_BRIGHT)).evidence[0]
    assert (figures.champion.delay_seconds, figures.challenger.delay_seconds) == (0.1, 0.4)


def test_equal_models_agree_and_one_score_for_all_has_no_correlation():
    comparison = _compare(_challenger(100.0), Evidence("normal", [_quiet(3)]))
    assert comparison.agreement == Agreement(frames=30, same_decision=1.0, rank_correlation=None)
    assert not comparison.one_sided


def test_kinds_without_footage_are_left_out():
    assert [one.kind for one in _compare(_challenger(100.0), Evidence("confirmed", []), _visits(_DUSK)).evidence] == [
        "labelled"
    ]


_ENOUGH = Evidence("normal", [_quiet(70)])


@pytest.mark.parametrize(
    ("challenger", "evidence", "rule", "promoted", "said"),
    [
        (_challenger(100.0), (_ENOUGH, _visits(_BRIGHT)), {}, True, "it passed every check"),
        (_challenger(150.0), (_ENOUGH, _visits(_DUSK)), {}, False, "it loses 1 that the champion found"),
        (_challenger(150.0), (_ENOUGH, _visits(_DUSK, _BRIGHT)), {"lost_events": 1}, True, "passed"),
        (_challenger(100.0), (Evidence("normal", [_quiet(2)]), _visits(_BRIGHT)), {}, False, "60 s are asked for"),
        (_challenger(250.0), (_ENOUGH, _visits(_BRIGHT)), {"lost_events": 1}, False, "it finds 0 of 1 known events"),
        (_challenger(100.0), (_ENOUGH,), {}, False, "there is no labelled and no confirmed event to find"),
        (_challenger(100.0), (_ENOUGH,), {"without_known_events": True}, True, "passed"),
        (_challenger(10.0), (_ENOUGH, _visits(_BRIGHT)), {}, False, "false events in"),
        (
            _challenger(100.0, event_rule=EventRule(min_frames=5, gap_frames=1)),
            (_ENOUGH, _visits(_BRIGHT)), {"delay_rise_seconds": 0.2}, False, "come +0.3 s after",
        ),
    ],
)  # fmt: skip
def test_the_rule(challenger, evidence, rule, promoted, said):
    verdict = judge(_compare(challenger, *evidence), PromotionRule(**rule))
    assert verdict.promoted == promoted
    assert said in verdict.reason
    assert all(check.passed for check in verdict.checks) == promoted


def test_false_events_that_the_budget_lets_expect_are_accepted_and_more_than_that_are_not():
    evening = (_DARK,) * 50 + (_DUSK,) * 3
    footage = Evidence("normal", [_Levels("evenings", evening * 12)])
    champion = replace(_Brightness(), calibration=_calibration(150.0))
    for budget, accepted in ((1.0, False), (12 * 86_400 / 63.6, True)):
        challenger = replace(_challenger(100.0), calibration=_calibration(100.0, budget))
        verdict = judge(_compare(challenger, footage, champion=champion), PromotionRule(without_known_events=True))
        assert verdict.promoted == accepted, verdict.reason


@pytest.mark.parametrize(("aurocs", "promoted"), [((0.95, 0.91), True), ((0.95, 0.89), False), ((0.5, 0.9), True)])
def test_a_model_that_sees_less_of_what_is_put_in_is_held(aurocs, promoted):
    verdict = judge(_compare(_challenger(100.0), _ENOUGH, _visits(_BRIGHT)), PromotionRule(), aurocs)
    assert verdict.promoted == promoted


@pytest.mark.parametrize(
    ("threshold", "promoted", "said"), [(100.0, True, "no model in service"), (250.0, False, "finds 0 of 1")]
)
def test_a_first_model_must_find_something(threshold, promoted, said):
    model = _challenger(threshold)
    verdict = judge_first(_compare(model, _ENOUGH, _visits(_BRIGHT), champion=model), PromotionRule())
    assert verdict.promoted == promoted
    assert said in verdict.reason


def test_what_people_read_holds_the_figures_and_escapes_names():
    hostile = replace(_Levels("<img src=x>", (_DARK,) * 600 + (_DUSK,) * 9))
    comparison = _compare(_challenger(150.0), Evidence("normal", [hostile]), _visits(_BRIGHT))
    html = verdict_section(judge(comparison, PromotionRule())) + comparison_section(comparison)
    assert "<img" not in html
    assert "<td>champion</td><td>normal</td>" in html
    table = comparison_table(comparison)
    assert table.row_count == 2
    assert list(table.columns[3].cells) == ["0 / 0", "1 / 1"]
    assert json.loads(comparison.model_dump_json())["agreement"]["frames"] == 609 + 25
