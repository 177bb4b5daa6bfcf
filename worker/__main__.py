"""The worker's command line; the only place that reads settings and wires real clients."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from contract.clip import require_end
from contract.command_line import Version, run_command_line
from contract.errors import ConfigError
from contract.event import EventRuleChanges
from contract.manifest import open_bundle
from contract.model_address import is_model_address
from contract.runtime import Autoencoder, Detector, Provider
from contract.settings import load_settings
from contract.source import open_source
from worker.logs import set_up_logs
from worker.replay_range import own_names, read_range
from worker.settings import KafkaSettings, WorkerSettings

app = typer.Typer(
    help="Scores camera frames with a bundle: live from Kafka, or from files.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = Console(stderr=True)

Config = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
Servers = Annotated[str | None, typer.Option("--bootstrap-servers", help="HOST:PORT of a broker.")]
ProviderName = Annotated[str, typer.Option("--provider", help="auto, cuda or cpu.")]
Challenger = Annotated[Path | None, typer.Option(help="Bundle that scores the same frames and raises no alert.")]
Source = Annotated[str, typer.Argument(help="Footage: video, folder, camera or kafka:// address; see docs.")]
BundleFolder = Annotated[Path, typer.Argument(help="Folder of the bundle.")]


@app.callback()
def _of_all(*, _version: Version = False) -> None:
    pass


@app.command()
def run(
    config: Config = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle, or models:/NAME@ALIAS.")] = None,
    challenger: Challenger = None,
    bootstrap_servers: Servers = None,
    group_id: Annotated[str | None, typer.Option(help="Consumer group.")] = None,
    alerts_topic: Annotated[str | None, typer.Option(help="Topic of alerts.")] = None,
    scores_topic: Annotated[str | None, typer.Option(help="Topic of one small record a frame.")] = None,
    challenger_scores_topic: Annotated[str | None, typer.Option(help="Topic of the challenger's.")] = None,
    provider: Annotated[str | None, typer.Option(help="auto, cuda or cpu.")] = None,
    threshold: Annotated[float | None, typer.Option(help="In place of the bundle's.")] = None,
    cameras: Annotated[Path | None, typer.Option(help="File or folder of single cameras' settings.")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of metrics and probes; 0 takes a free one.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Replay from here: ISO 8601 or ms since 1970.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Replay to before here, and end.")] = None,
    lead_in: Annotated[
        float | None, typer.Option(min=0, max=86_400, help="Seconds before --from to score and not tell of; 60.")
    ] = None,
) -> None:
    """Score frames from Kafka and publish alerts, until SIGTERM or Ctrl-C; with --from or --to, those of the past."""
    names = {
        "group_id": group_id, "alerts_topic": alerts_topic, "scores_topic": scores_topic,
        "challenger_scores_topic": challenger_scores_topic,
    }  # fmt: skip
    flags: dict[str, Any] = {
        "threshold": threshold, "http.port": http_port, "cameras": cameras, "challenger": challenger,
    }  # fmt: skip
    wanted = read_range(since, until, lead_in)
    if wanted is not None:
        live = _worker_settings(config, bundle, bootstrap_servers, provider, flags)
        names = own_names(live.kafka, wanted, names)
        # A live worker of this machine has the port, and by the clock of now all cameras of the past are silent.
        flags |= {"http.port": http_port or 0, "camera_health.silent_seconds": 0}
    flags |= {f"kafka.{setting}": name for setting, name in names.items()}

    def load() -> WorkerSettings:
        return _worker_settings(config, bundle, bootstrap_servers, provider, flags)

    settings = load()
    set_up_logs(settings.log_format, settings.log_level)
    from worker.run import run_replay, run_worker

    if wanted is None:
        run_worker(settings, load, config)
    else:
        typer.echo(run_replay(settings, wanted))


@app.command()
def check(
    config: Config = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle, or models:/NAME@ALIAS.")] = None,
    challenger: Challenger = None,
    bootstrap_servers: Servers = None,
    provider: Annotated[str | None, typer.Option(help="auto, cuda or cpu.")] = None,
) -> int:
    """Check settings, bundle, provider, challenger, cameras, broker and topics: one line each."""
    settings = _worker_settings(config, bundle, bootstrap_servers, provider, {"challenger": challenger})
    set_up_logs(settings.log_format, "ERROR")
    from worker.check import check_all

    worst = 0
    for line in check_all(settings):
        typer.echo(f"{'ok  ' if line.error is None else 'FAIL'}  {line.name}: {line.text}")
        worst = max(worst, line.error.exit_code if line.error is not None else 0)
    return worst


@app.command()
def score(
    bundle: BundleFolder,
    source: Source,
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    events: Annotated[Path | None, typer.Option(help="File for alerts as JSON lines.")] = None,
    camera_id: Annotated[str | None, typer.Option(help="Camera in the output; the clip's name if not given.")] = None,
    threshold: Annotated[float | None, typer.Option(min=-100, max=100, help="In place of the bundle's.")] = None,
    provider: ProviderName = "auto",
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Frames in a batch.")] = 32,
) -> None:
    """Score footage without Kafka: the same engine and numbers as live."""
    from contract.frame import FrameLimits
    from worker.alerts_view import describe
    from worker.cores import Crew, cores_given, share_interpreter
    from worker.score import check_request, score_clips, write_scores

    clips = open_source(source)
    check_request(clips, camera_id=camera_id, out=out, events=events)
    detector = Detector(open_bundle(bundle), _provider(provider), 1)
    share_interpreter()
    with Crew(cores_given()) as crew:
        rows = score_clips(
            detector, clips, camera_id=camera_id, threshold=threshold, batch=batch, limits=FrameLimits(), crew=crew
        )
        count, ended = write_scores(rows, out, events)
    for alert in ended:
        _console.print(
            f"frames {alert.data.frames.first_offset}-{alert.data.frames.last_offset}: {describe(alert)}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    _console.print(f"{count} frames, {len(ended)} events, on {detector.provider}", highlight=False)
    _say_path(out)


@app.command()
def embed(
    bundle: BundleFolder,
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    provider: ProviderName = "auto",
) -> None:
    """Write the latents of footage as .npy, and a 2-D picture of them."""
    from contract.frame import FrameLimits
    from worker.latents import embed as embed_clips

    clips = open_source(source)
    require_end(clips)
    opened = open_bundle(bundle)
    count = embed_clips(Autoencoder(opened, _provider(provider)), opened.manifest, clips, out, FrameLimits())
    _console.print(f"{count} latents of shape {list(opened.manifest.shape.latent)}", highlight=False)
    _say_path(out)


@app.command()
def denoise(
    bundle: BundleFolder,
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    provider: ProviderName = "auto",
) -> None:
    """Write footage as the autoencoder redraws it, one PNG a frame."""
    from contract.frame import FrameLimits
    from worker.latents import denoise as denoise_clips

    clips = open_source(source)
    require_end(clips)
    opened = open_bundle(bundle)
    count = denoise_clips(Autoencoder(opened, _provider(provider)), opened.manifest, clips, out, FrameLimits())
    _console.print(f"{count} frames", highlight=False)
    _say_path(out)


@app.command()
def publish(
    source: Source,
    camera_id: Annotated[str, typer.Option(help="Key of the frames.")],
    topic: Annotated[str, typer.Option(help="Topic of frames.")] = "frames",
    fps: Annotated[float | None, typer.Option(min=0.001, max=100_000, help="Rate, in place of the footage's.")] = None,
    loop: Annotated[int, typer.Option(min=1, help="Times the footage is sent.")] = 1,
    config: Config = None,
    bootstrap_servers: Servers = None,
    *,
    max_speed: Annotated[bool, typer.Option("--max-speed", help="Do not wait between frames.")] = False,
) -> None:
    """Send footage to a topic as a camera would."""
    if fps is not None and max_speed:
        raise ConfigError("give --fps or --max-speed, not both")
    kafka = _kafka_settings(config, bootstrap_servers)
    clips = open_source(source)
    from worker.publish import publish as publish_clips

    with _console.status("publishing") as status:
        count = publish_clips(
            clips, camera_id, topic, kafka, frames_per_second=fps, max_speed=max_speed, loop=loop,
            on_frame=lambda sent: status.update(f"publishing, {sent} frames sent"),
        )  # fmt: skip
    _console.print(f"{count} frames sent to {topic}", highlight=False)


@app.command()
def alerts(
    topic: Annotated[str, typer.Option(help="Topic of alerts.")] = "alerts",
    config: Config = None,
    bootstrap_servers: Servers = None,
    idle_seconds: Annotated[float | None, typer.Option(min=0, help="End after this long without an alert.")] = None,
    *,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Begin with the oldest held.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON an alert, as on the topic.")] = False,
) -> None:
    """Show alerts as they come, as a live table or as JSON lines."""
    from worker.alerts_view import AlertTable, as_json_line, describe, follow_alerts, parse_alert

    kafka = _kafka_settings(config, bootstrap_servers)
    values = follow_alerts(kafka, topic, from_beginning=from_beginning, idle_seconds=idle_seconds)
    if as_json:
        for value in values:
            if value is not None:
                sys.stdout.write(as_json_line(value) + "\n")
                sys.stdout.flush()
        return
    output = Console()
    if not output.is_terminal:
        for value in values:
            alert = parse_alert(value) if value is not None else None
            if alert is not None:
                sys.stdout.write(describe(alert) + "\n")
                sys.stdout.flush()
        return
    table = AlertTable()
    with Live(table.render(), console=output, refresh_per_second=4) as live:
        for value in values:
            if value is not None and table.add(value):
                live.update(table.render())


@app.command()
def rules(
    scores: Annotated[Path | None, typer.Option(help="File of worker score, in place of the topic.")] = None,
    topic: Annotated[str | None, typer.Option(help="Topic of scores; the settings' if not given.")] = None,
    from_time: Annotated[str | None, typer.Option("--from", help="First capture time, ISO 8601 or ms.")] = None,
    to_time: Annotated[str | None, typer.Option("--to", help="Capture time to stop before.")] = None,
    camera_id: Annotated[str | None, typer.Option(help="Of this camera alone.")] = None,
    threshold: Annotated[list[str] | None, typer.Option(help="Score or FROM:TO:STEP; may be repeated.")] = None,
    false_events_per_day: Annotated[list[float] | None, typer.Option(help="Budget; may be repeated.")] = None,
    release_threshold: Annotated[float | None, typer.Option(min=-100, max=100, help="Not the bundle's.")] = None,
    min_frames: Annotated[int | None, typer.Option(min=1, max=10_000, help="Not the rule's.")] = None,
    gap_frames: Annotated[int | None, typer.Option(min=0, max=100_000, help="Not the rule's.")] = None,
    zones: Annotated[Path | None, typer.Option(help="YAML file of zones and masks; needs recorded maps.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle that scored, for its rule and release threshold.")] = None,
    events: Annotated[Path | None, typer.Option(help="File for would-be events as JSON lines.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of scores and of events a day.")] = None,
    config: Config = None,
    bootstrap_servers: Servers = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a row.")] = False,
) -> None:
    """Count the events that other thresholds, rules and zones would have made of recorded scores, without inference."""
    from worker.rules_command import Outputs, count_events
    from worker.rules_request import Asked, wanted_frames

    changes = EventRuleChanges(min_frames=min_frames, gap_frames=gap_frames)
    asked = Asked(tuple(threshold or ()), tuple(false_events_per_day or ()), release_threshold, changes, zones)
    wanted = wanted_frames(camera_id, from_time, to_time, maps=zones is not None)
    if scores is not None and (topic is not None or bootstrap_servers is not None):
        raise ConfigError("--scores is a file; give it or --topic and --bootstrap-servers, not both")
    is_folder = bundle is not None and not is_model_address(bundle)
    named = {"bundle": bundle.absolute() if bundle and is_folder else bundle, "kafka.scores_topic": topic}
    settings = _settings_without_bundle(config, bootstrap_servers, named)
    count_events(settings, scores, wanted, asked, Outputs(events, plot, as_json), _console)


@app.command()
def console(
    config: Annotated[Path | None, typer.Option(help="YAML file of the console's settings.")] = None,
    bootstrap_servers: Servers = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not given.")] = None,
    port: Annotated[int | None, typer.Option(help="Port, 8460 if not given; 0 takes a free one.")] = None,
    database: Annotated[Path | None, typer.Option(help="File of what it shows.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle in use, for the what-if's event rule.")] = None,
    worker_metrics: Annotated[
        list[str] | None, typer.Option(help="A worker's metrics, http://HOST:PORT/metrics; may be repeated.")
    ] = None,
) -> None:
    """Serve a web page of alerts, scores, cameras and workers, until SIGTERM or Ctrl-C."""
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the console needs {' and '.join(missing)}; pip install framewatch[console]")
    from worker.console.serve import run_console
    from worker.console.settings import ConsoleSettings

    flags = {
        "kafka.bootstrap_servers": bootstrap_servers, "host": host, "port": port, "database": database,
        "bundle": bundle, "worker_metrics": worker_metrics or None,
    }  # fmt: skip
    settings = load_settings(ConsoleSettings, file=config, flags=flags, environment=True)
    set_up_logs(settings.log_format, settings.log_level)
    run_console(settings)


dead_letters = typer.Typer(
    help="What could not be scored, and why.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(dead_letters, name="dead-letters")

LetterTopic = Annotated[str | None, typer.Option("--topic", help="Topic of dead letters; the settings' if not given.")]
Reason = Annotated[str | None, typer.Option(help="Of this reason alone, such as truncated.")]
Camera = Annotated[str | None, typer.Option("--camera-id", help="Of this camera alone.")]


@dead_letters.command("list")
def list_letters(
    reason: Reason = None,
    camera_id: Camera = None,
    topic: LetterTopic = None,
    config: Config = None,
    bootstrap_servers: Servers = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a letter.")] = False,
) -> None:
    """List dead letters, one line each: place, time, reason, camera, bytes, and what was wrong."""
    from worker.dead_letters import Wanted, read_letters

    kafka = _letter_settings(config, bootstrap_servers, topic)
    for letter in read_letters(kafka, Wanted(reason, camera_id)):
        told = letter.as_json()
        if as_json:
            sys.stdout.write(json.dumps(told) + "\n")
        else:
            line = (
                f"{told['place']:>10}  {told['at']}  {told['reason']:<20} {told['camera'] or '-':<16} "
                f"{told['bytes']:>9}  {told['error']}"
            )
            # Whoever may write to the topic chose these texts.
            sys.stdout.write((line if line.isprintable() else ascii(line)[1:-1]) + "\n")


@dead_letters.command("show")
def show_letter(
    place: Annotated[str, typer.Argument(help="PARTITION:OFFSET, as listed.")],
    out: Annotated[Path | None, typer.Option(help="File for the bytes as they came.")] = None,
    topic: LetterTopic = None,
    config: Config = None,
    bootstrap_servers: Servers = None,
) -> None:
    """Show one dead letter's headers, and write its bytes to a file."""
    from worker.dead_letters import Wanted, read_letters

    kafka = _letter_settings(config, bootstrap_servers, topic)
    letter = next(iter(read_letters(kafka, Wanted(places=(place,)))), None)
    if letter is None:
        raise ConfigError(f"there is no dead letter at {place} of {kafka.dead_letter_topic}")
    if out is not None and not letter.is_whole:
        raise ConfigError(f"dead letter {place} has not the bytes that came, there is nothing to write")
    for name, text in letter.as_json().items():
        typer.echo(f"{name}: {ascii(text).strip(chr(39))}")
    for name, value in letter.headers:
        typer.echo(f"header {name!a}: {ascii(value)[2:-1][:200]}")
    if out is not None:
        out.write_bytes(letter.value or b"")
        _say_path(out)


