import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy.ablation import HIGHEST, POOLS, PROBED, VARIANTS, auroc_by_kind, page
from deploy.probed import ScoredProbes
from deploy.probes import Pictures, Probe
from trainer.scored import ScoredStretch
from trainer.settings import FitSettings


def stretch(scores) -> ScoredStretch:
    values, none = np.array(scores, np.float64), np.zeros(0)
    maps = np.zeros((len(values), 10, 10), np.float16)
    maps[:, 3, 4] = values
    places = np.arange(len(values))
    return ScoredStretch("a", places, places * 100, values, maps, none, none, None, [])


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_can_be_fitted_and_differs_from_the_first(variant):
    settings, first = (
        FitSettings(**{"minutes": 2.0, "model": one.model, **one.settings}) for one in (variant, VARIANTS[0])
    )
    assert (settings == first) == (variant is VARIANTS[0] or (variant.stride > 1 and not variant.model))


def test_frames_before_something_is_wrong_do_not_count():
    clip = Pictures("a", [], 10.0)
    probes = [
        (Probe("fast", clip, 2, None), stretch([0, 0, 5, 6])),
        (Probe("foreign", clip, 2, None), stretch([9, 9, 1, 3])),
    ]
    by_kind = auroc_by_kind(ScoredProbes([stretch([1, 2]), stretch([4, 0])], probes), POOLS[HIGHEST])
    assert by_kind["fast"] == 1
    assert by_kind["foreign"] == pytest.approx((1.5 + 3) / 8)
    assert "abandoned" not in by_kind


def test_pools_are_of_the_map_and_look_back_alone():
    one = stretch([0, 0, 8, 0])
    assert POOLS["mean of all cells"](one).tolist() == pytest.approx([0, 0, 0.08, 0])
    assert POOLS["mean of the highest 2% of cells"](one).tolist() == pytest.approx([0, 0, 4, 0])
    assert POOLS["highest cell, averaged over 3 frames"](one).tolist() == pytest.approx([0, 0, 8 / 3, 8 / 3])


def test_the_page_gives_the_mean_of_a_variant_s_fits():
    figures = dict.fromkeys(PROBED, 0.5)
    base = {"number": 0, "name": "as shipped", "minutes": 2.0, "parameters": 12_345}
    results = [
        {**base, "seed": seed, "steps": 100 * (seed + 1), "auroc": {HIGHEST: {**figures, "fast": 0.8 + seed / 10}}}
        for seed in (0, 1)
    ]
    rows = [line for line in page(results).splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert rows[-1] == "| as shipped | 2, 2, 150 | 12,345 | 0.850 | 0.500 | 0.500 | 0.500 | 0.500 | 0.570 |"


def test_a_folder_without_footage_is_one_line_and_exit_2(tmp_path):
    command = [sys.executable, "-m", "deploy.ablation", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 2
    assert "holds no ped2/train" in done.stderr
