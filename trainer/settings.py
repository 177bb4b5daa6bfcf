"""Settings of a fit."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from contract.event import EventRuleChanges
from contract.frame import FrameLimits
from contract.kafka_connection import TOPIC_PATTERN, KafkaConnection
from contract.settings import FrozenModel, Settings
from trainer.disturb import PSEUDO_ANOMALIES, PseudoAnomaly, possible_kinds
from trainer.model import CELL_PX, ModelConfig
from trainer.presets import Preset, with_preset

Device = Literal["auto", "cpu", "cuda"]
Loss = Literal["mse", "l1", "ssim", "gradient"]

_MAX_HELD_OUT_SHARE = 0.8
_DEFAULT_BUDGET = 1.0


class TopicSettings(FrozenModel):
    """What is taken of a topic, where the footage is ``kafka://``."""

    alerts_topic: str | None = Field(default="alerts", pattern=TOPIC_PATTERN)
    """Topic of alerts; what lies within the camera's events is left out, but for false alarms. Null leaves out
    nothing."""

    feedback_topic: str | None = Field(default="feedback", pattern=TOPIC_PATTERN)
    """Topic of verdicts on events; one of another name must be there. Null for none."""

    alerts_days: float = Field(default=14, ge=1, le=3650)
    """How long before the range alerts are read, days; an event that began before that and still goes on is not
    known."""

    max_frames: int = Field(default=20_000, ge=24, le=10_000_000)
    """Frames taken at the most, evenly over the time of day; all where the range holds fewer."""

    stretch_seconds: float = Field(default=20, ge=1, le=3600)
    """Length of the unbroken stretches that are taken, seconds; some tens of frames at the least."""

    margin_seconds: float = Field(default=5, ge=0, le=3600)
    """Footage left out before and after an event, seconds."""

    footage_cache: Path | None = Field(default=None, exclude=True)
    """Folder that keeps what was read; ``footage`` in ``$FRAMEWATCH_CACHE``, else in ``$XDG_CACHE_HOME/framewatch``,
    where not set."""

    footage_days: float = Field(default=14, ge=0, le=3650, exclude=True)
    """Days after which footage that no fit uses is removed from there, at the next fit."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.alerts_topic is not None and self.alerts_topic == self.feedback_topic:
            raise ValueError("alerts_topic and feedback_topic must differ")
        return self


class FitSettings(Settings):
    """What a fit does; ``trainer fit --config FILE`` reads it from YAML."""

    preset: Preset = "balanced"
    """Settings that stand in where nothing else is given: ``balanced``; ``best``, finer and slower; ``fast``, without
    optical flow; ``room``, for a mostly empty scene; ``still``, for images that are not a camera's."""

    model: ModelConfig = ModelConfig()
    """The autoencoder."""

    loss: Loss = "mse"
    """Compares reconstruction and undisturbed input: mean squared or absolute error, the latter beside 1 - SSIM
    or beside that of the pictures' gradients."""

    noise: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of the Gaussian noise added to the input, which is 0..1; above 0 trains a denoiser."""

    pseudo_anomalies: tuple[PseudoAnomaly, ...] = PSEUDO_ANOMALIES
    """What is put into the training frames, to be redrawn without it and told by the comparator: what moves as when
    frames are skipped, what moves faster, what moves elsewhere, foreign pieces, a cover over all. Without motion the
    last two and thin scars."""

    augment: bool = True
    """Whether the training frames are also shown in other light, sharpness and noise, and as footage starts, so that a
    cloud, a lamp, another day's compression or a restart is not an anomaly."""

    crop_px: int | None = Field(default=64, ge=32, le=2048)
    """Side of the crops that are trained on, pixels, most of them where something moves; null for whole frames. The
    ``frame`` bottleneck takes whole frames whatever this says."""

    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    """Peak learning rate of AdamW; it warms up and falls along a cosine."""

    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    """Weight decay of AdamW."""

    batch: int = Field(default=64, ge=1, le=4096)
    """Clips in a training step, on each device."""

    epochs: int | None = Field(default=None, ge=1, le=1_000_000)
    """Passes over the training frames; where given, the same seed gives the same weights on CPU."""

    minutes: float | None = Field(default=None, gt=0, le=100_000)
    """Time to train, minutes, footage already decoded; the preset's where neither this nor ``epochs`` is given."""

    min_epoch_steps: int = Field(default=16, ge=1, le=100_000)
    """Steps that an epoch has at least; short footage is passed over several times in one."""

    max_epoch_steps: int = Field(default=1024, ge=1, le=1_000_000)
    """Steps that an epoch has at most; of longer footage each epoch takes other frames, by chance."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of weights, order and noise."""

    device: Device = "auto"
    """Where to train; ``auto`` takes CUDA where there is one."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of a training step; ``auto`` is bf16 on a GPU and on a CPU with bf16 instructions, fp32 elsewhere."""

    save_every_seconds: float = Field(default=10.0, ge=0, le=3600)
    """Time between two saves of what a killed fit goes on from; epochs are whole."""

    validation_share: float = Field(default=0.15, gt=0, lt=0.5)
    """Share of each stretch of footage, after its training frames, that chooses the best epoch."""

    calibration_share: float = Field(default=0.2, gt=0, lt=0.5)
    """Share of each stretch of footage, at its end, that sets the threshold."""

    guard_seconds: float = Field(default=0.5, ge=0, le=3600)
    """Footage left out between these parts, seconds."""

    frames_per_second: float | None = Field(default=None, gt=0, le=1000)
    """Rate of the footage, frames/s; taken from its capture times where not given."""

    false_events_per_day: float | None = Field(default=None, gt=0, le=86_400)
    """Budget of false events a camera and day; refused where the held-out footage is too short to show it. Where it is
    not given it is 1, extrapolated if need be."""

    extrapolate: bool = False
    """Whether to accept, for a budget that was given, what the fitted tail says beyond the held-out footage."""

    event_rule: EventRuleChanges = EventRuleChanges()
    """How scores become events; the calibration chooses ``min_frames`` where it is not given. The rule travels in the
    bundle."""

    limits: FrameLimits = FrameLimits()
    """What a frame may declare."""

    kafka: KafkaConnection = Field(default=KafkaConnection(), exclude=True)
    """How the broker of ``kafka://`` is spoken to; it stands in no record of the run."""

    topic: TopicSettings = TopicSettings()
    """What is taken of a topic."""

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - pydantic checks them
        """Check values, those that are not given taken from the preset."""
        super().__init__(**with_preset(values))

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.epochs is not None and self.minutes is not None:
            raise ValueError("give epochs or minutes, not both")
        if self.validation_share + self.calibration_share > _MAX_HELD_OUT_SHARE:
            raise ValueError("validation_share and calibration_share must leave a fifth of the footage to train on")
        crop_step = max(self.model.step_px, CELL_PX)
        if self.crop_px is not None and self.crop_px % crop_step:
            raise ValueError(f"crop_px must be a multiple of {crop_step} for these layers")
        if self.model.comparator is not None and not self.kinds_put_in:
            raise ValueError(
                "model.comparator learns from pseudo_anomalies; set it to null, or these to some of "
                + ", ".join(possible_kinds(self.model))
            )
        if self.min_epoch_steps > self.max_epoch_steps:
            raise ValueError("min_epoch_steps is above max_epoch_steps")
        return self

    @property
    def kinds_put_in(self) -> tuple[PseudoAnomaly, ...]:
        """The pseudo-anomalies that can be put into training frames of this model."""
        possible = possible_kinds(self.model)
        return tuple(kind for kind in self.pseudo_anomalies if kind in possible)

    @property
    def budget(self) -> float:
        """False events a camera and day that the threshold is set for."""
        return _DEFAULT_BUDGET if self.false_events_per_day is None else self.false_events_per_day

    @property
    def time_limit_seconds(self) -> float | None:
        """Seconds to train; None where epochs are counted."""
        if self.epochs is not None:
            return None
        return None if self.minutes is None else self.minutes * 60
