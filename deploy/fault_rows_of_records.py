"""Faults of records: that no client reads, corrupted, that unpack to too much; rows of `deploy.faults`."""

import os
import signal
import time
from contextlib import closing
from typing import Any, Final

from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from deploy.broker import LocalBroker, admin_client
from deploy.fault_row import Row, Stage, checked
from deploy.fault_scene import Fleet, Scene
from deploy.worker_process import resident_bytes

_STRANGE: Final = 2
_STRANGE_CAMERA: Final = b"room-strange"


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
    return checked(
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
    size = stage.of(1000, 100) * 2**20
    # The broker unpacks it before it refuses it: one with too little memory for that ends.
    heap_mebibytes, log_path = stage.of(6144, 1024), stage.folder / "bombed-kafka.log"
    with LocalBroker(log_path=log_path, heap_mebibytes=heap_mebibytes) as broker:
        scene = stage.scene(broker=broker)
        with admin_client(broker.bootstrap_servers, 30.0) as admin:
            admin.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, scene.topic("frames"), {"compression.type": "uncompressed"})]
            )
        producer = KafkaProducer(
            bootstrap_servers=broker.bootstrap_servers, compression_type="gzip", max_request_size=2**31 - 1,
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
        return checked(
            scene, f"compressed record of {size >> 20} MiB", 1, recovered, holds=bool(refused),
            seen=f"the broker refuses it ({refused}); worker {megabytes:.0f} MiB",
        )  # fmt: skip