@dead_letters.command("republish")
def republish_letters(
    places: Annotated[
        list[str] | None, typer.Argument(help="PARTITION:OFFSET of letters; all that match if none.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Topic of frames; the settings' if not given.")] = None,
    reason: Reason = None,
    camera_id: Camera = None,
    topic: LetterTopic = None,
    config: Config = None,
    bootstrap_servers: Servers = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every letter, where nothing else says which.")] = False,
) -> None:
    """Send dead letters to the frames topic again, as they came; they stay where they are."""
    from worker.dead_letters import Wanted, read_letters, republish

    if not (places or reason or camera_id or every):
        raise ConfigError("say which: PARTITION:OFFSET, --reason, --camera-id or --all")
    kafka = _letter_settings(config, bootstrap_servers, topic)
    letters = list(read_letters(kafka, Wanted(reason, camera_id, tuple(places or ()))))
    count = republish(kafka, letters, to or kafka.frames_topic)
    _console.print(f"{count} dead letters sent to {to or kafka.frames_topic}", highlight=False)


def _letter_settings(config: Path | None, servers: str | None, topic: str | None) -> KafkaSettings:
    return _kafka_settings(config, servers, {"kafka.dead_letter_topic": topic})


def _worker_settings(
    config: Path | None, bundle: Path | None, servers: str | None, provider: str | None, flags: dict[str, Any]
) -> WorkerSettings:
    named = {"bundle": bundle, "kafka.bootstrap_servers": servers, "provider": provider}
    return load_settings(WorkerSettings, file=config, flags={**named, **flags}, environment=True)


def _kafka_settings(config: Path | None, servers: str | None, more: dict[str, Any] | None = None) -> KafkaSettings:
    return _settings_without_bundle(config, servers, more or {}).kafka


def _settings_without_bundle(config: Path | None, servers: str | None, more: dict[str, Any]) -> WorkerSettings:
    # Some commands need no bundle, but read the same file and environment as `run`.
    flags = {"kafka.bootstrap_servers": servers, **more}
    settings = load_settings(WorkerSettings, file=config, flags=flags, environment=True, fallback={"bundle": Path()})
    set_up_logs(settings.log_format, "WARNING")
    return settings


def _say_path(path: Path) -> None:
    # A path need not be UTF-8, which standard output is.
    typer.echo(os.fsencode(path).decode(errors="backslashreplace"))


def _provider(name: str) -> Provider:
    names: dict[str, Provider] = {"auto": "auto", "cuda": "cuda", "cpu": "cpu"}
    if name not in names:
        raise ConfigError(f"--provider {name!r} is not one of {', '.join(names)}")
    return names[name]


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command_line(app, "worker"))


if __name__ == "__main__":
    main()
