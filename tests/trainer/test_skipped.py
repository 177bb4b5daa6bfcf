import cv2
import numpy as np
import pytest
import torch

from contract.frame import FLOW_NEUTRAL, FLOW_STEPS_A_PIXEL, FrameLimits, Preprocessing
from deploy.probes import Pictures
from tests.contract.test_motion import texture
from trainer.footage import FootageReader, Part
from trainer.model import ModelConfig
from trainer.skipped import part_skipped, skip_frames

FRAMES = 80
PIXELS_A_FRAME = 1.0


@pytest.fixture
def preprocessing():
    return Preprocessing(height=96, width=128, channels=1, motion="flow-dis-fast-2")


@pytest.fixture
def footage(preprocessing, tmp_path):
    """Two clips in which everything moves one pixel a frame, there and back so that it stays in view."""

    def picture(number):
        shift = 16 - abs(number % 64 - 32)
        return cv2.cvtColor(texture(shift * PIXELS_A_FRAME), cv2.COLOR_GRAY2BGR)

    clips = [Pictures(name, [picture(number) for number in range(FRAMES)], 10.0) for name in ("a", "b")]
    return FootageReader(preprocessing, FrameLimits(), tmp_path, lambda count: None).read(clips)


def whole(footage):
    """All of it as a part."""
    starts = [np.full(segment.stop - segment.start, segment.start) for segment in footage.segments]
    return Part(footage.frames, np.arange(len(footage.frames)), np.concatenate(starts))


def pace(motion):
    """Median pace along the width, pixels a frame."""
    return (np.median(motion[16:-16, 24:-24, 0].astype(float)) - FLOW_NEUTRAL) / FLOW_STEPS_A_PIXEL / 2


def test_motion_is_that_of_footage_at_two_and_three_times_its_rate(footage, preprocessing, tmp_path):
    seen = []
    skipped = skip_frames(footage, [whole(footage)], preprocessing, tmp_path, seen.append)
    assert seen == list(range(1, 2 * FRAMES + 1))
    assert skipped.motion.shape == (2 * FRAMES, 96, 128, 2)
    assert list(tmp_path.iterdir()) == []
    assert pace(skipped.motion[20]) == pytest.approx(2 * PIXELS_A_FRAME, abs=0.25)
    assert pace(skipped.motion[64 + 15]) == pytest.approx(3 * PIXELS_A_FRAME, abs=0.25)


def test_the_first_frames_of_a_stretch_know_no_frame_before_it(footage, preprocessing, tmp_path):
    skipped = skip_frames(footage, [whole(footage)], preprocessing, tmp_path, lambda count: None)
    for start in (segment.start for segment in footage.segments):
        assert (skipped.motion[start] == FLOW_NEUTRAL).all()
    # From the fourth frame of the second clip, whose rate is three, the one three before it is known.
    assert pace(skipped.motion[FRAMES + 4]) == pytest.approx(3 * PIXELS_A_FRAME, abs=0.25)


def test_frames_of_other_parts_are_left_out(footage, preprocessing, tmp_path):
    part = Part(footage.frames, np.arange(20, 30), np.full(10, 0))
    skipped = skip_frames(footage, [part], preprocessing, tmp_path, lambda count: None)
    assert (skipped.motion[20:30] > 0).all()
    assert not skipped.motion[:20].any()
    assert not skipped.motion[30:].any()


def test_the_motion_of_skipped_frames_is_parted_from_a_frames_own():
    config = ModelConfig(height=32, width=32, channels=3, motion="flow-dis-fast-2", clip_frames=2)
    clips = torch.arange(2 * 14 * 2).float().reshape(2, 14, 1, 2)
    own, motion = part_skipped(clips, config)
    assert torch.equal(own, clips[:, [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]])
    assert torch.equal(motion, clips[:, [5, 6, 12, 13]])
