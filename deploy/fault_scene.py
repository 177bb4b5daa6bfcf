"""What the fault suite works with: topics of its own, workers that are really killed, and a verifier.

The verifier compares what is on the scores, alerts and dead-letter topics, as consumers of committed records see them,
with an uninterrupted run: the same engine over the same records in the order in which they stand on the topic.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from kafka import KafkaConsumer, TopicPartition

from contract.alert import Alert, AnyAlert, read_alert
from contract.errors import FrameError, FramewatchError
from contract.event import EventRule
from contract.manifest import open_bundle
from contract.runtime import Detector
from contract.steady_consumer import SteadyConsumer, UnreadableRecordError
from deploy.bench import frame_records
from deploy.broker import LocalBroker, Topic, create_topics, tied_to_parent
from deploy.worker_process import python_command
from worker.delivery import Delivery
from worker.engine import Engine
from worker.frames import IncomingFrame
from worker.records import read_frame
from worker.settings import KafkaSettings

SESSION_SECONDS: Final = 6.0
STOP_SECONDS: Final = 8.0
_PARTITIONS: Final = 4
_SENT_AT_ONCE: Final = 64
_DONE_SECONDS: Final = 240.0
_READ_SECONDS: Final = 90.0
_SAME_SCORE: Final = 1e-4
_RULE: Final = EventRule(min_frames=2, gap_frames=4)
_AT_ONCE: Final = 64
_number = itertools.count()


class FaultError(FramewatchError):
    """Workers did not come to where they were expected in time."""


@dataclass(frozen=True)
class Verified:
    """What the verifier found.

    Attributes:
        frames: On the frames topic.
        missing: Frames with neither a score nor a dead letter, and alerts that were never told.
        repeated: Scores, dead letters and alerts told more than once; at-least-once: those that then differ.
        different: Scores and alerts that are not those of the uninterrupted run.
    """

    frames: int
    missing: int
    repeated: int
    different: int


@dataclass
class Scene:
    """Topics of one row of the matrix, and its workers' settings.

    Attributes:
        broker: That runs.
        folder: For settings and logs.
        bundle: That the workers run.
        threshold: Score from which a frame is anomalous.
        encoded: Frames to send, JPEG.
        exactly_once: How records are delivered.
        servers: Address that the workers are given; the broker's own where None.
        kafka: Further settings of the workers under ``kafka``.
        more: Further settings.
    """

    broker: LocalBroker
    folder: Path
    bundle: Path
    threshold: float
    encoded: Sequence[bytes]
    exactly_once: bool = False
    servers: str | None = None
    kafka: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"scene-{next(_number)}")
    sent: int = 0

    def __post_init__(self) -> None:
        topics = {self.topic(kind): Topic(1) for kind in ("alerts", "dead", "scores")}
        create_topics(self.broker, {self.topic("frames"): Topic(_PARTITIONS), **topics})

    def topic(self, kind: str) -> str:
        """Name of the topic of ``frames``, ``alerts``, ``dead`` letters or ``scores``."""
        return f"{self.name}-{kind}"

    def settings(self, instance: str | None) -> dict[str, Any]:
        """Settings of a worker."""
        return {
            "bundle": str(self.bundle),
            "provider": "cpu",
            "log_format": "json",
            "threads": 1,
            "threshold": self.threshold,
            "event_rule": _RULE.model_dump(),
            "stop_seconds": STOP_SECONDS,
            "batch": {"max_frames": 16, "commit_interval_ms": 100},
            "http": {"port": 0},
            **self.more,
            "kafka": {
                "bootstrap_servers": self.servers or self.broker.bootstrap_servers,
                "group_id": self.name,
                "group_instance_id": instance,
                "frames_topic": self.topic("frames"),
                "alerts_topic": self.topic("alerts"),
                "dead_letter_topic": self.topic("dead"),
                "scores_topic": self.topic("scores"),
                "auto_offset_reset": "earliest",
                "session_timeout_ms": round(SESSION_SECONDS * 1000),
                "heartbeat_interval_ms": 1000,
                "delivery": "exactly_once" if self.exactly_once else "at_least_once",
                "transaction_timeout_ms": 6000,
                **self.kafka,
            },
        }

    def send(self, frames: int) -> None:
        """Send the next so many frames, of four cameras in turn."""
        delivery = Delivery(KafkaSettings(bootstrap_servers=self.broker.bootstrap_servers), linger_ms=5)
        records = itertools.islice(
            frame_records(self.encoded, self.sent + frames, self.topic("frames")), self.sent, None
        )
        while some := list(itertools.islice(records, _SENT_AT_ONCE)):
            delivery.send(some)
        delivery.close(10)
        self.sent += frames

    def partitions(self) -> list[TopicPartition]:
        """Of the frames topic."""
        return [TopicPartition(self.topic("frames"), number) for number in range(_PARTITIONS)]

    def committed(self) -> dict[TopicPartition, int]:
        """Offsets that are committed; 0 where none is."""
        with closing(
            KafkaConsumer(
                bootstrap_servers=self.broker.bootstrap_servers, group_id=self.name, isolation_level="read_committed"
            )
        ) as consumer:
            return {partition: consumer.committed(partition, timeout_ms=20_000) or 0 for partition in self.partitions()}

    def ends(self) -> dict[TopicPartition, int]:
        """Offsets after the last records of the frames topic."""
        with closing(KafkaConsumer(bootstrap_servers=self.broker.bootstrap_servers, group_id=None)) as consumer:
            ends: dict[TopicPartition, int] = consumer.end_offsets(self.partitions())
        return ends

    def records(self, kind: str) -> Iterator[Any]:
        """Read a topic to its end as a consumer of committed records does; what it cannot read is left out.

        Where a transaction is open it waits until the broker has ended it.

        Raises:
            FaultError: The end is not reached.
        """
        topic, servers = self.topic(kind), self.broker.bootstrap_servers
        with closing(KafkaConsumer(bootstrap_servers=servers, group_id=None)) as plain:
            numbers = plain.partitions_for_topic(topic)
            ends = plain.end_offsets([TopicPartition(topic, number) for number in sorted(numbers)])
        with closing(
            SteadyConsumer(
                bootstrap_servers=servers, group_id=None, isolation_level="read_committed",
                max_partition_fetch_bytes=16 * 2**20,
            )
        ) as reader:  # fmt: skip
            for partition, end in ends.items():
                reader.assign([partition])
                reader.seek(partition, reader.beginning_offsets([partition])[partition])
                gives_up_at = time.monotonic() + _READ_SECONDS
                while reader.position(partition) < end:
                    if time.monotonic() > gives_up_at:
                        raise FaultError(f"{topic} is not readable beyond {reader.position(partition)} of {end}")
                    with contextlib.suppress(UnreadableRecordError):
                        yield from reader.poll(timeout_ms=200).get(partition, [])

    def unaccounted(self) -> int:
        """Number of frames before the committed offsets of which neither a score nor a dead letter tells."""
        told = {
            (one["partition"], one["offset"]) for one in map(json.loads, (one.value for one in self.records("scores")))
        }
        for record in self.records("dead"):
            headers = dict(record.headers)
            told.add((int(headers["framewatch-partition"]), int(headers["framewatch-offset"])))
        return sum((tp.partition, at) not in told for tp, end in self.committed().items() for at in range(end))

    def verify(self) -> Verified:
        """Compare what was told with an uninterrupted run."""
        scores, alerts = self._expected()
        told_scores: dict[tuple[int, int], list[float]] = defaultdict(list)
        for record in self.records("scores"):
            one = json.loads(record.value)
            told_scores[one["partition"], one["offset"]].append(one["anomaly_score"])
        for record in self.records("dead"):
            headers = dict(record.headers)
            place = int(headers["framewatch-partition"]), int(headers["framewatch-offset"])
            told_scores[place].append(scores.setdefault(place, 0.0))
        told_alerts: dict[str, list[AnyAlert]] = defaultdict(list)
        for record in self.records("alerts"):
            alert = read_alert(record.value)
            told_alerts[alert.id].append(alert)
        missing = len(scores.keys() - told_scores.keys()) + len(alerts.keys() - told_alerts.keys())
        different = sum(
            place not in scores or abs(score - scores[place]) > _SAME_SCORE
            for place, values in told_scores.items()
            for score in values
        )
        different += sum(
            name not in alerts or not _is_same(alert, alerts[name])
            for name, several in told_alerts.items()
            for alert in several
        )
        both = (told_scores.values(), told_alerts.values())
        repeated = sum(len(several) - 1 for values in both for several in values) if self.exactly_once else 0
        return Verified(sum(self.ends().values()), missing, repeated, different)

    def _expected(self) -> tuple[dict[tuple[int, int], float], dict[str, AnyAlert]]:
        engine = Engine(Detector(open_bundle(self.bundle), "cpu", 1), threshold=self.threshold, event_rule=_RULE)
        scores: dict[tuple[int, int], float] = {}
        alerts: dict[str, AnyAlert] = {}
        frames = (frame for record in self.records("frames") if (frame := _frame(record)) is not None)
        while some := list(itertools.islice(frames, _AT_ONCE)):
            for outcome in engine.process(some):
                if outcome.anomaly_score is not None:
                    scores[outcome.frame.partition, outcome.frame.offset] = outcome.anomaly_score
                alerts |= {alert.id: alert for alert in outcome.alerts}
        return scores, alerts


def _frame(record: Any) -> IncomingFrame | None:  # noqa: ANN401
    try:
        return read_frame(record)
    except FrameError:
        return None


def _is_same(alert: AnyAlert, other: AnyAlert) -> bool:
    if not isinstance(alert, Alert) or not isinstance(other, Alert):
        said = [told.data.model_dump(exclude={"snapshot"}) for told in (alert, other)]
        return alert.type == other.type and said[0] == said[1]
    one, two = alert.data, other.data
    kept = {"event_id", "camera_id", "started_at_ms", "peak_at_ms", "ended_at_ms", "frames", "rule_version"}
    same = one.model_dump(include=kept) == two.model_dump(include=kept)
    return same and alert.type == other.type and abs(one.peak_score - two.peak_score) <= _SAME_SCORE


class Fleet:
    """Workers of a scene, started again when they end, as a supervisor would; a context manager.

    Args:
        scene: Whose workers they are.
        static: Whether each bears a name of its own within the group.
        sabotage: What is wrong in them, see `deploy.sabotage`.
    """

    def __init__(self, scene: Scene, *, static: bool = False, sabotage: dict[str, Any] | None = None) -> None:
        self.scene = scene
        self.ends = 0
        self._static = static
        self._sabotage = sabotage
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGCONT)
                child.kill()
            child.wait()

    @property
    def running(self) -> list[int]:
        """Numbers of the workers."""
        return list(self._children)

    def start(self, count: int) -> None:
        """Start workers until there are so many, or stop the last of them in order."""
        while len(self._children) > count:
            _, child = self._children.popitem()
            child.terminate()
            child.wait(STOP_SECONDS + 5)
        for number in range(count):
            if number not in self._children:
                self._children[number] = self.spawn(number)

    def spawn(self, number: int) -> subprocess.Popen[bytes]:
        """Start a worker that nobody starts again."""
        instance = f"worker-{number}" if self._static else None
        config = self.scene.folder / f"{self.scene.name}-{number}.yaml"
        config.write_text(json.dumps(self.scene.settings(instance)), encoding="utf-8")
        module, before = ("deploy.sabotage", [json.dumps(self._sabotage)]) if self._sabotage else ("worker", [])
        command = python_command(module, *before, "run", "--config", str(config))
        with self.log_path(number).open("ab") as log:
            return subprocess.Popen(tied_to_parent(command), stderr=log, start_new_session=True)

    def log_path(self, number: int = 0) -> Path:
        """Log of a worker, over all its lives."""
        return self.scene.folder / f"{self.scene.name}-{number}.log"

    def log(self, number: int = 0) -> str:
        """What a worker has said."""
        return self.log_path(number).read_text(encoding="utf-8") if self.log_path(number).exists() else ""

    def child(self, number: int = 0) -> subprocess.Popen[bytes]:
        """A worker's process."""
        return self._children[number]

    def signal(self, number: int, what: signal.Signals) -> None:
        """Send a worker a signal; one that has ended meanwhile gets none."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._children[number].pid, what)

    def tend(self) -> None:
        """Start those again that have ended."""
        for number, child in self._children.items():
            if child.poll() is not None:
                self.ends += 1
                self._children[number] = self.spawn(number)

    def wait_until(self, see: Callable[[], bool], seconds: float = _DONE_SECONDS, *, tend: bool = True) -> float:
        """Tend the workers until something is seen; the time that it took, seconds.

        Raises:
            FaultError: It was not seen in time.
        """
        began = time.monotonic()
        while not see():
            if time.monotonic() - began > seconds:
                last = self.log().strip().splitlines()[-3:]
                raise FaultError(f"not seen within {seconds:g} s; the first worker's last lines: {last}")
            if tend:
                self.tend()
            time.sleep(0.1)
        return time.monotonic() - began

    def wait_progress(self, seconds: float = 90.0) -> float:
        """Wait until more is committed than now; the time that it took."""
        before = sum(self.scene.committed().values())
        return self.wait_until(lambda: sum(self.scene.committed().values()) > before, seconds)

    def wait_done(self, seconds: float = _DONE_SECONDS) -> float:
        """Wait until all that was sent is committed; the time that it took."""
        ends = self.scene.ends()
        return self.wait_until(lambda: self.scene.committed() == ends, seconds)
