"""Metrics and probes over real HTTP."""

import http.client
import socket
import struct
import time

import pytest

from contract.errors import ConfigError
from worker.settings import HttpSettings
from worker.telemetry import Metrics, Probes, TelemetryServer


@pytest.fixture
def served():
    now = [0.0]
    metrics, probes = Metrics(), Probes(10, clock=lambda: now[0])
    with TelemetryServer(HttpSettings(port=0), metrics, probes) as server:
        yield metrics, probes, now, server.port


def get(port, path, method="GET", host="127.0.0.1"):
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_alive_while_the_loop_turns(served):
    _, probes, now, port = served
    assert get(port, "/livez") == (200, "ok\n")
    now[0] = 9.9
    assert get(port, "/livez") == (200, "ok\n")
    now[0] = 10
    assert get(port, "/livez") == (503, "no\n")
    probes.turn()
    assert get(port, "/livez") == (200, "ok\n")


def test_ready_only_while_said_so_and_apart_from_alive(served):
    _, probes, now, port = served
    assert get(port, "/readyz") == (503, "no\n")
    probes.ready = True
    now[0] = 11
    assert get(port, "/readyz") == (200, "ok\n")
    assert get(port, "/livez")[0] == 503
    probes.ready = False
    assert get(port, "/readyz")[0] == 503


@pytest.mark.parametrize("path", ["/", "/elsewhere", "/metrics/../etc/passwd", "/livez/"])
def test_other_paths_are_not_found_and_told_what_there_is(served, path):
    assert get(served[3], path) == (404, "/metrics /livez /readyz\n")


def test_metrics_are_prometheus_text_with_what_was_counted(served):
    metrics, _, _, port = served
    metrics.frames.labels("door", "normal").inc(3)
    metrics.dead_letters.labels("truncated").inc()
    metrics.lag.labels("0").set(17)
    metrics.bundle.info({"name": "room", "version": "1", "digest": "sha256:0", "provider": "cpu"})
    with metrics.time_stage("fetch"):
        pass
    status, text = get(port, "/metrics")
    lines = text.splitlines()
    assert status == 200
    assert 'framewatch_frames_total{camera="door",outcome="normal"} 3.0' in lines
    assert 'framewatch_dead_letters_total{reason="truncated"} 1.0' in lines
    assert 'framewatch_lag_frames{partition="0"} 17.0' in lines
    assert 'framewatch_stage_seconds_count{stage="fetch"} 1.0' in lines
    assert any(line.startswith("framewatch_bundle_info{") and 'provider="cpu"' in line for line in lines)
    assert "# TYPE framewatch_frames_total counter" in lines


def test_stages_timed_elsewhere_are_counted(served):
    metrics, _, _, port = served
    for stage in ("decode", "infer", "decode"):
        metrics.observe_stage(stage, 0.25)
    text = get(port, "/metrics")[1]
    counts = {s: f'framewatch_stage_seconds_count{{stage="{s}"}} ' for s in ("decode", "infer")}
    assert [text.split(counts[s])[1].split("\n")[0] for s in counts] == ["2.0", "1.0"]
    assert 'framewatch_stage_seconds_sum{stage="decode"} 0.5' in text


def test_a_client_that_says_nothing_holds_nobody_up(served):
    port = served[3]
    with socket.create_connection(("127.0.0.1", port)):
        assert get(port, "/livez")[0] == 200


def test_two_workers_in_one_process_count_apart():
    one, other = Metrics(), Metrics()
    one.frames.labels("door", "normal").inc()
    with TelemetryServer(HttpSettings(port=0), other, Probes(10)) as server:
        assert 'camera="door"' not in get(server.port, "/metrics")[1]


def test_a_port_that_is_taken_or_an_address_elsewhere_is_a_mistake(served):
    with pytest.raises(ConfigError, match=r"choose another http\.port"):
        TelemetryServer(HttpSettings(port=served[3]), Metrics(), Probes(10))
    elsewhere = HttpSettings(host="192.0.2.1", port=0, allow_all_interfaces=True)
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1"):
        TelemetryServer(elsewhere, Metrics(), Probes(10))


def test_where_it_is_off_nothing_listens():
    with TelemetryServer(HttpSettings(enabled=False), Metrics(), Probes(10)) as server:
        assert server.port is None


def test_after_it_ended_nothing_listens():
    with TelemetryServer(HttpSettings(port=0), Metrics(), Probes(10)) as server:
        port = server.port
        assert get(port, "/livez")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        get(port, "/livez")


def test_not_ready_while_the_broker_is_silent_and_ready_again_after(served):
    _, probes, now, port = served
    probes.ready = True
    now[0] = 19.9
    assert get(port, "/readyz")[0] == 200
    now[0] = 20
    assert get(port, "/readyz")[0] == 503
    probes.answered(seconds_ago=25)
    assert get(port, "/readyz")[0] == 503
    probes.answered(seconds_ago=1)
    assert get(port, "/readyz")[0] == 200


def test_an_older_answer_does_not_undo_a_later_one():
    now = [0.0]
    probes = Probes(10, clock=lambda: now[0])
    now[0] = 30
    probes.answered()
    probes.answered(seconds_ago=30)
    assert not probes.silent


def test_the_loopback_address_of_ipv6_can_be_served():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with TelemetryServer(HttpSettings(host="::1", port=0), Metrics(), Probes(10)) as server:
        assert get(server.port, "/livez", host="::1") == (200, "ok\n")


def test_a_connection_that_is_reset_or_silent_writes_nothing(served, capfd, monkeypatch):
    monkeypatch.setattr("worker.telemetry._QuietHandler.timeout", 0.1)
    with socket.create_connection(("127.0.0.1", served[3])):
        time.sleep(0.5)
    for _ in range(3):
        reset = socket.create_connection(("127.0.0.1", served[3]))
        reset.sendall(b"GET /metrics HTTP/1.1\r\n")
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.close()
    time.sleep(0.5)
    assert get(served[3], "/livez")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_cameras_beyond_a_bound_share_a_label():
    metrics = Metrics()
    labels = [metrics.camera_label(f"camera-{number}") for number in range(600)]
    assert labels[:512] == [f"camera-{number}" for number in range(512)]
    assert set(labels[512:]) == {"other"}
    assert metrics.camera_label("camera-5") == "camera-5"


def test_lag_and_waiting_frames_of_lost_partitions_are_told_no_more_and_losing_twice_is_nothing(served):
    metrics, _, _, port = served
    for gauge in (metrics.lag, metrics.waiting, metrics.paused):
        gauge.labels("0").set(1)
        gauge.labels("1").set(1)
    metrics.forget([1, 7])
    metrics.forget([1])
    text = get(port, "/metrics")[1]
    assert 'framewatch_lag_frames{partition="0"}' in text
    assert 'partition="1"' not in text


def test_a_broker_that_answers_but_confirms_nothing_is_silent_after_a_while():
    now = 0.0
    probes = Probes(60, lambda: now)
    with probes.sending():
        now = 19.0
        probes.answered()
        assert not probes.silent
        now = 21.0
        probes.answered()
        assert probes.silent
    assert not probes.silent
