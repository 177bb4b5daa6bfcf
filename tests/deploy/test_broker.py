"""A real Kafka starts, serves, survives what it must and leaves nothing behind."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from contract.errors import ConfigError
from deploy import broker as module
from deploy.broker import (
    KAFKA_VERSION,
    MAX_RECORD_BYTES,
    STANDARD_TOPICS,
    BrokerError,
    LocalBroker,
    Topic,
    create_topics,
    fetch_kafka,
    main,
)

ROOT = Path(__file__).resolve().parents[2]
RECORD_BYTES = 100_000


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def is_listening(port: int) -> bool:
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
    return any(line[1].endswith(f":{port:04X}") and line[3] == "0A" for line in lines)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def wait_until(holds: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def records(count: int) -> list[bytes]:
    return [bytes([number]) * RECORD_BYTES for number in range(count)]


def produce(address: str, topic: str, values: list[bytes]) -> None:
    from kafka import KafkaProducer

    with contextlib.closing(KafkaProducer(bootstrap_servers=address)) as producer:
        for sent in [producer.send(topic, value, partition=0) for value in values]:
            sent.get(timeout=30)


def consume(address: str, topic: str, count: int, **settings: object) -> list[bytes]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, **settings)
    with contextlib.closing(consumer):
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        values: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(values) < count and time.monotonic() < deadline:
            for batch in consumer.poll(timeout_ms=500).values():
                values += [record.value for record in batch]
        return values


@contextlib.contextmanager
def python(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python process with `arguments` whose output is read line by line; killed at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: "subprocess.Popen[str]", pattern: str) -> str:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if re.search(pattern, line):
            return text
    pytest.fail(f"{pattern!r} did not appear in {text!r}")


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def other(broker: LocalBroker, free_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A second broker; every first choice of its ports falls on one that the session's broker holds."""
    with pytest.MonkeyPatch.context() as patch:
        choose = module.free_ports
        choices: list[list[int]] = []

        def choose_a_busy_one_first(count: int) -> list[int]:
            ports = choose(count)
            if not choices:
                ports[0] = port_of(broker.bootstrap_servers)
            choices.append(ports)
            return ports

        patch.setattr(module, "free_ports", choose_a_busy_one_first)
        started = LocalBroker(data_dir=tmp_path_factory.mktemp("other"), proxy_port=free_port)
        with started:
            assert len(choices) == 2
            yield started


@pytest.mark.broker
def test_records_of_100_kb_come_back_unchanged_and_in_order(broker: LocalBroker) -> None:
    create_topics(broker, {"round-trip": Topic()})
    produce(broker.bootstrap_servers, "round-trip", records(20))
    assert consume(broker.bootstrap_servers, "round-trip", 20) == records(20)


@pytest.mark.broker
def test_only_committed_transactions_are_read(broker: LocalBroker) -> None:
    from kafka import KafkaProducer

    create_topics(broker, {"transactions": Topic()})
    for value, commits in ((b"aborted", False), (b"committed", True)):
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id="test-broker")
        with contextlib.closing(producer):
            producer.init_transactions()
            producer.begin_transaction()
            producer.send("transactions", value, partition=0).get(timeout=30)
            producer.commit_transaction() if commits else producer.abort_transaction()
    read = consume(broker.bootstrap_servers, "transactions", 1, isolation_level="read_committed")
    assert read == [b"committed"]
    assert consume(broker.bootstrap_servers, "transactions", 2) == [b"aborted", b"committed"]


@pytest.mark.broker
def test_topics_are_created_once_with_their_settings(broker: LocalBroker) -> None:
    from kafka import KafkaAdminClient
    from kafka.admin import ConfigResource, ConfigResourceType

    topics = {f"once.{name}": topic for name, topic in STANDARD_TOPICS.items()}
    assert create_topics(broker, topics) == list(topics)
    topics["once.more"] = Topic(2)
    assert create_topics(broker.bootstrap_servers, topics) == ["once.more"]
    frames = ConfigResource(ConfigResourceType.TOPIC, "once.frames")
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
        described = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(list(topics))}
        configs = admin.describe_configs([frames])["topic"]["once.frames"]
    assert described == {
        "once.frames": 4,
        "once.alerts": 1,
        "once.frames.dead-letter": 1,
        "once.scores": 1,
        "once.scores.challenger": 1,
        "once.feedback": 1,
        "once.more": 2,
    }
    assert {name: entry["value"] for name, entry in configs.items()} == dict(STANDARD_TOPICS["frames"].config)


