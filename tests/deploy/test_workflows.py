"""Workflows that their linter takes, that hold as few rights as they can, and run what they were reviewed with."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.tools import tool

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
# A job that may write, and what.
MAY_WRITE = {
    ("release", "attest"): {"id-token", "attestations"},
    ("release", "pypi"): {"id-token"},
    ("release", "github"): {"contents"},
    ("release", "images"): {"packages", "id-token", "attestations"},
    ("release", "site"): {"pages", "id-token"},
    ("images", "image"): {"packages", "id-token", "attestations"},
    ("images", "chart"): {"packages"},
}


def lint(*paths):
    done = subprocess.run(
        [tool("actionlint"), "-no-color", "-shellcheck=", *map(str, paths)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def faults(name, text):
    """What a workflow does that it may not."""
    workflow = yaml.safe_load(text)
    if workflow.get("permissions") != {"contents": "read"}:
        yield "rights of all jobs"
    for job, what in workflow["jobs"].items():
        rights = {right for right, value in what.get("permissions", {}).items() if value == "write"}
        if rights != MAY_WRITE.get((name, job), set()):
            yield f"{job}: rights"
        if "uses" not in what and "runs-on" not in what:
            yield f"{job}: runs nowhere"
        for step in what.get("steps", ()):
            # Whoever names a branch or a tag would run in the shell.
            if "${{" in step.get("run", ""):
                yield f"{job}: an expression in a script"
    for action in re.findall(r"uses: (.*)$", text, re.MULTILINE):
        if not re.fullmatch(r"\./\.github/workflows/\w+\.yml|[\w/-]+@[0-9a-f]{40} # v[\d.]+", action):
            yield f"{action}: not pinned by commit"


def test_the_linter_finds_nothing():
    assert [path.stem for path in WORKFLOWS] == ["audit", "images", "release", "test"]
    assert lint(*WORKFLOWS) == (0, "")


def test_the_linter_finds_a_job_that_waits_for_none(tmp_path):
    (tmp_path / "release.yml").write_text(RELEASE.read_text().replace("needs: attest", "needs: attested"))
    code, said = lint(tmp_path / "release.yml")
    assert code == 1
    assert "attested" in said


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_does_what_it_may(path):
    assert list(faults(path.stem, path.read_text())) == []


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("permissions:\n  contents: read\n", "permissions: write-all\n", "rights of all jobs"),
        ("      contents: write\n", "      contents: write\n      packages: write\n", "github: rights"),
        ("- run: make dist", "- run: make dist ${{ github.ref_name }}", "build: an expression in a script"),
        ("@ed0c53931b1dc9bd32cbe73a98c7f6766f8a527e # v1.13.0", "@release/v1", "not pinned by commit"),
    ],
)
def test_what_a_workflow_may_not_is_found(was, now, says):
    text = RELEASE.read_text()
    found = list(faults("release", text.replace(was, now, 1)))
    assert len(found) == 1
    assert found[0].endswith(says)


def test_nothing_is_published_before_it_is_tested_and_built():
    jobs = yaml.safe_load(RELEASE.read_text())["jobs"]

    def before(job):
        needs = jobs[job].get("needs", [])
        return {name for one in ([needs] if isinstance(needs, str) else needs) for name in {one, *before(one)}}

    for job in set(jobs) - {"test", "build", "attest"}:
        assert before(job) >= {"test", "build", "attest"}, job
