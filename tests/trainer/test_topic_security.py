"""A fit from a topic over TLS, with a login and access lists, by the command line, as an operator runs it."""

import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

import trainer.__main__
from contract.command_line import run_command_line
from deploy.broker import LocalBroker, Secured, Topic, create_topics
from deploy.throwaway_tls import Authority
from tests.footage import TINY
from tests.trainer.test_topic_footage import FRAMES, KEPT, shown
from tests.worker.console.records import anomaly

pytestmark = pytest.mark.broker
ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct-horse"
TOPICS = ("frames", "alerts", "feedback")


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority("authority")
    keystore = authority.write_keystore(folder / "server.pem", "localhost")
    authority.write_certificate(folder / "ca.pem")
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    users = {"alice": PASSWORD, "bob": PASSWORD, "carol": PASSWORD}
    with LocalBroker(log_path=folder / "server.log", secured=Secured(keystore, users)) as broker:
        create_topics(broker, {topic: Topic(1, KEPT) for topic in TOPICS})
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        for number in range(120):
            producer.send("frames", FRAMES[number], key=b"door", timestamp_ms=shown(number))
        ended = anomaly(1, "ended", at_ms=shown(10), ended_at_ms=shown(12))
        producer.send("alerts", ended, key=b"door", timestamp_ms=shown(12))
        producer.flush()
        producer.close()
        # Bob may see the alerts and not read them, Carol may not see them.
        rules = [(user, "frames", ACLOperation.READ) for user in users]
        rules += [("alice", topic, ACLOperation.READ) for topic in TOPICS] + [("bob", "alerts", ACLOperation.DESCRIBE)]
        with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
            admin.create_acls([
                ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(ResourceType.TOPIC, topic))
                for user, topic, operation in rules
            ])  # fmt: skip
        time.sleep(0.5)
        yield broker, folder


def run(line, *arguments):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = run_command_line(trainer.__main__.app, "trainer", [*line.split(), *map(str, arguments)])
    return code, errors.getvalue()


@pytest.fixture
def config(secured, tmp_path):
    def write(user, **kafka):
        folder = secured[1]
        settings = {
            "security_protocol": "SASL_SSL", "ssl_cafile": str(folder / "ca.pem"), "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": user, "sasl_password_file": str(folder / "password"), "bootstrap_timeout_ms": 8000,
        }  # fmt: skip
        content = {**TINY, "epochs": 1, "topic": {"footage_cache": str(tmp_path / "cache"), "margin_seconds": 0}}
        path = tmp_path / "fit.yaml"
        path.write_text(json.dumps({**content, "kafka": {**settings, **kafka}}))
        return path

    return write


def test_a_fit_over_tls_with_a_login_is_without_events_and_its_record_says_so(secured, config, tmp_path):
    source = f"kafka://{secured[0].secured_servers}/frames?camera=door"
    code, said = run("fit", source, "--out", tmp_path / "run", "--config", config("alice"))
    assert code == 0, said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["training"]
    topic = summary["topic"]
    assert (topic["frames_read"], topic["frames_left_out"], topic["events_left_out"]) == (117, 3, 1)
    assert topic["seconds_left_out"] == pytest.approx(2.001)
    # Nothing of the connection travels with the model, and the password stands nowhere.
    for file in (tmp_path / "run").glob("*.json"):
        assert "alice" not in file.read_text()
        assert PASSWORD not in file.read_text()
    assert PASSWORD not in said
    # What is measured is the whole range, over the same connection.
    code, said = run("evaluate", tmp_path / "run", source, "--out", tmp_path / "measured", "--config", config("alice"))
    assert code == 0, said
    assert json.loads((tmp_path / "measured" / "metrics.json").read_text())["frames"] == 120


def test_the_connection_can_come_from_the_environment(secured, config, tmp_path, monkeypatch):
    path = config("nobody", sasl_username=None, sasl_password_file=None, sasl_mechanism=None, security_protocol="SSL")
    for name, value in (
        ("SECURITY_PROTOCOL", "SASL_SSL"), ("SASL_MECHANISM", "SCRAM-SHA-512"), ("SASL_USERNAME", "alice"),
        ("SASL_PASSWORD_FILE", str(secured[1] / "password")),
    ):  # fmt: skip
        monkeypatch.setenv(f"FRAMEWATCH_KAFKA__{name}", value)
    source = f"kafka://{secured[0].secured_servers}/frames?camera=door"
    code, said = run("fit", source, "--out", tmp_path / "run", "--config", path)
    assert code == 0, said


@pytest.mark.parametrize(
    ("user", "kafka", "code", "words"),
    [
        ("bob", {}, 1, "alerts"),
        ("carol", {}, 2, "its user may not see it"),
        ("dave", {}, 1, "broker"),
        ("alice", {"ssl_cafile": None}, 1, "broker"),
    ],
)
def test_who_is_not_let_in_gets_one_line_and_no_folder(secured, config, tmp_path, user, kafka, code, words):
    source = f"kafka://{secured[0].secured_servers}/frames?camera=door"
    # In a process of its own: kafka-python leaves the socket of a refused connection to the garbage collector.
    line = ["fit", source, "--out", tmp_path / "run", "--config", config(user, **kafka)]
    child = subprocess.run(
        [sys.executable, "-m", "trainer", *line], check=False, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    said = child.stderr
    complaints = [line for line in said.splitlines() if line.startswith("trainer: ")]
    assert child.returncode == code, said
    assert len(complaints) == 1
    assert words in complaints[0]
    assert "Traceback" not in said
    assert PASSWORD not in said
    assert not (tmp_path / "run").exists()
