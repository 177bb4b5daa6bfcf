"""What the console does by the clock: says how all is, and deletes what is too old."""

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from typing import Final

from worker.console.cameras import list_cameras
from worker.console.follower import Follower
from worker.console.hub import Hub
from worker.console.queries import Answer, counts, list_events_by_id, list_notices
from worker.console.schema import reading
from worker.console.settings import ConsoleSettings
from worker.console.store import Changes, Store
from worker.console.workers import WorkerWatch

STATUS_EVERY_SECONDS: Final = 2.0
_PRUNE_EVERY_SECONDS: Final = 30.0
_MOST_NEWS: Final = 50
_log = logging.getLogger(__name__)


class Pulse:
    """Knows how everything is, and tells the pages; a context manager with a thread of its own.

    Args:
        settings: Of the console.
        store: The database.
        hub: Where news go.
        workers: Looks at the workers.
    """

    def __init__(self, settings: ConsoleSettings, store: Store, hub: Hub, workers: WorkerWatch) -> None:
        self._settings = settings
        self._store = store
        self._hub = hub
        self._workers = workers
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self.followers: Sequence[Follower] = ()

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def is_live(self) -> bool:
        """Whether every thread turns."""
        return self._thread.is_alive() and all(follower.is_live for follower in self.followers)

    @property
    def is_ready(self) -> bool:
        """Whether what is shown is followed."""
        return all(follower.status["state"] == "following" for follower in self.followers)

    def status(self) -> Answer:
        """How cameras, workers, and the reading of topics are now."""
        now_ms = round(time.time() * 1000)
        with reading(self._settings.database) as connection:
            return {
                "now_ms": now_ms,
                "cameras": list_cameras(connection, now_ms, self._settings.silent_seconds),
                "workers": self._workers.statuses,
                "topics": [follower.status for follower in self.followers],
                "passed_over": counts(connection),
            }

    def on_change(self, changes: Changes) -> None:
        """Tell the pages what may have changed; many events at once are read anew in place of being told."""
        event_ids, has_notices = changes
        if not self._hub.is_heard or not (event_ids or has_notices):
            return
        if len(event_ids) > _MOST_NEWS:
            self._hub.tell("resync", None)
            return
        with reading(self._settings.database) as connection:
            for event in list_events_by_id(connection, sorted(event_ids)):
                self._hub.tell("event", event)
            if has_notices:
                self._hub.tell("notices", list_notices(connection))

    def _run(self) -> None:
        prune_at = time.monotonic()
        while not self._ended.wait(STATUS_EVERY_SECONDS):
            try:
                if self._hub.is_heard:
                    self._hub.tell("status", self.status())
                if time.monotonic() >= prune_at:
                    is_more = self._prune()
                    prune_at = time.monotonic() + (0.0 if is_more else _PRUNE_EVERY_SECONDS)
            except sqlite3.Error as error:
                _log.warning("the database cannot be used: %s", error)

    def _prune(self) -> bool:
        settings = self._settings
        now_ms = round(time.time() * 1000)
        return self._store.prune(now_ms, settings.retention_days, settings.raw_score_hours, settings.max_bytes)
