"""Faults of brokers and of the way to them: killed, suspended, cut off, topics gone; rows of `deploy.faults`."""

import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from kafka import KafkaConsumer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata

from deploy.broker import LocalBroker, Secured, admin_client, free_ports
from deploy.fault_row import Row, Stage, checked
from deploy.fault_scene import STOP_SECONDS, Fleet
from deploy.kafka_proxy import END_TRANSACTION, KafkaProxy
from deploy.throwaway_tls import Authority
from deploy.worker_process import resident_bytes
from worker.settings import KafkaSettings
from worker.transactions import AbortedError, Transactions

_RESUME_SECONDS: Final = 60.0
_NOT_READY_SECONDS: Final = 30.0
_MEMORY_SHARE: Final = 0.2
_USER: Final = "worker"


def broker_killed(stage: Stage) -> Row:
    """Kill the broker and start it again."""
    with _own_broker(stage) as broker:
        scene = stage.scene(broker=broker, exactly_once=True)
        with Fleet(scene, static=True) as fleet:
            fleet.start(1)
            scene.send(stage.of(3000, 400))
            fleet.wait_progress()
            broker.kill()
            time.sleep(3)
            broker.restart()
            scene.send(200)
            recovered = fleet.wait_progress()
            fleet.wait_done()
        return checked(scene, "broker killed", 1, recovered, holds=recovered <= _RESUME_SECONDS)


def broker_suspended(stage: Stage) -> Row:
    """Suspend the broker for a minute."""
    with _own_broker(stage) as broker:
        scene = stage.scene(broker=broker)
        with Fleet(scene) as fleet:
            fleet.start(1)
            scene.send(stage.of(3000, 400))
            fleet.wait_done()
            # What the first frames allocate is kept for those that follow.
            scene.send(600)
            fleet.wait_done()
            time.sleep(2)
            before = resident_bytes(fleet.child().pid)
            broker.suspend()
            time.sleep(stage.of(60, 8))
            after = resident_bytes(fleet.child().pid)
            broker.resume()
            scene.send(stage.of(1000, 200))
            recovered = fleet.wait_progress()
            fleet.wait_done()
        grown = after / before - 1
        return checked(
            scene, "broker suspended", 1, recovered, holds=grown <= _MEMORY_SHARE, seen=f"memory {100 * grown:+.0f}%"
        )


def cut_off(stage: Stage) -> Row:
    """Cut the worker's connections for longer than a delivery may take."""
    with _proxied(stage) as (broker, proxy, servers):
        scene = stage.scene(broker=broker, servers=servers, kafka={"delivery_timeout_ms": 4000})
        with Fleet(scene) as fleet:
            fleet.start(1)
            scene.send(stage.of(3000, 600))
            fleet.wait_progress()
            proxy.cut()
            time.sleep(9)
            ahead = scene.unaccounted()
            proxy.restore()
            recovered = fleet.wait_done()
        return checked(
            scene,
            "connections cut past the delivery timeout",
            1,
            recovered,
            holds=not ahead,
            seen=f"{ahead} offsets ahead",
        )


def end_swallowed(stage: Stage) -> Row:
    """Keep the broker's answer to the end of a transaction."""
    with _proxied(stage) as (broker, proxy, servers):
        scene = stage.scene(broker=broker, servers=servers, exactly_once=True, kafka={"delivery_timeout_ms": 6000})
        with Fleet(scene, static=True) as fleet:
            fleet.start(1)
            scene.send(stage.of(3000, 400))
            fleet.wait_progress()
            times = stage.of(3, 1)
            recovered = 0.0
            for _ in range(times):
                before = proxy.swallowed
                proxy.swallow(END_TRANSACTION)
                scene.send(100)
                fleet.wait_until(lambda seen=before: proxy.swallowed > seen)  # type: ignore[misc]
                recovered = fleet.wait_done()
        return checked(scene, "answer to the end of a transaction lost", proxy.swallowed, recovered)


