"""What is in force for every camera: settings and bundles, resolved once, then asked for each frame."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from contract.alert import utc
from contract.errors import BundleError, ConfigError, FrameError, UnknownModelError
from contract.manifest import Bundle, open_bundle
from contract.model_address import is_model_address
from worker.camera_settings import CameraSettings, LateSettings, ProfileSettings, ScheduledSettings, load_cameras
from worker.challenger import make_challenger
from worker.models import Models
from worker.profile import BatchScorer, Profile, make_profile
from worker.settings import WorkerSettings
from worker.zones import Zones


@dataclass(frozen=True, slots=True)
class _Camera:
    profile: Profile
    late: LateSettings
    time_zone: ZoneInfo
    schedule: tuple[tuple[ScheduledSettings, Profile], ...]


_log = logging.getLogger(__name__)


class Cameras:
    """Says what is in force for a camera's frame; made by `resolve`, and never changed.

    Args:
        default: For cameras of which nothing is set; None where their frames are refused.
        late: What becomes of their late frames.
        allowed: Cameras whose frames are scored; None for all.
        known: Those of which something is set.
        bundles: In use, by how they are named, that of the settings first.
        challengers: Those of them that challenge another one.
    """

    def __init__(
        self,
        default: Profile | None,
        late: LateSettings,
        allowed: frozenset[str] | None,
        known: Mapping[str, _Camera],
        bundles: Mapping[Path, BatchScorer],
        challengers: Sequence[BatchScorer] = (),
    ) -> None:
        self._default = default
        self._late = late
        self._allowed = allowed
        self._known = known
        self.bundles = bundles
        self.challengers = challengers

    @property
    def known(self) -> int:
        """Number of cameras of which something is set."""
        return len(self._known)

    @property
    def detector(self) -> BatchScorer:
        """Of the settings' own bundle."""
        return next(iter(self.bundles.values()))

    def require(self, camera_id: str) -> None:
        """Refuse the frame of a camera whose frames are not scored.

        Raises:
            FrameError: ``camera_not_allowed`` or ``camera_unknown``.
        """
        if self.admits(camera_id):
            return
        if self._allowed is not None and camera_id not in self._allowed:
            raise FrameError("camera_not_allowed", f"camera {camera_id} is not among allowed_cameras")
        raise FrameError("camera_unknown", f"camera {camera_id} is not among cameras, and unknown ones are refused")

    def admits(self, camera_id: str) -> bool:
        """Whether frames of a camera are scored."""
        is_allowed = self._allowed is None or camera_id in self._allowed
        return is_allowed and (self._default is not None or camera_id in self._known)

    def late(self, camera_id: str) -> LateSettings:
        """What becomes of a camera's late frames."""
        known = self._known.get(camera_id)
        return known.late if known is not None else self._late

    def profile(self, camera_id: str, captured_at_ms: int) -> Profile:
        """What is in force for a frame.

        Args:
            camera_id: Whose it is.
            captured_at_ms: Its capture time, ms since 1970; schedules go by it, so that a replay agrees.

        Raises:
            FrameError: Frames of this camera are not scored.
        """
        self.require(camera_id)
        known = self._known.get(camera_id)
        if known is None:
            assert self._default is not None  # noqa: S101 - required
            return self._default
        if known.schedule:
            try:
                local = utc(captured_at_ms).astimezone(known.time_zone)
            except OverflowError:
                return known.profile
            for when, profile in known.schedule:
                if when.holds_at(local):
                    return profile
        return known.profile


