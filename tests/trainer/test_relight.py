import pytest
import torch

from trainer.model import ModelConfig, pictures_and_motion
from trainer.relight import relight


def config(**changes):
    return ModelConfig(**{"height": 64, "width": 96, "widths": (4, 8, 8), **changes})


@pytest.mark.parametrize("motion", ["none", "difference-1", "flow-dis-1"])
def test_light_differs_by_image_and_is_one_for_all_frames_of_a_clip(motion):
    model = config(motion=motion, clip_frames=2, channels=3)
    one = torch.rand(1, model.preprocessing.input_channels, 64, 96) * 0.2 + 0.4
    images = one.repeat(40, 2, 1, 1)
    lit = relight(images, model, torch.Generator().manual_seed(0))
    assert lit.shape == images.shape
    pictures, moved = pictures_and_motion(lit, model)
    assert torch.equal(pictures[:, 0], pictures[:, 1])
    brightness = pictures.mean((1, 2, 3, 4)) - 0.5
    contrast = pictures.std((1, 2, 3, 4)) / pictures_and_motion(images, model)[0].std((1, 2, 3, 4))
    assert brightness.abs().max() < 0.13
    assert brightness.max() - brightness.min() > 0.15
    assert 0.75 < contrast.min() < 0.9
    assert 1.1 < contrast.max() < 1.3
    if motion == "flow-dis-1":
        assert torch.equal(moved, pictures_and_motion(images, model)[1])
    if motion == "difference-1":
        grown = (moved / pictures_and_motion(images, model)[1]).mean((1, 2, 3, 4))
        assert torch.allclose(grown, contrast, atol=1e-3)


def test_images_stay_images_and_the_same_state_gives_the_same_light():
    model = config(motion="none")
    images = torch.rand(8, 1, 64, 96)
    one, two = (relight(images, model, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.min() >= 0
    assert one.max() <= 1
