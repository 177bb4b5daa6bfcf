"""The console's pages and answers, as a FastAPI application."""

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field

from contract.errors import FramewatchError
from contract.feedback import MAX_NOTE, Feedback, Verdict
from worker.console.guard import OWN_HEADER, Guard, probe
from worker.console.hub import Hub
from worker.console.pulse import Pulse
from worker.console.queries import (
    Answer,
    Wanted,
    curve,
    find_event,
    find_picture,
    list_bars,
    list_events,
    list_notices,
)
from worker.console.reading import PictureKind
from worker.console.schema import reading
from worker.console.settings import ConsoleSettings
from worker.console.verdicts import VerdictSender
from worker.console.what_if import RuleInUse, what_if

STATIC: Final = Path(__file__).parent / "static"
_T = TypeVar("_T")
_LATEST_MS: Final = 253_402_300_799_000
_LONGEST_MS: Final = 366 * 86_400_000

EventId = Annotated[str, InPath(pattern=r"^[0-9a-f]{32}$")]
Moment = Annotated[int, Query(ge=0, le=_LATEST_MS)]
Word = Annotated[str | None, Query(max_length=128)]


class Said(BaseModel):
    """A verdict as the page sends it."""

    model_config = ConfigDict(extra="forbid")

    verdict: Verdict
    note: Annotated[str, Field(max_length=MAX_NOTE)] = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the application answers from.

    Attributes:
        settings: Of the console.
        hub: News.
        pulse: How all is.
        sender: Where verdicts go.
        rule: What the what-if makes events by.
    """

    settings: ConsoleSettings
    hub: Hub
    pulse: Pulse
    sender: VerdictSender
    rule: RuleInUse


def make_app(parts: Parts) -> Guard:
    """Make the application, guarded."""
    app = FastAPI(title="Framewatch console", docs_url=None, redoc_url=None, openapi_url=None)

    def database() -> Iterator[Connection]:
        with reading(parts.settings.database) as connection:
            yield connection

    _add_pages(app, parts)
    _add_answers(app, parts, database)
    _add_live(app, parts)
    app.mount("/static", StaticFiles(directory=STATIC))
    return Guard(app, parts.settings)


def _add_pages(app: FastAPI, parts: Parts) -> None:
    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/login")
    def login() -> FileResponse:
        return FileResponse(STATIC / "login.html")

    @app.get("/livez")
    def live() -> Response:
        return probe(parts.pulse.is_live)

    @app.get("/readyz")
    def ready() -> Response:
        return probe(parts.pulse.is_live and parts.pulse.is_ready)


def _add_answers(app: FastAPI, parts: Parts, database: Any) -> None:  # noqa: ANN401 - what FastAPI depends on
    Database = Annotated[Connection, Depends(database, scope="function")]  # noqa: N806 - a type

    @app.get("/api/events")
    def events(
        connection: Database,
        camera: Word = None,
        severity: Literal["low", "medium", "high", "critical"] | None = None,
        state: Literal["open", "ended"] | None = None,
        verdict: Literal["confirmed", "false_alarm", "none"] | None = None,
        text: Annotated[str, Query(max_length=200)] = "",
        before_ms: Annotated[int | None, Query(ge=-(2**53), le=_LATEST_MS)] = None,
        before_id: Annotated[str, Query(max_length=64)] = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> list[Answer]:
        before = None if before_ms is None else (before_ms, before_id)
        return list_events(connection, Wanted(camera, severity, state, verdict, text, before), limit)

    @app.get("/api/events/{event_id}")
    def event(connection: Database, event_id: EventId) -> Answer:
        return _found(find_event(connection, event_id))

    @app.get("/api/events/{event_id}/{kind}")
    def picture(connection: Database, event_id: EventId, kind: PictureKind, request: Request) -> Response:
        data = _found(find_picture(connection, event_id, kind))
        # The page asks with the peak's time, which changes where the picture does.
        kept = "private, max-age=86400, immutable" if "peak" in request.query_params else "no-store"
        return Response(data, media_type="image/jpeg", headers={"cache-control": kept})

    @app.post("/api/events/{event_id}/verdict")
    def verdict(connection: Database, event_id: EventId, said: Said, request: Request) -> Answer:
        if request.headers.get(OWN_HEADER) != "1":
            raise HTTPException(403, "this comes from another site")
        held = _found(find_event(connection, event_id))
        feedback = Feedback(
            event_id=event_id, camera_id=held["camera_id"], verdict=said.verdict, note=said.note,
            at_ms=round(time.time() * 1000), by=request.scope["user"],
        )  # fmt: skip
        try:
            parts.sender.send(feedback)
        except FramewatchError as error:
            raise HTTPException(503, str(error)) from error
        return feedback.model_dump()

    @app.get("/api/timeline")
    def timeline(connection: Database, from_ms: Moment, to_ms: Moment) -> list[Answer]:
        return list_bars(connection, from_ms, to_ms)

    @app.get("/api/notices")
    def notices(connection: Database) -> list[Answer]:
        return list_notices(connection)

    @app.get("/api/curve")
    def scores(
        connection: Database,
        camera: Annotated[str, Query(max_length=128)],
        from_ms: Moment,
        to_ms: Moment,
        points: Annotated[int, Query(ge=2, le=2_000)] = 600,
    ) -> Answer:
        if not 0 < to_ms - from_ms <= _LONGEST_MS:
            raise HTTPException(422, "to_ms must be after from_ms, by a year at most")
        return curve(connection, camera, from_ms, to_ms, points)

    @app.get("/api/what-if")
    def other_threshold(connection: Database, threshold: Annotated[float, Query(gt=-100, lt=100)]) -> Answer:
        return what_if(connection, parts.rule, threshold)


def _add_live(app: FastAPI, parts: Parts) -> None:
    @app.get("/api/status")
    def status() -> Answer:
        return parts.pulse.status()

    @app.get("/api/about")
    def about(request: Request) -> Answer:
        settings = parts.settings
        return {
            "user": request.scope["user"],
            "can_log_out": settings.auth.kind == "token",
            "raw_score_hours": settings.raw_score_hours,
            "retention_days": settings.retention_days,
            "feedback_topic": settings.feedback_topic,
        }

    def room(_request: Request) -> None:
        if parts.hub.is_full:
            raise HTTPException(503, "too many pages are open")

    @app.get("/api/live", response_class=EventSourceResponse, dependencies=[Depends(room)])
    async def live() -> AsyncIterator[ServerSentEvent]:
        with parts.hub.listen() as news:
            # What changes after a page knows that it is heard, it hears.
            yield ServerSentEvent(event="hello", data=None, raw_data="1", retry=2_000)
            while True:
                told = await news.get()
                yield ServerSentEvent(event=told.name, data=told.data if told.data is not None else 0)


def _found(held: _T | None) -> _T:
    if held is None:
        raise HTTPException(404, "it is not held, or not any more")
    return held
