"""Settings of a retraining."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from contract.alert import CAMERA_ID_PATTERN
from contract.errors import ConfigError
from contract.kafka_connection import KafkaConnection
from contract.manifest import Precision
from contract.settings import FrozenModel, Settings, load_settings
from contract.source import is_topic
from trainer.promotion import PromotionRule
from trainer.settings import FitSettings

_MAX_HOURS = 24.0 * 366


class LabelledSource(FrozenModel):
    """Footage with labels, on which a model must show that it finds what is known."""

    source: str = Field(min_length=1)
    """Its address; ``{camera}`` stands for the camera's id."""

    labels: Path
    """Its labels, as ``trainer evaluate --labels`` takes them."""


class RetrainSettings(Settings):
    """What a retraining does; ``trainer retrain --config FILE`` reads it from YAML."""

    camera: str = Field(pattern=CAMERA_ID_PATTERN)
    """The camera."""

    source: str = Field(default="kafka://127.0.0.1:9092/frames?camera={camera}", min_length=1)
    """Where its frames are: ``kafka://HOST:PORT/TOPIC?camera={camera}``, whose time range is set by ``hours``, or any
    other address of footage; ``{camera}`` stands for the camera's id."""

    kafka: KafkaConnection = Field(default=KafkaConnection(), exclude=True)
    """How the broker of ``kafka://`` is spoken to."""

    hours: float = Field(default=168.0, gt=0, le=_MAX_HOURS)
    """How far back the frames of a topic are taken, hours."""

    compare_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of that time, at its end, that the new model is not fitted to: on it both are compared."""

    compare_frames: int = Field(default=5_000, ge=24, le=10_000_000)
    """Frames of a topic that both are compared on at the most: as many of each kind."""

    normal: tuple[str, ...] = ()
    """Further normal footage to compare on; needed where ``source`` is no topic."""

    labelled: tuple[LabelledSource, ...] = ()
    """Labelled footage to compare on."""

    confirmed_days: float = Field(default=90.0, ge=0, le=3660)
    """How far back events that people confirmed, or called false alarms, are taken to compare on, days; as far as the
    topic still holds their frames."""

    model: str = Field(default="{camera}", pattern=r"^([A-Za-z0-9._-]|\{camera\}){1,128}$")
    """Name of the model in the registry; ``{camera}`` stands for the camera's id. Cameras that share one share a
    champion."""

    registry: str | None = None
    """Model registry: a folder, ``sqlite:///FILE``, or the http or https address of an MLflow server. What MLflow's own
    variables say, or else ``~/.framewatch/registry``, where not set."""

    registry_allow_plaintext: bool = False
    """Whether a connection to the registry without TLS may leave this machine."""

    fit: dict[str, Any] = Field(default_factory=dict)
    """Settings of the fit, as ``trainer fit --config`` takes them."""

    precision: Precision = "fp32"
    """Number format of the bundle."""

    signing_key: Path | None = None
    """Private key, Ed25519 in PEM, that signs the bundle, where workers ask for a signature; without it a model is left
    as challenger where the one in service is signed."""

    rule: PromotionRule = PromotionRule()
    """What a new model must show before it is promoted."""

    promote: bool = True
    """Whether a model that passes is promoted; otherwise it is left as challenger."""

    folder: Path = Path("retraining")
    """Where retrainings are kept: a folder a camera, in it one a retraining."""

    keep: int = Field(default=5, ge=1, le=10_000)
    """Retrainings of a camera that are kept."""

    @field_validator("fit")
    @classmethod
    def _can_be_fitted(cls, fit: dict[str, Any]) -> dict[str, Any]:
        try:
            load_settings(FitSettings, flags=fit)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("settings: ")) from error
        return fit

    @model_validator(mode="after")
    def _can_be_compared(self) -> Self:
        if not self.is_topic and not self.normal:
            raise ValueError("normal must name footage to compare on where source is no topic")
        return self

    @property
    def is_topic(self) -> bool:
        """Whether the footage comes from Kafka."""
        return is_topic(self.source)

    @property
    def model_name(self) -> str:
        """Name of the model in the registry."""
        return self.named(self.model)

    def fit_settings(self, cache: Path) -> FitSettings:
        """The fit's.

        Args:
            cache: Folder that keeps what is read of a topic, where none is set.
        """
        fit = load_settings(FitSettings, flags=self.fit)
        topic = fit.topic.model_copy(update={"footage_cache": fit.topic.footage_cache or cache})
        return fit.model_copy(update={"kafka": self.kafka, "topic": topic})

    def named(self, text: str) -> str:
        """A setting with the camera's id in its place."""
        return text.replace("{camera}", self.camera)
