"""The fault matrix: what kills such workers, done to real ones on a real Kafka, and what must hold.

``make faults`` runs every row and prints it; docs/benchmarks/faults.md keeps the table. ``--rows 1,6`` runs some, and
``--short`` a short form of each, which ``make test`` runs too.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata
from rich.console import Console

from contract.command_line import run_command_line
from contract.errors import FramewatchError
from contract.manifest import open_bundle
from contract.runtime import Detector
from deploy.bench import room_frames
from deploy.broker import LocalBroker, admin_client, free_ports
from deploy.fault_scene import SESSION_SECONDS, STOP_SECONDS, Fleet, Scene
from deploy.kafka_proxy import END_TRANSACTION, KafkaProxy
from deploy.measured import table
from deploy.worker_process import open_descriptors, python_command, resident_bytes
from worker.engine import Engine, IncomingFrame
from worker.transactions import AbortedError, Transactions

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "faults.md"
OUT: Final = Path("faults-out")
_VIDEO: Final = Path(__file__).resolve().parent / "footage" / "room.mp4"
_ANOMALOUS_SHARE: Final = 0.1
_RESUME_SECONDS: Final = 60.0
_NOT_READY_SECONDS: Final = 30.0
_MEMORY_SHARE: Final = 0.2
_STRANGE: Final = 2
_STRANGE_CAMERA: Final = b"room-strange"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@dataclass(frozen=True)
class Row:
    """One fault as it was injected.

    Attributes:
        fault: What was done.
        injected: How many times.
        holds: Whether what must hold did.
        frames: On the frames topic.
        missing: See `deploy.fault_scene.Verified`.
        repeated: See there.
        different: See there.
        recovered_seconds: From the last fault until more was committed; None where nothing is to recover.
        seen: What else was seen.
    """

    fault: str
    injected: int
    holds: bool
    frames: int = 0
    missing: int = 0
    repeated: int = 0
    different: int = 0
    recovered_seconds: float | None = None
    seen: str = ""


@dataclass(frozen=True)
class Stage:
    """What rows are run on.

    Attributes:
        broker: That all rows share which do not harm it.
        folder: For settings and logs.
        bundle: A small model of a clip of three frames and their motion.
        threshold: Such that a tenth of the frames are anomalous.
        encoded: JPEG frames of the room.
        short: Whether each fault is injected few times over few frames.
    """

    broker: LocalBroker
    folder: Path
    bundle: Path
    threshold: float
    encoded: list[bytes]
    short: bool

    def scene(self, *, exactly_once: bool = False, **changes: Any) -> Scene:  # noqa: ANN401
        """A row's own topics."""
        broker = changes.pop("broker", self.broker)
        return Scene(broker, self.folder, self.bundle, self.threshold, self.encoded, exactly_once, **changes)

    def of(self, full: int, short: int) -> int:
        """A number for the full form or the short one."""
        return short if self.short else full


Fault = Callable[[Stage], Row]


def _checked(
    scene: Scene, fault: str, injected: int, recovered: float | None, *, holds: bool = True, seen: str = ""
) -> Row:
    found = scene.verify()
    good = holds and not (found.missing or found.repeated or found.different)
    return Row(fault, injected, good, found.frames, found.missing, found.repeated, found.different, recovered, seen)


def killed(stage: Stage, *, exactly_once: bool = False) -> Row:
    """Kill a random worker, again and again."""
    scene, times = stage.scene(exactly_once=exactly_once), stage.of(20, 2)
    chance = np.random.default_rng(0)
    with Fleet(scene, static=exactly_once) as fleet:
        fleet.start(2)
        frames = stage.of(10_000, 800) // times
        for _ in range(times):
            scene.send(frames)
            time.sleep(chance.uniform(0.2, 2.0))
            fleet.signal(int(chance.choice(fleet.running)), signal.SIGKILL)
            fleet.tend()
        recovered = fleet.wait_progress() if scene.committed() != scene.ends() else 0.0
        fleet.wait_done()
    return _checked(scene, "kill -9 of a random worker" + _mode(exactly_once=exactly_once), times, recovered)


def killed_exactly_once(stage: Stage) -> Row:
    """The same in exactly-once."""
    return killed(stage, exactly_once=True)


