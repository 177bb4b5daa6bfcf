import pytest
import torch

from contract.frame import FLOW_NEUTRAL
from trainer.augment import augment, resize
from trainer.model import ModelConfig, pictures_and_motion


def config(**changes):
    return ModelConfig(**{"height": 64, "width": 96, "widths": (4, 8, 8), **changes})


def state(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("motion", ["none", "difference-1", "flow-dis-1"])
def test_light_differs_by_image_and_is_one_for_all_frames_of_a_clip(motion):
    model = config(motion=motion, clip_frames=2, channels=3)
    coarse = torch.rand(1, model.preprocessing.input_channels, 8, 12) * 0.2 + 0.4
    images = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3).repeat(40, 2, 1, 1)
    before, still = pictures_and_motion(images, model)
    pictures, moved = pictures_and_motion(augment(images, model, state()), model)
    assert pictures.shape == before.shape
    assert (pictures[:, 0] - pictures[:, 1]).abs().mean() < 0.03
    brightness = pictures.mean((1, 2, 3, 4)) - before.mean()
    contrast = pictures[..., 4::8, 4::8].std((1, 2, 3, 4)) / before.std((1, 2, 3, 4))
    assert brightness.abs().max() < 0.13
    assert brightness.max() - brightness.min() > 0.15
    assert 0.75 < contrast.min() < 0.95
    assert 1.1 < contrast.max() < 1.4
    if motion == "flow-dis-1":
        assert torch.equal(moved, still)
    if motion == "difference-1":
        grown = (moved / still).mean((1, 2, 3, 4))
        assert 0.75 < grown.min() < 0.9
        assert 1.1 < grown.max() < 1.3


def test_some_pictures_are_softer_and_some_noisier():
    model = config(motion="none")
    board = ((torch.arange(64)[:, None] + torch.arange(96)) // 2 % 2).float() * 0.4 + 0.3
    edges = augment(board.repeat(60, 1, 1, 1), model, state()).std((1, 2, 3))
    assert edges.max() > 1.5 * edges.min()
    flat = augment(torch.full((60, 1, 64, 96), 0.5), model, state()).std((1, 2, 3))
    assert flat.min() < 0.003
    assert 0.015 < flat.max() < 0.021


def test_images_stay_images_and_the_same_state_gives_the_same_ones():
    model = config(motion="none")
    images = torch.rand(8, 1, 64, 96)
    one, two = (augment(images, model, state(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.min() >= 0
    assert one.max() <= 1


@pytest.mark.parametrize("spare", [0, 8])
def test_what_is_enlarged_stays_at_its_place_and_moves_faster(spare):
    model = config(motion="flow-dis-1")
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 72), torch.linspace(0, 1, 72), indexing="ij")
    position = torch.stack([rows, columns]).repeat(30, 1, 1, 1)
    flow = torch.full((30, 2, 72, 72), (FLOW_NEUTRAL + 16) / 255)
    crops = torch.cat([position[:, :1], flow], 1)
    cut, places = resize(crops, position, spare, model, state())
    assert cut.shape == (30, 3, 72 - spare, 72 - spare)
    assert torch.allclose(cut[:, 0], places[:, 0], atol=1e-5)
    shown = (places[:, 0, -1, 0] - places[:, 0, 0, 0]) / (71 - spare) * 71
    pace = (cut[:, 1, 9, 9] * 255 - FLOW_NEUTRAL) / 16
    assert torch.allclose(pace * shown, torch.ones(30), atol=0.02)
    assert pace.max() > 1.1
    assert pace.max() <= 1.2001
    assert pace.min() >= (72 - spare) / 72 - 0.02
    assert len({round(float(top), 3) for top in places[:, 0, 0, 0]}) > 10


def test_crops_of_the_whole_picture_are_not_shrunk():
    cut, _ = resize(torch.rand(4, 1, 64, 72), torch.rand(4, 2, 64, 72), 0, config(motion="none"), state())
    assert cut.shape == (4, 1, 64, 72)
