from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from contract.frame import FLOW_NEUTRAL, FLOW_STEPS_A_PIXEL, Preprocessing
from contract.motion import MotionChannels
from contract.window import ClipWindow


def texture(shift: float, height: int = 96, width: int = 128, sigma: float = 2) -> np.ndarray:
    """A blurred random picture, moved to the right by some pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width + 64), dtype=np.uint8)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), sigma), None, 0, 255, cv2.NORM_MINMAX)
    moved = cv2.warpAffine(smooth, np.float32([[1, 0, shift], [0, 1, 0]]), (width + 64, height))
    return moved[:, 32 : 32 + width, None]


def preprocessing(motion: str, channels: int = 1) -> Preprocessing:
    return Preprocessing(height=96, width=128, channels=channels, motion=motion)


def test_without_motion_frames_stay_as_they_are():
    frame = texture(0)
    assert np.array_equal(MotionChannels(preprocessing("none")).push(frame), frame)


def test_the_difference_is_that_from_the_frame_before():
    motion = MotionChannels(preprocessing("difference-1"))
    first, second = texture(0), texture(2)
    assert not motion.push(first)[..., 1].any()
    pushed = motion.push(second)
    assert np.array_equal(pushed[..., :1], second)
    assert np.array_equal(pushed[..., 1], cv2.absdiff(first[..., 0], second[..., 0]))


FLOWS = ["flow-dis-2", "flow-dis-fast-2"]


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("pixels_a_frame", [-2.0, 1.0, 3.5])
def test_flow_is_the_displacement_over_two_frames_in_eighths_of_a_pixel(flow, pixels_a_frame):
    motion = MotionChannels(preprocessing(flow))
    for number in range(3):
        pushed = motion.push(texture(number * pixels_a_frame))
        inner = pushed[16:-16, 16:-16].astype(float)
        moved = 0 if number == 0 else 2 * pixels_a_frame * FLOW_STEPS_A_PIXEL
        assert np.median(inner[..., 1]) == pytest.approx(FLOW_NEUTRAL + moved, abs=2)
        assert np.median(inner[..., 2]) == pytest.approx(FLOW_NEUTRAL, abs=1)


def test_flow_of_colour_is_that_of_its_grey():
    grey, colour = MotionChannels(preprocessing("flow-dis-fast-2")), MotionChannels(preprocessing("flow-dis-fast-2", 3))
    for number in range(3):
        frame = texture(number)
        of_grey, of_colour = grey.push(frame), colour.push(np.repeat(frame, 3, axis=2))
    assert of_colour.shape == (96, 128, 5)
    assert np.array_equal(of_grey[..., 1:], of_colour[..., 3:])


@pytest.mark.parametrize("flow", FLOWS)
def test_flow_does_not_depend_on_what_was_computed_before_the_last_frames(flow):
    frames = [texture(number * 1.5) for number in range(6)]
    whole, late = MotionChannels(preprocessing(flow)), MotionChannels(preprocessing(flow))
    pushed = [whole.push(frame) for frame in frames]
    again = [late.push(frame) for frame in frames[2:]]
    assert np.array_equal(pushed[-1], again[-1])
    assert np.array_equal(pushed[4], again[2])


def test_a_skipped_frame_is_one_that_later_frames_moved_since():
    frames = [texture(number * 1.5) for number in range(4)]
    pushed, skipped = (
        MotionChannels(preprocessing("flow-dis-fast-2", 3)),
        MotionChannels(preprocessing("flow-dis-fast-2", 3)),
    )
    for frame in frames[:-1]:
        pushed.push(np.repeat(frame, 3, axis=2))
        skipped.skip(np.repeat(frame, 3, axis=2))
    last = np.repeat(frames[-1], 3, axis=2)
    assert np.array_equal(pushed.push(last), skipped.push(last))


@pytest.mark.parametrize(("pixels_a_frame", "end"), [(8.5, 255), (-8.5, 0)])
def test_movement_beyond_the_range_stays_at_its_end(pixels_a_frame, end):
    motion = MotionChannels(preprocessing("flow-dis-fast-2"))
    for number in range(3):
        pushed = motion.push(texture(number * pixels_a_frame, sigma=8))
    assert np.median(pushed[16:-16, 32:-32, 1]) == end


@pytest.mark.parametrize("motion", ["none", "difference-1", *FLOWS])
def test_motion_may_be_measured_later_in_any_order_and_by_any_thread(motion):
    at_once, later = ClipWindow(3, preprocessing(motion)), ClipWindow(3, preprocessing(motion))
    frames = [texture(number * 1.5) for number in range(12)]
    expected = [at_once.push(frame) for frame in frames]
    coming = [later.take(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda clip: clip.measure(), reversed(coming)))
    assert all(np.array_equal(np.stack(clip.frames), whole) for clip, whole in zip(coming, expected, strict=True))


def test_a_clip_holds_each_frames_own_motion():
    window = ClipWindow(2, preprocessing("difference-1"))
    frames = [texture(0), texture(2), texture(2)]
    for frame in frames:
        clip = window.push(frame)
    assert clip.shape == (2, 96, 128, 2)
    assert clip[0, ..., 1].any()
    assert not clip[1, ..., 1].any()
