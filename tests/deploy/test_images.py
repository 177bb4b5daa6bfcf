"""What images are built from and run by: files that their tools take, and locks that fit the project."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from contract.settings import load_settings
from tests.tools import tool
from worker.console.settings import ConsoleSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "deploy" / "images"
DOCKERFILE = IMAGES / "Dockerfile"
COMPOSE = ROOT / "deploy" / "compose.yaml"
EXTRAS = {
    "worker-cpu": {"registry", "tracing"},
    "worker-cuda": {"registry", "cuda", "tracing"},
    "trainer": {"registry", "train"},
    "console": {"console"},
}


def lint(path):
    done = subprocess.run([tool("hadolint"), "--no-color", str(path)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_linter_finds_nothing_in_the_dockerfile():
    assert lint(DOCKERFILE) == (0, "")


def test_a_fault_in_the_dockerfile_is_found(tmp_path):
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.read_text().replace('ENTRYPOINT ["worker"]', "ENTRYPOINT worker"))
    code, said = lint(tmp_path / "Dockerfile")
    assert code == 1
    assert "DL3025" in said  # a shell that would swallow SIGTERM


def stages():
    """Text of each stage of the Dockerfile by its name."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("image", ["worker", "worker-cuda", "trainer", "console"])
def test_an_image_runs_without_privileges_and_lists_what_is_in_it(image):
    stage = stages()[image]
    assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == ["10001:10001"]
    assert re.search(r"^ENTRYPOINT \[", stage, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", stage, re.MULTILINE)
    assert "--require-hashes" in stage
    assert "/usr/share/framewatch/sbom.cdx.json" in stage


@pytest.mark.parametrize("image", ["worker", "worker-cuda"])
def test_the_settings_in_an_image_are_settings(image, monkeypatch):
    for name, value in re.findall(r"(FRAMEWATCH_\w+)=(\S+)", stages()[image]):
        monkeypatch.setenv(name, value)
    settings = load_settings(WorkerSettings, flags={"bundle": "/models/bundle"}, environment=True)
    assert (settings.http.host, settings.http.port) == ("0.0.0.0", 9464)
    assert "http://127.0.0.1:9464/readyz" in stages()[image]


def distribution(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("image", EXTRAS)
def test_a_lock_holds_what_the_project_asks_for_as_the_projects_lock_does(image):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra in EXTRAS[image]:
        asked += project["optional-dependencies"][extra]
    text = (IMAGES / f"{image}.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))
    assert {distribution(requirement) for requirement in asked} <= set(locked)
    everywhere = re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    known = {name for name, _ in everywhere}
    assert {item for item in locked.items() if item[0] in known} <= set(everywhere)
    assert text.count("--hash=sha256:") >= len(locked)
    assert "://" not in text
    assert ("torch" in locked) == (image == "trainer")


def read_compose(text, folder):
    """Let the specification's own reader take the file, as `docker compose config` does."""
    path = folder / "compose.yaml"
    path.write_text(text)
    return subprocess.run([tool("compose-spec"), str(path)], capture_output=True, text=True, check=False)


def test_the_compose_file_is_one(tmp_path):
    done = read_compose(COMPOSE.read_text(), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "planted"), [("mem_limit: 2g", "mem_limt: 2g"), ("condition: service_healthy", "condition: service_well")]
)
def test_a_slip_in_the_compose_file_is_seen(tmp_path, line, planted):
    text = COMPOSE.read_text()
    assert line in text
    assert read_compose(text.replace(line, planted), tmp_path).returncode != 0


def test_no_service_may_more_than_it_needs():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "image" in service, name
        assert not service["image"].endswith(":latest"), name
    assert {name for name, service in services.items() if not service.get("read_only")} == {"kafka", "topics"}


def test_the_workers_environment_in_the_compose_file_is_one_of_settings(monkeypatch, tmp_path):
    worker = yaml.safe_load(COMPOSE.read_text())["services"]["worker"]
    for name, value in worker["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings(WorkerSettings, environment=True)
    assert settings.kafka.bootstrap_servers == "kafka:19092"
    assert int(worker["stop_grace_period"].removesuffix("s")) >= settings.stop_seconds + 5
    for name in worker["environment"]:
        monkeypatch.delenv(name)
    token = tmp_path / "token"
    token.write_text("a" * 32)
    token.chmod(0o400)
    console = yaml.safe_load(COMPOSE.read_text())["services"]["console"]
    assert console["secrets"][0] == {"source": "console-token", "uid": "10001", "gid": "10001", "mode": 0o400}
    for name, value in {**console["environment"], "FRAMEWATCH_AUTH__TOKEN_FILE": str(token)}.items():
        monkeypatch.setenv(name, value)
    assert len(load_settings(ConsoleSettings, environment=True).worker_metrics) == 2
    targets = {
        service["build"]["target"]
        for service in yaml.safe_load(COMPOSE.read_text())["services"].values()
        if "build" in service
    }
    assert targets <= set(stages())
