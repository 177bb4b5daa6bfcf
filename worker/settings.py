"""Settings of the worker."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from contract.address import is_loopback, is_open
from contract.drift import DriftRule
from contract.event import EventRuleChanges
from contract.frame import FrameLimits
from contract.kafka_connection import TOPIC_PATTERN, KafkaConnection
from contract.model_address import is_model_address, parse_model_address
from contract.runtime import Provider
from contract.settings import FrozenModel, Settings
from worker.camera_settings import LateSettings
from worker.health_rule import HealthRule

_MAX_PORT = 65_535
_ADDRESS = r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):\d{1,5}"
_CAMERA = "{camera}"


class KafkaSettings(KafkaConnection):
    """Where the broker is and how it is spoken to."""

    bootstrap_servers: str = Field(default="127.0.0.1:9092", pattern=rf"^{_ADDRESS}(,{_ADDRESS})*$")
    """``HOST:PORT`` of one or more brokers, separated by commas."""

    group_id: str = Field(default="framewatch", min_length=1, max_length=255)
    """Consumer group; workers of one group share the partitions."""

    group_instance_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Name of this worker within its group, which no other may bear: one that restarts under it within the session
    timeout gets its partitions back without a rebalance. None where not set."""

    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    """Whether a frame that is done again after a crash tells the same alerts again, under the same ids, or does not."""

    transaction_timeout_ms: int = Field(default=15_000, ge=5_000, le=900_000)
    """Time after which the broker ends the transaction of a worker that was killed; until then others wait for its
    partitions."""

    frames_topic: str = Field(default="frames", pattern=TOPIC_PATTERN)
    """Topic of camera frames."""

    alerts_topic: str = Field(default="alerts", pattern=TOPIC_PATTERN)
    """Topic of alerts."""

    dead_letter_topic: str = Field(default="frames.dead-letter", pattern=TOPIC_PATTERN)
    """Topic of frames that cannot be scored."""

    scores_topic: str | None = Field(default=None, pattern=TOPIC_PATTERN)
    """Topic of one small record a frame; none where not set."""

    scores_maps: bool = False
    """Whether such a record holds the frame's anomaly map too, so that ``worker rules`` can try zones: some 1.1 KiB a
    frame more with maps of 16x24 cells."""

    challenger_scores_topic: str = Field(default="scores.challenger", pattern=TOPIC_PATTERN)
    """Topic of the same record by a camera's challenger; used, and to be there, where a challenger is named."""

    auto_offset_reset: Literal["earliest", "latest"] = "latest"
    """Where a group that never committed begins."""

    session_timeout_ms: int = Field(default=45_000, ge=6_000, le=1_800_000)
    """Time without a heartbeat after which the group goes on without this worker."""

    heartbeat_interval_ms: int = Field(default=3_000, ge=100, le=600_000)
    """Time between heartbeats; at most a third of the session timeout."""

    max_poll_interval_ms: int = Field(default=300_000, ge=1_000, le=86_400_000)
    """Time for one batch after which the group goes on without this worker."""

    fetch_bytes: int = Field(default=16 * 2**20, ge=2**20, le=256 * 2**20)
    """Bytes fetched from a partition at once; at least the largest frame."""

    commit_metadata_bytes: int = Field(default=4096, ge=512, le=2**20)
    """Size of what travels with a committed offset; at most the broker's ``offset.metadata.max.bytes``."""

    delivery_timeout_ms: int = Field(default=60_000, ge=1_000, le=600_000)
    """Time within which an alert must be confirmed; then the worker stops without committing."""

    @field_validator("bootstrap_servers")
    @classmethod
    def _has_ports(cls, servers: str) -> str:
        for address in servers.split(","):
            if not 1 <= int(address.rpartition(":")[2]) <= _MAX_PORT:
                raise ValueError(f"the port of {address} is not 1 to {_MAX_PORT}")
        return servers

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(set(self.topics)) != len(self.topics):
            raise ValueError("frames_topic, alerts_topic, dead_letter_topic and scores_topic must differ")
        if self.scores_maps and self.scores_topic is None:
            raise ValueError("scores_maps belongs with scores_topic")
        if self.heartbeat_interval_ms * 3 > self.session_timeout_ms:
            raise ValueError("heartbeat_interval_ms must be at most a third of session_timeout_ms")
        if self.leaves_unprotected(self.bootstrap_servers):
            raise ValueError(
                f"{self.security_protocol} would leave this machine unprotected; set security_protocol to SSL or "
                "SASL_SSL, or allow_plaintext to true"
            )
        return self

    @property
    def topics(self) -> list[str]:
        """Every topic that is named."""
        named = [self.frames_topic, self.alerts_topic, self.dead_letter_topic, self.scores_topic]
        return [topic for topic in named if topic is not None]