def suspended(stage: Stage, *, exactly_once: bool = False) -> Row:
    """Suspend a worker past its session."""
    scene, times = stage.scene(exactly_once=exactly_once), stage.of(10, 1)
    with Fleet(scene) as fleet:
        fleet.start(2)
        fleet.wait_until(lambda: '"running"' in fleet.log(0) and '"running"' in fleet.log(1))
        for number in range(times):
            scene.send(stage.of(4000, 600) // times)
            fleet.signal(number % 2, signal.SIGSTOP)
            time.sleep(SESSION_SECONDS + 3)
            scene.send(40)
            fleet.signal(number % 2, signal.SIGCONT)
        recovered = fleet.wait_done()
    return _checked(scene, "worker suspended past its session" + _mode(exactly_once=exactly_once), times, recovered)


def suspended_exactly_once(stage: Stage) -> Row:
    """The same in exactly-once."""
    return suspended(stage, exactly_once=True)


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
        return _checked(scene, "broker killed", 1, recovered, holds=recovered <= _RESUME_SECONDS)


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
        return _checked(
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
        return _checked(
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
        return _checked(scene, "answer to the end of a transaction lost", proxy.swallowed, recovered)


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
        return _checked(
            scene, "broker gone during a commit, then SIGTERM", 1, recovered, holds=took <= STOP_SECONDS + 2,
            seen=f"exit {code} after {took:.1f} s of {STOP_SECONDS:g}",
        )  # fmt: skip


def stale_generation(stage: Stage) -> Row:
    """Commit under a stale generation, then another partition's transaction."""
    from worker.settings import KafkaSettings

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


def scaled(stage: Stage) -> Row:
    """Have one worker, four, and one again, in exactly-once."""
    scene, times = stage.scene(exactly_once=True), stage.of(10, 1)
    with Fleet(scene) as fleet:
        for _ in range(times):
            fleet.start(1)
            scene.send(stage.of(3000, 400) // times)
            fleet.start(4)
            time.sleep(stage.of(6, 4))
            scene.send(stage.of(3000, 400) // times)
            fleet.start(1)
        recovered = fleet.wait_done()
    return _checked(scene, "1 to 4 to 1 workers" + _mode(exactly_once=True), times, recovered)


def same_name(stage: Stage) -> Row:
    """Two workers under one static name."""
    scene = stage.scene(kafka={"group_instance_id": "twin"})
    with Fleet(scene) as fleet:
        fleet.start(1)
        scene.send(stage.of(2000, 400))
        fleet.wait_progress()
        second = fleet.spawn(1)
        try:
            first = fleet.child()
            fleet.wait_until(lambda: first.poll() is not None or second.poll() is not None, 60, tend=False)
            ended = [child.poll() for child in (first, second)]
            scene.send(200)
            recovered = fleet.wait_until(lambda: scene.committed() == scene.ends(), tend=False)
        finally:
            second.kill()
            second.wait()
    good = sorted(ended, key=str) == [1, None]
    return _checked(scene, "two workers under one static name", 1, recovered, holds=good, seen=f"exits {ended}")


def long_batch(stage: Stage) -> Row:
    """A batch of three sessions, under the poll interval."""
    return _slow(stage, 3 * SESSION_SECONDS, {}, "batch of three sessions", lost=False)


def too_long_batch(stage: Stage) -> Row:
    """A batch longer than the poll interval."""
    return _slow(stage, 16.0, {"max_poll_interval_ms": 7000}, "batch over the poll interval", lost=True)


def _slow(stage: Stage, seconds: float, kafka: dict[str, Any], fault: str, *, lost: bool) -> Row:
    scene = stage.scene(kafka=kafka)
    flag = stage.folder / f"{scene.name}-slow"
    with Fleet(scene, sabotage={"slow": str(flag), "seconds": seconds}) as fleet:
        fleet.start(1)
        scene.send(200)
        fleet.wait_done()
        flag.touch()
        scene.send(stage.of(2000, 400))
        fleet.wait_until(lambda: not flag.exists())
        recovered = fleet.wait_done()
        moved = '"partitions lost"' in fleet.log()
    return _checked(
        scene, fault, 1, recovered, holds=moved == lost, seen="partitions moved" if moved else "no rebalance"
    )


def poison(stage: Stage) -> Row:
    """Records that the client cannot read."""
    scene = stage.scene()
    with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap_servers)) as producer:
        for partition in range(_STRANGE):
            producer.send(
                scene.topic("frames"), stage.encoded[0], key=b"room-0", headers=[(_NotText("name"), b"")],
                partition=partition,
            ).get(timeout=20)  # fmt: skip
    scene.send(stage.of(1000, 200))
    with Fleet(scene) as fleet:
        fleet.start(1)
        recovered = fleet.wait_done()
    return _with_letters(scene, "records that the client cannot read", recovered)


def codec_missing(stage: Stage) -> Row:
    """Records in a codec whose library the worker lacks."""
    scene = stage.scene()
    # With bytes behind the picture that are worth compressing.
    _send_strange(stage.broker, scene, stage.encoded[0] + bytes(2**16), compression_type="zstd")
    scene.send(stage.of(1000, 200))
    with Fleet(scene, sabotage={"codec": "zstd"}) as fleet:
        fleet.start(1)
        recovered = fleet.wait_done()
    return _with_letters(scene, "codec missing", recovered)


def corrupted(stage: Stage) -> Row:
    """Bytes of records that changed on the broker's disk."""
    data = stage.folder / "corrupted"
    with LocalBroker(data_dir=data, log_path=stage.folder / "corrupted-kafka.log") as broker:
        scene = stage.scene(broker=broker)
        scene.send(100)
        _send_strange(broker, scene, stage.encoded[0])
        scene.send(stage.of(1000, 200))
        # Ended cleanly: a broker that was killed checks its segments, and drops what follows a damaged record.
        os.kill(broker.pid, signal.SIGTERM)
        while broker.is_running:
            time.sleep(0.1)
        for partition in range(_STRANGE):
            segment = data / "data" / f"{scene.topic('frames')}-{partition}" / f"{0:020}.log"
            held = bytearray(segment.read_bytes())
            held[held.index(_STRANGE_CAMERA) + 100] ^= 1
            segment.write_bytes(held)
        broker.restart()
        with Fleet(scene) as fleet:
            fleet.start(1)
            recovered = fleet.wait_done()
        return _with_letters(scene, "bytes changed on the broker's disk", recovered)


def _send_strange(broker: LocalBroker, scene: Scene, data: bytes, **options: Any) -> None:  # noqa: ANN401
    """Send a frame of a camera of its own to each of the first partitions, in a batch of its own."""
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap_servers, **options)) as producer:
        for partition in range(_STRANGE):
            producer.send(scene.topic("frames"), data, key=_STRANGE_CAMERA, partition=partition).get(timeout=20)


def _with_letters(scene: Scene, fault: str, recovered: float) -> Row:
    letters = sum(1 for _ in scene.records("dead"))
    return _checked(
        scene, fault, _STRANGE, recovered, holds=letters == _STRANGE, seen=f"{letters} dead letters"
    )  # fmt: skip


class _NotText(str):
    """A header's name that no UTF-8 decoder takes; a producer in another language sends it without knowing."""

    __slots__ = ()

    def encode(self, *_arguments: object) -> bytes:
        """The name, as bytes that are not UTF-8."""
        return b"\xff\xfe"


def bomb(stage: Stage) -> Row:
    """A record that unpacks to very much, onto a topic that the broker keeps uncompressed."""
    scene = stage.scene()
    with admin_client(stage.broker.bootstrap_servers, 30.0) as admin:
        from kafka.admin import ConfigResource, ConfigResourceType

        admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, scene.topic("frames"), {"compression.type": "uncompressed"})]
        )
    size = stage.of(1000, 100) * 2**20
    producer = KafkaProducer(
        bootstrap_servers=stage.broker.bootstrap_servers, compression_type="gzip", max_request_size=2**31 - 1,
        request_timeout_ms=120_000, delivery_timeout_ms=180_000,
    )  # fmt: skip
    try:
        producer.send(scene.topic("frames"), bytes(size), key=b"room-0", partition=0).get(timeout=180)
        refused = ""
    except KafkaError as error:
        refused = type(error).__name__
    producer.close(timeout=5)
    scene.send(200)
    with Fleet(scene) as fleet:
        fleet.start(1)
        recovered = fleet.wait_done()
        megabytes = resident_bytes(fleet.child().pid) / 2**20
    return _checked(
        scene, f"compressed record of {size >> 20} MiB", 1, recovered, holds=bool(refused),
        seen=f"the broker refuses it ({refused}); worker {megabytes:.0f} MiB",
    )  # fmt: skip


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


