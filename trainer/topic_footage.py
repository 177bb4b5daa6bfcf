"""Footage of a camera from a topic: planned, read once, kept on disk, and given as clips.

What is asked for makes a request; what the topic holds and what is known of the camera's events make a plan of it,
which is kept with what it gave. A fit that goes on takes the plan with which it began. Another one plans anew, and
where that gives the same plan, all is read from disk.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, overload

from rich.console import Console

from contract.clip import Clip
from contract.errors import BrokerUnavailableError, FootageError
from contract.event_spans import EventSpan, bounds
from contract.kafka_source import MAX_TIME_MS, KafkaClip, parse_kafka_source
from contract.source import is_topic, open_source
from trainer.footage_cache import CacheFolder, FootageCache, StoredClip, Taken
from trainer.progress import StageProgress
from trainer.settings import FitSettings, TopicSettings
from trainer.topic_filler import Filler
from trainer.topic_plan import Draw, Grid, Plan, around_the_day, seconds_within, short_digest
from trainer.topic_planning import held_until_ms, make_plan

_MAX_BAD_SHARE: Final = 0.01
_LONGEST_CLIP_MS: Final = 15 * 60_000
_FEW_FRAMES: Final = 10
_LOOKS: Final = 48
_MOST_LOOKS: Final = 8 * _LOOKS
_SENT_LATE_MS: Final = 60_000
_LEAST_OF_AN_EVENT: Final = 24


class TopicFootage(Sequence[Clip]):
    """A camera's footage without its events, evenly over the time of day; planned and read when it is first used.

    The clips are sorted by the time of day at which they begin, so that what is held out by turns is of all of it.

    Args:
        address: Camera, topic and range.
        settings: What is taken, and what a frame may declare.
        console: Where progress is shown.
        goes_on: Whether the plan that was used last is taken again, where there is one, as a stopped fit needs it.
    """

    def __init__(self, address: KafkaClip, settings: FitSettings, console: Console, *, goes_on: bool = False) -> None:
        self._address = address
        self._settings = settings
        # A process beside the first under torchrun takes what that one has planned and read.
        self._is_first = os.environ.get("RANK", "0") == "0"
        self._console = console if self._is_first else Console(quiet=True)
        self._goes_on = goes_on or not self._is_first
        self._clips: Sequence[Clip] | None = None
        self._record: dict[str, Any] = {}

    def read(self) -> Sequence[Clip]:
        """The clips; blocks until all is on disk. Once it is, they need no broker.

        Raises:
            BrokerUnavailableError: No broker answers, or it does not let us in.
            ConfigError: A topic is not there, or the range is too long.
            FootageError: The topic holds no such footage, or too much of it is no picture.
        """
        if self._clips is None:
            folder, request = _open_folder(self._address, self._settings, "evenly")
            with folder.asked(request):
                cache, plan = self._planned(folder, request)
                grid = Grid(plan.from_ms, plan.to_ms, round(self._settings.topic.stretch_seconds * 1000))
                taken = self._fill(cache, plan, grid)
            self._record = _record(plan, taken, self._settings.topic, cache.fact("passed_over"))
            for line in _summary(self._address.name, self._record):
                self._say(line)
            self._clips = _join(cache, self._address.name, taken, grid)
        return self._clips

    def record(self) -> dict[str, Any]:
        """What was taken and what was left out, for the record of a run; reads first, see `read`."""
        self.read()
        return self._record

    def __len__(self) -> int:
        return len(self.read())

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | Sequence[Clip]:
        return self.read()[index]

    def _planned(self, folder: CacheFolder, request: str) -> tuple[FootageCache, Plan]:
        """Find or make the plan, and open what it gave so far."""
        last = folder.newest(request)
        before = folder.use(request, last) if last is not None else None
        facts = before.fact("plan") if before is not None else None
        known = Plan.of_facts(facts) if facts is not None else None
        if before is not None and known is not None and self._goes_on:
            return before, known
        passed_over: Counter[str] = Counter()
        try:
            plan = make_plan(self._address, self._settings.topic, known, self._say, passed_over)
        except BrokerUnavailableError as error:
            if before is None or known is None or not before.fact("done"):
                raise
            self._say(f"{error}; the footage is that which was read before")
            return before, known
        cache = folder.use(request, short_digest(plan.facts()))
        cache.remember(plan=plan.facts(), passed_over=passed_over)
        return cache, plan

    def _fill(self, cache: FootageCache, plan: Plan, grid: Grid) -> list[Taken]:
        """Read stretches until there are enough, or none is left; give them in the order of time."""
        if cache.fact("done"):
            return list(cache.taken().values())
        wanted, left_out = self._settings.topic.max_frames, plan.left_out(self._settings.topic.margin_seconds)
        draw = Draw(grid, left_out)
        taken: list[Taken] = []
        frames = 0
        with (
            Filler(self._address, self._settings.limits, cache) as filler,
            StageProgress("reading the topic", self._console, shown=self._is_first) as progress,
        ):
            while frames < wanted and (number := draw.next()) is not None:
                one = filler.take(number, grid.interval(number), wanted - frames, left_out)
                if one is None:
                    continue
                draw.gave(number, one.kept)
                taken.append(one)
                frames += one.kept
                if len(taken) == _LOOKS and not frames:
                    name = self._address.name
                    self._say(f"no frame of camera {name} in the first {_LOOKS} stretches; is its name right?")
                if len(taken) >= _MOST_LOOKS and not frames:
                    break
                progress.update(frames / wanted, f"{frames} frames of {len(taken)} stretches")
        taken.sort(key=lambda one: one.number)
        _require_pictures(taken)
        if not frames:
            raise FootageError(
                f"topic {self._address.topic} holds no frame of camera {self._address.name} from {_time(plan.from_ms)} "
                f"to {_time(plan.to_ms)} outside its {len(plan.spans)} events, in {len(taken)} stretches of all times "
                "of day; is the camera's name right? if it is seldom on, choose a range in which it was"
            )
        cache.remember(done=True)
        return taken

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def open_normal(source: str, settings: FitSettings, console: Console, *, goes_on: bool = False) -> Sequence[Clip]:
    """Open normal footage; of a topic, what lies in no event, evenly over the time of day.

    Args:
        source: Its address.
        settings: How a broker is spoken to, and what of a topic is taken.
        console: Where progress is shown.
        goes_on: Whether what was planned before holds; see `trainer.topic_footage.TopicFootage`.

    Raises:
        ConfigError: It is none.
    """
    if not is_topic(source):
        return open_source(source)
    return TopicFootage(parse_kafka_source(source, settings.kafka), settings, console, goes_on=goes_on)


def read_spans(
    address: KafkaClip,
    spans: Sequence[EventSpan],
    settings: FitSettings,
    console: Console,
    *,
    lead_in_seconds: float = 0.0,
) -> Sequence[Clip]:
    """Read the footage of events, one clip each, named by its event's id; kept on disk as a fit's is.

    Those of which the topic holds nothing are left out, and those for which there is no room in ``topic.max_frames``,
    of which each has an equal share at the most. What is no picture is left out.

    Args:
        address: Camera, topic and range; an event without an end lasts until the next one begins, or the range's end.
        spans: Events of the camera, in the order of their starts.
        settings: Of the cache, and what a frame may declare.
        console: Where progress is shown.
        lead_in_seconds: Footage read before each event, seconds.

    Raises:
        BrokerUnavailableError: No broker answers, or it does not let us in.
        FootageError: The topic is not there.
    """
    lead_in_ms = round(lead_in_seconds * 1000)
    folder, request = _open_folder(address, settings, "spans", [asdict(span) for span in spans], lead_in_ms)
    with folder.asked(request):
        cache = folder.use(request, "spans")
        to_ms = cache.fact("to_ms") or address.to_ms or held_until_ms(address)
        cache.remember(to_ms=to_ms)
        room = settings.topic.max_frames
        taken: list[Taken] = []
        with (
            Filler(address, settings.limits, cache) as filler,
            StageProgress("reading events", console) as progress,
        ):
            most = max(_LEAST_OF_AN_EVENT, room // max(1, len(spans)))
            for number, (first, last) in enumerate(bounds(spans, to_ms)):
                begin = max(0, first - lead_in_ms)
                # Records are found by when they were sent; frames belong to an event by when they were captured.
                sent = max(0, begin - _SENT_LATE_MS), last + 1 + _SENT_LATE_MS
                others = ((-1, begin), (last + 1, MAX_TIME_MS + 1))
                one = filler.take(number, sent, min(room, most), others) if room > 0 else None
                if one is not None:
                    taken.append(one)
                    room -= one.kept
                progress.update((number + 1) / len(spans), f"{number + 1} events")
    kept = [one for one in taken if one.kept]
    bad = sum(one.no_picture for one in taken)
    if len(kept) < len(spans) or bad:
        said = f"{len(spans) - len(kept)} of {len(spans)} events have no frames here or no room"
        console.print(f"{said}, {bad} frames are no pictures", highlight=False)
    return [StoredClip(spans[one.number].event_id, cache, ((one.number, 0, one.seen, 0),)) for one in kept]


def _open_folder(address: KafkaClip, settings: FitSettings, *more: Any) -> tuple[CacheFolder, str]:  # noqa: ANN401
    """The folder of caches, old ones removed, and the digest of what is asked for."""
    path = settings.topic.footage_cache or _default_folder()
    folder = CacheFolder(path)
    folder.prune(settings.topic.footage_days)
    where = (address.bootstrap_servers, address.topic, address.name, address.from_ms, address.to_ms)
    asked = settings.topic.model_dump(mode="json"), settings.limits.model_dump(mode="json")
    return folder, short_digest([where, asked, more])


def _default_folder() -> Path:
    cache = os.environ.get("FRAMEWATCH_CACHE")
    if cache:
        return Path(cache) / "footage"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framewatch" / "footage"


def _require_pictures(taken: Sequence[Taken]) -> None:
    """Refuse footage of which more than one frame in a hundred is no picture.

    Raises:
        FootageError: It is so.
    """
    bad, kept = sum(one.no_picture for one in taken), sum(one.kept for one in taken)
    if bad > _MAX_BAD_SHARE * (bad + kept):
        first = next(one.first_bad for one in taken if one.no_picture)
        raise FootageError(f"{bad} of {bad + kept} frames are no pictures, the first is {first}")


def _join(cache: FootageCache, camera: str, taken: Sequence[Taken], grid: Grid) -> list[Clip]:
    """Make clips of stretches in the order of time: adjacent ones are one clip, up to a quarter of an hour.

    Where the frames' size changes another clip begins.
    """
    pieces_of = _pieces(cache)
    runs: list[tuple[int, str, list[tuple[int, int, int, int]]]] = []
    size: tuple[int, int] | None = None
    index = 0
    before: Taken | None = None
    for one in taken:
        start = grid.interval(one.number)[0]
        follows = before is not None and before.is_whole and before.number + 1 == one.number
        if not follows or start % _LONGEST_CLIP_MS < grid.interval(one.number - 1)[0] % _LONGEST_CLIP_MS:
            size = None
        for first, last, its_size in pieces_of.get(one.number, ()):
            if its_size != size:
                size, index = its_size, -first
                runs.append((start, f"{camera}@{_time(start)}" + (f"+{first}" if first else ""), []))
            runs[-1][2].append((one.number, first, last, index))
        index += one.seen
        before = one
    runs.sort(key=lambda run: around_the_day(run[0]))
    return [StoredClip(name, cache, tuple(pieces)) for _, name, pieces in runs]


def _pieces(cache: FootageCache) -> dict[int, list[tuple[int, int, tuple[int, int]]]]:
    """First place, last place, height and width of the frames of one size, by stretch."""
    pieces: dict[int, list[tuple[int, int, tuple[int, int]]]] = {}
    for stretch, place, height, width in cache.sizes():
        own = pieces.setdefault(stretch, [])
        if own and own[-1][2] == (height, width):
            own[-1] = own[-1][0], place, own[-1][2]
        else:
            own.append((place, place, (height, width)))
    return pieces


def _record(plan: Plan, taken: Sequence[Taken], settings: TopicSettings, passed_over: dict[str, int]) -> dict[str, Any]:
    left_out = plan.left_out(settings.margin_seconds)
    return {
        "from_ms": plan.from_ms,
        "to_ms": plan.to_ms,
        "frames_wanted": settings.max_frames,
        "frames_read": sum(one.kept for one in taken),
        "stretches": sum(one.kept > 0 for one in taken),
        "events_left_out": sum(span.verdict != "false_alarm" for span in plan.spans),
        "events_without_end": sum(span.end_ms is None and span.verdict != "false_alarm" for span in plan.spans),
        "false_alarms_kept": sum(span.verdict == "false_alarm" for span in plan.spans),
        "seconds_left_out": round(seconds_within(left_out, plan.from_ms, plan.to_ms), 3),
        "frames_left_out": sum(one.in_events for one in taken),
        "frames_no_picture": sum(one.no_picture for one in taken),
        "passed_over": passed_over,
    }


def _summary(camera: str, record: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{record['frames_read']} frames of {camera} in {record['stretches']} stretches; "
        f"{record['events_left_out']} events left out, {record['seconds_left_out']:g} s with their margins, "
        f"{record['false_alarms_kept']} false alarms kept"
    )
    if record["events_without_end"]:
        yield f"{record['events_without_end']} events have no end: left out until the next one or the range's end"
    if record["frames_no_picture"]:
        yield f"{record['frames_no_picture']} frames are no pictures and left out"
    if record["passed_over"]:
        counts = ", ".join(f"{count} that should be a {what}" for what, count in record["passed_over"].items())
        yield f"records passed over on the topics of alerts and feedback: {counts}"
    if record["frames_read"] < _FEW_FRAMES * record["stretches"]:
        yield "the stretches have fewer than ten frames at the mean; set topic.stretch_seconds higher"


def _time(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds").replace("+00:00", "Z")
