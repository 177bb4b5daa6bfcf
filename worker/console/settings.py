"""Settings of the console."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from contract.address import is_loopback
from contract.event import EventRule
from contract.kafka_connection import TOPIC_PATTERN, read_secret
from contract.settings import FrozenModel, Settings
from worker.settings import KafkaSettings

MetricsAddress = Annotated[
    str, StringConstraints(pattern=r"^https?://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?$")
]
_LEAST_TOKEN = 16


class AuthSettings(FrozenModel):
    """Who may use the console."""

    kind: Literal["none", "token", "proxy"] = "none"
    """``none`` on loopback alone; ``token``: whoever knows the token; ``proxy``: whom a proxy in front lets in, which
    says who it is in a header."""

    token_file: Path | None = None
    """File that holds the token, at least 16 characters, readable by its owner alone."""

    session_hours: float = Field(default=12, gt=0, le=24 * 365)
    """Time for which a login holds."""

    proxy_header: str = Field(default="X-Forwarded-User", pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")
    """Header in which the proxy says who it is."""

    proxy_addresses: tuple[str, ...] = ()
    """Addresses or networks of the proxy; requests from elsewhere are refused."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.kind == "token":
            self.token()
        if self.kind == "proxy":
            if not self.proxy_addresses:
                raise ValueError("kind proxy needs proxy_addresses")
            for network in self.proxy_addresses:
                ipaddress.ip_network(network, strict=False)
        return self

    def token(self) -> str:
        """The token, read from its file.

        Raises:
            ValueError: There is none, it is too short, or others than its owner may read it.
        """
        if self.token_file is None:
            raise ValueError("kind token needs token_file")
        token = read_secret("token_file", self.token_file)
        if len(token) < _LEAST_TOKEN:
            raise ValueError(f"token_file {self.token_file} holds fewer than {_LEAST_TOKEN} characters")
        return token


class ConsoleSettings(Settings):
    """What ``worker console`` does."""

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback only with ``auth``."""

    port: int = Field(default=8460, ge=0, le=65_535)
    """Port; 0 takes a free one."""

    tls_certfile: Path | None = None
    """The console's certificate, PEM, where it speaks HTTPS itself."""

    tls_keyfile: Path | None = None
    """Its key, PEM, readable by its owner alone."""

    allow_plain_http: bool = False
    """Whether a token may travel beyond loopback without TLS."""

    auth: AuthSettings = AuthSettings()
    """Who may use it."""

    database: Path = Path("framewatch-console.sqlite")
    """File of what it shows; it is made anew from Kafka where it is missing or of another version."""

    retention_days: float = Field(default=30, gt=0, le=3650)
    """Age up to which events and the curve's minutes are kept, days."""

    raw_score_hours: float = Field(default=2, gt=0, le=24 * 30)
    """Age up to which every frame's score is kept, hours; of older ones the highest of each minute is."""

    max_bytes: int = Field(default=2 * 2**30, ge=2**22, le=2**44)
    """Size of the database from which the oldest goes sooner, bytes."""

    max_cameras: int = Field(default=4096, ge=1, le=1_000_000)
    """Cameras whose scores are kept; those of further ones are counted and passed over."""

    silent_seconds: float = Field(default=60, ge=1, le=86_400)
    """Time without a score from which a camera is shown as silent, seconds."""

    worker_metrics: tuple[MetricsAddress, ...] = Field(default=(), max_length=256)
    """Addresses of the workers' metrics, such as ``http://127.0.0.1:9464/metrics``."""

    bundle: Path | None = None
    """Folder of the bundle in use, whose event rule and release threshold the what-if takes."""

    event_rule: EventRule = EventRule()
    """Rule of the what-if where no bundle is named; its threshold is then its release threshold too."""

    feedback_topic: str = Field(default="feedback", pattern=TOPIC_PATTERN)
    """Topic of verdicts on events, written and read."""

    log_format: Literal["auto", "json", "text"] = "auto"
    """``auto`` is text on a terminal and JSON lines elsewhere."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least grave message that is logged."""

    kafka: KafkaSettings = KafkaSettings(scores_topic="scores")
    """The broker; of its topics, ``alerts_topic`` and ``scores_topic`` are read."""

    @property
    def is_exposed(self) -> bool:
        """Whether the console can be reached from other machines."""
        return not is_loopback(self.host)

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.is_exposed and self.auth.kind == "none":
            raise ValueError(f"host {self.host} can be reached from outside; set auth.kind to token or proxy")
        if (self.tls_certfile is None) != (self.tls_keyfile is None):
            raise ValueError("tls_certfile belongs with tls_keyfile")
        if self.tls_keyfile is not None:
            read_secret("tls_keyfile", self.tls_keyfile)
        is_bare = self.is_exposed and self.auth.kind == "token" and self.tls_certfile is None
        if is_bare and not self.allow_plain_http:
            raise ValueError(
                "the token would travel unprotected; set tls_certfile and tls_keyfile, or allow_plain_http to true"
            )
        if self.feedback_topic in self.kafka.topics:
            raise ValueError("feedback_topic must differ from the other topics")
        return self
