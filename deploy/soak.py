"""Runs a worker for a while and reports what must not grow: memory, descriptors, lag.

``make soak`` runs it, ``ARGS="--minutes 480"`` through a night, and writes docs/benchmarks/soak.md. Four cameras'
frames come at a steady rate on a real Kafka, one record in fifty being no frame; every few minutes a second worker
joins the group and leaves it, so that partitions, cameras and clips come and go.

It holds where memory's trend after the first quarter lies below 1 MiB an hour or is not told from none (two standard
errors), descriptors end where they were after the first quarter, and lag ends below what comes in five seconds.
``make test`` runs a short form of it, row 20 of `deploy.faults`.
"""

import itertools
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from kafka import KafkaConsumer, TopicPartition

from contract.command_line import run_command_line
from deploy.bench import OUT, fitted_bundle, frame_records, room_frames, say_versions, versions
from deploy.broker import STANDARD_TOPICS, LocalBroker, create_topics
from deploy.measured import table
from deploy.worker_process import WorkerProcess, open_descriptors, resident_bytes
from worker.delivery import Delivery
from worker.settings import KafkaSettings

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "soak.md"
_GROUP: Final = "soak"
_BAD_EVERY: Final = 50
_BAD: Final = (b"\xff\xd8\xff", b"<html></html>", b"", bytes(5000), b"GIF89a")
_LOOKS: Final = 120
_SHOWN: Final = 12
_JOINED_SHARE: Final = 0.2
_READY_SECONDS: Final = 60.0
_MEBIBYTES_AN_HOUR: Final = 1.0
_LAG_SECONDS: Final = 5.0
_MORE_DESCRIPTORS: Final = 4

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Look:
    """What was seen at one time.

    Attributes:
        seconds: Since the worker was ready.
        mebibytes: Resident.
        descriptors: Open.
        lag: Records that are on the topic and not committed.
        workers: In the group.
    """

    seconds: float
    mebibytes: float
    descriptors: int
    lag: int
    workers: int


@dataclass(frozen=True)
class Trend:
    """What became of the looks after the first quarter.

    Attributes:
        mebibytes_an_hour: Slope of the least-squares line of memory.
        error: Its standard error, taking the looks as independent.
        more_descriptors: At the end than after the first quarter.
        last_lag: Records.
    """

    mebibytes_an_hour: float
    error: float
    more_descriptors: int
    last_lag: int

    def holds(self, rate: float) -> bool:
        """Whether nothing grew; ``rate`` is what comes, frames/s."""
        grows = self.mebibytes_an_hour > max(_MEBIBYTES_AN_HOUR, 2 * self.error)
        return not grows and self.more_descriptors <= _MORE_DESCRIPTORS and self.last_lag <= rate * _LAG_SECONDS


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(min=1, help="How long.")] = 60.0,
    rate: Annotated[float, typer.Option(min=1, help="Records a second, of four cameras.")] = 60.0,
    join_minutes: Annotated[float, typer.Option(min=0.1, help="Between two times that a second worker joins.")] = 5.0,
    preset: Annotated[str, typer.Option(help="Preset of the bundle.")] = "balanced",
) -> int:
    """Run, print one JSON object, and write the page."""
    OUT.mkdir(exist_ok=True)
    encoded, bundle = room_frames(), fitted_bundle(preset, "fp32")
    with LocalBroker(log_path=OUT / "kafka.log") as broker:
        servers = broker.bootstrap_servers
        create_topics(broker, STANDARD_TOPICS)
        kafka = {"bootstrap_servers": servers, "group_id": _GROUP, "auto_offset_reset": "earliest"}
        settings = {"bundle": str(bundle), "log_level": "INFO", "kafka": kafka}
        with WorkerProcess(OUT, settings, "soak") as worker, _published(servers, encoded, rate):
            worker.wait_until_ready(_READY_SECONDS)
            looks = list(_looks(worker, servers, settings, minutes * 60, join_minutes * 60))
            finished = worker.finished_frames()
            worker.stop()
        letters = _count(servers, "frames.dead-letter")
    trend = trend_of(looks)
    told = {
        "versions": versions(),
        "minutes": minutes,
        "rate": rate,
        "preset": preset,
        "finished_frames": finished,
        "dead_letters": letters,
        "trend": asdict(trend),
        "holds": trend.holds(rate),
        "looks": [asdict(look) for look in looks],
    }
    PAGE.write_text(page(told), encoding="utf-8")
    typer.echo(json.dumps(told, indent=2))
    return 0 if told["holds"] else 1


