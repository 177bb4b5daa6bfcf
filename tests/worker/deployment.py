"""A worker process for a test, its topics, and what can be seen of it."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from contract.source import open_source
from contract.steady_consumer import SteadyConsumer
from deploy.broker import Topic, create_topics

ROOT = Path(__file__).resolve().parents[2]


class Deployment:
    """Topics of one test, and the worker's settings for them.

    Attributes:
        within: Command that runs the workers somewhere else.
    """

    within = ()

    def set(self, kafka=None, **settings):
        """Change settings of the workers that are started from now on."""
        held = json.loads(self.config.read_text())
        held |= settings
        held["kafka"] |= kafka or {}
        self.config.write_text(json.dumps(held))

    def __init__(self, broker, tmp_path, bundle, name):
        self.servers = broker.bootstrap_servers
        self.group = name
        self.topics = {kind: f"{name}-{kind}" for kind in ("frames", "alerts", "dead", "scores")}
        create_topics(broker, {topic: Topic(2 if kind == "frames" else 1) for kind, topic in self.topics.items()})
        self.log = tmp_path / "worker.log"
        self.started = 0
        self.config = tmp_path / "worker.yaml"
        kafka = {
            "bootstrap_servers": self.servers,
            "group_id": name,
            "frames_topic": self.topics["frames"],
            "alerts_topic": self.topics["alerts"],
            "dead_letter_topic": self.topics["dead"],
            "scores_topic": self.topics["scores"],
            "auto_offset_reset": "earliest",
            "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 1000,
        }
        settings = {
            "bundle": str(bundle),
            "provider": "cpu",
            "log_format": "json",
            "kafka": kafka,
            "batch": {"max_frames": 7, "commit_interval_ms": 50},
            "http": {"port": 0},
        }
        self.config.write_text(json.dumps(settings))

    @contextmanager
    def worker(self, home=ROOT):
        """A worker of the modules in a folder."""
        self.started += 1
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                [*self.within, sys.executable, "-m", "worker", "run", "--config", str(self.config)],
                stderr=log,
                cwd=home,
            )
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()

    def send(self, frames):
        producer = KafkaProducer(bootstrap_servers=self.servers, max_request_size=9 * 2**20)
        for key, value, headers, timestamp in frames:
            producer.send(self.topics["frames"], value, key=key, headers=headers, timestamp_ms=timestamp).get(
                timeout=20
            )
        producer.close()

    def read(self, kind, count, patience=12):
        """Read exactly `count` records, looking anew up to so many times; show that there are no more."""
        for _ in range(patience):
            records = self._read_once(kind, count)
            if len(records) >= count:
                break
        assert len(records) == count, f"{len(records)} on {kind}\n{self.log.read_text()[-2000:]}"
        return records

    def _read_once(self, kind, count):
        consumer = SteadyConsumer(
            bootstrap_servers=self.servers,
            group_id=None,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        numbers = consumer.partitions_for_topic(self.topics[kind])
        consumer.assign([TopicPartition(self.topics[kind], number) for number in numbers])
        records, empty = [], 0
        while len(records) < count and empty < 60:
            polled = [record for part in consumer.poll(timeout_ms=200).values() for record in part]
            records += polled
            empty = 0 if polled else empty + 1
        records += [record for part in consumer.poll(timeout_ms=500).values() for record in part]
        consumer.close()
        return records

    def committed(self, group=None):
        group = group or json.loads(self.config.read_text())["kafka"]["group_id"]
        consumer = KafkaConsumer(bootstrap_servers=self.servers, group_id=group)
        partitions = [TopicPartition(self.topics["frames"], number) for number in (0, 1)]
        offsets = {partition.partition: consumer.committed(partition) or 0 for partition in partitions}
        consumer.close()
        return offsets

    def http(self, path):
        """Ask the worker that was started last, once it says where it answers."""
        ends = time.monotonic() + 60
        while len(lines := [line for line in self.log.read_text().splitlines() if "http_port" in line]) < self.started:
            assert time.monotonic() < ends, self.log.read_text()[-2000:]
            time.sleep(0.05)
        port = json.loads(lines[-1])["http_port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode()

    def status(self, path):
        try:
            self.http(path)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        return 200


def terminate(child):
    child.send_signal(signal.SIGTERM)
    return child.wait(20)


def frames_of(source, camera):
    clip = open_source(source)[0]
    return [
        (camera.encode(), f.data, [("captured-at-ms", str(f.captured_at_ms).encode())], None) for f in clip.frames()
    ]


def wait_until(see, seconds=90):
    ends_at = time.monotonic() + seconds
    while not see():
        assert time.monotonic() < ends_at
        time.sleep(0.5)
