"""What the worker's settings and the environment may say, and what is refused by its field's name."""

import pytest

from contract.errors import ConfigError
from contract.event import EventRule, EventRuleChanges
from contract.settings import Settings, load_settings
from worker.settings import KafkaSettings, WorkerSettings

RULE = EventRule(min_frames=7, gap_frames=3, update_rise=0.5, update_frames=9)


def load(**flags):
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(WorkerSettings, flags={"bundle": "unused", **dotted}, environment=True)


def test_a_changed_field_of_the_rule_leaves_the_bundle_s_others():
    changes = load(event_rule__min_frames=2).event_rule
    assert changes.over(RULE) == RULE.model_copy(update={"min_frames": 2})
    assert EventRuleChanges().over(RULE) == RULE
    assert set(EventRuleChanges.model_fields) == set(EventRule.model_fields)


def test_one_field_of_the_rule_can_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("FRAMEWATCH_EVENT_RULE__MIN_FRAMES", "2")
    assert load().event_rule == EventRuleChanges(min_frames=2)


def test_a_field_of_an_optional_group_can_come_from_the_environment(monkeypatch):
    class Optional(Settings):
        event_rule: EventRule | None = None

    monkeypatch.setenv("FRAMEWATCH_EVENT_RULE__MIN_FRAMES", "2")
    assert load_settings(Optional, environment=True).event_rule == EventRule(min_frames=2)
    monkeypatch.setenv("FRAMEWATCH_EVENT_RULE__MIN_FRAME", "2")
    with pytest.raises(ConfigError, match="FRAMEWATCH_EVENT_RULE__MIN_FRAME names no setting"):
        load_settings(Optional, environment=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRAMEWATCH_SERVICE_HOST", "10.0.0.1"),
        ("FRAMEWATCH_SERVICE_PORT", "9464"),
        ("FRAMEWATCH_SERVICE_PORT_HTTP", "9464"),
        ("FRAMEWATCH_PORT", "tcp://10.0.0.1:9464"),
        ("FRAMEWATCH_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("FRAMEWATCH_PORT_9464_TCP_PROTO", "tcp"),
        ("FRAMEWATCH_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ("FRAMEWATCH_WORKER_SERVICE_PORT", "9464"),
        ("FRAMEWATCH_WORKER_PORT", "tcp://10.0.0.1:9464"),
    ],
)
def test_what_kubernetes_says_of_services_is_no_setting(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert load() is not None


@pytest.mark.parametrize("name", ["FRAMEWATCH_PORT", "FRAMEWATCH_HTTP_PORT", "FRAMEWATCH_HTP__PORT"])
def test_a_misspelt_port_is_still_refused(monkeypatch, name):
    monkeypatch.setenv(name, "9464")
    with pytest.raises(ConfigError, match=f"{name} names no setting"):
        load()


def test_a_certificate_file_that_is_not_there_is_refused_by_its_field(tmp_path):
    with pytest.raises(ConfigError, match=r"kafka\.ssl_cafile: there is no file .*ca\.pem"):
        load(kafka__ssl_cafile=str(tmp_path / "ca.pem"))
    (tmp_path / "ca.pem").write_text("")
    assert load(kafka__ssl_cafile=str(tmp_path / "ca.pem")).kafka.ssl_cafile is not None


@pytest.mark.parametrize("servers", ["localhost:65536", "localhost:0", "localhost:1,localhost:99999"])
def test_a_port_out_of_range_is_refused_by_its_field(servers):
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap_servers: the port of localhost:\d+ is not 1 to 65535"):
        load(kafka__bootstrap_servers=servers)


def test_the_greatest_port_is_taken():
    assert KafkaSettings(bootstrap_servers="localhost:65535").bootstrap_servers == "localhost:65535"
