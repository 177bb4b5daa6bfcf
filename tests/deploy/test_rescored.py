import numpy as np
import pytest
import torch
from rich.console import Console

from contract.scoring import score_to_z
from contract.source import open_source
from deploy.rescored import SCORINGS, LatentDistance, rescored
from tests.footage import tiny_settings, write_scene
from trainer.checkpoint import load_checkpoint, load_samples
from trainer.disturb import PSEUDO_ANOMALIES
from trainer.fit import fit

MODEL = {"bottleneck": "spatial", "motion": "difference-1", "comparator": [8, 8, 8]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rescored")
    scene = write_scene(folder / "normal", 80)
    settings = tiny_settings(epochs=4, model=MODEL, pseudo_anomalies=PSEUDO_ANOMALIES)
    fit(open_source(str(scene)), str(scene), settings, folder / "run", Console(quiet=True))
    return folder / "run"


@pytest.fixture(scope="module")
def frames(run):
    """Disturbed clips, here and there of which something moves."""
    made = load_samples(run).disturbed.copy()
    made[:, :, 8:24, 16:40, 1] = np.random.default_rng(0).integers(0, 60, (len(made), 1, 1, 1))
    return made


def test_every_scoring_scores_the_map_that_it_gives(run, frames):
    models = rescored(run)
    assert list(models) == list(SCORINGS)
    scores = {}
    for name, model in models.items():
        scores[name], maps = model.score(frames)
        assert maps.shape == (len(frames), 8, 8)
        assert np.array_equal(scores[name], maps.max((1, 2)))
        assert np.isfinite(maps).all()
    assert len({tuple(values.tolist()) for values in scores.values()}) == len(SCORINGS)


def test_joining_as_shipped_is_at_least_the_higher_of_both_and_at_most_their_positive_sum(run, frames):
    detector, clips = load_checkpoint(run).detector.eval(), torch.from_numpy(frames)
    with torch.inference_mode():
        shipped = score_to_z(detector(clips)[1].numpy())
        normal_share = 1 - torch.sigmoid(detector.cell_errors(clips)[:, 0]).mean((1, 2), keepdim=True).numpy()
    joined = np.where(shipped > 0, shipped * normal_share, shipped)
    highest = score_to_z(rescored(run)["the higher of both"].score(frames)[1])
    assert (joined >= highest - 1e-4 * np.abs(highest) - 1e-4).all()
    assert (joined <= np.sqrt(2) * np.maximum(highest, 0) + 1e-3 + 1e-3 * np.abs(highest)).all()


def test_latents_of_normal_frames_are_near_and_of_others_far(run):
    samples = load_samples(run)
    distance = LatentDistance(load_checkpoint(run).detector.eval(), samples.validation)
    near, far = distance.measure(samples.calibration), distance.measure(255 - samples.calibration)
    assert near.shape == (len(samples.calibration), 8, 8)
    # Of eight numbers that are normally distributed, the mean square distance is eight.
    assert 2 < np.square(distance.measure(samples.validation)).mean() < 10
    assert np.median(far) > 2 * np.median(near)