def no_broker(stage: Stage) -> Row:
    """Start where no broker answers."""
    scene = stage.scene(servers="127.0.0.1:1", kafka={"bootstrap_timeout_ms": 3000})
    with Fleet(scene) as fleet:
        began = time.monotonic()
        child = fleet.spawn(0)
        code = child.wait(30)
        took = time.monotonic() - began
        lines = fleet.log().strip().splitlines()
    good = code == 1 and len(lines) == 1 and took <= 10
    return Row("no broker at the start", 1, good, seen=f"exit {code}, {len(lines)} line, {took:.1f} s")


def stopped_without_broker(stage: Stage) -> Row:
    """Suspend the broker, then ask the worker to stop."""
    with _own_broker(stage) as broker:
        scene = stage.scene(broker=broker)
        with Fleet(scene) as fleet:
            fleet.start(1)
            scene.send(stage.of(2000, 600))
            fleet.wait_progress()
            broker.suspend()
            time.sleep(1)
            fleet.signal(0, signal.SIGTERM)
            began = time.monotonic()
            code = fleet.child().wait(STOP_SECONDS + 10)
            took = time.monotonic() - began
            broker.resume()
            fleet.tend()
            recovered = fleet.wait_done()
        return checked(
            scene, "broker gone during a commit, then SIGTERM", 1, recovered, holds=took <= STOP_SECONDS + 2,
            seen=f"exit {code} after {took:.1f} s of {STOP_SECONDS:g}",
        )  # fmt: skip


def stale_generation(stage: Stage) -> Row:
    """Commit under a stale generation, then another partition's transaction."""
    scene = stage.scene()
    kafka = KafkaSettings(
        bootstrap_servers=stage.broker.bootstrap_servers, group_id=scene.name, delivery="exactly_once"
    )
    first, second, *_ = scene.partitions()

    @contextmanager
    def unwatched(_name: str, _seconds: float) -> Iterator[None]:
        yield

    with closing(
        KafkaConsumer(
            scene.topic("frames"), bootstrap_servers=stage.broker.bootstrap_servers, group_id=scene.name,
            enable_auto_commit=False, isolation_level="read_committed",
        )
    ) as consumer:  # fmt: skip
        membership = ConsumerGroupMetadata(scene.name)
        while membership.state != MemberState.STABLE or membership.generation_id < 0:
            consumer.poll(200)
            membership = consumer.group_metadata()
        transactions = Transactions(kafka, unwatched)
        transactions.send([], membership._replace(generation_id=membership.generation_id + 7))
        refused = False
        try:
            transactions.commit({first: OffsetAndMetadata(99, "", -1)})
        except AbortedError:
            refused = True
        transactions.send([], membership)
        transactions.commit({second: OffsetAndMetadata(1, "", -1)})
        transactions.close(5)
    committed = scene.committed()
    good = refused and committed[first] == 0 and committed[second] == 1
    return Row("stale generation, then another transaction", 1, good, seen=f"leaked offset {committed[first]}")


def topic_gone(stage: Stage) -> Row:
    """Delete the alerts topic under a running worker."""
    scene = stage.scene(kafka={"delivery_timeout_ms": 10_000})
    with Fleet(scene) as fleet:
        fleet.start(1)
        scene.send(400)
        fleet.wait_done()
        before = scene.committed()
        with admin_client(stage.broker.bootstrap_servers, 30.0) as admin:
            admin.delete_topics([scene.topic("alerts"), scene.topic("scores")])
        scene.send(stage.of(1000, 400))
        child = fleet.child()
        took = fleet.wait_until(lambda: child.poll() is not None, 60, tend=False)
        moved = sum(scene.committed().values()) - sum(before.values())
        said = fleet.log().strip().splitlines()[-1]
    good = took <= _NOT_READY_SECONDS and moved == 0
    return Row(
        "alerts and scores topics deleted",
        1,
        good,
        seen=f"exit {child.poll()} after {took:.0f} s, {moved} offsets advanced: {said[:100]}",
    )


