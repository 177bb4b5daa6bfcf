"""From a trained autoencoder to a calibrated detector, by held-out normal footage alone."""

import math
from collections.abc import Iterator

import numpy as np
import torch

from contract.drift import DriftReference
from contract.errors import TrainingError
from contract.event import EventRule
from contract.scoring import Calibration, FloatArray, cell_statistics
from trainer.checkpoint import Samples
from trainer.detector import Detector
from trainer.drift import drift_reference, pool
from trainer.footage import Part
from trainer.model import seen_images
from trainer.settings import FitSettings
from trainer.thresholds import calibrate

_BATCH = 32
_MAX_SAMPLE_CLIPS = 512
_MAX_SAMPLE_BYTES = 64 * 2**20


def calibrate_detector(
    detector: Detector, validation: Part, calibration: Part, *, frames_per_second: float, settings: FitSettings
) -> tuple[Calibration, EventRule, DriftReference | None]:
    """Set each cell's mean and spread from the validation part, then thresholds and rule from the calibration part.

    Two parts, since frames that set the cells' statistics score lower than new ones do.

    Args:
        detector: Trained; its ``cell_mean`` and ``cell_spread`` are set.
        validation: Normal frames, not trained on.
        calibration: Normal frames, neither trained on nor in ``validation``.
        frames_per_second: Rate of the footage.
        settings: Budget, seed, and what the event rule is to be.

    Returns:
        The calibration, the event rule that it was made for, and what blocks of normal footage are like; None where
        the calibration part has too few of them.

    Raises:
        TrainingError: The detector gives scores that are not finite.
    """
    detector.eval()
    # TF32 would round what the bundle that this threshold is for does not.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        errors = np.concatenate(
            [detector.cell_errors(frames).cpu().numpy() for frames in _batches(detector, validation)]
        )
        mean, spread = cell_statistics(errors, detector.by_place)
        detector.cell_mean.copy_(torch.from_numpy(mean))
        detector.cell_spread.copy_(torch.from_numpy(spread))
        scores = np.concatenate([detector(frames)[0].cpu().numpy() for frames in _batches(detector, calibration)])
        latents = _pooled_latents(detector, validation), _pooled_latents(detector, calibration)
    if not np.isfinite(scores).all():
        raise TrainingError("the trained model gives scores that are not finite; lower learning_rate or use fp32")
    fitted = calibrate(
        np.split(scores, calibration.breaks()),
        frames_per_second=frames_per_second,
        false_events_per_day=settings.budget,
        min_frames=settings.event_rule.min_frames,
        gap_frames=settings.event_rule.over(EventRule()).gap_frames,
        seed=settings.seed,
    )
    breaks = calibration.breaks()
    drift = drift_reference(np.split(scores, breaks), (latents[0], np.split(latents[1], breaks)), frames_per_second)
    return fitted, settings.event_rule.over(_rule_for(fitted)), drift


def _pooled_latents(detector: Detector, part: Part) -> FloatArray:
    """Latents averaged over the picture, shape (frames, components)."""
    config = detector.autoencoder.config
    latents = [
        detector.autoencoder.encoder(seen_images(frames, config)).cpu().numpy() for frames in _batches(detector, part)
    ]
    return np.concatenate([pool(one) for one in latents])


def _rule_for(fitted: Calibration) -> EventRule:
    """Take the duration that was chosen; where the budget is extrapolated, the default's where that is longer.

    Footage too short to show a budget has not shown the single odd frames either that a camera gives now and then.
    """
    cautious = 1 if fitted.supported else min(EventRule().min_frames, max(1, math.floor(fitted.frames_per_second)))
    return EventRule(min_frames=max(fitted.min_frames, cautious))


def take_samples(detector: Detector, validation: Part, calibration: Part, seed: int) -> Samples:
    """Take clips evenly over held-out footage, and those of the calibration part disturbed.

    A disturbed clip has a rectangle of its last frame replaced by one from elsewhere, brighter or darker, that moves as
    it does there: an object that was never there.

    Args:
        detector: Its configuration says how long a clip is.
        validation: Normal frames that set the cells' statistics.
        calibration: Normal frames that set the threshold.
        seed: Of the disturbances.

    Returns:
        At most 512 clips of each, and at most 64 MiB of them.
    """
    config = detector.autoencoder.config
    clip_bytes = config.detector_frames * config.height * config.width * config.preprocessing.input_channels
    most = max(1, min(_MAX_SAMPLE_CLIPS, _MAX_SAMPLE_BYTES // clip_bytes))
    taken = []
    for part in (validation, calibration):
        which = np.unique(np.linspace(0, len(part) - 1, most).round().astype(np.int64))
        taken.append(part.clips(which, config.detector_frames))
    disturbed = taken[1].copy()
    random = np.random.default_rng(seed)
    height, width = config.height, config.width
    for clip in disturbed:
        rows, columns = (int(random.integers(side // 8, side // 3)) for side in (height, width))
        top, left = int(random.integers(0, height - rows)), int(random.integers(0, width - columns))
        from_top, from_left = int(random.integers(0, height - rows)), int(random.integers(0, width - columns))
        patch = clip[-1, from_top : from_top + rows, from_left : from_left + columns].astype(np.int16)
        patch[..., : config.channels] += int(random.choice([-1, 1])) * int(random.integers(20, 80))
        clip[-1, top : top + rows, left : left + columns] = np.clip(patch, 0, 255)
    return Samples(taken[0], taken[1], disturbed)


def _batches(detector: Detector, part: Part) -> Iterator[torch.Tensor]:
    clip_frames = detector.autoencoder.config.detector_frames
    device = detector.cell_mean.device
    for start in range(0, len(part), _BATCH):
        which = np.arange(start, min(start + _BATCH, len(part)))
        yield torch.from_numpy(part.clips(which, clip_frames)).to(device)
