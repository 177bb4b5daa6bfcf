"""What is applied to a cluster: the schedule that retrains many cameras hands each pod its own camera."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from contract.command_line import MISTAKE

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"


@pytest.fixture
def job():
    return yaml.safe_load((FOLDER / "retrain-cronjob.yaml").read_text())["spec"]["jobTemplate"]["spec"]


@pytest.fixture
def container(job):
    (container,) = job["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize(("index", "camera"), [(0, "hall"), (1, "gate-2"), (2, "lobby")])
def test_each_index_retrains_the_camera_of_its_line(container, tmp_path, index, camera):
    (tmp_path / "list").write_text("hall\ngate-2\nlobby\n")
    said = tmp_path / "said"
    program = tmp_path / "trainer"
    program.write_text(f'#!/bin/sh\necho "$@" > {said}\nexit 7\n')
    program.chmod(0o755)
    script = container["args"][0].replace("/etc/framewatch/cameras/list", str(tmp_path / "list"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(index)}
    done = subprocess.run([*container["command"], script], env=environment, check=False)
    assert done.returncode == 7  # the trainer's own, which the policy looks at
    assert said.read_text().split() == [
        "retrain", "--camera", camera, "--config", "/etc/framewatch/retrain/retrain.yaml",
    ]  # fmt: skip


def test_a_mistake_fails_its_camera_and_an_eviction_none(job):
    rules = job["podFailurePolicy"]["rules"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # what the policy asks for
    assert job["completionMode"] == "Indexed"
    assert [rule["action"] for rule in rules] == ["Ignore", "FailIndex"]
    assert rules[1]["onExitCodes"]["values"] == [MISTAKE]
    assert rules[1]["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]


def test_the_pod_may_write_to_its_volumes_alone(job, container):
    assert job["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert container["workingDir"] in writable