def inference_fails(stage: Stage) -> Row:
    """Inference that raises."""
    scene = stage.scene()
    flag = stage.folder / f"{scene.name}-fail"
    with Fleet(scene, sabotage={"fail": str(flag)}) as fleet:
        fleet.start(1)
        scene.send(200)
        fleet.wait_done()
        flag.touch()
        scene.send(stage.of(1000, 300))
        child = fleet.child()
        fleet.wait_until(lambda: child.poll() is not None, 60, tend=False)
        tries = fleet.log().count("more tries") + 1
        flag.unlink()
        recovered = fleet.wait_done()
    return _checked(
        scene, "inference fails", 1, recovered, holds=child.poll() == 1 and tries <= 3,
        seen=f"{tries} tries, exit {child.poll()}",
    )  # fmt: skip


def stopped_under_load(stage: Stage) -> Row:
    """SIGTERM in the middle of a backlog."""
    scene = stage.scene()
    with Fleet(scene) as fleet:
        scene.send(stage.of(6000, 1000))
        fleet.start(1)
        fleet.wait_progress()
        fleet.signal(0, signal.SIGTERM)
        began = time.monotonic()
        code = fleet.child().wait(STOP_SECONDS + 10)
        took = time.monotonic() - began
        done = sum(1 for _ in scene.records("scores"))
        ahead = done - sum(scene.committed().values())
        fleet.tend()
        recovered = fleet.wait_done()
    return _checked(
        scene, "SIGTERM under load", 1, recovered, holds=code == 0 and took <= STOP_SECONDS and ahead == 0,
        seen=f"exit {code} after {took:.1f} s, {ahead} finished and not committed",
    )  # fmt: skip


