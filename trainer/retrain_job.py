"""What a retraining is: pinned once, so that one that was killed goes on to the same end."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from contract import __version__
from contract.errors import ConfigError
from contract.settings import FrozenModel
from trainer.retrain_settings import RetrainSettings

JOB_NAME: Final = "job.json"
REPORT_NAME: Final = "report.json"
_LOCK_NAME: Final = ".lock"
_MS_AN_HOUR: Final = 3_600_000
# A nightly schedule finds what it left the night before, and begins anew.
_STALE_MS: Final = 22 * _MS_AN_HOUR
# Where these differ, the model or what is decided of it may differ.
_NOT_PART_OF_IT: Final = {"folder", "keep", "registry", "registry_allow_plaintext", "signing_key"}


class Job(FrozenModel):
    """What is fixed when a retraining begins."""

    camera: str
    """The camera."""

    settings: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Digest of its settings."""

    from_ms: int
    """First capture time wanted, ms since 1970."""

    split_ms: int
    """Capture time before which frames are fitted to, and from which models are compared."""

    to_ms: int
    """Capture time before which frames are taken."""

    champion: str | None
    """Address of the model that was in service; null where there was none."""

    @property
    def name(self) -> str:
        """Name of its folder, the time to which it goes first."""
        return f"{datetime.fromtimestamp(self.to_ms / 1000, UTC):%Y%m%dT%H%M%S}Z-{self.settings[:8]}"


class BusyError(Exception):
    """Another process is at it."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a camera's folder, so that no other process retrains it meanwhile.

    The lock is the system's: it ends with the process that holds it, however that ends.

    Raises:
        BusyError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError from error
        yield


def settings_digest(settings: RetrainSettings) -> str:
    """Digest of all that the outcome depends on."""
    what = settings.model_dump(mode="json", exclude=_NOT_PART_OF_IT)
    # Another version's fit cannot be gone on with.
    text = json.dumps([__version__, what], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_job(folder: Path, settings: RetrainSettings, now_ms: int) -> tuple[Path, Job] | None:
    """The retraining with these settings that was begun within a day and not finished, with its folder, if any.

    What could not be finished for longer is begun anew, or one that cannot be would stand in the way for ever.

    Raises:
        ConfigError: What stands there is no retraining.
    """
    digest = settings_digest(settings)
    for path in _jobs(folder):
        if not (path / REPORT_NAME).exists():
            job = _read(path / JOB_NAME)
            if job.settings == digest and now_ms - job.to_ms < _STALE_MS:
                return path, job
    return None


def whole_hour(at_ms: int) -> int:
    """The last whole hour, so that two retrainings begun within one are one; ms since 1970."""
    return at_ms // _MS_AN_HOUR * _MS_AN_HOUR


def pin_job(folder: Path, settings: RetrainSettings, to_ms: int, champion: str | None) -> tuple[Path, Job]:
    """Fix a retraining.

    Args:
        folder: Of the camera.
        settings: Of the retraining.
        to_ms: Capture time before which frames are taken, ms since 1970.
        champion: Address of the model in service, with its version.

    Returns:
        Its folder and what was fixed; of an earlier one to the same time with the same settings where there is one.
    """
    length_ms = round(settings.hours * _MS_AN_HOUR)
    job = Job(
        camera=settings.camera, settings=settings_digest(settings), from_ms=to_ms - length_ms,
        split_ms=to_ms - round(length_ms * settings.compare_share), to_ms=to_ms, champion=champion,
    )  # fmt: skip
    path = folder / job.name
    if (path / JOB_NAME).exists():
        return path, _read(path / JOB_NAME)
    path.mkdir(parents=True, exist_ok=True)
    write_whole(path / JOB_NAME, job.model_dump_json(indent=2) + "\n")
    return path, job


def forget_old(folder: Path, keep: int, current: Path) -> None:
    """Remove all but the newest retrainings, and those with other settings that were never finished."""
    others = [path for path in _jobs(folder) if path != current]
    finished = [path for path in others if (path / REPORT_NAME).exists()]
    for path in {*others} - {*finished[: keep - 1]}:
        shutil.rmtree(path, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _jobs(folder: Path) -> list[Path]:
    """Folders of retrainings, newest first."""
    return sorted((path.parent for path in folder.glob(f"*/{JOB_NAME}")), reverse=True)


def _read(path: Path) -> Job:
    try:
        return Job.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"folder: {path} is no retraining of this version; remove its folder") from error
