"""The run folder while a fit writes it: how it begins, and what is in it at the end."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contract import __version__
from contract.errors import ConfigError
from trainer.checkpoint import (
    CHECKPOINT_NAME,
    LAST_NAME,
    SETTINGS_NAME,
    Checkpoint,
    Samples,
    save_checkpoint,
    save_samples,
)
from trainer.run_pictures import EpochRecord, draw_curves, draw_reconstructions
from trainer.settings import FitSettings

_log = logging.getLogger(__name__)


def open_run(out: Path, settings: FitSettings, source: str) -> bool:
    """Make the run folder, or find in it the same fit, stopped; say whether there is a state to go on from.

    Args:
        out: The run folder.
        settings: Of the fit.
        source: How the footage was named.

    Raises:
        ConfigError: The folder holds a finished run, another fit or other files.
    """
    what = {"framewatch": __version__, "source": source, "settings": settings.model_dump(mode="json")}
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    if (out / CHECKPOINT_NAME).exists():
        raise ConfigError(f"--out {out} holds a finished run; name another folder or remove it")
    stopped = _read_json(out / SETTINGS_NAME)
    if stopped is None and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"--out {out} holds other files; name a new or empty folder")
    if stopped is not None and stopped != what:
        raise ConfigError(f"--out {out} holds a fit that was stopped and had other settings or footage; name another")
    if stopped is None:
        out.mkdir(parents=True, exist_ok=True)
        part = out / f"{SETTINGS_NAME}.part"
        part.write_text(json.dumps(what, indent=2) + "\n", encoding="utf-8")
        part.replace(out / SETTINGS_NAME)
    if not (out / LAST_NAME).is_file():
        return False
    _log.warning("going on with the fit that was stopped in %s", out)
    return True


def _read_json(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON; name another --out folder") from error


def write_run(out: Path, checkpoint: Checkpoint, samples: Samples, records: Sequence[EpochRecord]) -> None:
    """Write what people and the exporter read; the checkpoint comes last, so that a run folder with one is whole.

    Args:
        out: The run folder.
        checkpoint: What the fit gave.
        samples: Held-out clips.
        records: Figures of every epoch.
    """
    save_samples(out, samples)
    draw_curves(records, out / "curves.png")
    draw_reconstructions(checkpoint.detector, samples, out / "reconstructions.png")
    summary = {
        "training": checkpoint.training,
        "calibration": checkpoint.calibration.model_dump(mode="json"),
        "event_rule": checkpoint.event_rule.model_dump(mode="json"),
        "epochs": [asdict(record) for record in records],
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    save_checkpoint(out, checkpoint)
    (out / LAST_NAME).unlink(missing_ok=True)
