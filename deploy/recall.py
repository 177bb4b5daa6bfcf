"""Fits a preset to footage it was not tuned for and counts what it finds, then writes docs/benchmarks/recall.md.

``make recall`` runs it. The footage is read from ``FRAMEWATCH_DATA`` or from ``../shared/data``: ``ped2/train`` and
videos of ``clips``; none of it has labels. Each is split in time: the first 60% is fitted and calibrated on, the
rest is scored as it is, where every event is a false one, and then with probes put into it (`deploy.probes`). A probe
is found if an event covers it, with an anomalous cell at the thing, at the threshold of each of two budgets.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console

from contract.command_line import run_command_line
from contract.errors import ConfigError
from contract.scoring import SECONDS_A_DAY
from deploy.measured import data_folder, is_kept, keep_result, kept_results, table
from deploy.probed import Footage, ScoredProbes, put_probes, score_probes
from deploy.probes import KINDS, Box, Pictures, Probe
from trainer.evaluate import open_model
from trainer.fit import fit
from trainer.metrics import FoundEvent, track_events
from trainer.scored import ScoredStretch, ScoringModel
from trainer.settings import FitSettings

OUT: Final = Path("recall-out")
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "recall.md"
BUDGETS: Final = (1.0, 24.0, 480.0)
"""False events a day: the default, one an hour, and one in three minutes, which such short footage can nearly show."""

_LEAST_SAID: Final = 1e-5

FOOTAGE: Final = (
    Footage("ped2/train"),
    Footage("clips/vtest.avi"),
    Footage("clips/road_240p.mp4", foreign="clips/bottle-detection.mp4"),
    Footage("clips/bottle-detection.mp4"),
    Footage("clips/retail_1080p.mp4"),
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@app.command()
def recall(
    data: Annotated[Path | None, typer.Option(help="Folder of footage; FRAMEWATCH_DATA where not given.")] = None,
    preset: Annotated[str, typer.Option(help="Preset to fit.")] = "balanced",
    minutes: Annotated[float | None, typer.Option(help="Time of each fit in place of the preset's.")] = None,
    probes: Annotated[int, typer.Option(min=1, help="Probes of each kind and footage.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of fits and probes.")] = 0,
    only: Annotated[str | None, typer.Option(help="Part of the path of the footage to measure alone.")] = None,
) -> None:
    """Fit, count and write the table."""
    root = data_folder(data)
    chosen = [footage for footage in FOOTAGE if (root / footage.path).exists() and (only or "") in footage.path]
    if not chosen:
        raise ConfigError(f"--data {root} holds no ped2/train and no clips; name their folder or set FRAMEWATCH_DATA")
    settings = FitSettings(**{"preset": preset, "seed": seed, **({} if minutes is None else {"minutes": minutes})})
    for footage in chosen:
        _measure(root, footage, settings, probes)
    PAGE.write_text(page(list(kept_results(OUT))), encoding="utf-8")
    typer.echo(PAGE)


def _measure(root: Path, footage: Footage, settings: FitSettings, probes: int) -> None:
    folder = OUT / f"{footage.path.replace('/', '-')}-{settings.preset}-{settings.seed}"
    if is_kept(folder):
        return
    _console.print(f"{footage.path}: {settings.preset}", highlight=False)
    probed = put_probes(root, footage, KINDS, probes, settings.seed)
    fit(probed.before, footage.path, settings, folder / "run", _console)
    model = open_model(folder / "run", "auto")
    scored = score_probes(model, probed, _console)
    seconds = _seconds(probed.after)
    result = {
        "footage": footage.path,
        "preset": settings.preset,
        "minutes": settings.minutes,
        "seed": settings.seed,
        "fitted_seconds": _seconds(probed.before),
        "scored_seconds": seconds,
        "allowed_low_high": [
            rate * seconds / SECONDS_A_DAY
            for rate in (model.calibration.false_events_per_day_low, model.calibration.false_events_per_day_high)
        ],
        "budgets": [_at_budget(model, budget, scored, seconds) for budget in BUDGETS],
    }
    keep_result(folder, result)


def _seconds(clips: Sequence[Pictures]) -> float:
    return sum(len(clip.pictures) / clip.frames_per_second for clip in clips)


def _at_budget(
    model: ScoringModel,
    budget: float,
    scored: ScoredProbes,
    seconds: float,
) -> dict[str, Any]:
    """Count false events, and probes found, by kind, at a budget's threshold."""
    calibration = model.calibration
    threshold = calibration.threshold_for(budget)

    def events(stretch: ScoredStretch) -> list[FoundEvent]:
        return track_events(stretch.scores, model.event_rule, threshold, calibration.release_threshold)

    found = Counter(
        probe.kind for probe, stretch in scored.probes if is_found(probe, stretch, events(stretch), threshold)
    )
    made = Counter(probe.kind for probe, _ in scored.probes)
    return {
        "false_events_per_day": budget,
        "false_events": sum(len(events(stretch)) for stretch in scored.normal),
        "allowed": budget * seconds / SECONDS_A_DAY,
        "found": {kind: [found[kind], made[kind]] for kind in KINDS},
    }


