"""A console's process for a test, its topics, and what can be asked of it."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaProducer

from deploy.broker import Topic, create_topics

ROOT = Path(__file__).resolve().parents[3]


class ConsoleDeployment:
    """Topics of one test, a producer for them, and the console's settings."""

    def __init__(self, broker, folder, name, *, make_topics=True):
        self.broker, self.folder = broker, folder
        self.topics = {kind: f"{name}-{kind}" for kind in ("frames", "alerts", "dead", "scores", "feedback")}
        if make_topics:
            self.create("alerts", "scores", "feedback")
        self.log = folder / "console.log"
        self.config = folder / "console.yaml"
        self.database = folder / "console.sqlite"
        # Raw scores are kept by age.
        self.now = round(time.time() * 1000)
        self._producer = None
        kafka = {
            "bootstrap_servers": broker.bootstrap_servers, "bootstrap_timeout_ms": 2_000,
            **{f"{kind}_topic": self.topics[kind] for kind in ("frames", "alerts", "scores")},
            "dead_letter_topic": self.topics["dead"],
        }  # fmt: skip
        self.settings = {
            "port": 0, "database": str(self.database), "feedback_topic": self.topics["feedback"],
            "retention_days": 3_000, "raw_score_hours": 700, "log_format": "json", "kafka": kafka,
        }  # fmt: skip

    def create(self, *kinds):
        create_topics(self.broker, {self.topics[kind]: Topic(2) for kind in kinds})

    @contextmanager
    def console(self):
        self.config.write_text(json.dumps(self.settings))
        before = self.log.stat().st_size if self.log.exists() else 0
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "worker", "console", "--config", str(self.config)]
            child = subprocess.Popen(command, stderr=log, cwd=ROOT, env=environment)
        try:
            wait_until(lambda: b'"address"' in self.log.read_bytes()[before:] or child.poll() is not None, 60)
            assert child.poll() is None, self.log.read_text()
            lines = [json.loads(line) for line in self.log.read_bytes()[before:].splitlines() if b'"address"' in line]
            self.address = lines[-1]["address"].rstrip("/")
            yield child
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()

    def send(self, kind, *values, camera_id="door"):
        """Send records and wait until the broker has them all."""
        if self._producer is None:
            self._producer = KafkaProducer(bootstrap_servers=self.broker.bootstrap_servers, max_request_size=9 * 2**20)
        sent = [self._producer.send(self.topics[kind], value, key=camera_id.encode()) for value in values]
        for future in sent:
            future.get(timeout=30)

    def close(self):
        if self._producer is not None:
            self._producer.close()

    def get(self, path):
        with urllib.request.urlopen(self.address + path, timeout=10) as answer:
            return json.loads(answer.read()) if path.startswith("/api") else answer.read()

    def post(self, path, body):
        """Status and content of the answer to what the page would post."""
        headers = {"content-type": "application/json", "x-framewatch-console": "1"}
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def events(self):
        return {event["event_id"]: event for event in self.get("/api/events?limit=200")}

    def wait_until_read(self):
        """Wait until the console has read what the topics hold."""
        wait_until(lambda: all(one["state"] == "following" for one in self.get("/api/status")["topics"]))


def wait_until(see, seconds=60):
    ends_at = time.monotonic() + seconds
    while not see():
        assert time.monotonic() < ends_at
        time.sleep(0.1)
