"""What ``worker rules`` tells: a row for each camera and each of the settings tried, and the would-be events."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, Final

from rich.markup import escape
from rich.table import Table

from contract.scoring import say_rate
from worker.recorded_scores import ScoredFrame
from worker.rules import Replay, WouldBeEvent

COLUMNS: Final = (
    "camera_id", "frames", "hours", "settings", "threshold", "events", "open_events", "events_a_day", "longest_seconds",
    "highest_peak",
)  # fmt: skip
_MS_AN_HOUR: Final = 3_600_000
_SAID_EVERY: Final = 20_000

Row = dict[str, Any]


def replay_scores(
    frames: Iterable[ScoredFrame],
    replay: Replay,
    listeners: Sequence[Callable[[WouldBeEvent], None]],
    on_progress: Callable[[int], None],
) -> None:
    """Replay scores to their end.

    Args:
        frames: As they were scored, a camera's in their order.
        replay: What follows them.
        listeners: Each is told each event.
        on_progress: Told now and then how many frames were taken.
    """
    for count, frame in enumerate(frames, 1):
        for event in replay.take(frame):
            for listener in listeners:
                listener(event)
        if count % _SAID_EVERY == 0:
            on_progress(count)
    for event in replay.close():
        for listener in listeners:
            listener(event)


def rows_of(replay: Replay) -> Iterator[Row]:
    """A row for each camera, by name, and each of the settings tried; its fields are `COLUMNS`."""
    for camera_id, camera in sorted(replay.cameras.items()):
        for candidate, tally in zip(replay.candidates, camera.tallies, strict=True):
            a_day = camera.events_a_day(tally)
            values = (
                camera_id, camera.frames, round(camera.watched_ms / _MS_AN_HOUR, 4), candidate.name, tally.threshold,
                tally.events, tally.open_events, None if a_day is None else round(a_day, 3),
                round(tally.longest_seconds, 3), tally.highest_peak,
            )  # fmt: skip
            yield dict(zip(COLUMNS, values, strict=True))


def write_csv(rows: Iterable[Row], file: IO[str]) -> None:
    """Write rows as CSV, a header first."""
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def write_json_lines(rows: Iterable[Row], file: IO[str]) -> None:
    """Write rows as JSON, one a line."""
    for row in rows:
        file.write(json.dumps(row) + "\n")


def table_of(rows: Iterable[Row]) -> Table:
    """Lay rows out for a terminal."""
    table = Table(title="Events there would have been", expand=False)
    for column in ("camera", "frames", "hours", "settings", "threshold", "events", "a day", "longest", "highest peak"):
        table.add_column(column, justify="left" if column in {"camera", "settings"} else "right", no_wrap=True)
    before = None
    for row in rows:
        is_first = row["camera_id"] != before
        if is_first and before is not None:
            table.add_section()
        before = row["camera_id"]
        camera = (escape(before), f"{row['frames']:,}", f"{row['hours']:,.2f}") if is_first else ("", "", "")
        table.add_row(*camera, *_cells(row), style="bold" if row["settings"] == "in force" else "")
    return table


def _cells(row: Row) -> tuple[str, ...]:
    is_open = f" ({row['open_events']} open)" if row["open_events"] else ""
    a_day, peak = row["events_a_day"], row["highest_peak"]
    return (
        row["settings"],
        f"{row['threshold']:.3f}",
        f"{row['events']:,}{is_open}",
        "-" if a_day is None else say_rate(a_day) if a_day else "0",
        f"{row['longest_seconds']:,.1f} s" if row["events"] else "-",
        "-" if peak is None else f"{peak:.2f}",
    )


def event_line(replay: Replay, event: WouldBeEvent) -> str:
    """A would-be event as a line of JSON."""
    return json.dumps({
        "settings": replay.candidates[event.candidate].name,
        "threshold": event.threshold,
        "event_id": event.event_id,
        "camera_id": event.camera_id,
        "started_at_ms": event.first.captured_at_ms,
        "peak_at_ms": event.peak.captured_at_ms,
        "ended_at_ms": None if event.is_open else event.last.captured_at_ms,
        "is_open": event.is_open,
        "peak_score": event.peak_score,
        "frames": {
            "topic": event.topic, "partition": event.partition, "first_offset": event.first.offset,
            "peak_offset": event.peak.offset, "last_offset": event.last.offset,
        },
    }) + "\n"  # fmt: skip


def say_passed_over(passed_over: Counter[str]) -> str:
    """Say in one line how many records were passed over, and why; empty where none was."""
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(passed_over.items()) if count)
    return f"passed over: {counts}" if counts else ""
