"""Who is let in and who is not, and what every answer tells the browser."""

import pytest

from contract.errors import ConfigError
from contract.settings import load_settings
from tests.worker.console.records import anomaly, event_id
from worker.console.guard import POLICY, Sessions
from worker.console.settings import ConsoleSettings

TOKEN = "a-token-of-enough-characters"
OWN = {"x-framewatch-console": "1"}
VERDICT = f"/api/events/{event_id(1)}/verdict"
CLOSED = ("/", "/api/status", "/api/events", "/api/about", "/api/live", f"/api/events/{event_id(1)}/snapshot",
          "/static/app.js", "/static/index.html")  # fmt: skip


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def guarded(make_console, token_file):
    console = make_console(auth={"kind": "token", "token_file": token_file})
    console.put(alerts=[anomaly()])
    return console


@pytest.fixture
def proxied(make_console):
    console = make_console(
        host="0.0.0.0", auth={"kind": "proxy", "proxy_addresses": ["10.0.0.0/8"], "proxy_header": "X-Auth-User"}
    )
    console.put(alerts=[anomaly()])
    return console


@pytest.mark.parametrize("path", ["/", "/livez", "/api/status", "/none", "/static/app.js", "/login", "/api/what-if"])
def test_every_answer_has_the_security_headers(console, path):
    with console.client() as client:
        headers = client.get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]", "[", "[x]:1"])
def test_without_authentication_only_a_loopback_name_is_answered(console, host):
    with console.client() as client:
        for path in CLOSED:
            assert client.get(path, headers={"host": host}).status_code == 421
        assert client.get("/livez", headers={"host": host}).status_code in {200, 503}
        for name in ("localhost:8460", "127.0.0.1", "[::1]:8460"):
            assert client.get("/api/about", headers={"host": name}).status_code == 200


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "0.0.0.0"}, {"host": "::"}, {"host": "console.example"},
        {"host": "0.0.0.0", "auth.kind": "token", "auth.token_file": "TOKEN"},
        {"auth.kind": "token"}, {"auth.kind": "token", "auth.token_file": "/nowhere"},
        {"auth.kind": "proxy"}, {"auth.kind": "proxy", "auth.proxy_addresses": ["anywhere"]},
        {"feedback_topic": "alerts"}, {"worker_metrics": ["file:///etc/passwd"]}, {"worker_metrics": ["http://a b/"]},
        {"tls_certfile": "/nowhere"},
    ],
)  # fmt: skip
def test_what_would_be_unsafe_is_refused_in_one_line(settings, token_file):
    flags = {name: str(token_file) if value == "TOKEN" else value for name, value in settings.items()}
    with pytest.raises(ConfigError) as refused:
        load_settings(ConsoleSettings, flags=flags)
    assert "\n" not in str(refused.value)


def test_a_token_that_others_may_read_or_that_is_short_is_refused(token_file):
    flags = {"auth.kind": "token", "auth.token_file": token_file}
    token_file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_settings(ConsoleSettings, flags=flags)
    token_file.chmod(0o600)
    token_file.write_text("short")
    with pytest.raises(ConfigError, match="fewer than 16") as refused:
        load_settings(ConsoleSettings, flags=flags)
    assert "short" not in str(refused.value)


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("cookie", [None, "", "x", "9999999999.", f"9999999999.{'0' * 64}", "é.x", TOKEN])
def test_nobody_is_let_in_without_a_login(guarded, path, cookie):
    with guarded.client() as client:
        headers = {"cookie": f"framewatch={cookie}".encode()} if cookie is not None else {}
        answer = client.get(path, headers=headers)
    assert (answer.status_code, answer.headers.get("location")) in {(401, None), (303, "/login")}
    assert TOKEN not in answer.text


