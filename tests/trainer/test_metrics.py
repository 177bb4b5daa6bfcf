"""Figures agree with their definitions, computed the slow way, and input that cannot give one gives a sentence."""

import cv2
import numpy as np
import pytest

from contract.event import EventRule
from trainer.metrics import (
    LabelledStretch,
    aupro,
    average_precision,
    count_pixels,
    detection_delay_seconds,
    event_recall,
    false_events_per_hour,
    frame_auroc,
    frame_auroc_per_clip,
    labelled_events,
    pixel_auroc,
    track_events,
)

_RULE = EventRule(min_frames=3, gap_frames=2)


def _auroc_by_pairs(anomalous, normal):
    wins = (anomalous[:, None] > normal[None]).mean() + 0.5 * (anomalous[:, None] == normal[None]).mean()
    return float(wins)


def _aupro_by_thresholds(maps, masks, limit):
    """Bergmann et al. 2021, section 5, one threshold a distinct value, no bins."""
    grown = np.stack([cv2.resize(m.astype(np.float32), masks.shape[:0:-1]) for m in maps])
    regions = []
    for number, mask in enumerate(masks):
        count, places = cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=8)
        regions += [(number, places == region) for region in range(1, count)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(grown)[::-1]:
        over = grown >= threshold
        rates.append(over[masks == 0].mean())
        overlaps.append(np.mean([over[number][region].mean() for number, region in regions]))
    fine = np.linspace(0, limit, 20_001)
    return float(np.trapezoid(np.interp(fine, rates, overlaps), fine) / limit)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(3)
    masks = np.zeros((6, 24, 32), np.uint8)
    masks[1, 3:9, 4:12] = 255
    masks[2, 15:20, 20:30] = 1
    masks[2, 2:4, 2:4] = 255
    masks[4, 10, 10] = 255
    maps = rng.normal(size=(6, 24, 32)).astype(np.float32)
    return maps + 1.3 * (cv2.blur(masks.transpose(1, 2, 0), (5, 5)).transpose(2, 0, 1) > 0), masks


def test_frame_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.3
    scores = np.round(rng.normal(size=300) + labels, 1)
    assert frame_auroc(labels, scores).value == pytest.approx(_auroc_by_pairs(scores[labels], scores[~labels]))


def test_per_clip_scaling_hides_what_one_ranking_shows():
    labels = np.array([False, True, False, True])
    scores = np.array([0.0, 1.0, 10.0, 11.0])
    clips = np.array([0, 0, 1, 1])
    assert frame_auroc(labels, scores).value == 0.75
    assert frame_auroc_per_clip(labels, scores, clips).value == 1.0


def test_a_clip_of_one_score_is_scaled_to_zero():
    labels = np.array([False, True, True, True])
    measure = frame_auroc_per_clip(labels, np.array([0.0, 1.0, 7.0, 7.0]), np.array([0, 0, 1, 1]))
    assert measure.value == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_average_precision_is_the_mean_precision_at_each_anomalous_frame():
    labels = np.array([True, False, True, False])
    assert average_precision(labels, np.array([4.0, 3.0, 2.0, 1.0])).value == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("labels", [np.zeros(4, bool), np.ones(4, bool), np.zeros(0, bool)])
def test_one_kind_of_frame_gives_a_sentence(labels):
    scores = np.arange(len(labels), dtype=np.float64)
    measures = (
        frame_auroc(labels, scores),
        average_precision(labels, scores),
        frame_auroc_per_clip(labels, scores, np.zeros(len(labels), np.int64)),
    )
    assert all(measure.value is None and measure.note.endswith(".") for measure in measures)


def test_a_score_that_is_not_finite_gives_a_sentence():
    measure = frame_auroc(np.array([True, False]), np.array([np.nan, 1.0]))
    assert measure.value is None
    assert "finite" in measure.note


def test_pixel_auroc_is_the_share_of_pairs_in_order(pixels):
    maps, masks = pixels
    expected = _auroc_by_pairs(maps[masks > 0], maps[masks == 0])
    assert pixel_auroc(count_pixels(maps, iter(masks))).value == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_agrees_with_its_definition(pixels, limit):
    maps, masks = pixels
    expected = _aupro_by_thresholds(maps, masks, limit)
    assert aupro(count_pixels(maps, iter(masks)), limit).value == pytest.approx(expected, abs=2e-3)


def test_aupro_of_small_maps_agrees_after_they_are_brought_to_the_masks_size(pixels):
    maps, masks = pixels
    small = np.stack([cv2.resize(anomaly_map, (8, 6), interpolation=cv2.INTER_AREA) for anomaly_map in maps])
    expected = _aupro_by_thresholds(small, masks, 0.3)
    assert aupro(count_pixels(small.astype(np.float16), iter(masks))).value == pytest.approx(expected, abs=4e-3)


def test_every_region_weighs_the_same_in_aupro():
    masks = np.zeros((1, 40, 40), np.uint8)
    masks[0, :20, :20] = 1
    masks[0, 38, 38] = 1
    maps = np.zeros((1, 40, 40), np.float32)
    maps[0, :20, :20] = 1
    counts = count_pixels(maps, iter(masks))
    # The missed pixel is half of all regions, though one pixel in 401; ties run straight to the corner.
    assert counts.regions == 2
    assert aupro(counts).value == pytest.approx(0.5 + 0.5 * 0.15)
    assert pixel_auroc(counts).value == pytest.approx((400 + 0.5) / 401)


@pytest.mark.parametrize("fill", [0, 255])
def test_masks_of_one_kind_give_a_sentence(fill):
    masks = np.full((2, 8, 8), fill, np.uint8)
    counts = count_pixels(np.random.default_rng(0).random((2, 8, 8)), iter(masks))
    assert pixel_auroc(counts).value is None
    assert aupro(counts).value is None
    assert aupro(counts).note


def test_maps_that_are_all_alike_rank_nothing():
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[0, 2:4, 2:4] = 1
    assert pixel_auroc(count_pixels(np.ones((2, 8, 8)), iter(masks))).value == pytest.approx(0.5)


def test_labelled_events_are_runs_up_to_both_ends():
    assert labelled_events(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == [(0, 1), (3, 3), (6, 6)]
    assert labelled_events(np.zeros(0, bool)) == []


def test_the_rule_tells_an_event_at_its_third_frame_and_ends_it_with_the_footage():
    scores = np.zeros(20)
    scores[4:8] = [5, 6, 9, 5]
    scores[17:] = 5
    found = track_events(scores, _RULE, threshold=4.0, release_threshold=2.0)
    assert [(event.first, event.told, event.last, event.peak, event.peak_score) for event in found] == [
        (4, 6, 7, 6, 9.0),
        (17, 19, 19, 17, 5.0),
    ]


def _stretch(labelled, anomalous, frames=100, interval_ms=100):
    labels = np.zeros(frames, bool)
    scores = np.zeros(frames)
    for first, last in labelled:
        labels[first : last + 1] = True
    for first, last in anomalous:
        scores[first : last + 1] = 5.0
    found = track_events(scores, _RULE, threshold=4.0, release_threshold=4.0)
    return LabelledStretch(labels, np.arange(frames) * interval_ms, found)


def test_event_figures_count_hits_misses_and_false_events():
    stretches = [_stretch([(10, 19), (50, 59)], [(13, 22), (80, 85)]), _stretch([(0, 9)], [(2, 8)])]
    assert event_recall(stretches).value == pytest.approx(2 / 3)
    # One event beside every label, in 170 normal frames of 0.1 s.
    assert false_events_per_hour(stretches).value == pytest.approx(3600 / 17.0)
    # Told at frames 15 and 4, that is 0.5 s and 0.4 s after the labelled starts.
    assert detection_delay_seconds(stretches).value == pytest.approx(0.45)


def test_an_event_open_before_the_labelled_one_is_told_at_once():
    assert detection_delay_seconds([_stretch([(20, 30)], [(10, 25)])]).value == 0.0


def test_short_normal_footage_is_said_to_be_short():
    assert "17 s" in false_events_per_hour([_stretch([(0, 29)], [], frames=200)]).note
    assert not false_events_per_hour([_stretch([], [], frames=40_000)]).note


def test_event_figures_without_what_they_need_give_a_sentence():
    nothing = [_stretch([], [])]
    assert event_recall(nothing).value is None
    assert detection_delay_seconds([_stretch([(5, 9)], [])]).value is None
    assert false_events_per_hour([_stretch([(0, 99)], [])]).value is None
    one_frame = LabelledStretch(np.zeros(1, bool), np.zeros(1, np.int64), [])
    assert false_events_per_hour([one_frame]).note