class BatchSettings(FrozenModel):
    """How frames are gathered for the model."""

    max_frames: int = Field(default=64, ge=1, le=1024)
    """Frames in a batch at the most."""

    deadline_ms: int = Field(default=50, ge=1, le=2_000)
    """Time for which brokers gather frames of a batch; below 20 ms a frame is fetched as soon as it is there."""

    max_bytes_under_way: int = Field(default=64 * 2**20, ge=2**20, le=4 * 2**30)
    """Size of all encoded frames from their batch to their being published; a batch that is larger goes alone."""

    max_bytes_waiting: int = Field(default=64 * 2**20, ge=2**20, le=4 * 2**30)
    """Size of all encoded frames that are fetched and wait for their camera's turn; half of it is for whoever needs it,
    the other half is shared by the partitions."""

    commit_interval_ms: int = Field(default=500, ge=10, le=60_000)
    """Time between two commits; what a killed worker did since its last is done again."""


class HttpSettings(FrozenModel):
    """Where metrics and probes are served."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: int = Field(default=9464, ge=0, le=65_535)
    """Port; 0 takes a free one."""

    enabled: bool = True
    """Whether they are served."""

    allow_all_interfaces: bool = False
    """Whether the address may be other than loopback."""

    @model_validator(mode="after")
    def _stays_home(self) -> Self:
        if not is_loopback(self.host) and not self.allow_all_interfaces:
            raise ValueError(
                f"host {self.host} can be reached from outside; set allow_all_interfaces to true if it should"
            )
        return self


class TracingSettings(FrozenModel):
    """Where traces of frames go, by OpenTelemetry; needs the extra ``tracing``."""

    endpoint: str | None = None
    """Address of a collector's OTLP over HTTP, such as ``http://127.0.0.1:4318/v1/traces``; no traces where not set.
    Headers with secrets come from OpenTelemetry's own ``OTEL_EXPORTER_OTLP_HEADERS``."""

    sample_ratio: float = Field(default=0.0, ge=0, le=1)
    """Share of the frames without a ``traceparent`` of which a trace begins here; those with one follow its flag."""

    allow_plaintext: bool = False
    """Whether a connection to the collector without TLS may leave this machine."""

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        url = urlsplit(endpoint)
        if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
            raise ValueError("must be http://HOST:PORT/v1/traces or https://…, without a password in it")
        return endpoint

    @model_validator(mode="after")
    def _is_private(self) -> Self:
        if self.endpoint is not None and is_open(self.endpoint) and not self.allow_plaintext:
            raise ValueError(
                f"a connection to {urlsplit(self.endpoint).hostname} without TLS shows others what cameras there are; "
                "name an https endpoint, or set allow_plaintext to true"
            )
        return self


