import pytest
import torch

from contract.frame import FLOW_NEUTRAL
from trainer.disturb import PSEUDO_ANOMALIES, disturb, moving_places, possible_kinds, put_in
from trainer.model import ModelConfig, motion_at_rest


def config(**changes):
    return ModelConfig(**{"height": 64, "width": 96, "widths": (4, 8, 8), **changes})


def images(model: ModelConfig, count: int = 64) -> torch.Tensor:
    """Random pictures in whose middle something moves two pixels a frame to the right."""
    random = torch.Generator().manual_seed(1)
    shape = count, model.clip_frames, model.preprocessing.input_channels, 64, 96
    frames = torch.rand(shape, generator=random) * 0.5 + 0.25
    if model.motion == "flow-dis-fast-2":
        frames[:, :, model.channels :] = FLOW_NEUTRAL / 255
        frames[:, :, model.channels, 24:40, 40:56] = (FLOW_NEUTRAL + 32) / 255
    if model.motion == "difference-1":
        frames[:, :, model.channels :] = 0
        frames[:, :, model.channels, 24:40, 40:56] = 40 / 255
    return frames.flatten(1, 2)


VARIANTS = [
    {"motion": "none"},
    {"motion": "none", "channels": 3},
    {"motion": "difference-1"},
    {"motion": "flow-dis-fast-2"},
    {"motion": "flow-dis-fast-2", "clip_frames": 3, "channels": 3},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_about_three_quarters_of_the_images_are_disturbed_and_stay_images(variant):
    model = config(**variant)
    before = images(model, 200)
    kept = before.clone()
    after = disturb(before, model, torch.Generator().manual_seed(0)).images
    assert torch.equal(before, kept)
    assert after.shape == before.shape
    assert after.min() >= 0
    assert after.max() <= 1
    changed = (after - before).abs().flatten(1).amax(1) > 1e-3
    assert 0.6 < changed.float().mean() < 0.9


def test_the_same_state_gives_the_same_disturbances():
    model = config()
    one, two, other = (disturb(images(model), model, torch.Generator().manual_seed(seed)).images for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_some_move_faster_while_their_picture_stays():
    model = config()
    before = images(model, 400)
    after = disturb(before, model, torch.Generator().manual_seed(0), ["faster"]).images
    same_picture = (after[:, 0] - before[:, 0]).abs().flatten(1).amax(1) < 1e-6
    level = after[:, 1, 24:40, 40:56].flatten(1).amax(1) * 255 - FLOW_NEUTRAL
    assert (same_picture & (level > 40)).float().mean() > 0.15
    assert level.max() > 100


@pytest.mark.parametrize("kind", possible_kinds(config()))
def test_only_what_is_asked_for_is_put_in(kind):
    model = config()
    before = images(model, 200)
    skipped = before[:, 1:] + 20 / 255
    after = disturb(before, model, torch.Generator().manual_seed(0), [kind], skipped).images
    change = (after - before).abs().flatten(2).amax(2) > 1e-3
    assert change[:, 0].any() == (kind in ("displaced", "foreign", "covered"))
    assert 0.3 < change.any(1).float().mean() < 0.9
    # Along the height nothing moves but by skipped frames.
    assert change[:, 2].any() == (kind == "skip-frame")
    assert torch.equal(disturb(before, model, torch.Generator().manual_seed(0), [], skipped).images, before)


def test_where_nothing_moves_only_what_rests_is_put_in():
    model = config(motion="none")
    before = images(model, 50)
    one, all_kinds, none = (
        disturb(before, model, torch.Generator().manual_seed(0), kinds).images
        for kinds in (["foreign", "covered", "scar"], PSEUDO_ANOMALIES, ["faster", "skip-frame"])
    )
    assert torch.equal(one, all_kinds)
    assert not torch.equal(one, before)
    assert torch.equal(none, before)


def test_a_scar_is_thin_and_none_is_put_where_things_move():
    model = config(motion="none")
    before = images(model, 200)
    change = (disturb(before, model, torch.Generator().manual_seed(0), ["scar"]).images - before)[:, 0].abs() > 1e-3
    share = change.flatten(1).float().mean(1)
    assert 0.6 < (share > 0).float().mean() < 0.9
    # 10 by 24 pixels at the most.
    assert share.max() < 1.1 * 240 / (64 * 96)
    assert "scar" not in possible_kinds(config())


def test_the_target_is_what_was_there_but_behind_a_cover():
    model = config()
    before = images(model, 200)
    covered, faster = (
        disturb(before, model, torch.Generator().manual_seed(0), [kind]) for kind in ("covered", "faster")
    )
    assert torch.equal(faster.target, before)
    assert not torch.equal(covered.images, before)
    assert torch.equal(covered.target, covered.images)


def test_a_cover_leaves_little_of_the_picture_and_nothing_that_moves():
    model = config()
    before = images(model, 200)
    after = disturb(before, model, torch.Generator().manual_seed(0), ["covered"]).images
    covered = (after[:, 0] - before[:, 0]).abs().flatten(1).amax(1) > 1e-3
    contrast = [clips[covered, 0].flatten(1).std(1) for clips in (before, after)]
    assert (contrast[1] < 0.3 * contrast[0]).all()
    assert after[covered, 1:].sub(FLOW_NEUTRAL / 255).abs().max() * 255 < 4
    level = after[covered, 0].flatten(1).mean(1)
    assert level.min() < 0.1
    assert level.max() > 0.9


def test_what_rests_does_not_become_noisier_where_things_move_faster():
    model = config()
    before = images(model, 400)
    noise = torch.randn(before[:, 1:].shape, generator=torch.Generator().manual_seed(5)) / 255
    before[:, 1:] += noise
    after = disturb(before, model, torch.Generator().manual_seed(0), ["faster"]).images
    faster = ((after[:, 0] - before[:, 0]).abs().flatten(1).amax(1) < 1e-6) & (
        (after[:, 1, 24:40, 40:56] - before[:, 1, 24:40, 40:56]).abs().flatten(1).amax(1) > 20 / 255
    )
    assert faster.sum() > 50
    at_rest = torch.cat([after[faster, 1, :16], after[faster, 1, 48:]], 1) * 255 - FLOW_NEUTRAL
    assert at_rest.std() < 1.2


@pytest.mark.parametrize("motion", ["difference-1", "flow-dis-fast-2"])
def test_mostly_what_is_faster_moves_as_if_frames_were_skipped(motion):
    model = config(motion=motion)
    before = images(model, 400)
    skipped = torch.full_like(before[:, 1:], motion_at_rest(model) / 255)
    skipped[:, :, 24:40, 40:56] += 50 / 255
    after = disturb(before, model, torch.Generator().manual_seed(0), skipped=skipped).images
    same_picture = (after[:, 0] - before[:, 0]).abs().flatten(1).amax(1) < 1e-6
    level = after[:, -1, 24:40, 40:56].flatten(1).amax(1) * 255 - motion_at_rest(model)
    rests = before[:, -1, 24:40, 40:56].flatten(1).amax(1) * 255 - motion_at_rest(model)
    # The last channel of the flow is along the height, where nothing moves unless frames are skipped.
    by_skipping = same_picture & (level - rests > 5) & ((level < 66) if motion == "flow-dis-fast-2" else True)
    assert 0.1 < by_skipping.float().mean() < 0.4


def test_some_foreign_things_rest_and_some_move_at_the_pace_of_the_place():
    model = config()
    before = images(model, 400)
    after = disturb(before, model, torch.Generator().manual_seed(0)).images
    elsewhere = torch.ones(64, 96, dtype=torch.bool)
    elsewhere[20:44, 36:60] = False
    new_picture = ((after[:, 0] - before[:, 0]).abs() > 0.05)[:, elsewhere].any(1)
    pace = after[:, 1][:, elsewhere].amax(1) * 255 - FLOW_NEUTRAL
    assert (new_picture & (pace < 1)).float().mean() > 0.05
    assert (new_picture & ((pace - 32).abs() < 1)).float().mean() > 0.05


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_put_in_is_told_where_it_is_and_nowhere_else(variant):
    model = config(**variant)
    before = images(model)
    assert put_in(before, before, model).abs().max() == 0
    after = before.clone()
    last = before.shape[1] - model.preprocessing.input_channels
    after[:, last : last + model.channels, 16:32, 32:48] += 40 / 255
    there = put_in(after, before, model)
    assert there.shape == (64, 1, 8, 12)
    assert there[:, 0, 2:4, 4:6].min() == 1
    assert there.sum() == 64 * 4
    if model.motion != "none":
        faster = before.clone()
        faster[:, -1, 40:48, 80:88] += 24 / 255
        assert put_in(faster, before, model).flatten(1).argmax(1).tolist() == [5 * 12 + 10] * 64


def test_moving_places_are_where_the_flow_is_more_than_slow():
    model = config()
    moving = moving_places(images(model, 1), model)[0]
    assert moving[24:40, 40:56].all()
    assert moving.sum() == 16 * 16
