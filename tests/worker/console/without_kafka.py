"""A console without Kafka: rows go in by hand, answers come out over HTTP."""

from starlette.testclient import TestClient

from tests.worker.console.records import NOW, record
from worker.console.app import Parts, make_app
from worker.console.hub import Hub
from worker.console.pulse import Pulse
from worker.console.reading import read_alert, read_score, read_verdict
from worker.console.store import Store
from worker.console.what_if import RuleInUse
from worker.console.workers import WorkerWatch


class SentVerdicts:
    """Takes verdicts in place of a topic."""

    def __init__(self):
        self.sent = []
        self.error = None

    def send(self, feedback):
        if self.error:
            raise self.error
        self.sent.append(feedback)


class Console:
    """What answers, and what it answers from."""

    def __init__(self, settings):
        self.settings = settings
        self.store = Store(settings.database, settings.max_cameras)
        self.hub, self.sender = Hub(), SentVerdicts()
        self.pulse = Pulse(settings, self.store, self.hub, WorkerWatch(()))
        self.app = make_app(Parts(settings, self.hub, self.pulse, self.sender, RuleInUse.of(settings)))

    def put(self, *, alerts=(), scores=(), verdicts=(), now=NOW + 10**6):
        rows = [read_alert(record(value, timestamp=now), now) for value in alerts]
        rows += [read_score(record(value, timestamp=now), now) for value in scores]
        rows += [read_verdict(record(value), now) for value in verdicts]
        return self.store.apply(rows, {}, {})

    def client(self, host="127.0.0.1", peer="127.0.0.1"):
        return TestClient(
            self.app, base_url=f"http://{host}:8460", client=(peer, 50_000), follow_redirects=False,
            raise_server_exceptions=False,
        )  # fmt: skip
