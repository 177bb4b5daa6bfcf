"""What a replay is asked for: a range of time, and names of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from contract.errors import ConfigError
from contract.kafka_source import parse_time
from worker.settings import KafkaSettings

_LEAD_IN_SECONDS: Final = 60.0
_SUFFIX: Final = ".replay"


@dataclass(frozen=True)
class ReplayRange:
    """Which part of the past.

    Attributes:
        from_ms: First record timestamp wanted, ms since 1970; None for the oldest held.
        to_ms: Record timestamp to stop before, ms since 1970; None for what the topic holds when reading starts.
        lead_in_seconds: Time before the range from which frames are scored.

    Raises:
        ConfigError: The range ends before it begins, or there is nothing that a lead-in could lie before.
    """

    from_ms: int | None
    to_ms: int | None
    lead_in_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.from_ms is not None and self.to_ms is not None and self.from_ms >= self.to_ms:
            raise ConfigError("--from must be earlier than --to")
        if self.from_ms is None and self.lead_in_seconds is not None:
            raise ConfigError("--lead-in lies before --from; without --from the oldest frame held is the first")

    @property
    def begins_at_ms(self) -> int | None:
        """Record timestamp from which frames are scored, ms since 1970; None for the oldest held."""
        if self.from_ms is None:
            return None
        seconds = _LEAD_IN_SECONDS if self.lead_in_seconds is None else self.lead_in_seconds
        return max(0, self.from_ms - round(seconds * 1000))


def own_names(live: KafkaSettings, wanted: ReplayRange, named: Mapping[str, str | None]) -> dict[str, str | None]:
    """Name a replay's group and topics, none of them the live worker's.

    Args:
        live: The live worker's settings.
        wanted: The range, which is part of the group's name: offsets committed for it are of no other.
        named: Names in place of these, by setting: ``group_id``, ``alerts_topic``, ``scores_topic``,
            ``challenger_scores_topic``.

    Raises:
        ConfigError: A name is the live worker's.
    """
    ends = ("oldest" if wanted.from_ms is None else wanted.from_ms, "end" if wanted.to_ms is None else wanted.to_ms)
    names = {
        "group_id": f"{live.group_id}{_SUFFIX}.{ends[0]}-{ends[1]}",
        "alerts_topic": live.alerts_topic + _SUFFIX,
        "scores_topic": live.scores_topic + _SUFFIX if live.scores_topic is not None else None,
        "challenger_scores_topic": live.challenger_scores_topic + _SUFFIX,
    }
    names |= {setting: name for setting, name in named.items() if name is not None}
    topics = [*live.topics, live.challenger_scores_topic]
    for setting in names:
        if names[setting] in ([live.group_id] if setting == "group_id" else topics):
            flag = "--" + setting.replace("_", "-")
            raise ConfigError(f"{flag} {names[setting]} is the live worker's; a replay needs one of its own")
    return names


def read_range(since: str | None, until: str | None, lead_in_seconds: float | None) -> ReplayRange | None:
    """Read a range as it stands on the command line; None where none was asked for.

    Raises:
        ConfigError: A time is none, or the range is none.
    """
    if since is None and until is None and lead_in_seconds is None:
        return None
    from_ms = parse_time("--from", since) if since is not None else None
    to_ms = parse_time("--to", until) if until is not None else None
    return ReplayRange(from_ms, to_ms, lead_in_seconds)
