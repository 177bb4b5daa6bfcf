"""What watches workers, with a real Prometheus and a real one: alert rules with their runbooks, and the dashboard."""

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deploy.dashboard import DASHBOARD, build_dashboard
from tests.deploy.promql import asked_for, written_out
from tests.tools import tool
from tests.worker.test_gpu_memory import Nvml
from worker.telemetry import Metrics

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
TESTS = ("alerts_test.yaml", "alerts_of_days_test.yaml")
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
PANELS = [panel for panel in build_dashboard()["panels"] if panel["type"] != "row"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
# What a worker has only once something happened that does not in the test below: the attribute of Metrics, and labels.
SELDOM = {
    "framewatch_frames_skipped_total": ("skipped", {"camera", "cause"}),
    "framewatch_frames_missed_total": ("missed", {"partition"}),
    "framewatch_camera_drifting": ("drifting", {"camera"}),
    "framewatch_camera_drift_share": ("drift_share", {"camera"}),
    "framewatch_challenger_info": ("challengers", {"name", "version", "digest"}),
    "framewatch_challenger_frames_total": ("challenger_frames", {"camera", "outcome"}),
    "framewatch_camera_unwell": ("unwell", {"camera", "state"}),
    "framewatch_gpu_memory_used_bytes": (None, {"gpu"}),
    "framewatch_gpu_memory_total_bytes": (None, {"gpu"}),
}
# Prometheus' own, while an alert fires.
ALERTS = {"ALERTS": {"alertname", "alertstate"}}


@pytest.fixture
def copied(tmp_path):
    """The rules, their tests and Prometheus' settings, to be changed."""
    for file in FOLDER.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def promtool(folder, *arguments):
    done = subprocess.run(
        [tool("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_rules_and_settings_are_prometheus_own(copied):
    assert promtool(copied, "check", "rules", "alerts.yaml")[0] == 0
    assert promtool(copied, "check", "config", "prometheus.yml")[0] == 0
    change(copied / "prometheus.yml", "type: A", "type: B")
    assert promtool(copied, "check", "config", "prometheus.yml")[0] != 0
    change(copied / "alerts.yaml", "rate(framewatch_frames_total[5m])", "rate(framewatch_frames_total)")
    assert promtool(copied, "check", "rules", "alerts.yaml")[0] != 0


def test_each_alert_fires_when_it_should():
    for name in TESTS:
        code, said = promtool(FOLDER, "test", "rules", name)
        assert code == 0, said


@pytest.mark.parametrize("expr", ["vector(1)", "vector(0) > 1"])
def test_the_rules_tests_fail_for_an_alert_that_always_or_never_fires(copied, expr):
    rules = yaml.safe_load((copied / "alerts.yaml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule["expr"] = expr
        rule.pop("for", None)
    (copied / "alerts.yaml").write_text(yaml.safe_dump(rules))
    said = "".join(promtool(copied, "test", "rules", name)[1] for name in TESTS)
    assert set(re.findall(r"alertname: (\w+), time", said)) == {rule["alert"] for rule in RULES}
    # Where it fires for ever it is the quiet moments that fail, and the other way round.
    quiet = set(re.findall(r"alertname: (\w+), time: \w+, *\n *exp:\[\]", said))
    assert quiet == ({rule["alert"] for rule in RULES} if expr == "vector(1)" else set())


def test_each_alert_says_how_grave_it_is_and_has_its_runbook():
    sections = re.findall(r"^## (.+)$", RUNBOOKS, re.MULTILINE)
    assert sections == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"


def test_a_runbook_and_its_alert_are_equally_grave():
    told = dict(re.findall(r"^## (\w+)\n\n\*(\w+)[.]\*", RUNBOOKS, re.MULTILINE))
    assert told == {rule["alert"]: rule["labels"]["severity"].capitalize() for rule in RULES}


def test_the_dashboard_is_what_its_panels_make():
    assert json.loads(DASHBOARD.read_text()) == build_dashboard(), "run: make monitoring"


def test_no_panel_stands_on_another():
    cells = [
        (x, y)
        for panel in build_dashboard()["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_what_is_seldom_is_the_workers_all_the_same():
    assert missing(every_pair(SELDOM), labels_of_fresh_metrics()) == set()
    assert missing({("framewatch_frames_missed_total", "topic")}, labels_of_fresh_metrics())


def labels_of_fresh_metrics():
    metrics = Metrics()
    metrics.gpu_memory.wanted, metrics.gpu_memory._library = True, Nvml()
    for attribute, labels in SELDOM.values():
        if attribute is not None:
            getattr(metrics, attribute).labels(**dict.fromkeys(labels, "some"))
    found = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def every_pair(seldom):
    return {(name, label) for name, (_, labels) in seldom.items() for label in labels}


def missing(pairs, labels):
    """Those of the pairs of metric and label that are not there; any target has a job and an instance."""
    always = {"__name__", "job", "instance"}
    return {(name, label) for name, label in pairs if name not in labels or label not in labels[name] | always}


def expressions():
    """What is asked by rules, runbooks, panels and their page, each with the texts that name labels of the answer."""
    yield from ((rule["expr"], *rule["annotations"].values()) for rule in RULES)
    yield from ((target["expr"], target["legendFormat"]) for target in TARGETS)
    yield from ((span,) for span in re.findall(r"`([^`]*framewatch_[^`]*)`", RUNBOOKS))
    dashboard = build_dashboard()
    yield from ((annotation["expr"], annotation["titleFormat"]) for annotation in dashboard["annotations"]["list"])
    for variable in dashboard["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
        yield f"sum by ({label}) ({metric})", "{{" + label + "}}"


def test_a_label_that_a_sum_does_not_keep_is_not_shown():
    expr = 'histogram_quantile(0.5, sum by (job, le) (rate(some_bucket{camera=~"$camera"}[$__rate_interval])))'
    asked = {("some_bucket", label) for label in ("__name__", "job", "le", "camera")}
    assert asked_for(expr, "{{job}}") == asked
    for legend in ("{{camera}}", "{{ $labels.camera }}"):
        with pytest.raises(AssertionError, match="camera"):
            asked_for(expr, legend)
    with pytest.raises(AssertionError, match="job"):
        asked_for("sum by (camera) (some) and on (job) other")


class Prometheus:
    """A running one.

    Args:
        port: On loopback.
    """

    def __init__(self, port):
        self._address = f"http://127.0.0.1:{port}"

    def get(self, path, **query):
        with urllib.request.urlopen(f"{self._address}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def ask(self, expr):
        return self.get("/api/v1/query", query=expr)["result"]

    def labels(self):
        """Labels by metric."""
        found = {}
        for series in self.get("/api/v1/series", **{"match[]": '{__name__=~".+"}'}):
            found.setdefault(series["__name__"], set()).update(series)
        return found


@contextmanager
def prometheus(folder, targets):
    """One with the rules and the settings that are deployed, but for where it finds workers and how often it looks."""
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(FOLDER / name) for name in settings["rule_files"]]
    (job,) = settings["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": targets}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        child = subprocess.Popen([tool("prometheus"), *arguments], stderr=log)
    try:
        yield Prometheus(port)
    finally:
        child.terminate()
        child.wait(30)


def wait_for(see, seconds=60):
    ends = time.monotonic() + seconds
    while True:
        try:
            if found := see():
                return found
        except (OSError, urllib.error.HTTPError):
            pass
        assert time.monotonic() < ends
        time.sleep(0.2)


@pytest.mark.broker
def test_a_worker_has_what_rules_and_dashboard_ask_for(broker, tiny_bundle, tmp_path):
    from tests.worker.deployment import Deployment, frames_of, terminate

    deployment = Deployment(broker, tmp_path, tiny_bundle.bundle, "watched")
    deployment.set(event_rule={"min_frames": 3})
    now_ms = int(time.time() * 1000)
    frames = [
        (key, value, [("captured-at-ms", str(now_ms - 200 * (60 - number)).encode())], None)
        for number, (key, value, _, _) in enumerate(frames_of(str(tiny_bundle.footage), "door"))
    ]
    # So that there is an oddity too.
    frames[5] = (b"door", frames[5][1] + b"tail", *frames[5][2:])
    with deployment.worker() as worker:
        port = wait_for(lambda: _port(deployment))
        with prometheus(tmp_path, [f"127.0.0.1:{port}"]) as watching:
            wait_for(lambda: watching.ask("framewatch_assigned_partitions == 2"))
            deployment.send([*frames[:50], (b"door", b"no picture", [], None)])
            wait_for(lambda: watching.ask("sum(framewatch_frames_total) == 51"))
            deployment.send(frames[50:])
            wait_for(lambda: watching.ask("sum(framewatch_frames_total) == 61 and sum(framewatch_alerts_total) > 0"))
            labels = watching.labels()
            seldom = {name: needed for name, (_, needed) in SELDOM.items()} | ALERTS
            asked = [(expr, asked_for(expr, *told)) for expr, *told in expressions()]
            assert sorted(missing({pair for _, pairs in asked for pair in pairs}, seldom | labels)) == []
            # What comes of itself is not to be let off.
            assert labels.keys() & seldom.keys() <= {"ALERTS"}
            for target in TARGETS:
                may_be_empty = {name for name, _ in asked_for(target["expr"])} & seldom.keys()
                assert may_be_empty or watching.ask(written_out(target["expr"])), target["expr"]
            groups = watching.get("/api/v1/rules")["groups"]
            assert {rule["name"]: rule["health"] for group in groups for rule in group["rules"]} == dict.fromkeys(
                (rule["alert"] for rule in RULES), "ok"
            )
            assert watching.ask('ALERTS{alertstate="firing"}') == []
        assert terminate(worker) == 0


def _port(deployment):
    said = [json.loads(line) for line in deployment.log.read_text().splitlines()]
    return next((line["http_port"] for line in said if "http_port" in line), None)