def test_whoever_knows_the_token_logs_in_and_out(guarded):
    with guarded.client() as client:
        assert client.get("/login").status_code == 200
        answer = client.post("/login", data={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert TOKEN not in cookie
        assert client.get("/").status_code == 200
        assert client.get("/api/about").json()["can_log_out"]
        assert client.post("/logout").status_code == 303
        assert client.get("/api/about").status_code == 401


def test_a_wrong_token_is_no_login_and_five_of_them_wait(guarded):
    with guarded.client() as client:
        for _ in range(5):
            answer = client.post("/login", data={"token": TOKEN[:-1]})
            assert (answer.headers["location"], answer.headers.get("set-cookie")) == ("/login#wrong", None)
        assert client.post("/login", data={"token": TOKEN}).headers["location"] == "/login#later"
    with guarded.client(peer="127.0.0.2") as client:
        assert client.post("/login", data={"token": TOKEN}).headers["location"] == "/"


def test_a_session_ends_with_its_time_and_with_its_token():
    now = [1_000.0]
    sessions = Sessions(TOKEN, 60, lambda: now[0])
    cookie = sessions.begin(TOKEN, "a")
    assert sessions.holds(cookie)
    assert not Sessions(TOKEN + "x", 60, lambda: now[0]).holds(cookie)
    expires, _, mark = cookie.partition(".")
    assert not sessions.holds(f"{int(expires) + 1}.{mark}")
    now[0] += 61
    assert not sessions.holds(cookie)
    assert sessions.begin("x", "a") is None


def test_a_lock_ends_after_a_minute():
    now = [1_000.0]
    sessions = Sessions(TOKEN, 60, lambda: now[0])
    for _ in range(5):
        sessions.begin("wrong", "a")
    assert sessions.is_locked("a")
    assert not sessions.is_locked("b")
    now[0] += 61
    assert not sessions.is_locked("a")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OWN, 200), ({**OWN, "origin": "http://127.0.0.1:8460"}, 200), ({**OWN, "sec-fetch-site": "same-origin"}, 200),
        ({}, 403), ({"x-framewatch-console": "2"}, 403), ({**OWN, "origin": "https://evil.example"}, 403),
        ({**OWN, "origin": "null"}, 403), ({**OWN, "origin": "http://127.0.0.1:9999"}, 403),
        ({**OWN, "sec-fetch-site": "cross-site"}, 403), ({**OWN, "sec-fetch-site": "same-site"}, 403),
        ({**OWN, "sec-fetch-site": "none"}, 403),
    ],
)  # fmt: skip
def test_only_the_console_s_own_page_changes_anything(console, headers, status):
    console.put(alerts=[anomaly()])
    with console.client() as client:
        answer = client.post(VERDICT, json={"verdict": "confirmed"}, headers=headers)
    assert answer.status_code == status
    assert len(console.sender.sent) == (status == 200)


def test_a_form_of_another_site_logs_nobody_in(guarded):
    with guarded.client() as client:
        answer = client.post("/login", data={"token": TOKEN}, headers={"origin": "https://evil.example"})
    assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)


def test_a_body_that_is_long_or_of_unknown_length_is_refused(console):
    with console.client() as client:
        assert client.post(VERDICT, content=b" " * 20_000, headers=OWN).status_code == 413
        assert client.post(VERDICT, content=iter([b"{}"]), headers=OWN).status_code == 411


@pytest.mark.parametrize(
    ("peer", "names", "status"),
    [
        ("10.1.2.3", ["jo@example.org"], 200), ("127.0.0.1", ["jo@example.org"], 403), ("10.1.2.3", [], 401),
        ("10.1.2.3", [""], 401), ("10.1.2.3", ["jo", "root"], 401), ("10.1.2.3", ["j" * 200], 401),
        ("::ffff:10.1.2.3", ["jo"], 200),
    ],
)  # fmt: skip
def test_behind_a_proxy_only_whom_it_names_is_let_in(proxied, peer, names, status):
    with proxied.client("console.example", peer) as client:
        headers = [("x-auth-user", name) for name in names]
        answer = client.get("/api/about", headers=headers)
        assert answer.status_code == status
        if status == 200:
            assert answer.json()["user"] == names[0]
            client.post(VERDICT, json={"verdict": "confirmed"}, headers=[*headers, *OWN.items()])
            assert [feedback.by for feedback in proxied.sender.sent] == names
        assert client.get("/livez").status_code in {200, 503}