class Resolver:
    """Makes `Cameras` of settings; bundles that it has opened before, and that did not change, are opened once.

    Args:
        open_detector: Makes a bundle ready to score.
        models: Says where bundles lie.
    """

    def __init__(self, open_detector: Callable[[Bundle], BatchScorer], models: Models | None = None) -> None:
        self._open_detector = open_detector
        self._models = models or Models()
        self._ready: dict[str, BatchScorer] = {}
        self._before: dict[Path, BatchScorer] = {}

    def resolve(self, settings: WorkerSettings) -> Cameras:
        """Open every bundle, verified and tried, and say what is in force for each camera.

        Raises:
            ConfigError: A camera's setting is wrong, the model registry has no such model, or challengers' scores have
                no topic of their own.
            BundleError: A bundle cannot be trusted.
            RegistryUnavailableError: The model registry does not answer, and never did.
        """
        known = load_cameras(settings.cameras) if settings.cameras is not None else {}
        self._models.forget()
        if settings.camera_bundle is not None:
            known = {name: self._with_own(name, camera, settings) for name, camera in known.items()}
        challengers = named_challengers(settings, known)
        topic = settings.kafka.challenger_scores_topic
        if challengers and topic in settings.kafka.topics:
            raise ConfigError(f"kafka: challenger_scores_topic {topic} must differ from the other topics")
        bundles: dict[Path, BatchScorer] = {}
        for named in named_bundles(settings, known):
            try:
                bundles[named] = self._detector(named, settings.bundle_public_key)
            except (BundleError, UnknownModelError) as error:
                # While a worker runs, an alias that tries a model out never keeps it from the champion's next version.
                if named not in challengers or not is_model_address(named) or not self._before:
                    raise
                _log.error("challenger %s cannot be used: %s", named, error)
                if named in self._before:
                    bundles[named] = self._before[named]
        self._before = bundles
        self._ready = {detector.bundle.digest: detector for detector in bundles.values()}
        below = _common(settings)
        warm_up = settings.warm_up_frames if settings.unknown_cameras == "warm_up" else 0
        accepts = settings.unknown_cameras != "refuse"
        allowed = frozenset(settings.allowed_cameras) if settings.allowed_cameras is not None else None
        return Cameras(
            _profile(below, bundles, "settings", warm_up) if accepts else None,
            settings.late,
            allowed,
            {name: _camera(name, camera, below, settings.late, bundles) for name, camera in known.items()},
            bundles,
            [bundles[named] for named in challengers if named in bundles],
        )

    def _with_own(self, name: str, camera: CameraSettings, settings: WorkerSettings) -> CameraSettings:
        """A camera's settings with the bundle of its name, where it names none and there is one."""
        own = settings.bundle_of(name)
        if own is None or camera.bundle is not None:
            return camera
        try:
            self._models.folder(own, settings.bundle_public_key)
        except UnknownModelError:
            return camera
        return camera.model_copy(update={"bundle": own})

    def _detector(self, named: Path, public_key: Path | None) -> BatchScorer:
        bundle = open_bundle(self._models.folder(named, public_key), public_key)
        return self._ready.get(bundle.digest) or self._open_detector(bundle)


def named_bundles(settings: WorkerSettings, known: Mapping[str, CameraSettings]) -> list[Path]:
    """Every bundle as it is named, the settings' own first."""
    named = [settings.bundle, *(one.bundle for one in _said(known) if one.bundle is not None)]
    return list(dict.fromkeys([*named, *named_challengers(settings, known)]))


def named_challengers(settings: WorkerSettings, known: Mapping[str, CameraSettings]) -> list[Path]:
    """Every challenger as it is named, the settings' own first."""
    named = [settings.challenger, *(one.challenger for one in _said(known))]
    return list(dict.fromkeys(one for one in named if one is not None))


def _said(known: Mapping[str, CameraSettings]) -> Iterator[ProfileSettings]:
    for camera in known.values():
        yield from (camera, *camera.schedule)


def _common(settings: WorkerSettings) -> ProfileSettings:
    return ProfileSettings(
        bundle=settings.bundle,
        challenger=settings.challenger,
        threshold=settings.threshold,
        false_events_per_day=settings.false_events_per_day,
        event_rule=settings.event_rule,
    )


def _camera(
    name: str, camera: CameraSettings, below: ProfileSettings, late: LateSettings, bundles: Mapping[Path, BatchScorer]
) -> _Camera:
    own = camera.over(below)
    schedule = tuple(
        (one, _profile(one.over(own), bundles, f"cameras: {name}: schedule: {one.name}")) for one in camera.schedule
    )
    profile = _profile(own, bundles, f"cameras: {name}")
    return _Camera(profile, camera.late or late, ZoneInfo(camera.time_zone), schedule)


def _profile(
    said: ProfileSettings, bundles: Mapping[Path, BatchScorer], where: str, warm_up_frames: int = 0
) -> Profile:
    assert said.bundle is not None  # noqa: S101 - the settings name one
    zones = Zones(zones=said.zones or (), masks=said.masks or ())
    detector = bundles[said.bundle]
    beside = bundles.get(said.challenger) if said.challenger is not None else None
    if beside is not None and beside.bundle.digest == detector.bundle.digest:
        beside = None  # it was promoted, and is the champion now
    try:
        challenger = None
        if beside is not None:
            challenger = make_challenger(detector, beside, zones, said.false_events_per_day)
        return make_profile(
            detector,
            threshold=said.threshold,
            event_rule=said.event_rule,
            zones=zones,
            warm_up_frames=warm_up_frames,
            false_events_per_day=said.false_events_per_day,
            challenger=challenger,
        )
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
