"""The model card that travels in the bundle, after Mitchell et al., Model Cards for Model Reporting, 2019."""

from contract.manifest import Manifest
from contract.scoring import say_rate


def model_card(manifest: Manifest) -> str:
    """Write the card from what the manifest says, in Markdown."""
    calibration, training = manifest.calibration, manifest.training
    frames = training.get("frames", {})
    rule = manifest.event_rule
    hours_needed = calibration.frames_needed / calibration.frames_per_second / 3600
    low, high = say_rate(calibration.false_events_per_day_low), say_rate(calibration.false_events_per_day_high)
    support = (
        "The held-out footage is long enough to show this budget."
        if calibration.supported
        else f"The held-out footage is too short to show this budget: it was extrapolated. "
        f"{calibration.frames_needed} frames, {hours_needed:.3g} h, would show it."
    )
    parity = "\n".join(
        f"| {row.output} | {row.batch} | {row.largest_difference:.3g} | "
        f"{'-' if row.tolerance is None else format(row.tolerance, 'g')} |"
        for row in manifest.parity
    )
    p, shape = manifest.preprocessing, manifest.shape
    return f"""# {manifest.name} {manifest.version}

A convolutional autoencoder that has seen only normal footage. What it cannot redraw scores high.

## Use

For the camera, or cameras much like it, whose footage it was fitted to: {training.get("source", "not stated")}.
It tells that a place in the picture looks unlike normal footage; it does not tell what is there, and it was not made to
recognise people.

## Input and output

Frames of any size, resized to {p.width}x{p.height}, {"grey" if p.channels == 1 else "colour"}, {shape.clip_frames} at a
time, of which encoder and decoder take the last {shape.redrawn_frames}; decoding chain {p.chain}.
A latent has shape {list(shape.latent)}, an anomaly map {list(shape.anomaly_map)}.
Weights and arithmetic: {manifest.precision}.

## Training

{frames.get("training", "?")} frames trained it, {frames.get("validation", "?")} chose the best epoch and
{frames.get("calibration", "?")} set the threshold; the three are apart in time. {training.get("epochs", "?")} epochs in
{training.get("training_seconds", "?")} s, best held-out loss {training.get("best_validation_loss", float("nan")):.3g}.

## Threshold

An event starts once {rule.min_frames} frames in a row score {calibration.threshold:.3f} or higher; it ends once
{rule.gap_frames + 1} in a row score below {calibration.release_threshold:.3f}. That is set for
{calibration.false_events_per_day:g} false events a camera and day, at {calibration.frames_per_second:g} frames/s, from
{calibration.frames} held-out normal frames.
95% interval of false events a day: {low} to {high}, by {calibration.blocks} blocks of {calibration.block_seconds:.3g} s
drawn with replacement {calibration.replicates} times.
{support}

## Parity with PyTorch

| output | batch | largest difference | accepted |
|---|---|---|---|
{parity}

AUROC between held-out frames and the same frames with a foreign patch: {manifest.quality.get("auroc_disturbed", 0):.4f}
({manifest.quality.get("auroc_disturbed_pytorch", 0):.4f} in PyTorch).

## Limits

What looks normal at its place and scale is not seen, whatever it does. A lasting change of light or furniture raises
scores until the model is fitted again. Footage with anomalies in it teaches them as normal.
"""
