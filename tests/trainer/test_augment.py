import pytest
import torch

from contract.frame import FLOW_NEUTRAL
from trainer.augment import augment
from trainer.model import ModelConfig, pictures_and_motion


def config(**changes):
    return ModelConfig(**{"height": 64, "width": 96, "widths": (4, 8, 8), **changes})


def state(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("motion", ["none", "difference-1", "flow-dis-1"])
def test_light_differs_by_image_and_is_one_for_all_frames_of_a_clip(motion):
    model = config(motion=motion, clip_frames=2, channels=3)
    one = torch.rand(1, model.preprocessing.input_channels, 64, 96) * 0.2 + 0.4
    images = one.repeat(40, 2, 1, 1)
    lit = augment(images, model, state())
    assert lit.shape == images.shape
    pictures, moved = pictures_and_motion(lit, model)
    before, still = pictures_and_motion(images, model)
    assert torch.equal(pictures[:, 0], pictures[:, 1])
    brightness = pictures.mean((1, 2, 3, 4)) - 0.5
    contrast = pictures.std((1, 2, 3, 4)) / before.std((1, 2, 3, 4))
    assert brightness.abs().max() < 0.13
    assert brightness.max() - brightness.min() > 0.15
    assert 0.75 < contrast.min() < 0.9
    assert 1.1 < contrast.max() < 1.3
    if motion == "difference-1":
        grown = (moved / still).mean((1, 2, 3, 4))
        assert torch.allclose(grown[grown > 0], contrast[grown > 0], atol=1e-3)


@pytest.mark.parametrize(("motion", "rest"), [("difference-1", 0), ("flow-dis-1", FLOW_NEUTRAL / 255)])
def test_one_clip_in_ten_is_as_footage_starts(motion, rest):
    model = config(motion=motion, clip_frames=3)
    images = torch.rand(300, 3 * model.preprocessing.input_channels, 8, 8, generator=state()) * 0.2 + 0.6
    pictures, moved = pictures_and_motion(augment(images, model, state()), model)
    starts = (moved == rest).flatten(1).all(1)
    assert 12 < starts.sum() < 55
    assert torch.equal(pictures[starts][:, 0], pictures[starts][:, 2])
    assert not (pictures[~starts][:, 0] == pictures[~starts][:, 2]).all()
    if motion == "flow-dis-1":
        assert torch.equal(moved[~starts], pictures_and_motion(images, model)[1][~starts])
    before, after = (each[starts][:, 2].flatten(1) for each in (pictures_and_motion(images, model)[0], pictures))
    assert all(torch.corrcoef(torch.stack(pair))[0, 1] > 0.99 for pair in zip(before, after, strict=True))


def test_images_stay_images_and_the_same_state_gives_the_same_ones():
    model = config(motion="none")
    images = torch.rand(8, 1, 64, 96)
    one, two = (augment(images, model, state(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.min() >= 0
    assert one.max() <= 1
