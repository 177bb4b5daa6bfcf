"""The unit of a worker without containers: systemd takes every line of it, and it gives the worker little."""

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from contract.command_line import MISTAKE
from tests.tools import tool
from worker.settings import WorkerSettings

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "framewatch-worker@.service"
# On systemd's scale from 0 to 10; what is left is the network, the devices, and memory that may be run.
MOST_EXPOSED = 2.0
SYSTEM_UNITS = Path("/usr/lib/systemd")


def verify(folder, text):
    """Let systemd read the unit on a root of its own, on which the programs are that it names."""
    for program in ("opt/framewatch/bin/worker", "bin/kill"):
        (folder / program).parent.mkdir(parents=True, exist_ok=True)
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    unit = folder / "etc" / "systemd" / "system" / UNIT.name
    unit.parent.mkdir(parents=True)
    unit.write_text(text)
    if SYSTEM_UNITS.is_dir():
        shutil.copytree(SYSTEM_UNITS / "system", folder / "usr/lib/systemd/system", symlinks=True)
    command = [tool("systemd-analyze"), "verify", f"--root={folder}", "--man=no", "framewatch-worker@0.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def exposure(folder, text):
    unit = folder / UNIT.name
    unit.write_text(text)
    command = [tool("systemd-analyze"), "security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", str(unit)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.fixture
def service():
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(UNIT)
    return unit["Service"]


def test_systemd_knows_every_line(tmp_path):
    code, said = verify(tmp_path, UNIT.read_text())
    assert (code, said) == (0, "")


@pytest.mark.parametrize(
    ("line", "planted", "named"),
    [
        ("KillMode=mixed", "KilMode=mixed", "Unknown key"),
        ("/bin/worker run", "/bin/workre run", "workre is not executable"),
        ("RestrictAddressFamilies=AF_INET ", "RestrictAddressFamilies=AF_INTE ", "AF_INTE"),
    ],
)
def test_a_slip_in_the_unit_is_seen(tmp_path, line, planted, named):
    text = UNIT.read_text()
    assert line in text
    assert named in verify(tmp_path, text.replace(line, planted))[1]


def test_the_unit_gives_the_worker_little(tmp_path):
    assert exposure(tmp_path, UNIT.read_text()) == 0


def test_a_unit_that_gives_it_more_is_seen(tmp_path):
    text = UNIT.read_text()
    for line in ("DynamicUser=yes", "CapabilityBoundingSet="):
        assert f"\n{line}\n" in text
        text = text.replace(f"\n{line}\n", "\n")
    assert exposure(tmp_path, text) != 0


def test_the_unit_waits_for_a_worker_that_ends_and_leaves_one_alone_that_is_set_wrongly(service):
    stop_seconds = WorkerSettings.model_fields["stop_seconds"].default
    assert int(service["TimeoutStopSec"]) >= stop_seconds + 5
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == [str(MISTAKE)]
    assert service["KillMode"] == "mixed"