def soaked(stage: Stage) -> Row:
    """A steady rate for a while."""
    scene = stage.scene()
    with Fleet(scene) as fleet:
        fleet.start(1)
        scene.send(stage.of(2000, 600))
        fleet.wait_done()
        pid = fleet.child().pid
        before, files = resident_bytes(pid), open_descriptors(pid)
        ends_at = time.monotonic() + stage.of(120, 10)
        while time.monotonic() < ends_at:
            scene.send(100)
            fleet.wait_done()
        grown, opened = (resident_bytes(pid) - before) / 2**20, open_descriptors(pid) - files
    return _checked(
        scene,
        "soak",
        1,
        None,
        holds=grown <= 16 and opened <= 4,
        seen=f"{grown:+.1f} MiB, {opened:+d} descriptors",
    )


def clock_moved(stage: Stage) -> Row:
    """Move the wall clock by an hour."""
    scene = stage.scene()
    flag = stage.folder / f"{scene.name}-clock"
    with Fleet(scene, sabotage={"clock": str(flag), "seconds": 3600}) as fleet:
        fleet.start(1)
        scene.send(200)
        fleet.wait_done()
        flag.touch()
        scene.send(stage.of(1000, 300))
        recovered = fleet.wait_done()
    return _checked(scene, "wall clock moved by an hour", 1, recovered)


def model_replaced(stage: Stage) -> Row:
    """Overwrite the bundle under a running worker."""
    copy = stage.folder / "replaced"
    shutil.copytree(stage.bundle, copy, dirs_exist_ok=True)
    scene = stage.scene()
    scene = replace(scene, bundle=copy, name=scene.name)
    with Fleet(scene) as fleet:
        fleet.start(1)
        scene.send(200)
        fleet.wait_done()
        (copy / "detector.onnx").write_bytes(b"broken")
        scene.send(stage.of(1000, 300))
        recovered = fleet.wait_done()
        refused = fleet.spawn(1).wait(60)
    alive = fleet.ends == 0
    restored = replace(scene, bundle=stage.bundle, name=scene.name)
    return _checked(
        restored, "bundle overwritten under a running worker", 1, recovered, holds=alive and refused == 2,
        seen=f"the next worker refuses it, exit {refused}",
    )  # fmt: skip


ROWS: Final[dict[str, Fault]] = {
    "1": killed,
    "1x": killed_exactly_once,
    "2": suspended,
    "2x": suspended_exactly_once,
    "3": broker_killed,
    "4": broker_suspended,
    "5": cut_off,
    "6": end_swallowed,
    "7": no_broker,
    "8": stopped_without_broker,
    "9": stale_generation,
    "10": scaled,
    "11": same_name,
    "12": long_batch,
    "13": too_long_batch,
    "14": poison,
    "14c": codec_missing,
    "14d": corrupted,
    "15": bomb,
    "16": topic_gone,
    "17": expired,
    "18": inference_fails,
    "19": stopped_under_load,
    "20": soaked,
    "21": clock_moved,
    "22": model_replaced,
}
"""By their numbers; ``x`` is exactly-once, other letters are further forms of a row."""


