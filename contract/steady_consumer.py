"""A consumer that notices when it has stopped fetching, and gets past a record that it cannot read.

kafka-python 3.0 can keep returning empty polls although its partitions hold more records (its issue 3106 describes one
way there: a partition that waits for its offset to be validated is not fetched). By its polls alone an idle consumer
cannot be told from a stalled one, nor from one whose broker is gone, so this one asks the broker.

Having met a record that it cannot decode, it would return from no later poll; only a seek past the record helps.

A poll whose time is over leaves a rejoin of the group half done, for the next poll to go on with. That one does not
where the reason for it is gone, as when the topic's metadata came in between: heartbeats, stopped for the rejoin, then
stay so until the group goes on without this member, which never notices. Nor does it where the rejoin has come to its
end in between: it begins another, and the whole group with it, ten times a second where polls are short.

While a heartbeat waits for its answer, a poll does not wait: it turns some hundred times a second, and every turn
leaves a few kilobytes with the fetch that waits too. So this one sleeps in its place.

A member whose static name another one has taken stops its heartbeats and goes on reading; this one says so.

What was fetched of a partition is kept while it is paused, and given back only where no other part is in its place.
One that was read to its end stays there, so a resumed partition would never be read again: here it makes room. And a
partition that was to name an unreadable record would forget it while paused, and once it is resumed no poll return.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError, FencedInstanceIdError, KafkaError, UnsupportedCodecError
from kafka.structs import MemberState

CHECK_EVERY_SECONDS: Final = 5.0
STALL_PATIENCE_SECONDS: Final = 60.0
_OVERDUE_SECONDS: Final = 1.0
_RANGE_POLL_MS: Final = 200
_REQUEST_MS: Final = 5_000
_log = logging.getLogger(__name__)


class StalledConsumerError(KafkaError):  # type: ignore[misc]
    """The consumer does not fetch although there are records, also a minute after it was told to seek."""


class NoRecordsError(KafkaError):  # type: ignore[misc]
    """No record comes although the end of what is to be read is not reached."""


class UnreadableRecordError(KafkaError):  # type: ignore[misc]
    """The record at the partition's position cannot be read; the next poll goes on behind it.

    Attributes:
        partition: Where it stands.
        offset: Its offset.
    """

    def __init__(self, partition: TopicPartition, offset: int, cause: str) -> None:
        super().__init__(f"{partition.topic}[{partition.partition}]@{offset} cannot be read: {cause}")
        self.partition = partition
        self.offset = offset


class _Joining:
    """A rejoin under way that is not called done before its result was taken, unless it failed.

    Args:
        future: The client's.
    """

    def __init__(self, future: Any) -> None:  # noqa: ANN401
        self._future = future
        self.add_callback = future.add_callback
        self.add_errback = future.add_errback

    @property
    def is_done(self) -> bool:
        """What the client asks before it begins another."""
        return bool(self._future.failed())

    def __await__(self) -> Any:  # noqa: ANN401
        return self._future.__await__()


class SteadyConsumer(KafkaConsumer):  # type: ignore[misc]
    """kafka-python's consumer with a watch over idle polls; use it as the original."""

    def __init__(self, *topics: str, **configs: Any) -> None:  # noqa: ANN401 - kafka-python's own signature
        super().__init__(*topics, **configs)
        self._looked_at = self._answered_at = time.monotonic()
        self._overdue_since: float | None = None
        self._stalled: dict[TopicPartition, tuple[int, float]] = {}

    def poll(
        self,
        timeout_ms: int = 0,
        max_records: int | None = None,
        update_offsets: bool = True,  # noqa: FBT001, FBT002
    ) -> dict[TopicPartition, list[Any]]:
        """Next records by partition; blocks up to the timeout, and every five idle seconds for a request more.

        Raises:
            StalledConsumerError: There are records that fetching does not bring; open another consumer.
            UnreadableRecordError: A record cannot be read; poll again to go on behind it.
            FencedInstanceIdError: Another member has taken this one's static name.
        """
        self._finish_rejoin()
        self._refuse_when_fenced()
        self._make_room_for_resumed()
        if self._is_unanswered():
            time.sleep(timeout_ms / 1000)
            timeout_ms = 0
        try:
            polled: dict[TopicPartition, list[Any]] = super().poll(timeout_ms, max_records, update_offsets)
        except (CorruptRecordError, UnsupportedCodecError) as error:
            raise self._passed_over(error) from error
        if polled:
            self._looked_at = self._answered_at = time.monotonic()
            self._stalled = {}
        elif time.monotonic() - self._looked_at >= CHECK_EVERY_SECONDS:
            self._look()
            self._looked_at = time.monotonic()
        return polled

    def pause(self, *partitions: TopicPartition) -> None:
        """Stop polling partitions, but not one whose next poll is to name a record that cannot be read.

        One that is assigned no more is left alone: the client's own thread may have lost it a moment ago.
        """
        met = self._fetcher._next_in_line_exception_metadata  # noqa: SLF001
        for one in partitions:
            if met is None or one != met.partition:
                with contextlib.suppress(KeyError):
                    super().pause(one)

    def resume(self, *partitions: TopicPartition) -> None:
        """Poll partitions again, first what was fetched of them before; they are given five seconds to begin.

        One that is assigned no more is left alone.
        """
        for one in partitions:
            with contextlib.suppress(KeyError):
                super().resume(one)
            self._looked_at = time.monotonic()

    def read_range(self, partition: TopicPartition, first: int, end: int, patience_seconds: float) -> Iterator[Any]:
        """Records of an assigned partition from one offset to before another; those it cannot read are left out.

        Raises:
            NoRecordsError: No record came for so many seconds before the end.
        """
        self.seek(partition, first)
        heard_at = time.monotonic()
        # The position, unlike a record's offset, also passes the markers of transactions.
        while self.position(partition) < end:
            try:
                records = self.poll(timeout_ms=_RANGE_POLL_MS).get(partition, [])
            except UnreadableRecordError:
                continue
            yield from (record for record in records if record.offset < end)
            if records:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > patience_seconds:
                raise NoRecordsError(f"{partition.topic}[{partition.partition}]: no record for {patience_seconds:g} s")

    def seconds_since_answer(self) -> float:
        """Seconds since the broker last gave records or answered a question; grows while it does not answer."""
        return time.monotonic() - self._answered_at

    def _make_room_for_resumed(self) -> None:
        # A part is false once it is read to its end.
        if not self._fetcher._next_partition_records:  # noqa: SLF001
            self._fetcher._next_partition_records = None  # noqa: SLF001

    def _finish_rejoin(self) -> None:
        """Have the next poll go on with a rejoin that was begun, and take its result where it has come to its end."""
        coordinator = self._coordinator
        if not coordinator.rejoining:
            return
        if not coordinator.need_rejoin():
            coordinator.request_rejoin()
        joining = coordinator._join_task  # noqa: SLF001
        if joining is not None and not isinstance(joining, _Joining):
            coordinator._join_task = _Joining(joining)  # noqa: SLF001

    def _is_unanswered(self) -> bool:
        """Whether a heartbeat has been due for a second."""
        coordinator = self._coordinator
        is_due = self.config["group_id"] is not None and coordinator.time_to_next_poll() <= 0
        if not is_due or coordinator.rejoining or coordinator.state != MemberState.STABLE:
            self._overdue_since = None
            return False
        now = time.monotonic()
        self._overdue_since = self._overdue_since if self._overdue_since is not None else now
        return now - self._overdue_since > _OVERDUE_SECONDS

    def _refuse_when_fenced(self) -> None:
        coordinator = self._coordinator
        if coordinator.group_instance_id is None:
            return
        with coordinator._lock:  # noqa: SLF001
            is_member = coordinator.state == MemberState.STABLE and not coordinator.rejoining
            is_silent = not coordinator._heartbeat_enabled  # noqa: SLF001
        if is_member and is_silent:
            raise FencedInstanceIdError(f"another member has taken the name {coordinator.group_instance_id}")

    def _passed_over(self, error: KafkaError) -> KafkaError:
        """Seek behind the record that the client stumbled over, and name it."""
        # The client's error does not say where; the part it was reading does, and nothing public.
        part = self._fetcher._next_partition_records  # noqa: SLF001
        offset = self.position(part.topic_partition, timeout_ms=_REQUEST_MS) if part else None
        if offset is None:
            return error
        self.seek(part.topic_partition, offset + 1)
        self._looked_at = self._answered_at = time.monotonic()
        return UnreadableRecordError(part.topic_partition, offset, f"{type(error).__name__}: {error}")

    def _some_partition(self) -> set[TopicPartition]:
        for topic in sorted(self.subscription() or ()):
            for number in sorted(self.partitions_for_topic(topic)):
                return {TopicPartition(topic, number)}
        return set()

    def _look(self) -> None:
        """Compare positions with the ends of the partitions; one that stays behind for long is stalled."""
        partitions = self.assignment() - self.paused()
        # A member that has no partition, as after a long silence of the broker, still has to ask whether it is there.
        asked = partitions or self._some_partition()
        if not asked:
            return
        try:
            ends = self.end_offsets(list(asked), timeout_ms=_REQUEST_MS)
            places = {tp: self.position(tp, timeout_ms=_REQUEST_MS) for tp in partitions}
        except KafkaError as error:
            # A broker that does not answer is nothing to seek for; the client reconnects by itself.
            _log.debug("ends not known: %s", error)
            return
        now = self._answered_at = time.monotonic()
        behind = {tp: place for tp, place in places.items() if place is not None and place < ends.get(tp, 0)}
        before, self._stalled = self._stalled, {}
        for tp, place in behind.items():
            stuck_at, since = before.get(tp, (-1, now))
            if stuck_at != place:
                since = now
                _log.warning("fetching stalled, seeking", extra={"partition": tp.partition, "offset": place})
                self.seek(tp, place)
            elif now - since >= STALL_PATIENCE_SECONDS:
                # Not sooner: over a slow link a response of many frames takes that long to come.
                raise StalledConsumerError(f"{tp.topic}[{tp.partition}]@{place} is not fetched, its end is {ends[tp]}")
            self._stalled[tp] = place, since
