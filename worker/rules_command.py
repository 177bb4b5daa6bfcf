"""``worker rules``: reads recorded scores, replays them, and writes what is told of them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

from rich.console import Console

from contract.errors import ConfigError, FramewatchError
from contract.manifest import Bundle, open_bundle
from worker.models import open_models
from worker.recorded_scores import ScoredFrame, Wanted, read_file, read_topic
from worker.rules import Replay, WouldBeEvent
from worker.rules_curve import Curves
from worker.rules_report import (
    event_line,
    replay_scores,
    rows_of,
    say_passed_over,
    table_of,
    write_csv,
    write_json_lines,
)
from worker.rules_request import Asked, candidates, read_zones
from worker.score import check_file, whole_file
from worker.settings import WorkerSettings

_TOPIC = "scores"


class Outputs(NamedTuple):
    """What is written.

    Attributes:
        events: File for would-be events, or None.
        plot: File for a picture, or None.
        as_json: Whether rows are lines of JSON; otherwise they are a table on a terminal and CSV elsewhere.
    """

    events: Path | None
    plot: Path | None
    as_json: bool

    def check(self) -> None:
        """Refuse, before any work, files that could not be written.

        Raises:
            ConfigError: A path is no place for a file, both are one, the picture's is no PNG's, or matplotlib is
                missing.
        """
        for path in (self.events, self.plot):
            if path is not None:
                check_file(path)
        if self.plot is None:
            return
        if self.plot.suffix.lower() != ".png":
            raise ConfigError(f"--plot {self.plot} does not end in .png")
        if self.events is not None and self.events.resolve() == self.plot.resolve():
            raise ConfigError(f"--plot {self.plot} is the file of --events too; name another")
        _drawing()


def count_events(
    settings: WorkerSettings, scores: Path | None, wanted: Wanted, asked: Asked, outputs: Outputs, console: Console
) -> None:
    """Count the events that there would have been, and write them.

    Args:
        settings: The broker, the topic and what was in force.
        scores: A file of scores in place of the topic.
        wanted: Which frames.
        asked: What is tried.
        outputs: What is written.
        console: Where notes go.

    Raises:
        ConfigError: Something that was asked for is wrong, or recorded maps are needed and there are none.
        BundleError: The bundle cannot be trusted.
        BrokerUnavailableError: No broker answers.
        FramewatchError: There is no such score, or the broker stops giving records.
    """
    outputs.check()
    if scores is not None and asked.zones is not None:
        raise ConfigError("--zones needs anomaly maps, which a file of worker score has not; replay the topic")
    bundle = _bundle(settings, console)
    tried = candidates(asked, bundle, settings.event_rule)
    zones = read_zones(asked.zones) if asked.zones is not None else None
    curves = Curves() if outputs.plot is not None else None
    on_score = curves.add if curves is not None else None
    digest = bundle.digest if bundle is not None else None
    replay = Replay(tried, zones=zones, bundle_digest=digest, on_score=on_score)
    topic = settings.kafka.scores_topic or _TOPIC
    frames = (
        read_file(scores, wanted)
        if scores is not None
        else read_topic(settings.kafka, topic, wanted, replay.passed_over)
    )
    _replay(frames, replay, curves, outputs.events, f"topic {topic}" if scores is None else str(scores), console)
    if curves is not None and outputs.plot is not None:
        _drawing()(replay, curves, outputs.plot)
    _print(replay, as_json=outputs.as_json)


def _bundle(settings: WorkerSettings, console: Console) -> Bundle | None:
    if settings.bundle != Path():
        folder = open_models(settings).folder(settings.bundle, settings.bundle_public_key)
        return open_bundle(folder, settings.bundle_public_key)
    console.print(
        "no bundle named: its rule is taken to be the default one, and each threshold for its release threshold; "
        "--bundle names the one that scored", highlight=False, soft_wrap=True,
    )  # fmt: skip
    return None


def _replay(
    frames: Iterator[ScoredFrame], replay: Replay, curves: Curves | None, events: Path | None, source: str,
    console: Console,
) -> None:  # fmt: skip
    listeners: list[Callable[[WouldBeEvent], None]] = [curves.mark] if curves is not None else []
    with ExitStack() as stack:
        if events is not None:
            file = stack.enter_context(whole_file(events))
            listeners.append(lambda event: _write(file, event_line(replay, event)))
        status = stack.enter_context(console.status("replaying"))
        replay_scores(
            frames, replay, listeners, lambda count: status.update(f"replaying, {count:,} frames read")
        )  # fmt: skip
        status.stop()
        said = say_passed_over(replay.passed_over)
        if said:
            console.print(said, highlight=False, soft_wrap=True)
        if not replay.cameras:
            if replay.passed_over["without a map"]:
                raise ConfigError(
                    f"--zones: {source} holds no anomaly map; set kafka.scores_maps to true on the workers that score"
                )
            raise FramewatchError(f"{source} holds no score of what is asked for; look at --camera-id, --from, --to")


def _write(file: IO[str], line: str) -> None:
    file.write(line)


def _drawing() -> Callable[[Replay, Curves, Path], None]:
    try:
        from worker.rules_plot import draw_rules
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib; pip install framewatch[plots]") from error
    return draw_rules


def _print(replay: Replay, *, as_json: bool) -> None:
    output = Console()
    if as_json:
        write_json_lines(rows_of(replay), sys.stdout)
    elif output.is_terminal:
        output.print(table_of(rows_of(replay)))
    else:
        write_csv(rows_of(replay), sys.stdout)
