from typing import get_args

import pytest
import torch

from trainer.losses import loss_function
from trainer.model import ModelConfig
from trainer.settings import Loss

STILL = ModelConfig(height=32, width=32, motion="none")


def pictures():
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25


@pytest.mark.parametrize("name", get_args(Loss))
def test_a_loss_is_nothing_for_the_same_and_grows_with_the_difference(name):
    loss, images = loss_function(name, STILL), pictures()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    values = [float(loss(images + size * noise, images)) for size in (0, 0.01, 0.1)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2]


def test_gradients_mind_edges_that_are_lost_more_than_light_that_changed():
    edge = torch.zeros(1, 1, 32, 32)
    edge[..., 16:] = 0.5
    lighter = edge + 0.1
    stripes = edge + 0.1 * (torch.arange(32) % 2 * 2 - 1)
    by = {name: loss_function(name, STILL) for name in ("l1", "gradient")}
    assert float(by["l1"](lighter, edge)) == pytest.approx(float(by["l1"](stripes, edge)))
    assert float(by["gradient"](lighter, edge)) == pytest.approx(0.1, abs=1e-6)
    assert float(by["gradient"](stripes, edge)) > 0.25


def test_motion_is_compared_by_its_squared_error_whatever_the_loss():
    config = ModelConfig(height=32, width=32, motion="difference-1")
    images = torch.cat([pictures(), pictures()], 1)
    moved = images.clone()
    moved[:, 1] += 0.1
    assert {round(float(loss_function(name, config)(moved, images)), 5) for name in get_args(Loss)} == {0.16}
