import pytest
import torch
from torch.nn import functional

from trainer.around import mean_around


@pytest.mark.parametrize("reach", [1, 4, 40])
def test_means_are_those_of_pooling_that_leaves_out_what_is_not_there(reach):
    values = torch.rand(3, 2, 20, 32, generator=torch.Generator().manual_seed(0))
    pooled = functional.avg_pool2d(values, (2 * min(reach, 19) + 1, 1), 1, (min(reach, 19), 0), count_include_pad=False)
    pooled = functional.avg_pool2d(pooled, (1, 2 * min(reach, 31) + 1), 1, (0, min(reach, 31)), count_include_pad=False)
    assert torch.allclose(mean_around(values, reach), pooled, atol=1e-6)
    assert torch.allclose(mean_around(values[0, 0], reach), pooled[0, 0], atol=1e-6)