class WorkerSettings(Settings):
    """What ``worker run`` does."""

    bundle: Path
    """Folder of the bundle, or its address in the model registry, ``models:/NAME@ALIAS`` or
    ``models:/NAME/VERSION``."""

    camera_bundle: str | None = None
    """Address in the model registry, with ``{camera}`` in place of the camera's id, such as
    ``models:/{camera}@champion``: of the bundle for each camera that ``cameras`` names without one. Where the registry
    has no such model, ``bundle`` is taken."""

    registry: str | None = None
    """Model registry: a folder, ``sqlite:///FILE``, or the http or https address of an MLflow server. What MLflow's own
    variables say, or else ``~/.framewatch/registry``, where not set."""

    registry_allow_plaintext: bool = False
    """Whether a connection to the registry without TLS may leave this machine."""

    registry_cache: Path = Path("~/.framewatch/models")
    """Folder of bundles that were downloaded from it."""

    challenger: Path | None = None
    """Folder of a bundle that scores the same frames beside ``bundle`` and raises no alert, to be compared with it; its
    scores go to ``kafka.challenger_scores_topic``. None where not set."""

    bundle_public_key: Path | None = None
    """File of a public Ed25519 key, PEM; a bundle not signed with its private one is refused. None: none need be."""

    provider: Provider = "auto"
    """``cuda``, ``cpu``, or ``auto``: CUDA where an NVIDIA device is present, CPU elsewhere."""

    threads: int = Field(default=0, ge=0, le=256)
    """Threads that decode, measure motion and, on CPU, run the model; 0 for as many as the process is given cores, and
    one more for the moments in which one waits for the interpreter; on one core, one."""

    threshold: float | None = Field(default=None, gt=-100, lt=100)
    """Score from which a frame is anomalous; the bundle's where not set."""

    false_events_per_day: float | None = Field(default=None, gt=0, le=86_400)
    """Budget of false events, a camera and day, that sets the threshold by the bundle's calibration, in place of the
    budget that it was built for."""

    event_rule: EventRuleChanges = EventRuleChanges()
    """How scores become events, where it is to differ from the bundle's rule."""

    camera_health: HealthRule = HealthRule()
    """When a camera counts as unwell."""

    drift: DriftRule = DriftRule()
    """When its world counts as changed for good."""

    cameras: Path | None = None
    """What is set for single cameras: a YAML file that names them, or a folder with a file ``CAMERA_ID.yaml`` for
    each."""

    unknown_cameras: Literal["accept", "warm_up", "refuse"] = "accept"
    """What becomes of frames of cameras that ``cameras`` does not name. ``accept`` scores them by these settings,
    ``warm_up`` too, but sets each one's thresholds from its first ``warm_up_frames`` frames and tells nothing of it
    before, ``refuse`` makes dead letters of them."""

    warm_up_frames: int = Field(default=5_000, ge=400, le=1_000_000)
    """Frames of an unknown camera that set its thresholds; nothing out of the ordinary should be among them."""

    reload_seconds: float = Field(default=5, ge=0, le=3600)
    """Time between two looks at whether settings, cameras or bundles changed, to be loaded anew while running; 0 for
    none but when SIGHUP asks for it."""

    allowed_cameras: tuple[str, ...] | None = None
    """Cameras whose frames are scored; those of others are dead letters. All where not set."""

    late: LateSettings = LateSettings()
    """Late frames."""

    max_cameras: int = Field(default=4096, ge=1, le=1_000_000)
    """Cameras followed at once; the one idle longest without an event is forgotten for a new one."""

    stop_seconds: float = Field(default=20, ge=1, le=3600)
    """Time from SIGTERM to the end of the process, whatever the broker does, seconds; less than the platform's grace
    time."""

    stuck_seconds: float = Field(default=600, ge=10, le=86_400)
    """Time that a batch may spend in one step; then the process ends itself with exit code 1, seconds. More than
    ``kafka.max_poll_interval_ms``."""

    picture_max_bytes: int = Field(default=192 * 1024, ge=0, le=4 * 2**20)
    """Size up to which a snapshot or heat map travels in an alert, bytes."""

    log_format: Literal["auto", "json", "text"] = "auto"
    """``auto`` is text on a terminal and JSON lines elsewhere."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least grave message that is logged."""

    kafka: KafkaSettings = KafkaSettings()
    """The broker."""

    batch: BatchSettings = BatchSettings()
    """Batching."""

    http: HttpSettings = HttpSettings()
    """Metrics and probes."""

    tracing: TracingSettings = TracingSettings()
    """Traces."""

    limits: FrameLimits = FrameLimits()
    """What a frame may declare."""

    def bundle_of(self, camera_id: str) -> Path | None:
        """How the bundle is named that a camera has by ``camera_bundle``."""
        return Path(self.camera_bundle.replace(_CAMERA, camera_id)) if self.camera_bundle is not None else None

    @field_validator("bundle", "challenger")
    @classmethod
    def _is_named_well(cls, named: Path | None) -> Path | None:
        if named is not None and is_model_address(named):
            parse_model_address(named)
        return named

    @field_validator("camera_bundle")
    @classmethod
    def _names_the_camera(cls, address: str | None) -> str | None:
        if address is not None:
            if _CAMERA not in address:
                raise ValueError("has no {camera} in it")
            parse_model_address(address.replace(_CAMERA, "c"))
        return address

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.kafka.fetch_bytes < self.limits.max_frame_bytes:
            raise ValueError("kafka.fetch_bytes must be at least limits.max_frame_bytes")
        if self.stuck_seconds * 1000 <= self.kafka.max_poll_interval_ms:
            raise ValueError("stuck_seconds must be more than kafka.max_poll_interval_ms")
        if self.threshold is not None and self.false_events_per_day is not None:
            raise ValueError("threshold and false_events_per_day both set the threshold; give one")
        if self.unknown_cameras == "refuse" and self.cameras is None:
            raise ValueError("unknown_cameras refuse needs cameras, or no frame is scored")
        exactly_once = self.kafka.delivery == "exactly_once"
        if exactly_once and self.kafka.transaction_timeout_ms < 2 * self.batch.commit_interval_ms:
            raise ValueError("kafka.transaction_timeout_ms must be at least twice batch.commit_interval_ms")
        return self
