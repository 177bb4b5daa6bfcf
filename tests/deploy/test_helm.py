"""The Helm chart: what it renders is what a cluster takes, what the worker accepts, and what the project promises."""

import itertools
import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

import contract
from contract.command_line import MISTAKE
from contract.settings import load_settings
from deploy.broker import STANDARD_TOPICS
from tests.tools import tool
from trainer.retrain_settings import RetrainSettings
from worker import reload, telemetry
from worker.camera_settings import load_cameras
from worker.console.settings import ConsoleSettings
from worker.settings import WorkerSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "helm" / "framewatch"
SCHEMAS = DEPLOY / "helm" / "schemas"
CASES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
KUBERNETES = "1.37"
# Kinds of others than Kubernetes, by the file of their schema.
CUSTOM = {
    "ScaledObject": "scaledobject-keda-v1alpha1",
    "TriggerAuthentication": "triggerauthentication-keda-v1alpha1",
    "PodMonitor": "podmonitor-monitoring-v1",
    "PrometheusRule": "prometheusrule-monitoring-v1",
    "KafkaTopic": "kafkatopic-kafka-v1",
}


def helm(*arguments):
    return subprocess.run([tool("helm"), *arguments], capture_output=True, text=True, check=False)


def template(case, *more):
    return helm(
        "template", "demo", str(CHART), "--kube-version", KUBERNETES, "-f", str(CHART / "ci" / f"{case}.yaml"), *more
    )


@cache
def rendered(case, *more):
    done = template(case, *more)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(documents, kind, name):
    (found,) = (each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def pods(documents):
    for each in documents:
        if each["kind"] == "Deployment":
            yield each["spec"]["template"]["spec"]
        if each["kind"] == "CronJob":
            yield each["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def is_valid(document):
    try:
        if document["kind"] in CUSTOM:
            jsonschema.validate(document, json.loads((SCHEMAS / f"{CUSTOM[document['kind']]}.json").read_text()))
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return f"{document['kind']} {document['metadata']['name']}: {list(error.path)}: {error.message[:300]}"
    return True


def unlike(value):
    """Yield the same object with a field that there is not, at each depth where a schema could let it pass."""
    yield value | {"planted": 1}
    if isinstance(value.get("spec"), dict):
        yield value | {"spec": value["spec"] | {"planted": 1}}


def restricted(pod):
    """What the restricted Pod Security Standard asks for and a pod does not give; what the chart promises beyond it."""
    context = pod["securityContext"]
    missing = []
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        missing.append("runs as root")
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        missing.append("no seccomp profile")
    if pod.get("automountServiceAccountToken") is not False:
        missing.append("has a token of the API")
    missing += [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    missing += [f"volume {volume['name']}" for volume in pod["volumes"] if "hostPath" in volume]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            missing.append("may rise")
        if own.get("readOnlyRootFilesystem") is not True:
            missing.append("writes to its image")
    return missing


@pytest.fixture(scope="module")
def everything():
    return rendered("everything")


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_to_say(case):
    done = helm("lint", "--strict", "--kube-version", KUBERNETES, "-f", str(CHART / "ci" / f"{case}.yaml"), str(CHART))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES)
def test_a_cluster_takes_what_is_rendered_and_nothing_else(case):
    documents = rendered(case)
    assert {is_valid(document) for document in documents} == {True}
    assert len({(each["kind"], each["metadata"]["name"]) for each in documents}) == len(documents)
    kinds = {document["kind"]: document for document in documents}
    for document in kinds.values():
        for wrong in unlike(document):
            assert is_valid(wrong) is not True, wrong["kind"]


def test_a_wrong_type_deep_in_a_pod_is_seen():
    worker = json.loads(json.dumps(one(rendered("minimal"), "Deployment", "demo-worker")))
    worker["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "9464"
    assert "containerPort" in is_valid(worker)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("worker.replica=2", "replica"),
        ("worker.replicas=two", "worker.replicas"),
        ("worker.gpus=-1", "worker.gpus"),
        ("kafka.settings.bootstrap_servers=", "bootstrap_servers"),
        ("kafka.settings.sasl_password=secret", "kafka.settings"),
        ("retraining.cameras={a b}", "retraining.cameras"),
        ("topics.list.frames.partitions=0", "partitions"),
        ("monitoring.runbooks=git.example", "monitoring.runbooks"),
        ("worker.settings.http.port=80", "http.port"),
        ("worker.settings.kafka.group_instance_id=one", "group_instance_id"),
        ("worker.bundlesImage=bundles:1", "/models"),
        ("worker.extraEnv[0].name=FRAMEWATCH_STOP_SECONDS", "worker.extraEnv"),
        ("keda.maxReplicas=5", "4 partitions"),
        ("kafka.settings.sasl_mechanism=OAUTHBEARER", "keda.authentication"),
        ("kafka.settings.sasl_mechanism=PLAIN", "kafka.usernameKey"),
        ("console.tokenSecret=", "console.tokenSecret"),
        ("console.tlsSecret=", "console.tlsSecret"),
        ("retraining.claim=", "retraining.claim"),
        ("topics.cluster=", "topics.cluster"),
    ],
)
def test_a_mistake_is_refused_by_its_name(setting, said):
    done = template("everything", "--set", setting)
    assert done.returncode != 0
    # Helm's schema checker writes a value's place with dots or slashes, by version.
    assert said.replace("/", ".") in done.stderr.replace("/", ".")


@pytest.mark.parametrize("case", CASES)
def test_pods_meet_the_restricted_standard(case):
    found = list(pods(rendered(case)))
    assert found
    assert [restricted(pod) for pod in found] == [[] for _ in found]
    for pod in found:
        (container,) = pod["containers"]
        names = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == names
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}