@pytest.mark.broker
def test_a_frame_near_the_limit_fits_into_frames_and_dead_letter(broker: LocalBroker) -> None:
    from kafka import KafkaProducer

    create_topics(broker, STANDARD_TOPICS)
    frame = bytes(MAX_RECORD_BYTES - 1024)
    headers = [("reason", b"x" * 4096)]
    with contextlib.closing(
        KafkaProducer(bootstrap_servers=broker.bootstrap_servers, max_request_size=2 * MAX_RECORD_BYTES)
    ) as producer:
        producer.send("frames", frame, partition=3).get(timeout=30)
        producer.send("frames.dead-letter", frame, headers=headers).get(timeout=30)


@pytest.mark.broker
def test_a_topic_that_the_broker_refuses_is_named(broker: LocalBroker) -> None:
    with pytest.raises(BrokerError, match=r"topic wrong-setting: Unknown topic config name: no\.such\.setting"):
        create_topics(broker, {"wrong-setting": Topic(1, {"no.such.setting": "1"})})


def test_topics_on_an_address_without_a_broker_fail_with_the_address(free_port: int) -> None:
    threads = threading.active_count()
    with pytest.raises(BrokerError, match=f"Kafka at 127.0.0.1:{free_port} .*bootstrap"):
        create_topics(f"127.0.0.1:{free_port}", {"any": Topic()}, timeout_seconds=0.5)
    assert threading.active_count() == threads


@pytest.mark.broker
def test_a_running_broker_is_not_started_twice_and_not_stopped_by_a_forked_child(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BrokerError, match="runs already"):
        broker.start()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    broker.stop()
    monkeypatch.undo()
    assert broker.is_running
    assert is_alive(broker.pid)


@pytest.mark.broker
def test_two_brokers_run_at_once_and_share_nothing(broker: LocalBroker, other: LocalBroker) -> None:
    create_topics(other, {"only-here": Topic()})
    produce(other.bootstrap_servers, "only-here", records(1))
    assert create_topics(broker, {"only-here": Topic()}) == ["only-here"]
    assert consume(other.bootstrap_servers, "only-here", 1) == records(1)
    assert len({broker.pid, other.pid}) == len({broker.bootstrap_servers, other.bootstrap_servers}) == 2


@pytest.mark.broker
def test_a_second_broker_on_the_same_data_is_refused(other: LocalBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.0)
    folder = other.log_path.parent
    with pytest.raises(BrokerError, match=f"{re.escape(str(folder))} is in use by another broker"):
        LocalBroker(data_dir=folder).start()
    assert other.is_running


@pytest.mark.broker
def test_clients_that_come_through_a_proxy_stay_behind_it(other: LocalBroker, free_port: int) -> None:
    with proxy(free_port, port_of(other.proxied_servers)) as connections:
        create_topics(f"127.0.0.1:{free_port}", {"proxied": Topic()})
        produce(f"127.0.0.1:{free_port}", "proxied", [b"value"])
        assert consume(f"127.0.0.1:{free_port}", "proxied", 1) == [b"value"]
        # Each client connects once to ask for the brokers and again to the broker that it was told.
        assert len(connections) >= 6


@contextlib.contextmanager
def proxy(port: int, target: int) -> Iterator[list[socket.socket]]:
    """Forward connections from one port of loopback to another; yields those accepted so far."""
    accepted: list[socket.socket] = []
    pumps: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", target))
                accepted.append(client)
                sockets.extend([client, server])
                for ends in ((client, server), (server, client)):
                    pumps.append(threading.Thread(target=pump, args=ends))
                    pumps[-1].start()

    sockets: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", port)) as listener:
        acceptor = threading.Thread(target=serve)
        acceptor.start()
        try:
            yield accepted
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for end in sockets:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in pumps:
                thread.join()
            for end in sockets:
                end.close()


