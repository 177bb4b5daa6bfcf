"""Every error the parts raise on purpose, grouped by what the caller must do.

    FramewatchError                 exit 1   it failed while running
     ├─ ConfigError                 exit 2   a setting, argument or source is wrong: correct it, nothing was done
     │   ├─ LabelError              exit 2   the labels do not describe the footage they are given with
     │   ├─ UnknownModelError       exit 2   the model registry has no such model, version or alias
     │   └─ UnsupportedBudgetError  exit 2   the footage is too short to show the budget of false events asked for
     ├─ BundleError                 exit 2   the model bundle cannot be trusted: build or choose another
     ├─ CheckpointError             exit 2   the run folder's checkpoint cannot be used: fit again
     ├─ FrameError                  dead-letter the frame and go on
     ├─ FootageError                exit 1   a source stopped giving frames, or gave none that can be used
     ├─ CacheError                  exit 1   what was read cannot be kept on disk: make room, run it again
     ├─ TrainingError               exit 1   the fit cannot give a usable model
     ├─ ParityError                 exit 1   ONNX and PyTorch differ: no bundle is written
     ├─ BrokerUnavailableError      exit 1   Kafka cannot be reached: start again once it can
     ├─ RegistryUnavailableError    exit 1   the model registry cannot be reached, or fails: try again once it can
     └─ DeliveryError               exit 1   a record was not confirmed: stop without committing, start again

Errors of libraries are mapped to these at one seam each and chained with ``from``. A message says what was
expected, what was found, where, and what to do next, in one line.
"""

from typing import ClassVar


class FramewatchError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(FramewatchError):
    """A setting, argument or source is wrong; nothing was done."""

    exit_code = 2


class LabelError(ConfigError):
    """The labels do not describe the footage they are given with."""


class UnknownModelError(ConfigError):
    """The model registry has no such model, version or alias."""


class UnsupportedBudgetError(ConfigError):
    """The footage is too short to show the budget of false events that was asked for."""


class BundleError(FramewatchError):
    """The model bundle is missing, damaged, of another schema, or not calibrated."""

    exit_code = 2


class CheckpointError(FramewatchError):
    """The checkpoint of a run folder is missing, damaged or of another version."""

    exit_code = 2


class FrameError(FramewatchError):
    """One frame cannot be scored.

    Attributes:
        reason: Short stable code of the cause, such as ``"truncated"``; it labels metrics and dead letters.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class FootageError(FramewatchError):
    """A source stopped giving frames, or gave none that can be used."""


class CacheError(FramewatchError):
    """Footage cannot be kept on disk, or what is kept is damaged."""


class TrainingError(FramewatchError):
    """The fit cannot give a usable model."""


class ParityError(FramewatchError):
    """The exported graphs do not give what PyTorch gives."""


class BrokerUnavailableError(FramewatchError):
    """Kafka cannot be reached."""


class RegistryUnavailableError(FramewatchError):
    """The model registry cannot be reached, or fails."""


class DeliveryError(FramewatchError):
    """A record was not confirmed by the broker, so the offsets behind it must not be committed."""