def is_found(probe: Probe, stretch: ScoredStretch, events: Sequence[FoundEvent], threshold: float) -> bool:
    """Whether one of the events covers the probe with an anomalous cell at, or beside, what was put in."""
    height, width = probe.clip.pictures[0].shape[:2]
    for event in events:
        for index in range(max(event.first, probe.first), event.last + 1):
            anomalous = stretch.maps[index] >= threshold
            if probe.boxes is not None:
                anomalous = anomalous & _cells(probe.boxes[index - probe.first], height, width, anomalous.shape)
            if anomalous.any():
                return True
    return False


def _cells(box: Box, height: int, width: int, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    rows, columns = shape
    cells = np.zeros(shape, np.bool_)
    top, bottom = (math.floor(side / height * rows) for side in (box.top, box.bottom))
    left, right = (math.floor(side / width * columns) for side in (box.left, box.right))
    cells[max(top - 1, 0) : bottom + 2, max(left - 1, 0) : right + 2] = True
    return cells


def page(results: Sequence[dict[str, Any]]) -> str:
    """Write the page of all results."""
    lines = [
        "# What is found in footage a preset was not tuned for",
        "",
        "Written by `make recall`. The first 60% of each footage is fitted and calibrated on, without labels, with the",
        "default budget of one false event a day; the rest is scored as it is, and with probes of 2.5 seconds put",
        "into it, as `deploy/probes.py` says. A probe is found if an event covers it with an anomalous cell at what",
        "was put in. The other rows of each are at the thresholds of one false event an hour and of one in three",
        "minutes. None of this footage is long enough to show the first two: they are extrapolated, and the interval",
        "says how far off the first may be.",
        "",
    ]
    columns = (
        "footage", "preset, minutes", "seconds fitted, scored", "budget a day", "false events", "allowed in that time",
    )  # fmt: skip
    return "\n".join([*lines, *table((*columns, *KINDS), (row for result in results for row in _rows(result))), ""])


def _rows(result: dict[str, Any]) -> Iterator[list[str]]:
    """A footage's rows, one for each budget."""
    low, high = result["allowed_low_high"]
    for number, at in enumerate(result["budgets"]):
        interval = "" if number else f", {_few(low)} to {_few(high)}"
        yield [
            result["footage"],
            f"{result['preset']}, {result['minutes']:g}",
            f"{result['fitted_seconds']:.0f}, {result['scored_seconds']:.0f}",
            f"{at['false_events_per_day']:g}",
            str(at["false_events"]),
            f"{_few(at['allowed'])}{interval}",
            *(_share(at["found"][kind]) for kind in KINDS),
        ]


def _few(events: float) -> str:
    return f"{events:.2g}" if events >= _LEAST_SAID else "0"


def _share(counts: Sequence[int]) -> str:
    found, made = counts
    return f"{found} of {made}" if made else "none to make"


if __name__ == "__main__":
    sys.exit(run_command_line(app, "recall"))