def test_a_pod_that_may_do_more_is_seen():
    (pod,) = pods(rendered("minimal"))
    (container,) = pod["containers"]
    loose = container | {"securityContext": {"allowPrivilegeEscalation": True}}
    wrong = pod | {
        "securityContext": {},
        "automountServiceAccountToken": True,
        "hostNetwork": True,
        "containers": [loose],
    }
    assert len(restricted(wrong)) == 6


@pytest.fixture
def placed(tmp_path):
    """Puts a ConfigMap where its pod has it, with files of Secrets, and returns the path of one of its files."""

    def place(documents, name, file):
        for folder, keys in {
            "kafka": ["ca.crt", "tls.crt", "tls.key", "password"],
            "token": ["token"],
            "tls": ["tls.crt", "tls.key"],
        }.items():
            (tmp_path / folder).mkdir()
            for key in keys:
                (tmp_path / folder / key).write_text("0123456789abcdef")
                (tmp_path / folder / key).chmod(0o600)
        for document in documents:
            if document["kind"] == "ConfigMap" and document["metadata"]["name"].startswith(name):
                folder = tmp_path / ("cameras" if document["metadata"]["name"].endswith("-cameras") else "settings")
                folder.mkdir()
                for key, text in document["data"].items():
                    (folder / key).write_text(text.replace("/etc/framewatch", str(tmp_path)))
        return tmp_path / "settings" / file

    return place


@pytest.mark.parametrize("case", CASES)
def test_the_worker_accepts_its_settings(case, placed):
    file = placed(rendered(case), "demo-worker", "worker.yaml")
    settings = load_settings(WorkerSettings, file=file)
    (worker, *_) = pods(each for each in rendered(case) if each["metadata"]["name"] == "demo-worker")
    (container,) = worker["containers"]
    assert settings.http.port == container["ports"][0]["containerPort"]
    assert settings.http.host == "0.0.0.0"
    assert worker["terminationGracePeriodSeconds"] >= settings.stop_seconds + 5
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert str(settings.registry_cache) in writable
    if settings.cameras:
        assert set(load_cameras(settings.cameras)) == {"hall", "yard"}


def test_a_secret_s_files_are_named_and_what_is_in_it_is_not(placed):
    settings = load_settings(WorkerSettings, file=placed(rendered("secure"), "demo-worker", "worker.yaml"))
    assert settings.kafka.password().get_secret_value() == "0123456789abcdef"
    assert settings.kafka.ssl_cafile.name == "ca.crt"
    assert settings.kafka.group_id == "entrance"  # a worker's own beside what is for all
    assert not [each for case in CASES for each in rendered(case) if each["kind"] == "Secret"]


