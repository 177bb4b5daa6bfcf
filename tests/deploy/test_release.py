"""A release's version stands in one place, and what tells of it agrees."""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import contract

ROOT = Path(__file__).resolve().parents[2]
RELEASES = Path(__file__).parent / "releases"
HEADING = re.compile(r"^## (\S+), (unreleased|\d{4}-\d{2}-\d{2})$", re.MULTILINE)


def disagreements(changelog, version, last):
    """What a changelog says that the version, or that of the last release, does not."""
    headings = HEADING.findall(changelog)
    found = []
    if len(headings) != len(re.findall(r"^## ", changelog, re.MULTILINE)):
        found.append("a heading is not VERSION, and a date or unreleased")
    if headings[0][0] != version:
        found.append(f"begins with {headings[0][0]}, the version is {version}")
    if "unreleased" in [date for _, date in headings[1:]]:
        found.append("an older release has no date")
    # On a release's own commit the newest heading is dated, and the wheel kept is of the one before.
    if headings[1][0] != last:
        found.append(f"the release before is {headings[1][0]}, the wheel kept is of {last}")
    return found


def kept():
    [wheel] = RELEASES.glob("*.whl")
    return wheel


def test_the_changelog_tells_of_this_version_and_of_the_last_release():
    assert disagreements((ROOT / "CHANGELOG.md").read_text(), contract.__version__, kept().name.split("-")[1]) == []


@pytest.mark.parametrize(
    ("changelog", "says"),
    [
        ("## 0.3.0, unreleased\n## 0.1.0, 2026-11-27\n", "begins with 0.3.0"),
        ("## 0.2.0, unreleased\n## 0.1.0, unreleased\n", "an older release has no date"),
        ("## 0.2.0, unreleased\n## 0.1.5, 2026-11-28\n## 0.1.0, 2026-11-27\n", "the release before is 0.1.5"),
        ("## 0.2.0\n## 0.2.0, unreleased\n## 0.1.0, 2026-11-27\n", "a heading is not"),
    ],
)
def test_a_changelog_that_does_not_fit_is_found(changelog, says):
    [found] = disagreements(changelog, "0.2.0", "0.1.0")
    assert found.startswith(says)


def test_the_version_is_written_down_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "contract/__init__.py"


@pytest.mark.parametrize("command", ["worker", "trainer", "exporter"])
def test_a_command_says_its_version(command):
    done = subprocess.run([sys.executable, "-m", command, "--version"], capture_output=True, cwd=ROOT, check=True)
    assert done.stdout.decode() == f"framewatch {contract.__version__}\n"


def test_the_last_release_is_kept_as_it_was():
    digest = hashlib.sha256(kept().read_bytes()).hexdigest()
    assert (RELEASES / "SHA256SUMS").read_text() == f"{digest}  {kept().name}\n"
