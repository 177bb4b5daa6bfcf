"""The trainer's command line: fits, measures, compares and retrains models, and says which of them are in use."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from contract.command_line import AllowPlaintext, RegistryAddress, Version, run_command_line
from contract.errors import ConfigError
from contract.kafka_source import parse_time
from contract.model_address import ModelAddress
from contract.registry import CHALLENGER, Registry
from contract.settings import load_settings
from contract.source import is_topic, open_source
from trainer.budget import describe
from trainer.checkpoint import SETTINGS_NAME
from trainer.settings import Device, FitSettings
from trainer.topic_footage import open_normal

app = typer.Typer(
    help="Fits the autoencoder to normal footage, calibrates it, and measures it.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = Console(stderr=True)
Connection = Annotated[
    Path | None, typer.Option("--config", help="YAML file of a fit's settings, of which kafka is taken for kafka://.")
]

_WIDE: Final = 200

ModelName = Annotated[str, typer.Argument(help="Of the registered model.")]


@app.callback()
def _set_up(*, _version: Version = False) -> None:
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
    settings = load_settings(FitSettings, file=config, flags=flags, environment=is_topic(source))
    clips = open_normal(source, settings, _console, goes_on=(out / SETTINGS_NAME).is_file())
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
    config: Connection = None,
) -> None:
    """Measure a run or a bundle on footage: metrics.json, report.html, plots, scores.csv."""
    where = _device(device)
    clips = open_source(source, _topic_settings([source], config).kafka)
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
    config: Connection = None,
) -> None:
    """Say whether footage differs for good from what a model was calibrated on: one JSON object, and one line."""
    where = _device(device)
    clips = open_source(source, _topic_settings([source], config).kafka)
    from trainer.drift_report import measure_drift
    from trainer.evaluate import open_model

    report = measure_drift(open_model(model, where), clips, _console)
    _console.print(report.reason, highlight=False, soft_wrap=True)
    typer.echo(report.model_dump_json())


@app.command()
def compare(
    champion: Annotated[Path, typer.Argument(metavar="CHAMPION", help="Model in service, a bundle or run folder.")],
    challenger: Annotated[Path, typer.Argument(metavar="CHALLENGER", help="Model that may replace it.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier comparison there is replaced.")],
    normal: Annotated[list[str] | None, typer.Option(help="Normal footage; may be given again.")] = None,
    labelled: Annotated[
        list[str] | None, typer.Option(help="Labelled footage; may be given again, each time with --labels.")
    ] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Labels of the footage of --labelled.")] = None,
    judged: Annotated[
        str | None, typer.Option(help="kafka:// address of a camera, whose events that people judged are compared.")
    ] = None,
    rule: Annotated[Path | None, typer.Option(help="YAML file of the rule for promotion.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    config: Connection = None,
) -> None:
    """Compare two models on the same footage: events gained and lost, false events, agreement, and a verdict."""
    if len(labelled or []) != len(labels or []):
        raise ConfigError("--labels must be given once for each --labelled")
    from trainer.compare_command import compare as run_comparison
    from trainer.compare_command import open_evidence
    from trainer.comparison_report import comparison_table
    from trainer.promotion import load_rule

    sources = [*(normal or []), *(labelled or []), *([judged] if judged is not None else [])]
    settings = _topic_settings(sources, config)
    pairs = list(zip(labelled or [], labels or [], strict=True))
    evidence = open_evidence(normal or [], pairs, settings, _console, judged)
    comparison, verdict = run_comparison(
        (champion, challenger), evidence, load_rule(rule), out, _device(device), _console
    )
    _console.print(comparison_table(comparison))
    _console.print("promote" if verdict.promoted else "do not promote", verdict.reason, sep=": ", soft_wrap=True)
    typer.echo(out)


@app.command()
def retrain(
    camera: Annotated[str | None, typer.Option(help="Camera id; that of --config where not given.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", help="Time before which frames are taken; the last whole hour where not given."),
    ] = None,
    registry: RegistryAddress = None,
    *,
    registry_allow_plaintext: AllowPlaintext = False,
    fail_when_held: Annotated[
        bool, typer.Option("--fail-when-held", help="Exit 1 where the new model was not promoted.")
    ] = False,
) -> None:
    """Fit a camera's model anew, compare it with the one in service, promote it or not, and say why.

    For a schedule: run again after any end it goes on where it was; two at once do not disturb each other.
    """
    from trainer.retrain_settings import RetrainSettings

    settings = load_settings(
        RetrainSettings,
        file=config,
        flags={"camera": camera, "registry": registry, "registry_allow_plaintext": registry_allow_plaintext or None},
        environment=True,
    )
    to_ms = None if until is None else parse_time("--to", until)
    from trainer.retrain import run_retraining

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    raise typer.Exit(run_retraining(settings, to_ms, _console, fail_when_held=fail_when_held))


@app.command()
def promote(
    name: ModelName,
    version: Annotated[int | None, typer.Option(min=1, help="Version; that of the alias challenger if none.")] = None,
    why: Annotated[str, typer.Option(help="Kept with the version.")] = "",
    registry: RegistryAddress = None,
    *,
    registry_allow_plaintext: AllowPlaintext = False,
) -> None:
    """Make a version the champion, which workers then run, and remember the one before."""
    models = Registry(registry, allow_plaintext=registry_allow_plaintext)
    if version is None:
        version = models.find(ModelAddress(name, CHALLENGER), with_metrics=False).version
    before = models.promote(name, version, why)
    was = f", before it version {before}" if before is not None else ""
    typer.echo(f"{name}: version {version} is champion{was}")


@app.command()
def rollback(
    name: ModelName, registry: RegistryAddress = None, *, registry_allow_plaintext: AllowPlaintext = False
) -> None:
    """Make the version before the champion again; once, for no more than one is remembered."""
    version = Registry(registry, allow_plaintext=registry_allow_plaintext).rollback(name)
    typer.echo(f"{name}: version {version} is champion again")


@app.command("models")
def list_models(
    name: Annotated[str | None, typer.Argument(help="Of this model alone.")] = None,
    registry: RegistryAddress = None,
    *,
    registry_allow_plaintext: AllowPlaintext = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a version.")] = False,
) -> None:
    """List registered versions, newest first: aliases, digest, and a few of their figures."""
    from trainer.models_table import models_table

    found = Registry(registry, allow_plaintext=registry_allow_plaintext).models(name)
    if as_json:
        for one in found:
            typer.echo(json.dumps(one._asdict()))
    else:
        output = Console()
        # Where no terminal is to hold it, nothing is cut off.
        (output if output.is_terminal else Console(width=_WIDE)).print(models_table(found))


def _topic_settings(sources: Sequence[str], config: Path | None) -> FitSettings:
    """Settings of which what concerns a topic is taken; the environment is read where a source is one."""
    return load_settings(FitSettings, file=config, environment=any(map(is_topic, sources)))


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
