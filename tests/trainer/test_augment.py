import pytest
import torch

from contract.frame import FLOW_NEUTRAL
from trainer.augment import augment
from trainer.model import ModelConfig, pictures_and_motion


def config(**changes):
    return ModelConfig(**{"height": 64, "width": 96, "widths": (4, 8, 8), **changes})


def state(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("motion", ["none", "difference-1", "flow-dis-fast-2"])
def test_light_differs_by_image_and_is_one_for_all_frames_of_a_clip(motion):
    model = config(motion=motion, clip_frames=2, channels=3)
    coarse = torch.rand(1, model.preprocessing.input_channels, 8, 12, generator=state()) * 0.2 + 0.4
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
    if motion == "difference-1":
        grown = (moved / still).mean((1, 2, 3, 4))
        assert 0.75 < grown[grown > 0].min() < 0.9
        assert 1.1 < grown.max() < 1.3


def test_some_pictures_are_softer_some_sharper_and_some_noisier():
    model = config(motion="none")
    board = ((torch.arange(64)[:, None] + torch.arange(96)) // 2 % 2).float() * 0.2 + 0.4
    edges = augment(board.repeat(60, 1, 1, 1), model, state()).std((1, 2, 3)) / board.std()
    assert edges.min() < 0.7
    assert edges.max() > 1.4
    flat = augment(torch.full((60, 1, 64, 96), 0.5), model, state()).std((1, 2, 3))
    assert flat.min() < 0.003
    assert 0.015 < flat.max() < 0.021


@pytest.mark.parametrize(("motion", "rest"), [("difference-1", 0), ("flow-dis-fast-2", FLOW_NEUTRAL / 255)])
def test_one_clip_in_ten_is_as_footage_starts(motion, rest):
    model = config(motion=motion, clip_frames=3)
    coarse = torch.rand(300, 3 * model.preprocessing.input_channels, 4, 4, generator=state()) * 0.4 + 0.3
    images = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    pictures, moved = pictures_and_motion(augment(images, model, state()), model)
    starts = (moved == rest).flatten(1).all(1)
    assert 12 < starts.sum() < 55
    assert torch.equal(pictures[starts][:, 0], pictures[starts][:, 2])
    assert (pictures[~starts][:, 0] - pictures[~starts][:, 2]).abs().mean() > 0.05
    if motion == "flow-dis-fast-2":
        assert torch.equal(moved[~starts], pictures_and_motion(images, model)[1][~starts])
    before, after = (each[starts][:, 2].flatten(1) for each in (pictures_and_motion(images, model)[0], pictures))
    assert all(torch.corrcoef(torch.stack(pair))[0, 1] > 0.9 for pair in zip(before, after, strict=True))


def test_images_stay_images_and_the_same_state_gives_the_same_ones():
    model = config(motion="none")
    images = torch.rand(8, 1, 64, 96)
    one, two = (augment(images, model, state(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.min() >= 0
    assert one.max() <= 1