@app.command()
def faults(
    rows: Annotated[str | None, typer.Option(help="Rows to run alone, separated by commas.")] = None,
    *,
    short: Annotated[bool, typer.Option("--short", help="Few faults and frames; the page is left as it is.")] = False,
) -> int:
    """Inject every fault, print a row each, and write the page."""
    chosen = rows.split(",") if rows else list(ROWS)
    told: dict[str, Row] = {}
    with staged(short=short) as stage:
        for name in chosen:
            told[name] = run_row(name, stage)
            typer.echo(" | ".join(cells(name, told[name])))
    if not short and rows is None:
        PAGE.write_text(page(told), encoding="utf-8")
    return 0 if all(row.holds for row in told.values()) else 1


def run_row(name: str, stage: Stage) -> Row:
    """Inject one fault; a row that does not come to its end does not hold."""
    try:
        return ROWS[name](stage)
    except (FramewatchError, KafkaError, subprocess.TimeoutExpired) as error:
        fault = (ROWS[name].__doc__ or name).rstrip(".")
        return Row(fault, 1, holds=False, seen=f"{type(error).__name__}: {error}"[:300])


@contextmanager
def staged(*, short: bool) -> Iterator[Stage]:
    """A broker, a small model and footage for the rows."""
    OUT.mkdir(exist_ok=True)
    bundle = _small_bundle()
    encoded = room_frames()
    threshold = _threshold(bundle, encoded)
    folder = Path(tempfile.mkdtemp(dir=OUT))
    with LocalBroker(log_path=folder / "kafka.log") as broker:
        yield Stage(broker, folder, bundle, threshold, encoded, short)


def cells(name: str, row: Row) -> tuple[str, ...]:
    """A row's cells."""
    recovered = f"{row.recovered_seconds:.1f}" if row.recovered_seconds is not None else ""
    counts = (row.injected, row.frames, row.missing, row.repeated, row.different)
    return (name, row.fault, *map(str, counts), recovered, "yes" if row.holds else "NO", row.seen)


def page(told: dict[str, Row]) -> str:
    """The page as Markdown."""
    columns = (
        "row", "fault", "injected", "frames", "missing", "repeated", "different", "recovered after, s", "holds", "seen"
    )  # fmt: skip
    lines = [
        "# Faults",
        "",
        "`make faults` writes this page: every fault is done to real workers on a real Kafka, and what they told is",
        "compared with an uninterrupted run over the same records. Missing: frames with neither a score nor a dead",
        "letter, and alerts never told. Repeated, in exactly-once: told more than once. Different: scores by more than",
        "1e-4, alerts by anything but their pictures.",
        "",
        *table(columns, [cells(name, row) for name, row in told.items()]),
        "",
    ]
    return "\n".join(lines)


def _mode(*, exactly_once: bool) -> str:
    return ", exactly-once" if exactly_once else ", at-least-once"


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


def _small_bundle() -> Path:
    """Fit and export a small model, once a checkout."""
    bundle = OUT / "bundle"
    if (bundle / "manifest.json").is_file():
        return bundle
    config = OUT / "fit.yaml"
    config.write_text(
        """\
model: {height: 64, width: 112, widths: [8, 8, 8], latent: 8, bottleneck: frame, clip_frames: 3, motion: difference-1,
        comparator: null}
pseudo_anomalies: []
augment: false
batch: 16
precision: fp32
device: cpu
epochs: 4
""",
        encoding="utf-8",
    )
    shutil.rmtree(OUT / "run", ignore_errors=True)
    for command in (
        python_command("trainer", "fit", f"{_VIDEO}#0:200", "--config", str(config), "--out", str(OUT / "run")),
        python_command("exporter", "build", str(OUT / "run"), "--out", str(bundle), "--name", "faults"),
    ):
        subprocess.run(command, check=True, capture_output=True)
    return bundle


def _threshold(bundle: Path, encoded: list[bytes]) -> float:
    engine = Engine(Detector(open_bundle(bundle), "cpu", 1))
    frames = [IncomingFrame("room", "frames", 0, number, 0, data) for number, data in enumerate(encoded)]
    scores = [
        one.anomaly_score or 0.0
        for start in range(0, len(frames), 64)
        for one in engine.process(frames[start : start + 64])
    ]
    return float(np.quantile(scores, 1 - _ANOMALOUS_SHARE))


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command_line(app, "faults"))


if __name__ == "__main__":
    main()
