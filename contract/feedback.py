"""A verdict on an event as it stands on the feedback topic.

The JSON Schema is committed as ``docs/schemas/feedback.v1.json`` and made by ``python -m contract.feedback``.
"""

import json
from typing import Any, Final, Literal

from pydantic import Field

from contract.alert import CAMERA_ID_PATTERN
from contract.settings import FrozenModel

SCHEMA_PATH: Final = "docs/schemas/feedback.v1.json"
MAX_NOTE: Final = 500
MAX_NAME: Final = 128
_LATEST_MS: Final = 253_402_300_799_000

Verdict = Literal["confirmed", "false_alarm"]


class Feedback(FrozenModel):
    """What someone says of an event; of several, the last on the topic counts."""

    event_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    """The event."""

    camera_id: str = Field(pattern=CAMERA_ID_PATTERN)
    """Its camera, which is also the record's key."""

    verdict: Verdict
    """Whether it was what should be told of."""

    note: str = Field(default="", max_length=MAX_NOTE)
    """What there is to say about it, up to 500 characters."""

    at_ms: int = Field(ge=0, le=_LATEST_MS)
    """When it was said, ms since 1970."""

    by: str = Field(max_length=MAX_NAME)
    """Who said it, as the proxy in front names them; ``console`` where nobody is named."""


def feedback_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a verdict."""
    schema = Feedback.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Framewatch feedback, version 1",
    }


if __name__ == "__main__":
    import sys

    sys.stdout.write(json.dumps(feedback_schema(), indent=2) + "\n")