def writing_denied(stage: Stage) -> Row:
    """Take a worker's leave to write alerts and scores, then give it back."""
    keystore, trusted, password = (stage.folder / name for name in ("server.pem", "ca.pem", "password"))
    authority = Authority("framewatch faults")
    authority.write_keystore(keystore, "localhost")
    authority.write_certificate(trusted)
    password.touch(0o600)
    password.write_text(secrets.token_urlsafe(), encoding="utf-8")
    secured = Secured(keystore, {_USER: password.read_text(encoding="utf-8")})
    login = {
        "security_protocol": "SASL_SSL", "ssl_cafile": str(trusted), "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": _USER, "sasl_password_file": str(password), "delivery_timeout_ms": 10_000,
    }  # fmt: skip
    with (
        LocalBroker(log_path=stage.folder / "secured-kafka.log", secured=secured) as broker,
        admin_client(broker.bootstrap_servers, 30.0) as admin,
    ):
        scene = stage.scene(broker=broker, servers=broker.secured_servers, kafka=login)
        written = [_allowed(ResourceType.TOPIC, scene.topic(kind)) for kind in ("alerts", "scores")]
        read = [_allowed(ResourceType.TOPIC, scene.topic(kind)) for kind in ("frames", "dead")]
        admin.create_acls([*written, *read, _allowed(ResourceType.GROUP, scene.name)])
        with Fleet(scene) as fleet:
            fleet.start(1)
            scene.send(400)
            fleet.wait_done()
            before = scene.committed()
            admin.delete_acls(written)
            scene.send(stage.of(1000, 400))
            child = fleet.child()
            took = fleet.wait_until(lambda: child.poll() is not None, 60, tend=False)
            moved = sum(scene.committed().values()) - sum(before.values())
            said = fleet.log().strip().splitlines()[-1]
            admin.create_acls(written)
            recovered = fleet.wait_done()
        return checked(
            scene, "leave to write alerts and scores revoked", 1, recovered,
            holds=took <= _NOT_READY_SECONDS and moved == 0 and child.poll() == 1,
            seen=f"exit {child.poll()} after {took:.0f} s, {moved} offsets advanced: {said[:100]}",
        )  # fmt: skip


def _allowed(kind: ResourceType, name: str) -> ACL:
    return ACL(f"User:{_USER}", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, ResourcePattern(kind, name))


def expired(stage: Stage) -> Row:
    """Delete records that are not read yet."""
    scene = stage.scene()
    with Fleet(scene) as fleet:
        fleet.start(1)
        scene.send(400)
        fleet.wait_done()
        fleet.start(0)
        before = scene.committed()
        scene.send(stage.of(1000, 400))
        gone = {partition: offset + 30 for partition, offset in before.items() if scene.ends()[partition] > offset + 30}
        with admin_client(stage.broker.bootstrap_servers, 30.0) as admin:
            admin.delete_records(gone)
        fleet.start(1)
        recovered = fleet.wait_done()
        counted = fleet.log().count("frames before they were read")
        told = sum(
            int(line.split("deleted ")[1].split(" ")[0])
            for line in fleet.log().splitlines()
            if "frames before they were read" in line
        )
    good = counted == len(gone) and told == 30 * len(gone)
    return Row(
        "retention passed the committed offset",
        len(gone),
        good,
        sum(scene.ends().values()),
        recovered_seconds=recovered,
        seen=f"{told} of {30 * len(gone)} frames counted as missed",
    )


@contextmanager
def _own_broker(stage: Stage) -> Iterator[LocalBroker]:
    with LocalBroker(log_path=stage.folder / "own-kafka.log") as broker:
        yield broker


@contextmanager
def _proxied(stage: Stage) -> Iterator[tuple[LocalBroker, KafkaProxy, str]]:
    [port] = free_ports(1)
    with (
        LocalBroker(log_path=stage.folder / "proxied-kafka.log", proxy_port=port) as broker,
        KafkaProxy(port, int(broker.proxied_servers.rpartition(":")[2])) as proxy,
    ):
        yield broker, proxy, f"127.0.0.1:{port}"