def test_the_console_accepts_its_settings(everything, placed):
    settings = load_settings(ConsoleSettings, file=placed(everything, "demo-console", "console.yaml"))
    assert settings.auth.kind == "token"
    (container,) = one(everything, "Deployment", "demo-console")["spec"]["template"]["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == settings.port
    mounts = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert str(settings.database.parent) in mounts
    assert one(everything, "Deployment", "demo-console")["spec"]["strategy"] == {"type": "Recreate"}


def test_probes_ask_for_what_is_served():
    for case in CASES:
        for pod in pods(rendered(case)):
            (container,) = pod["containers"]
            asked = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
            if container["name"] in {"worker", "console"}:
                assert asked == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert "/livez" in telemetry.__doc__
    assert "/readyz" in telemetry.__doc__


def test_what_a_running_worker_takes_over_restarts_no_pod():
    text = (CHART / "templates" / "worker.yaml").read_text()
    (listed,) = re.findall(r"\$reloaded := list ([^}]*)}}", text)
    assert set(re.findall(r'"(\w+)"', listed)) == reload._CHANGEABLE

    def pod(*more):
        return one(rendered("minimal", *more), "Deployment", "demo-worker")["spec"]["template"]

    before = pod()
    assert pod("--set", "worker.settings.threshold=3.5,worker.settings.bundle=/models/other") == before
    assert pod("--set", "worker.settings.batch.max_frames=8") != before


def test_a_gpu_s_worker_replaces_the_old_one_and_asks_for_its_gpu():
    worker = one(rendered("gpu"), "Deployment", "demo-worker")["spec"]
    (container,) = worker["template"]["spec"]["containers"]
    assert worker["strategy"]["rollingUpdate"]["maxSurge"] == 0
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["nvidia.com/gpu"] == 1
    assert container["image"].startswith("framewatch-worker-cuda:")
    assert "nvidia.com/gpu" not in str(one(rendered("minimal"), "Deployment", "demo-worker"))


def test_keda_asks_for_the_group_s_lag_with_the_worker_s_login():
    documents = rendered("secure")
    scaled = one(documents, "ScaledObject", "demo-worker")["spec"]
    (trigger,) = scaled["triggers"]
    asked = trigger["metadata"]
    assert asked["bootstrapServers"] == "kafka-1.example:9093,kafka-2.example:9093"
    assert (asked["consumerGroup"], asked["topic"]) == ("entrance", "frames")
    assert (asked["tls"], asked["sasl"]) == ("enable", "scram_sha512")
    login = one(documents, "TriggerAuthentication", trigger["authenticationRef"]["name"])["spec"]["secretTargetRef"]
    assert {each["parameter"] for each in login} == {"username", "password", "ca"}
    assert {each["name"] for each in login} == {"framewatch-kafka"}
    # Two who set the number would undo each other's.
    assert "replicas" not in one(documents, "Deployment", scaled["scaleTargetRef"]["name"])["spec"]


def test_pods_reach_what_they_need_and_are_reached_by_whom_they_serve(everything):
    secure = one(rendered("secure"), "NetworkPolicy", "demo-worker")["spec"]
    assert secure["policyTypes"] == ["Ingress", "Egress"]
    out = {(port["protocol"], port["port"]) for rule in secure["egress"] for port in rule["ports"]}
    assert out == {("UDP", 53), ("TCP", 53), ("TCP", 9093), ("TCP", 5000)}
    brokers = next(rule for rule in secure["egress"] if rule["ports"][0]["port"] == 9093)
    assert brokers["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kafka"}
    (way,) = secure["ingress"]
    assert [port["port"] for port in way["ports"]] == [9464]
    assert [list(peer) for peer in way["from"]] == [["namespaceSelector"]]
    policed = {
        each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for each in everything
        if each["kind"] == "NetworkPolicy"
    }
    assert policed == {"worker", "console", "retraining"}
    assert one(everything, "NetworkPolicy", "demo-retraining")["spec"]["ingress"] == []


def test_topics_are_those_of_the_local_broker(everything):
    made = {each["metadata"]["name"]: each["spec"] for each in everything if each["kind"] == "KafkaTopic"}
    assert {name: topic["partitions"] for name, topic in made.items()} == {
        name: topic.partitions for name, topic in STANDARD_TOPICS.items()
    }
    settings = {
        name: {key: str(value) for key, value in topic.get("config", {}).items()} for name, topic in made.items()
    }
    assert settings == {name: dict(topic.config) for name, topic in STANDARD_TOPICS.items()}


def test_alerts_and_dashboard_are_those_of_the_repository(everything):
    alerts = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    dashboard = (DEPLOY / "grafana" / "dashboards" / "framewatch.json").read_text()
    assert (CHART / "files" / "alerts.yaml").read_text() == alerts, "run: make monitoring"
    assert (CHART / "files" / "framewatch.json").read_text() == dashboard, "run: make monitoring"
    base = "https://git.example/framewatch/"
    expected = yaml.safe_load(alerts.replace("docs/runbooks.md", f"{base}docs/runbooks.md"))
    assert one(everything, "PrometheusRule", "demo")["spec"] == expected
    assert json.loads(one(everything, "ConfigMap", "demo-dashboard")["data"]["framewatch.json"]) == json.loads(
        dashboard
    )
    # By which the rules know a job.
    assert "framewatch" in next(each["metadata"]["name"] for each in everything if each["kind"] == "PodMonitor")


def test_the_chart_s_version_is_the_project_s():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == contract.__version__
    (container,) = next(pods(rendered("everything")))["containers"]
    assert container["image"].endswith(f":{contract.__version__}")
    assert container["image"].startswith("registry.example/video/framewatch-")


def test_every_value_is_explained():
    lines = (CHART / "values.yaml").read_text().splitlines()
    within = {"requests", "limits", *STANDARD_TOPICS}  # of a value that is explained
    values = [(above, re.match(r" *([\w.-]+): .", line)) for above, line in itertools.pairwise(lines)]
    assert [
        key[1] for above, key in values if key and key[1] not in within and not above.lstrip().startswith("# ")
    ] == []
    assert len([key for _, key in values if key]) > 80


@pytest.fixture
def job(everything):
    return one(everything, "CronJob", "demo-retraining")["spec"]["jobTemplate"]["spec"]


@pytest.mark.parametrize(("index", "camera"), [(0, "hall"), (1, "gate-2"), (2, "lobby")])
def test_each_index_retrains_the_camera_of_its_line(everything, job, tmp_path, index, camera):
    data = one(everything, "ConfigMap", "demo-retraining")["data"]
    (tmp_path / "cameras").write_text(data["cameras"])
    said = tmp_path / "said"
    program = tmp_path / "trainer"
    program.write_text(f'#!/bin/sh\necho "$@" > {said}\nexit 7\n')
    program.chmod(0o755)
    (container,) = job["template"]["spec"]["containers"]
    script = container["args"][0].replace("/etc/framewatch/retraining/cameras", str(tmp_path / "cameras"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(index)}
    done = subprocess.run([*container["command"], script], env=environment, check=False)
    assert done.returncode == 7  # the trainer's own, which the policy looks at
    assert said.read_text().split() == [
        "retrain", "--camera", camera, "--config", "/etc/framewatch/retraining/retrain.yaml",
    ]  # fmt: skip
    assert job["completions"] == 3


def test_the_trainer_accepts_its_settings(everything, placed):
    file = placed(everything, "demo-retraining", "retrain.yaml")
    settings = load_settings(RetrainSettings, file=file, flags={"camera": "hall"})
    assert settings.source == "kafka://kafka.example:9093/frames?camera={camera}"
    assert settings.kafka.security_protocol == "SSL"
    assert settings.kafka.ssl_keyfile is not None


def test_a_mistake_fails_its_camera_and_an_eviction_none(job):
    rules = job["podFailurePolicy"]["rules"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # what the policy asks for
    assert job["completionMode"] == "Indexed"
    assert [rule["action"] for rule in rules] == ["Ignore", "FailIndex"]
    assert rules[1]["onExitCodes"]["values"] == [MISTAKE]
    assert rules[1]["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]


def test_a_retraining_keeps_what_is_done_on_its_volume(job):
    (container,) = job["template"]["spec"]["containers"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert container["workingDir"] in writable
    claims = [
        each["persistentVolumeClaim"] for each in job["template"]["spec"]["volumes"] if "persistentVolumeClaim" in each
    ]
    assert claims == [{"claimName": "framewatch-retraining"}]