@pytest.mark.broker
def test_a_suspended_broker_answers_nothing_until_it_is_resumed(other: LocalBroker) -> None:
    other.suspend()
    try:
        with pytest.raises(BrokerError):
            create_topics(other, {"late": Topic()}, timeout_seconds=1.0)
        assert other.is_running
    finally:
        other.resume()
    assert create_topics(other, {"later": Topic()}) == ["later"]


@pytest.mark.broker
def test_a_killed_broker_comes_back_with_its_data_at_the_same_address(other: LocalBroker) -> None:
    create_topics(other, {"kept": Topic()})
    produce(other.bootstrap_servers, "kept", records(3))
    address, pid = other.bootstrap_servers, other.pid
    other.kill()
    assert not is_alive(pid)
    assert not other.is_running
    with pytest.raises(BrokerError, match="does not run"):
        other.suspend()
    other.restart()
    assert other.bootstrap_servers == address
    assert other.pid != pid
    assert consume(address, "kept", 3) == records(3)


@pytest.mark.broker
def test_the_command_serves_until_sigterm_and_its_data_can_be_used_again(broker: LocalBroker, tmp_path: Path) -> None:
    busy = port_of(broker.bootstrap_servers)
    with python("-m", "deploy.broker", "--port", str(busy), "--data-dir", str(tmp_path), "--topics") as process:
        text = read_until(process, r"stop it with Ctrl-C\n")
        match = re.search(r"Kafka listens on (127\.0\.0\.1:(\d+)) \(pid (\d+), log \S+server\.log\)\n", text)
        assert match is not None
        address, port, pid = match[1], int(match[2]), int(match[3])
        assert text.startswith(f"starting Apache Kafka {KAFKA_VERSION}\n")
        assert f"port {busy} cannot be had (Address already in use); taking {port} instead\n" in text
        assert f"topics: {', '.join(STANDARD_TOPICS)}\n" in text
        produce(address, "frames", records(2))
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert rest == "stopping\n"
    assert process.returncode == 0
    assert not is_alive(pid)
    assert not is_listening(port)

    with LocalBroker(data_dir=tmp_path) as again:
        pid, port = again.pid, port_of(again.bootstrap_servers)
        assert is_listening(port)
        assert consume(again.bootstrap_servers, "frames", 2) == records(2)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BrokerError, match=r"ended by itself with status -9.*server\.log"):
            again.wait()
    assert not is_alive(pid)
    assert not is_listening(port)
    assert (tmp_path / "data" / "meta.properties").is_file()
    again.stop()


STARTED_IN_A_THREAD = """
import sys, threading
from deploy.broker import LocalBroker
broker = LocalBroker()
thread = threading.Thread(target=broker.start)
thread.start()
thread.join()
print("started", broker.pid, broker.log_path.parent, flush=True)
sys.stdin.read()
"""


@pytest.mark.broker
@pytest.mark.parametrize("ending", ["exit", "kill"])
def test_no_broker_outlives_its_parent(ending: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTED_IN_A_THREAD],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _, number, path = read_until(process, r"started").split()
            pid, folder = int(number), Path(path)
            # The thread that started the broker has ended; the broker must not have ended with it.
            assert not wait_until(lambda: not is_alive(pid), seconds=0.5)
            if ending == "exit":
                process.communicate(timeout=30)
        finally:
            process.kill()
    assert wait_until(lambda: not is_alive(pid))
    assert folder.parent == tmp_path
    assert folder.exists() == (ending == "kill")


@pytest.mark.broker
def test_a_server_that_ends_at_its_start_is_explained_by_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    faulty = LocalBroker(properties={"authorizer.class.name": "no.such.Authorizer"})
    with pytest.raises(BrokerError, match=r"Kafka ended with status 1 .*no\.such\.Authorizer") as caught:
        faulty.start()
    log = re.search(r"its log is (\S+)$", str(caught.value))
    assert log is not None
    assert "no.such.Authorizer" in Path(log[1]).read_text()
    assert "no.such.Authorizer" in caught.value.__notes__[0]
    assert not faulty.is_running
    assert [path.name for path in tmp_path.glob("*/data")] == []


