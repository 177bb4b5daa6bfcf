"""The short form of every row of the fault matrix, and the proxy and the verifier that rows rely on."""

import json

import pytest
from kafka import KafkaConsumer

from deploy.broker import LocalBroker, free_ports
from deploy.fault_scene import Fleet
from deploy.faults import ROWS, Row, cells, page, run_row, staged
from deploy.kafka_proxy import KafkaProxy

API_VERSIONS = 18


@pytest.fixture(scope="module")
def stage():
    with staged(short=True) as opened:
        yield opened


@pytest.mark.broker
@pytest.mark.parametrize("name", ROWS)
def test_what_must_hold_does(stage, name):
    row = run_row(name, stage)
    assert row.holds, row


@pytest.mark.broker
def test_the_verifier_finds_what_is_missing_repeated_and_different(stage):
    scene = stage.scene(exactly_once=True)
    with Fleet(scene) as fleet:
        fleet.start(1)
        scene.send(60)
        fleet.wait_done()
    scores = [json.loads(record.value) for record in scene.records("scores")]
    assert scene.verify() == scene.verify()
    found = scene.verify()
    assert (found.frames, found.missing, found.repeated, found.different) == (60, 0, 0, 0)
    original = scene.records
    rest = list(original("frames"))

    def tampered(kind):
        if kind != "scores":
            return iter(rest if kind == "frames" else list(original(kind)))
        changed = [*scores[:-3], scores[0], {**scores[1], "anomaly_score": scores[1]["anomaly_score"] + 1}]
        return iter([type("Record", (), {"value": json.dumps(one).encode()}) for one in changed])

    scene.records = tampered
    found = scene.verify()
    assert (found.missing, found.repeated, found.different) == (3, 2, 1)


@pytest.mark.broker
def test_the_proxy_forwards_swallows_and_cuts(tmp_path):
    [port] = free_ports(1)
    with (
        LocalBroker(log_path=tmp_path / "log", proxy_port=port) as broker,
        KafkaProxy(port, int(broker.proxied_servers.rpartition(":")[2])) as proxy,
    ):
        configs = {"bootstrap_servers": f"127.0.0.1:{port}", "bootstrap_timeout_ms": 2000, "request_timeout_ms": 1500}
        consumer = KafkaConsumer(**configs)
        consumer.topics()
        consumer.close()
        proxy.swallow(API_VERSIONS, 50)
        with pytest.raises(Exception, match="imeout"):
            KafkaConsumer(**configs)
        assert proxy.swallowed >= 1
        proxy.swallow(API_VERSIONS, 0)
        proxy.cut()
        with pytest.raises(Exception, match="imeout"):
            KafkaConsumer(**configs)
        proxy.restore()
        KafkaConsumer(**configs).close()


def test_the_page_names_what_does_not_hold():
    rows = {"1": Row("kill", 20, holds=True, frames=10, recovered_seconds=1.25), "7": Row("none", 1, holds=False)}
    text = page(rows)
    assert "| 1 | kill | 20 | 10 | 0 | 0 | 0 | 1.2 | yes | |" in text
    assert "| 7 | none | 1 | 0 | 0 | 0 | 0 | | NO | |" in text
    assert cells("7", rows["7"])[0] == "7"
