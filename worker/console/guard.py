"""Who is let in, and what every answer says to the browser; an ASGI application around the console's."""

import hashlib
import hmac
import ipaddress
import time
from collections import deque
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.address import is_loopback
from contract.command_line import printable
from contract.feedback import MAX_NAME
from worker.console.settings import ConsoleSettings

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
OWN_HEADER: Final = "x-framewatch-console"
NOBODY: Final = "console"
_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_OPEN: Final = frozenset({"/livez", "/readyz"})
_LOGIN: Final = frozenset({"/login", "/static/style.css", "/static/icon.svg"})
_MOST_BODY_BYTES: Final = 16 * 1024
_MOST_FAILURES: Final = 5
_FAILURES_SECONDS: Final = 60.0
_MOST_ADDRESSES: Final = 1_000


class Sessions:
    """Logins by token; a session is a cookie that only the token's holder can have been given, and no state here.

    Args:
        token: The token.
        seconds: Time for which a login holds.
        clock: Seconds since 1970.
    """

    def __init__(self, token: str, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._token = token.encode()
        self._seconds = seconds
        self._clock = clock
        self._failures: dict[str, deque[float]] = {}

    def begin(self, given: str, address: str) -> str | None:
        """The cookie's value for a token that was given; None where it is another."""
        digests = (hashlib.sha256(one).digest() for one in (given.encode(errors="replace"), self._token))
        if not hmac.compare_digest(*digests):
            self._note_failure(address)
            return None
        self._failures.pop(address, None)
        expires = str(int(self._clock() + self._seconds))
        return f"{expires}.{self._mark(expires)}"

    def holds(self, cookie: str) -> bool:
        """Whether a cookie is of a session that has not expired."""
        expires, _, mark = cookie.partition(".")
        if not hmac.compare_digest(mark.encode(errors="replace"), self._mark(expires).encode()):
            return False
        return int(expires) > self._clock()

    def is_locked(self, address: str) -> bool:
        """Whether too many logins from an address failed within the last minute."""
        failures = self._failures.get(address, deque())
        while failures and failures[0] < self._clock() - _FAILURES_SECONDS:
            failures.popleft()
        return len(failures) >= _MOST_FAILURES

    def _note_failure(self, address: str) -> None:
        if len(self._failures) >= _MOST_ADDRESSES:
            self._failures.pop(next(iter(self._failures)))
        self._failures.setdefault(address, deque(maxlen=_MOST_FAILURES)).append(self._clock())

    def _mark(self, expires: str) -> str:
        message = f"framewatch console session 1 {expires}".encode(errors="replace")
        return hmac.new(self._token, message, hashlib.sha256).hexdigest()


class Guard:
    """Lets requests through to the console, or refuses them; every answer carries the security headers.

    Without authentication only a loopback name may be asked for, so that no page of another site can reach the console
    under a name of its own (DNS rebinding). What changes something must come from the console's own page.

    Args:
        app: The console.
        settings: Who may use it.
    """

    def __init__(self, app: ASGIApp, settings: ConsoleSettings) -> None:
        self._app = app
        self._auth = settings.auth
        self._is_tls = settings.tls_certfile is not None
        self._cookie = "__Host-framewatch" if self._is_tls else "framewatch"
        self._networks = [ipaddress.ip_network(one, strict=False) for one in settings.auth.proxy_addresses]
        token = settings.auth.token() if settings.auth.kind == "token" else ""
        self._sessions = Sessions(token, settings.auth.session_hours * 3600) if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        request = Request(scope, receive)
        answer = self._refusal(request) or await self._own_answer(request)
        await (answer or self._app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not go further whoever sends it."""
        headers = request.headers
        is_local_name = is_loopback(_host_of(f"//{headers.get('host', '')}"))
        if self._auth.kind == "none" and request.scope["path"] not in _OPEN and not is_local_name:
            return _refused(421, "ask for this console as localhost or 127.0.0.1")
        if request.method in {"GET", "HEAD"}:
            return None
        if not _is_of_own_page(headers):
            return _refused(403, "this comes from another site")
        if not headers.get("content-length", "").isdecimal() or "transfer-encoding" in headers:
            return _refused(411, "say how long it is")
        if int(headers["content-length"]) > _MOST_BODY_BYTES:
            return _refused(413, f"at most {_MOST_BODY_BYTES} bytes are taken")
        return None

    async def _own_answer(self, request: Request) -> Response | None:
        """The answer that is the guard's to give; None for one who is let in, whose name the request then holds."""
        path = request.scope["path"]
        if path in _OPEN:
            return None
        if self._auth.kind == "proxy":
            return self._let_in_by_proxy(request)
        request.scope["user"] = NOBODY
        if self._sessions is None:
            return RedirectResponse("/", 303) if path in {"/login", "/logout"} else None
        if path == "/logout" and request.method == "POST":
            answer = RedirectResponse("/login", 303)
            answer.delete_cookie(self._cookie, secure=self._is_tls, httponly=True, samesite="strict")
            return answer
        if path == "/login" and request.method == "POST":
            return await self._log_in(request, self._sessions)
        if path in _LOGIN or self._sessions.holds(request.cookies.get(self._cookie, "")):
            return None
        return RedirectResponse("/login", 303) if path == "/" else _refused(401, "log in first")

    async def _log_in(self, request: Request, sessions: Sessions) -> Response:
        address = request.client.host if request.client else ""
        if sessions.is_locked(address):
            return RedirectResponse("/login#later", 303)
        fields = parse_qs((await request.body()).decode(errors="replace"), max_num_fields=4)
        cookie = sessions.begin(fields.get("token", [""])[0].strip(), address)
        if cookie is None:
            return RedirectResponse("/login#wrong", 303)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, cookie, httponly=True, samesite="strict", secure=self._is_tls)
        return answer

    def _let_in_by_proxy(self, request: Request) -> Response | None:
        if not self._is_proxy(request.client.host if request.client else ""):
            return _refused(403, "this console is reached through its proxy")
        names = request.headers.getlist(self._auth.proxy_header)
        if len(names) != 1 or not 0 < len(names[0]) <= MAX_NAME:
            return _refused(401, "the proxy does not say who this is")
        request.scope["user"] = printable(names[0])[:MAX_NAME]
        return None

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._networks)


def _is_of_own_page(headers: Headers) -> bool:
    """Whether a request that changes something comes from a page of the console: what browsers say of it themselves."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site == "same-origin"
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _refused(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)


def probe(is_good: bool) -> Response:  # noqa: FBT001 - what the answer says
    """The answer of a probe."""
    return PlainTextResponse("ok\n" if is_good else "no\n", 200 if is_good else 503)
