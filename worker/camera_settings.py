"""Settings of single cameras, from a YAML file or from a folder with one file a camera."""

from collections.abc import Mapping
from datetime import datetime, time
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from contract.errors import ConfigError
from contract.event import EventRuleChanges
from contract.kafka_source import CAMERA_ID
from contract.model_address import is_model_address, parse_model_address
from contract.settings import FrozenModel, one_line, read_yaml
from worker.zones import Polygon, Zones

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: Final[tuple[Day, ...]] = get_args(Day)
_MAX_CAMERAS: Final = 100_000
_MINUTES_A_DAY: Final = 24 * 60
_SECONDS_AN_HOUR: Final = 3600
_SUFFIXES: Final = (".yaml", ".yml")


class LateSettings(FrozenModel):
    """What becomes of frames that come late, as after an outage."""

    policy: Literal["process_all", "skip_to_fresh"] = "process_all"
    """``skip_to_fresh`` passes over frames older than ``max_age_seconds``, so that alerts are of now; events then end
    where they were, and a replay of the topic skips what it finds old."""

    max_age_seconds: float = Field(default=30, gt=0, le=86_400)
    """Age from which a frame is late, by its capture time; one whose capture time cannot be true never is."""


class ProfileSettings(FrozenModel):
    """What may be set for a camera, or for some hours of its days; what is not set stays as it is without it."""

    bundle: Path | None = None
    """Folder of the bundle, or its address in the model registry; its threshold then holds where none is set beside
    it."""

    challenger: Path | None = None
    """Folder of a bundle that scores the same frames and raises no alert; one that is set elsewhere does not hold where
    a bundle is set here."""

    threshold: float | None = Field(default=None, gt=-100, lt=100)
    """Score from which a frame is anomalous."""

    false_events_per_day: float | None = Field(default=None, gt=0, le=86_400)
    """Budget of false events, a day, that sets the threshold by the bundle's calibration."""

    event_rule: EventRuleChanges = EventRuleChanges()
    """How scores become events, where it is to differ."""

    zones: tuple[Polygon, ...] | None = None
    """Polygons within which anomalies count, corners as [x, y] in shares of the picture, 0..1 from the top left; none
    for all of the picture."""

    masks: tuple[Polygon, ...] | None = None
    """Polygons within which they do not."""

    @field_validator("bundle", "challenger")
    @classmethod
    def _is_named_well(cls, named: Path | None) -> Path | None:
        if named is not None and is_model_address(named):
            parse_model_address(named)
        return named

    @model_validator(mode="after")
    def _says_one_threshold(self) -> Self:
        if self.threshold is not None and self.false_events_per_day is not None:
            raise ValueError("threshold and false_events_per_day both set the threshold; give one")
        Zones(zones=self.zones or (), masks=self.masks or ())
        return self

    def over(self, below: "ProfileSettings") -> "ProfileSettings":
        """These settings, and those below them where these say nothing."""
        says_threshold = self.threshold is not None or self.false_events_per_day is not None
        # A threshold holds for the bundle beside which it was set; a budget holds for any.
        keeps_threshold = not says_threshold and self.bundle is None
        return ProfileSettings(
            bundle=self.bundle or below.bundle,
            # Who challenges one bundle is no challenger of another.
            challenger=self.challenger or (below.challenger if self.bundle is None else None),
            threshold=below.threshold if keeps_threshold else self.threshold,
            false_events_per_day=self.false_events_per_day if says_threshold else below.false_events_per_day,
            event_rule=EventRuleChanges(
                **{**below.event_rule.model_dump(exclude_none=True), **self.event_rule.model_dump(exclude_none=True)}
            ),
            zones=below.zones if self.zones is None else self.zones,
            masks=below.masks if self.masks is None else self.masks,
        )


