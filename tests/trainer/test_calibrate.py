import numpy as np

from contract.frame import FLOW_NEUTRAL
from trainer.calibrate import take_samples
from trainer.detector import Detector
from trainer.footage import Part
from trainer.model import Autoencoder, ModelConfig


def test_what_is_put_into_a_sample_is_lighter_or_darker_and_moves_as_it_did():
    frames = np.full((6, 64, 96, 3), FLOW_NEUTRAL, np.uint8)
    frames[:, :, :48, 1:] += 9
    part = Part(frames, np.arange(6), np.zeros(6, np.int64))
    detector = Detector(Autoencoder(ModelConfig(height=64, width=96, widths=(4, 8, 8), motion_frames=2)))
    samples = take_samples(detector, part, part, seed=0)
    assert np.array_equal(samples.disturbed[:, 0], samples.calibration[:, 0])
    picture, motion = samples.disturbed[:, -1, ..., 0], samples.disturbed[:, -1, ..., 1:]
    assert all((np.abs(one.astype(int) - FLOW_NEUTRAL) >= 20).any() for one in picture)
    assert set(np.unique(motion)) == {FLOW_NEUTRAL, FLOW_NEUTRAL + 9}
    assert not np.array_equal(motion, samples.calibration[:, -1, ..., 1:])