@contextmanager
def _published(servers: str, encoded: Sequence[bytes], rate: float) -> Iterator[None]:
    """Records at a steady rate, from another thread, while the block runs."""
    ended = threading.Event()

    def publish() -> None:
        delivery = Delivery(KafkaSettings(bootstrap_servers=servers))
        began = time.monotonic()
        for number, record in enumerate(frame_records(encoded, sys.maxsize)):
            if ended.wait(max(0.0, began + number / rate - time.monotonic())):
                break
            bad = _BAD[number // _BAD_EVERY % len(_BAD)]
            delivery.send([record._replace(value=bad) if number % _BAD_EVERY == 0 else record])
        delivery.close(10)

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        yield
    finally:
        ended.set()
        publisher.join()


def _looks(
    worker: WorkerProcess, servers: str, settings: dict[str, Any], seconds: float, apart: float
) -> Iterator[Look]:
    """Look at the worker again and again, while a second one comes and goes."""
    began = time.monotonic()
    for number in itertools.count(1):
        joins_at = began + number * apart
        yield from _looks_until(worker, servers, began, min(joins_at, began + seconds), seconds / _LOOKS, 1)
        if joins_at >= began + seconds:
            return
        with WorkerProcess(OUT, settings, "soak-second") as second:
            second.wait_until_ready(_READY_SECONDS)
            leaves_at = min(joins_at + _JOINED_SHARE * apart, began + seconds)
            yield from _looks_until(worker, servers, began, leaves_at, seconds / _LOOKS, 2)
            second.stop()


def _looks_until(
    worker: WorkerProcess, servers: str, began: float, ends_at: float, apart: float, workers: int
) -> Iterator[Look]:
    while (now := time.monotonic()) < ends_at:
        yield Look(
            round(now - began, 1), round(resident_bytes(worker.pid) / 2**20, 2), open_descriptors(worker.pid),
            _lag(servers), workers,
        )  # fmt: skip
        time.sleep(min(apart, max(0.0, ends_at - time.monotonic())))


def _lag(servers: str) -> int:
    with closing(KafkaConsumer(bootstrap_servers=servers, group_id=_GROUP)) as consumer:
        ends = _ends(consumer, "frames")
        return sum(end - (consumer.committed(partition) or 0) for partition, end in ends.items())


def _count(servers: str, topic: str) -> int:
    with closing(KafkaConsumer(bootstrap_servers=servers, group_id=None)) as consumer:
        return sum(_ends(consumer, topic).values())


def _ends(consumer: KafkaConsumer, topic: str) -> dict[TopicPartition, int]:
    partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
    ends: dict[TopicPartition, int] = consumer.end_offsets(partitions)
    return ends


def trend_of(looks: Sequence[Look]) -> Trend:
    """Fit a line to the memory seen after the first quarter.

    Args:
        looks: At least four after the first quarter, in order.
    """
    late = [look for look in looks if look.seconds >= looks[-1].seconds / 4]
    hours = np.array([look.seconds for look in late]) / 3600
    (slope, _), covariance = np.polyfit(hours, [look.mebibytes for look in late], 1, cov=True)
    more = late[-1].descriptors - late[0].descriptors
    return Trend(round(float(slope), 2), round(float(np.sqrt(covariance[0, 0])), 2), more, late[-1].lag)


def page(told: dict[str, Any]) -> str:
    """Write the figures as a page."""
    trend, looks = told["trend"], told["looks"]
    some = [looks[place] for place in np.unique(np.linspace(0, len(looks) - 1, _SHOWN).round().astype(int))]
    figures = [
        ["records finished by the first worker", f"{told['finished_frames']:,}"],
        ["dead letters", f"{told['dead_letters']:,}"],
        ["memory after the first quarter, MiB an hour", f"{trend['mebibytes_an_hour']:+.2f} ± {trend['error']:.2f}"],
        ["descriptors since the first quarter", f"{trend['more_descriptors']:+d}"],
        ["highest lag, records", str(max(look["lag"] for look in looks))],
        ["holds", "yes" if told["holds"] else "NO"],
    ]
    rows = [
        [
            f"{look['seconds'] / 60:.1f}",
            str(look["workers"]),
            f"{look['mebibytes']:.1f}",
            *(str(look[name]) for name in ("descriptors", "lag")),
        ]
        for look in some
    ]
    return "\n".join(
        [
            "# Soak",
            "",
            "Written by `make soak`; `deploy/soak.py` says what is done and what must hold. Preset",
            f"`{told['preset']}`, {told['rate']:g} records/s of four cameras for {told['minutes']:g} minutes, one in",
            f"{_BAD_EVERY} no frame, a second worker coming and going. {say_versions(told)}.",
            "",
            *table(("", "measured"), figures),
            "",
            *table(("minute", "workers", "resident, MiB", "descriptors", "lag, records"), rows),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run_command_line(app, "soak"))
