import numpy as np
import pytest
import torch

from contract.frame import FLOW_NEUTRAL
from trainer.crops import CropChooser, Window, whole_pictures
from trainer.model import Encoder, ModelConfig


def config(**changes):
    return ModelConfig(**{"height": 64, "width": 96, "widths": (4, 8, 8), **changes})


def seed(number=0):
    return torch.Generator().manual_seed(number)


@pytest.fixture
def frames():
    """Random pictures, grey and flow, in whose middle something moves two pixels a frame to the right."""
    made = np.random.default_rng(1).integers(64, 192, (40, 64, 96, 3), dtype=np.uint8)
    made[..., 1:] = FLOW_NEUTRAL
    made[:, 24:40, 40:56, 1] = FLOW_NEUTRAL + 32
    return made


def test_crops_keep_scale_and_position_and_mostly_hold_what_moves(frames):
    places = np.arange(300) % 40
    window = CropChooser(frames, 32, config()).choose(places, seed())
    crops = window.cut([frames], places[:, None])
    assert crops.shape == (300, 1, 32, 32, 3)
    positions = window.positions(Encoder(config()).position)
    assert positions.shape == (300, 2, 32, 32)
    for index in (0, 150, 299):
        row = round((positions[index, 0, 0, 0].item() + 1) / 2 * 63)
        column = round((positions[index, 1, 0, 0].item() + 1) / 2 * 95)
        assert np.array_equal(crops[index, 0], frames[places[index], row : row + 32, column : column + 32])
        assert row % 8 == column % 8 == 0
    holds_motion = (crops[..., 1] > FLOW_NEUTRAL + 16).any((1, 2, 3)).mean()
    assert holds_motion > 0.8


def test_where_nothing_moves_crops_lie_anywhere(frames):
    frames[..., 1:] = FLOW_NEUTRAL
    places = np.zeros(400, np.int64)
    corners = np.array(CropChooser(frames, 32, config()).choose(places, seed()).corners)
    assert set(corners[:, 0]) == set(range(0, 40, 8))
    assert set(corners[:, 1]) == set(range(0, 72, 8))


def test_frames_are_asked_for_their_motion_once_and_in_any_order(frames):
    moving = frames.copy()
    moving[:20, ..., 1:] = FLOW_NEUTRAL
    moving[:20, 48:64, 80:96, 1] = FLOW_NEUTRAL + 32
    chooser = CropChooser(moving, 32, config())
    first = chooser.choose(np.array([30, 5, 30]), seed()).corners
    moving[...] = FLOW_NEUTRAL
    again = chooser.choose(np.array([30, 5, 30]), seed()).corners
    assert again == first
    corners = np.array(chooser.choose(np.full(200, 5), seed()).corners)
    assert np.median(corners[:, 1]) > 40


def test_the_channels_of_further_sources_are_cut_alike(frames):
    places = np.array([[3, 4], [8, 9]])
    window = Window(16, 24, [(8, 16), (40, 64)])
    crops = window.cut([frames, 255 - frames[..., :2]], places)
    assert crops.shape == (2, 2, 16, 24, 5)
    assert np.array_equal(crops[1, 0, ..., :3], frames[8, 40:56, 64:88])
    assert np.array_equal(crops[1, 1, ..., 3:], 255 - frames[9, 40:56, 64:88, :2])


def test_a_crop_is_at_most_the_picture():
    model = config(motion="none")
    pictures = np.zeros((2, 64, 96, 1), np.uint8)
    window = CropChooser(pictures, 128, model).choose(np.array([0, 1]), seed())
    assert window == whole_pictures(2, model)
    assert window.cut([pictures], np.array([[0], [1]])).shape == (2, 1, 64, 96, 1)


def test_without_motion_crops_mostly_hold_what_is_to_be_seen():
    pictures = np.full((5, 64, 96, 1), 200, np.uint8)
    pictures[:, 40:56, 72:88] = np.random.default_rng(1).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    places = np.arange(300) % 5
    window = CropChooser(pictures, 32, config(motion="none")).choose(places, seed())
    crops = window.cut([pictures], places[:, None])
    assert (crops != 200).any((1, 2, 3, 4)).mean() > 0.8