class ScheduledSettings(ProfileSettings):
    """What holds in some hours of some days, such as at night."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """What it is called."""

    days: tuple[Day, ...] = Field(default=_DAYS, min_length=1)
    """Days on which it begins."""

    begins: time
    """Local time from which it holds, such as "20:30"."""

    ends: time
    """Local time before which it holds; where it is not after ``begins``, that of the next day."""

    @field_validator("begins", "ends", mode="before")
    @classmethod
    def _as_written(cls, at: object) -> object:
        if isinstance(at, str):
            return f"0{at}" if at[1:2] == ":" else at
        # YAML 1.1 reads 20:30 without quotes as a number to the base of 60.
        if isinstance(at, int) and not isinstance(at, bool):
            # Hours and minutes, or seconds too: without quotes an hour does not begin with 0.
            minutes, seconds = divmod(at, 60) if at >= _SECONDS_AN_HOUR else (at, 0)
            if not 0 <= minutes < _MINUTES_A_DAY:
                raise ValueError('is no time of a day, such as "20:30"')
            return time(minutes // 60, minutes % 60, seconds)
        return at

    @field_validator("begins", "ends")
    @classmethod
    def _is_local(cls, at: time) -> time:
        if at.tzinfo is not None:
            raise ValueError("is a local time; leave the offset away, time_zone says where")
        return at

    def holds_at(self, local: datetime) -> bool:
        """Whether it holds at a local time."""
        now, day = local.time(), local.weekday()
        if self.begins < self.ends:
            return self.begins <= now < self.ends and _DAYS[day] in self.days
        if now >= self.begins:
            return _DAYS[day] in self.days
        return now < self.ends and _DAYS[day - 1] in self.days


class CameraSettings(ProfileSettings):
    """What is set for one camera."""

    late: LateSettings | None = None
    """Late frames."""

    time_zone: str = "UTC"
    """Where the camera is, for its schedule, such as Europe/Berlin."""

    schedule: tuple[ScheduledSettings, ...] = Field(default=(), max_length=64)
    """What holds at which times, by the frames' capture times; the first that holds is taken."""

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (OSError, ValueError, LookupError) as error:
            raise ValueError("is no time zone of the IANA database, such as Europe/Berlin") from error
        return name

    @model_validator(mode="after")
    def _has_one_of_each_name(self) -> Self:
        names = [one.name for one in self.schedule]
        if len(set(names)) != len(names):
            raise ValueError("schedule: two profiles have the same name")
        return self


_cameras: Final = TypeAdapter[dict[str, CameraSettings]](dict[str, CameraSettings])


def load_cameras(path: Path) -> dict[str, CameraSettings]:
    """Read cameras' settings by camera id.

    Args:
        path: A YAML file whose top level names cameras, or a folder of files ``CAMERA_ID.yaml``.

    Raises:
        ConfigError: There is nothing, a file is no YAML, a camera id is none, or a setting is wrong.
    """
    files = camera_files(path)
    if files == [path]:
        return _checked(path, read_yaml(path))
    cameras: dict[str, CameraSettings] = {}
    for file in files:
        if file.stem in cameras:
            raise ConfigError(f"cameras: {path} holds two files for {file.stem}")
        cameras |= _checked(file, {file.stem: read_yaml(file)})
    return cameras


def camera_files(path: Path) -> list[Path]:
    """Name the files that `load_cameras` reads.

    Raises:
        ConfigError: It cannot be looked at, or a folder holds none.
    """
    try:
        if not path.is_dir():
            return [path]
        # What Kubernetes mounts has hidden folders beside its files.
        files = sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES and not one.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"cameras: {path} cannot be read: {error.strerror}") from error
    if not files:
        raise ConfigError(f"cameras: {path} holds no CAMERA_ID.yaml")
    return files


def _checked(file: Path, content: Mapping[str, Any]) -> dict[str, CameraSettings]:
    if len(content) > _MAX_CAMERAS:
        raise ConfigError(f"cameras: {file} names {len(content)} cameras, at most {_MAX_CAMERAS} are taken")
    for name in content:
        if not CAMERA_ID.fullmatch(name):
            raise ConfigError(f"cameras: {name[:140]!r} in {file} is not 1 to 128 of A-Z a-z 0-9 . _ -")
    try:
        # A camera of which nothing is said is known all the same.
        return _cameras.validate_python({name: said or {} for name, said in content.items()})
    except ValidationError as error:
        raise ConfigError(f"cameras: {file}: {one_line(error)}") from error
