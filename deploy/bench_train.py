"""Measures how near a fit's steps come to those of a bare PyTorch loop on batches that are already in memory.

``make bench-train`` runs it on the room footage and writes docs/benchmarks/train.md. Both loops take the same step. The
bare one goes round a few batches made before; the fit's makes each anew: crops cut out of cached footage, in other
light, with something put in. Rounds of the two alternate; the ratio is the median of each pair's.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from rich.console import Console

from contract.command_line import run_command_line
from contract.settings import load_settings
from contract.source import open_source
from deploy.bench import say_versions, versions
from deploy.measured import table
from trainer.batches import Batch, BatchMaker
from trainer.detector import Detector
from trainer.devices import start_fabric
from trainer.fit import training_step
from trainer.footage import FootageReader
from trainer.losses import loss_function
from trainer.model import Autoencoder
from trainer.settings import FitSettings
from trainer.skipped import skip_frames

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "train.md"
PRESETS: Final = ("fast", "balanced", "best", "still")
ROOM: Final = Path(__file__).resolve().parent / "footage" / "room.mp4"
_FRAMES: Final = 400
_IN_MEMORY: Final = 8
_WARM_UP: Final = 5

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@app.command()
def bench_train(
    only: Annotated[str | None, typer.Option(help="Preset to measure alone.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each loop.")] = 9,
    steps: Annotated[int, typer.Option(min=2, help="Steps of a round.")] = 25,
) -> None:
    """Measure, print one JSON object, and write the page where every preset was measured."""
    measured = {preset: measure(preset, rounds, steps) for preset in ([only] if only else PRESETS)}
    sys.stdout.write(json.dumps({"presets": measured, "versions": versions()}) + "\n")
    if only is None:
        PAGE.write_text(page(measured, versions(), rounds, steps), encoding="utf-8")
        _console.print(f"written: {PAGE}")


def measure(preset: str, rounds: int, steps: int) -> dict[str, float]:
    """Steps a second of both loops, and their ratio's median and range."""
    settings = load_settings(FitSettings, file=None, flags={"preset": preset}, environment=False)
    fabric = start_fabric(settings)
    fabric.seed_everything(settings.seed, workers=False, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        clips = open_source(f"{ROOM}#0:{_FRAMES - 1}")
        preprocessing = settings.model.preprocessing
        footage = FootageReader(preprocessing, settings.limits, Path(folder), lambda _count: None).read(clips)
        training, *_ = footage.split(settings.validation_share, settings.calibration_share, settings.guard_seconds)
        skipped = None
        if "skip-frame" in settings.kinds_put_in:
            skipped = skip_frames(footage, (training,), preprocessing, Path(folder), lambda _count: None)
        detector = Detector(Autoencoder(settings.model)).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(detector.parameters(), settings.learning_rate)
        batches = BatchMaker(footage, settings, skipped, detector.position.to(fabric.device))
        model, optimizer = fabric.setup(detector, optimizer)
        model.mark_forward_method("redraw_and_compare")
        loss_of = loss_function(settings.loss, settings.model)
        noise = torch.Generator(fabric.device).manual_seed(settings.seed)
        chance = torch.Generator().manual_seed(settings.seed)
        random = np.random.default_rng(settings.seed)

        def order(count: int) -> list[Any]:
            return [random.integers(0, len(training), settings.batch) for _ in range(count)]

        def step(batch: Batch) -> None:
            training_step(fabric, model, optimizer, batch, loss_of, settings, noise)

        kept = [batches.training(training, which, chance) for which in order(_IN_MEMORY)]
        both: tuple[Callable[[int], Iterable[Batch]], ...] = (
            lambda count: itertools.islice(itertools.cycle(kept), count),
            lambda count: (batches.training(training, which, chance) for which in order(count)),
        )
        model.train()
        rates = list(_rates(both, step, rounds, steps))
    _console.print(f"{preset}: " + ", ".join(f"{fit / bare:.3f}" for bare, fit in rates), highlight=False)
    ratios = [fit / bare for bare, fit in rates]
    return {
        "bare_steps_per_second": round(statistics.median(bare for bare, _ in rates), 3),
        "fit_steps_per_second": round(statistics.median(fit for _, fit in rates), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_lowest": round(min(ratios), 3),
        "ratio_highest": round(max(ratios), 3),
        "batch": settings.batch,
    }


def _rates(
    both: Iterable[Callable[[int], Iterable[Batch]]], step: Callable[[Batch], None], rounds: int, steps: int
) -> Iterator[tuple[float, ...]]:
    for number in range(rounds + 1):
        rates = []
        for give in both:
            began = time.monotonic()
            count = steps if number else _WARM_UP
            for batch in give(count):
                step(batch)
            rates.append(count / (time.monotonic() - began))
        # The first round fills caches.
        if number:
            yield tuple(rates)


def page(measured: dict[str, dict[str, float]], about: dict[str, Any], rounds: int, steps: int) -> str:
    """The page as Markdown."""
    columns = ("preset", "batch", "bare loop, steps/s", "fit, steps/s", "fit / bare", "range")
    rows = [
        (
            preset, str(one["batch"]), f"{one['bare_steps_per_second']:.2f}", f"{one['fit_steps_per_second']:.2f}",
            f"{one['ratio']:.3f}", f"{one['ratio_lowest']:.3f} to {one['ratio_highest']:.3f}",
        )
        for preset, one in measured.items()
    ]  # fmt: skip
    lines = [
        "# The trainer beside a bare loop",
        "",
        "`make bench-train` writes this page. The bare loop takes the same step on batches that are in memory; the",
        "fit's makes each batch anew: crops of cached footage, in other light, with something put in.",
        f"{rounds} rounds of {steps} steps each, alternating; medians.",
        "",
        *table(columns, rows),
        "",
        say_versions({"versions": about}),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command_line(app, "bench-train"))


if __name__ == "__main__":
    main()
