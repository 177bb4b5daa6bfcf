"""Settings that go together, by name; docs/benchmarks says what each costs and finds."""

from typing import Any, Final, Literal

Preset = Literal["fast", "balanced", "best", "room", "still"]

PRESETS: Final[dict[Preset, dict[str, Any]]] = {
    # Differences cost next to nothing where flow takes half of a frame's time; two thirds of the feature maps find as
    # much with them, and 16 and 32 are what vectors of 16 numbers hold.
    "fast": {
        "model": {"motion": "difference-1", "widths": (16, 32, 64), "comparator": (16, 32, 64)},
        "minutes": 2.0,
    },
    "balanced": {
        "model": {"motion": "flow-dis-fast-2", "widths": (16, 48, 64), "comparator": (16, 48, 64)},
        "minutes": 4.0,
    },
    # Three and a half times the places: what is small or far is told apart.
    "best": {"model": {"motion": "flow-dis-2", "height": 240, "width": 360}, "minutes": 6.0},
    # One latent for the whole frame redraws an empty scene and nothing that comes into it, after a minute.
    "room": {
        "model": {
            "motion": "none",
            "bottleneck": "frame",
            "latent": 64,
            "widths": (16, 32, 64, 64),
            "comparator": None,
        },
        "pseudo_anomalies": (),
        "augment": False,
        "batch": 32,
        "minutes": 2.0,
    },
    # Images that are not a camera's have no motion, and what is wrong with a part is small.
    "still": {"model": {"motion": "none", "height": 256, "width": 256}, "minutes": 10.0},
}
"""What each preset sets; everything else is the default."""


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Fill what is not given from the preset that the values name, ``balanced`` where they name none.

    Args:
        values: Fields of a fit's settings, ``model`` as fields or as a whole model.
    """
    named = values.get("preset", "balanced")
    if named not in list(PRESETS):  # whatever it is: a list cannot be looked up
        return values
    chosen = PRESETS[named]
    filled = {**chosen, **values}
    if values.get("epochs") is not None and "minutes" not in values:
        del filled["minutes"]
    model = values.get("model", {})
    if isinstance(model, dict):
        filled["model"] = {**chosen["model"], **model}
    return filled
