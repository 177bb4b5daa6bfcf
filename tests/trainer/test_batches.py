import numpy as np
import pytest
import torch

from contract.frame import FLOW_NEUTRAL
from trainer.batches import BatchMaker
from trainer.footage import Footage, Part, Segment
from trainer.model import Encoder
from trainer.settings import FitSettings
from trainer.skipped import SkippedMotion

FRAMES = 60
EVERY = np.arange(FRAMES)


def settings(**changes):
    model = {"height": 64, "width": 96, "widths": (4, 8, 8), **changes.pop("model", {})}
    return FitSettings(**{"epochs": 1, "crop_px": 32, "model": model, **changes})


@pytest.fixture
def footage():
    frames = np.random.default_rng(2).integers(64, 192, (FRAMES, 64, 96, 3), dtype=np.uint8)
    frames[..., 1:] = FLOW_NEUTRAL
    frames[:, 24:40, 40:56, 1] = FLOW_NEUTRAL + 32
    return Footage(frames, [Segment("a", 0, FRAMES)], 10.0, [])


@pytest.fixture
def skipped():
    motion = np.full((FRAMES, 64, 96, 2), FLOW_NEUTRAL, np.uint8)
    motion[:, 24:40, 40:56, 1] = FLOW_NEUTRAL + 48
    return SkippedMotion(motion)


def part(footage):
    return Part(footage.frames, EVERY, np.zeros(FRAMES, np.int64))


def make(footage, skipped, asked, method, seed=0):
    maker = BatchMaker(footage, asked, skipped, Encoder(asked.model).position)
    return getattr(maker, method)(part(footage), EVERY, torch.Generator().manual_seed(seed))


def test_held_out_crops_are_the_footages_own_and_the_same_for_the_same_state(footage, skipped):
    batch, again, other = (make(footage, skipped, settings(), "held_out", seed) for seed in (0, 0, 1))
    assert batch.images.shape == batch.disturbed.shape == (FRAMES, 3, 32, 32)
    for one, position, frame in zip(batch.images, batch.position, footage.frames, strict=True):
        row, column = (round((position[axis, 0, 0].item() + 1) / 2 * side) for axis, side in ((0, 63), (1, 95)))
        crop = frame[row : row + 32, column : column + 32].transpose(2, 0, 1)
        assert np.array_equal((one * 255).round().numpy(), crop)
    assert torch.equal(batch.disturbed, again.disturbed)
    assert not torch.equal(batch.images, other.images)


def test_training_crops_are_shown_in_other_light_where_the_settings_say_so(footage, skipped):
    lit, as_it_is = (make(footage, skipped, settings(augment=augment), "training") for augment in (True, False))
    levels = as_it_is.images[:, 0].flatten(1).mean(1)
    assert levels.std() < 0.02
    assert lit.images[:, 0].flatten(1).mean(1).std() > 0.05


def test_what_moves_as_when_frames_are_skipped_is_put_in(footage, skipped):
    batch = make(footage, skipped, settings(pseudo_anomalies=["skip-frame"]), "held_out")
    change = (batch.disturbed - batch.images).abs().flatten(2).amax(2)
    assert not change[:, 0].any()
    # Along the height only what skipped frames show moves.
    assert 0.3 < (change[:, 2] > 10 / 255).float().mean() < 0.9


def test_without_skipped_motion_the_other_kinds_are_put_in(footage):
    batch = make(footage, None, settings(), "held_out")
    assert 0.5 < ((batch.disturbed - batch.images).abs().flatten(1).amax(1) > 1e-3).float().mean() < 0.95


@pytest.mark.parametrize("whole", [{"crop_px": None}, {"model": {"bottleneck": "frame"}}])
def test_whole_pictures_have_no_position_of_their_own(footage, skipped, whole):
    batch = make(footage, skipped, settings(**whole), "held_out")
    assert batch.position is None
    assert batch.images.shape == (FRAMES, 3, 64, 96)


def test_with_nothing_to_put_in_the_images_are_redrawn_as_they_are(footage):
    asked = settings(pseudo_anomalies=[], model={"comparator": None})
    batch = make(footage, None, asked, "held_out")
    assert torch.equal(batch.disturbed, batch.images)
