"""The trainer's command line: ``trainer fit``, ``trainer evaluate`` and ``trainer drift``."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from contract.command_line import run_command_line
from contract.errors import ConfigError
from contract.settings import load_settings
from contract.source import open_source
from trainer.budget import describe
from trainer.settings import Device, FitSettings

app = typer.Typer(
    help="Fits the autoencoder to normal footage, calibrates it, and measures it.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = Console(stderr=True)


@app.callback()
def _set_up() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    # The client says in its own words what is raised in ours.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


@app.command()
def fit(
    source: Annotated[str, typer.Argument(help="Normal footage: video, folder, camera or kafka:// address; see docs.")],
    out: Annotated[Path, typer.Option(help="Run folder to write; an unfinished one is gone on with.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    preset: Annotated[str | None, typer.Option(help="balanced (default), best, fast, room or still.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time to train, minutes, in place of the preset's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the footage, in place of minutes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and noise.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    false_events_per_day: Annotated[
        float | None,
        typer.Option(help="Budget a camera and day; refused where the footage is too short to show it. Else 1."),
    ] = None,
    extrapolate: Annotated[
        bool | None, typer.Option("--extrapolate", help="Accept the fitted tail where the footage is too short.")
    ] = None,
) -> None:
    """Fit the autoencoder to normal footage and calibrate it."""
    flags = {
        "preset": preset, "minutes": minutes, "epochs": epochs, "seed": seed, "device": device,
        "false_events_per_day": false_events_per_day, "extrapolate": extrapolate,
    }  # fmt: skip
    settings = load_settings(FitSettings, file=config, flags=flags)
    clips = open_source(source)
    from trainer.fit import fit as run_fit

    # Importing it sets its logger to announce each choice it makes.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    checkpoint = run_fit(clips, source, settings, out, _console)
    for line in describe(
        checkpoint.calibration, checkpoint.event_rule, budget_given=settings.false_events_per_day is not None
    ):
        _console.print(line, highlight=False, soft_wrap=True)
    if checkpoint.drift is None:
        said = (
            "note: the held-out footage is too short to tell later a world that changed from chance; no drift is told"
        )
        _console.print(said, highlight=False, soft_wrap=True)
    typer.echo(out)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="Run folder or bundle.")],
    source: Annotated[str, typer.Argument(help="Footage: video, folder or kafka:// address; see docs.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier evaluation there is replaced.")],
    labels: Annotated[
        Path | None, typer.Option(help="CSV of labels, masks, or a public dataset's labels; see docs.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure a run or a bundle on footage: metrics.json, report.html, plots, scores.csv."""
    where = _device(device)
    clips = open_source(source)
    from trainer.evaluate import evaluate as run_evaluation
    from trainer.evaluate import metrics_table, open_model

    metrics = run_evaluation(open_model(model, where), clips, labels, out, _console)
    _console.print(metrics_table(metrics))
    for note in metrics["notes"]:
        _console.print(f"note: {note}", highlight=False, soft_wrap=True)
    typer.echo(out)


@app.command()
def drift(
    model: Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="Run folder or bundle.")],
    source: Annotated[str, typer.Argument(help="Footage: video, folder or kafka:// address; see docs.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Say whether footage differs for good from what a model was calibrated on: one JSON object, and one line."""
    where = _device(device)
    clips = open_source(source)
    from trainer.drift_report import measure_drift
    from trainer.evaluate import open_model

    report = measure_drift(open_model(model, where), clips, _console)
    _console.print(report.reason, highlight=False, soft_wrap=True)
    typer.echo(report.model_dump_json())


def _device(name: str) -> Device:
    devices: dict[str, Device] = {"auto": "auto", "cpu": "cpu", "cuda": "cuda"}
    if name not in devices:
        raise ConfigError(f"--device {name!r} is not one of {', '.join(devices)}")
    return devices[name]


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command_line(app, "trainer"))


if __name__ == "__main__":
    main()
