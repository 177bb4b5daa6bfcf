"""A worker on another machine than its broker: the cable is pulled for longer than the group waits, and put back.

Worker and broker are in network namespaces of the test's own, with a pair of virtual cards between them.
"""

import ctypes
import json
import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.broker import LocalBroker
from tests.tools import tool
from tests.worker.deployment import Deployment, frames_of, terminate, wait_until

CLONE_NEWNET = 0x40000000
BROKER_ADDRESS, WORKER_ADDRESS = "10.77.0.1", "10.77.0.2"
BROKER_NAME = "kafka.framewatch.test"
# Twice the session of 6 s: the group goes on without the worker, and fetches that were under way are lost.
AWAY_SECONDS = 12

pytestmark = pytest.mark.broker


def ip(*arguments):
    subprocess.run([tool("ip"), *arguments], check=True, capture_output=True)


@contextmanager
def joined(namespace):
    """Put this thread, and what it starts, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    inside = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert libc.setns(inside, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(before)
        os.close(inside)


@pytest.fixture
def cable():
    """Two namespaces, `NAME-broker` and `NAME-worker`, and a pair of cards between them."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("network namespaces need root")
        pytest.skip("network namespaces need root")
    name = f"framewatch-{os.getpid()}"
    hosts = Path(f"/etc/netns/{name}-worker/hosts")
    try:
        for side in ("broker", "worker"):
            ip("netns", "add", f"{name}-{side}")
            ip("-n", f"{name}-{side}", "link", "set", "lo", "up")
        ip(
            "-n",
            f"{name}-broker",
            "link",
            "add",
            "name",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            f"{name}-worker",
        )
        for side, address in (("broker", BROKER_ADDRESS), ("worker", WORKER_ADDRESS)):
            ip("-n", f"{name}-{side}", "address", "add", f"{address}/30", "dev", "cable")
            ip("-n", f"{name}-{side}", "link", "set", "cable", "up")
        # What `ip netns exec` shows as /etc/hosts there: only the worker knows the broker by its name.
        hosts.parent.mkdir(parents=True)
        hosts.write_text(f"127.0.0.1 localhost\n{BROKER_ADDRESS} {BROKER_NAME}\n")
        yield name
    finally:
        for side in ("worker", "broker"):
            subprocess.run([tool("ip"), "netns", "delete", f"{name}-{side}"], check=False, capture_output=True)
        if hosts.parent.is_dir():
            hosts.unlink(missing_ok=True)
            hosts.parent.rmdir()


class Remote(Deployment):
    """A deployment whose workers run in a namespace of their own."""

    namespace = ""

    def status(self, path):
        with joined(f"{self.namespace}-worker"):
            return super().status(path)


@pytest.fixture
def remote(cable, tmp_path, tiny_bundle):
    with (
        joined(f"{cable}-broker"),
        LocalBroker(outside=(BROKER_ADDRESS, BROKER_NAME), log_path=tmp_path / "server.log") as broker,
    ):
        deployment = Remote(broker, tmp_path, tiny_bundle.bundle, "cut")
        deployment.namespace = cable
        deployment.within = (tool("ip"), "netns", "exec", f"{cable}-worker")
        deployment.set(kafka={"bootstrap_servers": broker.outside_servers, "allow_plaintext": True})
        yield deployment


def scores_of(remote, count):
    """The different scores that each frame was given, by the frame's partition and offset."""
    told = {}
    for record in remote._read_once("scores", count):
        score = json.loads(record.value)
        told.setdefault((score["partition"], score["offset"]), set()).add(score["anomaly_score"])
    return told


def test_a_link_that_was_down_costs_no_frame_and_gives_none_two_scores(remote, tiny_bundle):
    frames = frames_of(str(tiny_bundle.footage), "gate")
    with remote.worker() as child:
        remote.send(frames[:20])
        before = remote.read("scores", 20)
        wait_until(lambda: sum(remote.committed().values()) == 20)
        assert remote.status("/readyz") == 200
        ip("-n", f"{remote.namespace}-worker", "link", "set", "cable", "down")
        cut_at = time.monotonic()
        remote.send(frames[20:40])
        wait_until(lambda: remote.status("/readyz") == 503, 60)
        assert remote.status("/livez") == 200
        time.sleep(max(0.0, cut_at + AWAY_SECONDS - time.monotonic()))
        assert len(remote.read("scores", 20)) == len(before)  # the cut is one: nothing came through
        ip("-n", f"{remote.namespace}-worker", "link", "set", "cable", "up")
        remote.send(frames[40:])
        wait_until(lambda: len(scores_of(remote, len(frames))) == len(frames))
        wait_until(lambda: remote.status("/readyz") == 200)
        assert terminate(child) == 0
    # The batch whose commit the cut kept from the broker is done again, under the same ids and with the same scores.
    assert all(max(told) - min(told) < 1e-4 for told in scores_of(remote, len(frames)).values())
    assert sum(remote.committed().values()) == len(frames)
    remote.read("dead", 0)
