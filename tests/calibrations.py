"""A calibration as it would have been fitted, for tests of what uses one."""

from contract.scoring import Calibration, Tail


def made_calibration(**changes):
    tail = Tail(location=0.6, scale=1.0)
    fields = {
        "threshold": 6.0, "release_threshold": 4.0, "min_frames": 2, "tail": tail, "event_tail": tail,
        "block_seconds": 1.6, "blocks": 60, "replicates": 1000, "seed": 0, "frames": 960, "frames_per_second": 10.0,
        "false_events_per_day": 1.0, "false_events_per_day_low": 0.1, "false_events_per_day_high": 9.0,
        "false_positive_rate": 1e-6, "supported": True, "frames_needed": 1, "highest_normal_score": 1.5,
        "frames_over_threshold": 0,
    }  # fmt: skip
    return Calibration(**{**fields, **changes})
