"""Reads stretches of a camera's footage from its topic into the cache, one at a time."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from contract.errors import FrameError
from contract.frame import FrameLimits, read_frame_header
from contract.kafka_reader import mapped_errors, open_reader
from contract.kafka_source import KafkaClip, captured_at_ms
from trainer.footage_cache import FootageCache, StoredFrame, Taken
from trainer.topic_plan import Interval
from trainer.topic_reader import TopicReader

CLIENT_ID: Final = "framewatch-trainer"
_WIDE_LOOKS: Final = 8


class Filler:
    """Reads stretches; a context manager that connects to the broker with the first one that is not on disk.

    A camera's frames are in one partition, or in more where some were added. So once it was found it is looked for
    where it was found before; where it is not there, in the others too, a few times without success at the most. Of a
    stretch within which it moved, the part before is read.

    Args:
        address: Topic and camera.
        limits: What a frame may declare.
        cache: Where they are kept.
    """

    def __init__(self, address: KafkaClip, limits: FrameLimits, cache: FootageCache) -> None:
        self._address = address
        self._limits = limits
        self._cache = cache
        self._taken = cache.taken()
        stored = self._taken.values()
        self._known = {int(number) for one in stored for number in one.partitions.split(",") if number}
        self._misses = sum(one.was_wide and not one.seen for one in stored)
        self._stack = ExitStack()
        self._topic: TopicReader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def take(self, number: int, interval: Interval, limit: int, left_out: Sequence[Interval]) -> Taken | None:
        """What a stretch gave, read now where it is not on disk; None where there is nothing to read; blocks.

        Args:
            number: Which stretch.
            interval: Its time.
            limit: Frames to keep at the most, 1 or more.
            left_out: Joined intervals of capture times that are left out.

        Raises:
            BrokerUnavailableError: No broker answers, or it does not let us in; nothing of the stretch is kept then.
            FootageError: The topic is not there, or the cache cannot be used.
        """
        if number not in self._taken:
            with mapped_errors(self._address.connection, self._address.bootstrap_servers):
                topic = self._opened()
                first, then = self._partitions(topic)
                if all(topic.is_silent(*interval, partition) for partition in first | then):
                    return None
                stretch = _Stretch(number, self._limits, limit, left_out)
                one = self._cache.add(number, _read(topic, stretch, interval, first, then))
            self._taken[number] = one
            self._known |= {int(partition) for partition in one.partitions.split(",") if partition}
            self._misses += one.was_wide and not one.seen
        return self._taken[number]

    def _partitions(self, topic: TopicReader) -> tuple[frozenset[int], frozenset[int]]:
        """Where the camera is looked for, and where then if it is not there."""
        if not self._known:
            return topic.partitions, frozenset()
        others = topic.partitions - self._known if self._misses < _WIDE_LOOKS else frozenset()
        return frozenset(self._known), others

    def _opened(self) -> TopicReader:
        if self._topic is None:
            address = self._address
            reader = open_reader(address.connection, address.bootstrap_servers, CLIENT_ID, lost_place="earliest")
            self._topic = TopicReader(self._stack.enter_context(closing(reader)), address)
        return self._topic


def _read(
    topic: TopicReader, stretch: "_Stretch", interval: Interval, first: frozenset[int], then: frozenset[int]
) -> Iterator[StoredFrame | Taken]:
    found: list[int] = []
    yield from _look(topic, stretch, interval, sorted(first), found)
    is_wide = not found and bool(then)
    if is_wide:
        yield from _look(topic, stretch, interval, sorted(then), found)
    yield stretch.taken(found, was_wide=is_wide)


def _look(
    topic: TopicReader, stretch: "_Stretch", interval: Interval, partitions: Sequence[int], found: list[int]
) -> Iterator[StoredFrame]:
    for partition in partitions:
        before = stretch.seen
        for record in topic.records(*interval, partition):
            frame = stretch.look_at(record)
            if frame is not None:
                yield frame
            if stretch.is_full:
                break
        if stretch.seen > before:
            found.append(partition)
        if stretch.is_full:
            return


@dataclass
class _Stretch:
    """Looks at the camera's records of a stretch and counts them."""

    number: int
    limits: FrameLimits
    limit: int
    left_out: Sequence[Interval]
    seen: int = 0
    kept: int = 0
    in_events: int = 0
    no_picture: int = 0
    first_bad: str = ""
    _firsts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._firsts = [first for first, _ in self.left_out]

    @property
    def is_full(self) -> bool:
        """Whether no more is kept."""
        return self.kept >= self.limit

    def look_at(self, record: Any) -> StoredFrame | None:  # noqa: ANN401 - the client's record type has no public name
        """The frame of a record; None where it is left out."""
        place, self.seen = self.seen, self.seen + 1
        at_ms = captured_at_ms(record)
        if self._is_left_out(at_ms):
            self.in_events += 1
            return None
        try:
            header = read_frame_header(record.value or b"", self.limits)
        except FrameError as error:
            self.no_picture += 1
            self.first_bad = self.first_bad or f"{record.topic}[{record.partition}]@{record.offset}: {error}"
            return None
        self.kept += 1
        return StoredFrame(
            place, record.partition, record.offset, at_ms, header.height, header.width, bytes(record.value)
        )

    def taken(self, partitions: Sequence[int], *, was_wide: bool) -> Taken:
        """What came of it."""
        return Taken(
            self.number, self.seen, self.kept, self.in_events, self.no_picture, not self.is_full,
            ",".join(map(str, partitions)), was_wide, self.first_bad,
        )  # fmt: skip

    def _is_left_out(self, at_ms: int) -> bool:
        before = bisect_right(self._firsts, at_ms) - 1
        return before >= 0 and at_ms < self.left_out[before][1]
