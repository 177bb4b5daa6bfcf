"""Prints docs/decisions' table on calibration: ``python -m tests.trainer.calibration_figures``, two minutes."""

import sys

import numpy as np

from contract.scoring import z_to_score
from tests.trainer.test_thresholds import FRAMES_A_DAY, PROCESSES, autoregressive, count_events, fitted

TRIALS, DAYS = 100, 20
MADE = {
    **PROCESSES,
    "slow, past 0.98": lambda random, count: autoregressive(random, count, past=0.98),
    "heavy, exponential of past 0.9": lambda random, count: np.exp(1 + (autoregressive(random, count) - 3) / 3),
}
HELD_OUT = [(20_000, 500), (20_000, 130), (100_000, 26), (20_000, 20), (3_000, 20)]


def main():
    show("process", "held out", "budget", "achieved / budget", "within", "above", "duration: times")
    for name, process in MADE.items():
        normal = z_to_score(process(np.random.default_rng(99), DAYS * FRAMES_A_DAY))
        for count, budget in HELD_OUT:
            show(name, count, budget, *measure(process, normal, count, budget))


def show(*cells):
    sys.stdout.write(f"| {' | '.join(map(str, cells))} |\n")


def measure(process, normal, count, budget):
    """Ratios of achieved to budgeted events, shares of intervals that hold and that are passed, durations chosen."""
    ratios, within, above, durations = [], 0, 0, []
    for seed in range(TRIALS):
        calibration = fitted([z_to_score(process(np.random.default_rng(seed), count))], budget, seed=seed)
        achieved = count_events(normal, calibration) / DAYS
        ratios.append(achieved / budget)
        within += calibration.false_events_per_day_low <= achieved <= calibration.false_events_per_day_high
        above += achieved > calibration.false_events_per_day_high
        durations.append(calibration.min_frames)
    low, median, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    chosen = ", ".join(f"{frames}: {durations.count(frames)}" for frames in sorted(set(durations)))
    return f"{median:.2f} ({low:.2f} to {high:.2f})", within, above, chosen


if __name__ == "__main__":
    main()
