"""Settings, cameras and bundles loaded anew while the worker runs.

A thread of its own looks whether their files changed or the model registry names other versions, or waits for SIGHUP;
it opens and tries what is new, which takes seconds, and the loop takes it between two batches. What is refused leaves
everything as it was, with a line that says why.
"""

import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from contract.errors import ConfigError
from contract.manifest import MANIFEST_NAME, SIGNATURE_NAME
from contract.model_address import is_model_address
from worker.camera_settings import camera_files
from worker.cameras import Cameras
from worker.models import Models
from worker.settings import WorkerSettings

_CHANGEABLE: Final = frozenset(
    {
        "bundle", "camera_bundle", "bundle_public_key", "challenger", "threshold", "false_events_per_day", "event_rule",
        "cameras",
        "unknown_cameras", "warm_up_frames", "allowed_cameras", "late",
    }
)  # fmt: skip
_CLOSE_SECONDS: Final = 5.0
# To try is to open every bundle: what stays as it was refused is tried at every second, fourth, ... look.
_MAX_LOOKS_BETWEEN: Final = 64
_log = logging.getLogger(__name__)

Signature = tuple[tuple[str, int, int, int], ...]


class Reloader:
    """Looks after what is in force; a context manager, to be entered by the main thread.

    Args:
        settings: In force at the start.
        cameras: What came of them.
        load: Reads the settings anew.
        resolve: Makes of settings what is in force.
        file: YAML file of the settings, if any.
        on_reload: Told whether a reload was taken, and what is in force then.
        models: Says which versions the registry names now, and which are in use.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        cameras: Cameras,
        load: Callable[[], WorkerSettings],
        resolve: Callable[[WorkerSettings], Cameras],
        file: Path | None = None,
        on_reload: Callable[[Cameras | None], None] = lambda _cameras: None,
        models: Models | None = None,
    ) -> None:
        self._settings = settings
        self._bundles = tuple(cameras.bundles)
        self._load = load
        self._resolve = resolve
        self._file = file
        self._on_reload = on_reload
        self._models = models or Models()
        self._lock = threading.Lock()
        self._new: Cameras | None = None
        self._asked = threading.Event()
        self._ended = False
        # Why the last reload was refused, if it was, after how many looks it is tried again, and how many are left.
        self._refused: str | None = None
        self._looks_between = self._looks_left = 0
        # An alias may have moved while the bundles were opened.
        self._seen = self._tried = (*self._signature_of_files(), *self._models.in_use())
        self._thread = threading.Thread(target=self._watch, name="reload", daemon=True)
        self._handler: Any = None

    def take(self) -> Cameras | None:
        """What is in force from now on, where that changed since the last call."""
        with self._lock:
            new, self._new = self._new, None
        return new

    def look(self, *, asked: bool = False) -> None:
        """Load anew what changed, once it is the same in two looks, or at once where that is asked for."""
        before, self._seen = self._seen, self._signature()
        is_new = self._seen != self._tried
        # What was refused is tried again: what it names may have come since.
        self._looks_left -= 1
        is_due = is_new or (self._refused is not None and self._looks_left <= 0)
        if not asked and (not is_due or self._seen != before):
            return
        self._looks_between = 1 if is_new or asked else min(2 * self._looks_between, _MAX_LOOKS_BETWEEN)
        self._looks_left = self._looks_between
        self._tried = self._seen
        try:
            self._reload()
        except Exception as error:  # noqa: BLE001 - a thread that ended would see no later change
            if asked or str(error) != self._refused:
                _log.error("not reloaded, all stays as it was: %s", error)
                self._on_reload(None)
            self._refused = str(error)
        else:
            self._refused = None

    def __enter__(self) -> "Reloader":
        # Where a terminal is closed, SIGHUP says so, and ends the process.
        if not sys.stderr.isatty():
            self._handler = signal.signal(signal.SIGHUP, self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGHUP, self._handler)
        self._ended = True
        self._asked.set()
        self._thread.join(_CLOSE_SECONDS)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.set()

    def _watch(self) -> None:
        while not self._ended:
            was_asked = self._asked.wait(self._settings.reload_seconds or None)
            self._asked.clear()
            if not self._ended:
                self.look(asked=was_asked)

    def _reload(self) -> None:
        settings = self._load()
        fixed = [
            name
            for name in WorkerSettings.model_fields
            if name not in _CHANGEABLE and getattr(settings, name) != getattr(self._settings, name)
        ]
        if fixed:
            raise ConfigError(f"settings: {fixed[0]} changed, for which the worker must be started anew")
        cameras = self._resolve(settings)
        self._settings, self._bundles = settings, tuple(cameras.bundles)
        with self._lock:
            self._new = cameras
        names = sorted(
            f"{one.bundle.reference.name} {one.bundle.reference.version}" for one in cameras.bundles.values()
        )
        _log.info("reloaded", extra={"bundles": names})
        self._on_reload(cameras)

    def _signature(self) -> Signature:
        return (*self._signature_of_files(), *self._models.look())

    def _signature_of_files(self) -> Signature:
        files = [self._file] if self._file is not None else []
        cameras = self._settings.cameras
        try:
            files += [cameras, *camera_files(cameras)] if cameras is not None else []
        except ConfigError:
            # An empty folder is a change of the folder itself.
            files += [cameras] if cameras is not None else []
        folders = [named for named in self._bundles if not is_model_address(named)]
        files += [folder / name for folder in folders for name in (MANIFEST_NAME, SIGNATURE_NAME)]
        return tuple(_state_of(file) for file in files)


def _state_of(file: Path) -> tuple[str, int, int, int]:
    try:
        status = file.stat()
    except OSError:
        return str(file), 0, 0, 0
    return str(file), status.st_ino, status.st_mtime_ns, status.st_size
