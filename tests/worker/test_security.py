"""TLS, passwords, tokens and access lists, against a real broker with a throw-away authority."""

import base64
import json
import time

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from deploy.broker import LocalBroker, Secured
from deploy.throwaway_tls import Authority
from tests.worker.deployment import Deployment, frames_of, terminate, wait_until

pytestmark = pytest.mark.broker
PASSWORD = "correct-horse"
STOP_SECONDS = 30


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority("authority")
    keystore = authority.write_keystore(folder / "server.pem", "localhost")
    authority.write_certificate(folder / "ca.pem")
    Authority("somebody else").write_certificate(folder / "other-ca.pem")
    users = {"alice": PASSWORD, "bob": PASSWORD}
    with LocalBroker(log_path=folder / "server.log", secured=Secured(keystore, users)) as broker:
        yield broker, folder


@pytest.fixture
def deployment(secured, tmp_path, tiny_bundle, request):
    broker, folder = secured
    name = "".join(one if one.isalnum() else "-" for one in request.node.name)[:60]
    made = Deployment(broker, tmp_path, tiny_bundle.bundle, name)
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    made.set(
        {
            "bootstrap_servers": broker.secured_servers, "security_protocol": "SASL_SSL",
            "ssl_cafile": str(folder / "ca.pem"), "sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "alice",
            "sasl_password_file": str(password), "bootstrap_timeout_ms": 8000, "delivery_timeout_ms": 8000,
        }
    )  # fmt: skip
    allow(made, "alice")
    return made


def rules(deployment, user, operations=(ACLOperation.ALL,)):
    places = [ResourcePattern(ResourceType.GROUP, deployment.group)]
    places += [ResourcePattern(ResourceType.TOPIC, topic) for topic in deployment.topics.values()]
    return [
        ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, place)
        for place in places
        for operation in operations
    ]


def allow(deployment, user):
    with KafkaAdminClient(bootstrap_servers=deployment.servers) as admin:
        admin.create_acls(rules(deployment, user))
    time.sleep(0.5)


def deny_alerts(deployment, user):
    place = ResourcePattern(ResourceType.TOPIC, deployment.topics["alerts"])
    with KafkaAdminClient(bootstrap_servers=deployment.servers) as admin:
        admin.create_acls([ACL(f"User:{user}", "*", ACLOperation.WRITE, ACLPermissionType.DENY, place)])
    time.sleep(0.5)


def last_line(deployment):
    return deployment.log.read_text().strip().splitlines()[-1]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN", "OAUTHBEARER"])
def test_a_worker_that_logs_in_over_tls_works_as_any(deployment, tiny_bundle, tmp_path, mechanism):
    kafka = {"sasl_mechanism": mechanism}
    if mechanism == "OAUTHBEARER":
        now = round(time.time())
        parts = [{"alg": "none"}, {"sub": "alice", "iat": now - 60, "exp": now + 600}]
        coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
        token = tmp_path / "token"
        token.write_text(".".join(coded) + ".")
        token.chmod(0o600)
        kafka |= {"sasl_token_file": str(token), "sasl_username": None, "sasl_password_file": None}
    deployment.set(kafka)
    with deployment.worker() as worker:
        deployment.send(frames_of(str(tiny_bundle.footage), "door")[:10])
        deployment.read("scores", 10)
        assert terminate(worker) == 0
    assert PASSWORD not in deployment.log.read_text()


def test_exactly_once_works_for_a_user_who_may_open_transactions(deployment, tiny_bundle):
    deployment.set({"delivery": "exactly_once"})
    place = ResourcePattern(ResourceType.TRANSACTIONAL_ID, "*")
    with KafkaAdminClient(bootstrap_servers=deployment.servers) as admin:
        admin.create_acls([ACL("User:alice", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, place)])
    with deployment.worker() as worker:
        deployment.send(frames_of(str(tiny_bundle.footage), "door")[:10])
        deployment.read("scores", 10)
        assert terminate(worker) == 0


@pytest.mark.parametrize("wrong", ["password", "authority", "user"])
def test_who_is_not_let_in_stops_in_one_line(deployment, secured, tmp_path, wrong):
    password = tmp_path / "wrong"
    password.write_text("battery-staple")
    password.chmod(0o600)
    deployment.set(
        {
            "password": {"sasl_password_file": str(password)},
            "authority": {"ssl_cafile": str(secured[1] / "other-ca.pem")},
            "user": {"sasl_username": "bob"},
        }[wrong]
    )
    with deployment.worker() as worker:
        assert worker.wait(STOP_SECONDS) in (1, 2)
    assert last_line(deployment).startswith("worker: ")
    assert len([line for line in deployment.log.read_text().splitlines() if not line.startswith("{")]) == 1
    assert "battery-staple" not in deployment.log.read_text()


def test_a_worker_that_may_write_no_alerts_any_more_stops_and_commits_nothing_behind(deployment, tiny_bundle):
    deployment.set(threshold=2.0, event_rule={"min_frames": 1})
    frames = frames_of(str(tiny_bundle.footage), "door")
    with deployment.worker() as worker:
        deployment.send(frames[:30])
        wait_until(lambda: sum(deployment.committed().values()) == 30)
        deny_alerts(deployment, "alice")
        deployment.send(frames[30:])
        assert worker.wait(STOP_SECONDS) == 1
    assert "TopicAuthorizationFailed" in last_line(deployment)
    # The first frame that tells of something is the 41st; its batch of at most 7 is not committed.
    assert 30 <= sum(deployment.committed().values()) <= 40
    with KafkaAdminClient(bootstrap_servers=deployment.servers) as admin:
        everywhere = ResourcePatternFilter(ResourceType.TOPIC, deployment.topics["alerts"], ACLResourcePatternType.ANY)
        admin.delete_acls([ACLFilter(None, None, ACLOperation.WRITE, ACLPermissionType.DENY, everywhere)])
    with deployment.worker() as worker:
        wait_until(lambda: sum(deployment.committed().values()) == len(frames))
        assert terminate(worker) == 0
    # Scores of the batch whose alert was refused stand there twice.
    told = [json.loads(record.value)["offset"] for record in deployment._read_once("scores", 999)]
    assert set(told) == set(range(len(frames)))
