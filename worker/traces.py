"""A frame's way through the worker, told to whoever traces it.

A frame whose record has a W3C ``traceparent`` belongs to a trace that its sender began. The alert that it raises has
one too, so that the trace goes on with whoever reads alerts: the frame's own where the worker tells nothing of itself,
that of the worker's part in it where it does.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from contract.errors import ConfigError
from worker.frames import Outcome
from worker.settings import KafkaSettings, TracingSettings


class Step(NamedTuple):
    """One step of a batch.

    Attributes:
        name: Of the step.
        began_ns: When, ns since 1970.
        ended_ns: When it had ended.
    """

    name: str
    began_ns: int
    ended_ns: int


class FrameTrace(Protocol):
    """What is told of one frame.

    Attributes:
        traceparents: Of the alerts that it raises, in their order.
    """

    traceparents: Sequence[str]

    def end(self, steps: Sequence[Step]) -> None:
        """Tell of the frame, once it is finished, with the steps of its batch."""


class Traces(Protocol):
    """What tells of frames."""

    def begin(self, outcome: Outcome, began_ns: int) -> FrameTrace | None:
        """Begin to tell of a frame; None where nobody wants to know of it.

        Args:
            outcome: What became of it.
            began_ns: When its batch was made, ns since 1970.
        """

    def close(self) -> None:
        """Send what is left, for a few seconds at the most."""


class NoTraces:
    """Tells nothing."""

    def begin(self, _outcome: Outcome, _began_ns: int) -> FrameTrace | None:
        """Want nothing."""
        return None

    def close(self) -> None:
        """Have nothing to send."""


def open_traces(settings: TracingSettings, kafka: KafkaSettings) -> Traces:
    """What tells of frames by the settings.

    Raises:
        ConfigError: Traces are asked for, and the extra ``tracing`` is not installed.
    """
    if settings.endpoint is None:
        return NoTraces()
    try:
        from worker.otel_traces import OtelTraces
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tracing.endpoint: {error.name} is not installed; pip install 'framewatch[tracing]'"
        ) from error
    return OtelTraces.to_collector(settings, kafka)


def alert_parents(outcome: Outcome, trace: FrameTrace | None) -> Sequence[str | None]:
    """The ``traceparent`` of each alert that a frame raises; None where it belongs to no trace."""
    return trace.traceparents if trace is not None else [outcome.frame.traceparent] * len(outcome.alerts)