@pytest.mark.broker
def test_a_setting_that_kafka_does_not_accept_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"cannot be formatted .*Invalid value many .*num\.io\.threads"):
        LocalBroker(data_dir=tmp_path, properties={"num.io.threads": "many"}).start()


def test_a_broker_that_was_not_started_says_so() -> None:
    idle = LocalBroker()
    for read in (lambda: idle.bootstrap_servers, lambda: idle.log_path, lambda: idle.pid, idle.restart, idle.kill):
        with pytest.raises(BrokerError, match=r"was not started|does not run"):
            read()
    assert not idle.is_running
    idle.stop()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--port", "0"], "--port"),
        (["--port", "kafka"], "--port"),
        (["--no-such"], "--no-such"),
        (["--data-dir", "FILE"], "expected a folder"),
    ],
)
def test_a_mistake_on_the_command_line_costs_one_line_and_exit_code_2(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FILE").touch()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert main([str(tmp_path / part) if part == "FILE" else part for part in arguments]) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert named in captured.err


def test_a_data_folder_whose_path_kafka_would_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a comma"):
        LocalBroker(data_dir=tmp_path / "a,b")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAMEWATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_FETCH_ATTEMPTS", 1)
    return tmp_path / "cache"


def write_archives(jars: Path, repository: Path) -> None:
    repository.mkdir(parents=True)
    jars.mkdir(parents=True)
    (jars / "kafka.jar").write_bytes(b"archive")
    time.sleep(0.2)


def test_archives_are_fetched_once_also_when_two_ask_at_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archives(tmp_path / "jars", tmp_path / "repository")
    monkeypatch.setattr(module, "_JARS_SHA256", module._digest(tmp_path / "jars"))
    monkeypatch.setattr(module, "_download", write_archives)
    lines: list[str] = []
    threads = [threading.Thread(target=fetch_kafka, args=(lines.append,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jars = cache / f"kafka-{KAFKA_VERSION}"
    assert lines == [f"fetching Apache Kafka {KAFKA_VERSION} into {jars}, this once"]
    assert fetch_kafka(lines.append) == jars
    assert [path.name for path in jars.iterdir()] == ["kafka.jar"]
    assert sorted(path.name for path in cache.iterdir()) == [jars.name, f"{jars.name}.lock"]


def test_archives_that_are_not_the_expected_ones_are_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_download", write_archives)
    with pytest.raises(BrokerError, match="not the expected ones"):
        fetch_kafka()
    assert not (cache / f"kafka-{KAFKA_VERSION}").exists()


def test_an_interrupted_fetch_leaves_nothing_that_a_later_one_takes_for_whole(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(jars: Path, repository: Path) -> None:
        write_archives(jars, repository)
        (jars / "half.jar").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_kafka()
    write_archives(tmp_path / "jars", tmp_path / "repository")
    monkeypatch.setattr(module, "_JARS_SHA256", module._digest(tmp_path / "jars"))
    monkeypatch.setattr(module, "_download", write_archives)
    assert [path.name for path in fetch_kafka().iterdir()] == ["kafka.jar"]


def test_an_unreachable_registry_is_one_error_that_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jgo = pytest.importorskip("jgo.maven")

    def unreachable(*arguments: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(jgo.PythonResolver, "resolve", unreachable)
    with pytest.raises(BrokerError, match="no route; the first start needs the network") as caught:
        fetch_kafka()
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_the_compose_file_gives_the_same_broker_and_topics() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    kafka = services["kafka"]
    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    script = " ".join(services["topics"]["command"])
    for name, topic in STANDARD_TOPICS.items():
        settings = "".join(f" --config {key}={value}" for key, value in topic.config.items())
        assert f"--topic {name} --partitions {topic.partitions}{settings}\n" in script
    for name, value in module._SERVER_DEFAULTS.items():
        variable = f"KAFKA_{name.upper().replace('.', '_')}"
        if variable in kafka["environment"]:
            assert str(kafka["environment"][variable]).lower() == str(value).lower()
    same = {"auto.create.topics.enable", "message.max.bytes", "group.initial.rebalance.delay.ms"}
    assert {f"KAFKA_{name.upper().replace('.', '_')}" for name in same} <= set(kafka["environment"])


def test_java_is_found() -> None:
    assert shutil.which(module._java()) is not None
