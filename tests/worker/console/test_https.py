"""The console over TLS of its own: a token that travels protected, and nothing without it."""

import http.client
import json
import ssl
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from deploy.throwaway_tls import Authority
from tests.worker.console.deployment import ROOT, ConsoleDeployment

TOKEN = "a-token-of-many-letters"
NO_BROKER = SimpleNamespace(bootstrap_servers="127.0.0.1:1")


def written(folder, name="localhost"):
    """A console's settings with a certificate, and what trusts it."""
    authority = Authority("console's authority")
    keystore = authority.write_keystore(folder / "console.pem", name)
    keystore.chmod(0o600)
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    made = ConsoleDeployment(NO_BROKER, folder, "https", make_topics=False)
    made.settings |= {
        "tls_certfile": str(keystore), "tls_keyfile": str(keystore),
        "auth": {"kind": "token", "token_file": str(folder / "token")},
    }  # fmt: skip
    return made, ssl.create_default_context(cafile=authority.write_certificate(folder / "ca.pem"))


def asked(address, trust, method, path, body=None, headers=None):
    place = urlsplit(address)
    connection = http.client.HTTPSConnection("localhost", place.port, context=trust, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()


def test_a_token_is_taken_over_tls_and_kept_in_a_cookie_that_only_tls_carries(tmp_path):
    made, trust = written(tmp_path)
    with made.console():
        assert made.address.startswith("https://")
        assert asked(made.address, trust, "GET", "/api/events").status == 401
        assert asked(made.address, trust, "GET", "/livez").status == 200
        form = {"content-type": "application/x-www-form-urlencoded"}
        wrong = asked(made.address, trust, "POST", "/login", "token=another-token-of-letters", form)
        assert wrong.headers["set-cookie"] is None
        let_in = asked(made.address, trust, "POST", "/login", f"token={TOKEN}", form)
        cookie = let_in.headers["set-cookie"]
        assert {"secure", "httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
        held = {"cookie": cookie.partition(";")[0]}
        assert asked(made.address, trust, "GET", "/api/events", headers=held).status == 200


def test_who_does_not_trust_the_certificate_and_who_speaks_no_tls_gets_nothing(tmp_path):
    made, _ = written(tmp_path)
    with made.console():
        with pytest.raises(ssl.SSLCertVerificationError):
            asked(made.address, ssl.create_default_context(), "GET", "/livez")
        connection = http.client.HTTPConnection("localhost", urlsplit(made.address).port, timeout=20)
        connection.request("GET", "/livez")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            connection.getresponse()
        connection.close()


def test_a_certificate_that_is_none_is_refused_in_one_line(tmp_path):
    made, _ = written(tmp_path)
    (tmp_path / "console.pem").write_text("no certificate")
    made.config.write_text(json.dumps(made.settings))
    done = subprocess.run(
        [sys.executable, "-m", "worker", "console", "--config", str(made.config)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "tls_certfile" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
