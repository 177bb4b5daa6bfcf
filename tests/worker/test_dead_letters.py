"""``worker dead-letters`` against a real broker."""

import json
import subprocess
import sys

import pytest
from kafka import KafkaConsumer, TopicPartition

from tests.worker.deployment import ROOT, frames_of, terminate
from worker.dead_letters import DeadLetter

pytestmark = pytest.mark.broker


def run(deployment, *arguments):
    command = [sys.executable, "-m", "worker", "dead-letters", *arguments, "--config", str(deployment.config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def with_letters(deployment, tiny_bundle):
    """A topic with a cut JPEG, a frame of a camera that is not allowed, and bytes that are no picture."""
    deployment.set(allowed_cameras=["door"])
    good = frames_of(str(tiny_bundle.footage), "door")
    frames = [
        (b"door", good[0][1][:300], [("trace", b"\xff")], 1_790_000_000_123),
        (b"yard", good[1][1], [], 1_790_000_000_456),
        (b"door", b"<html>", [], None),
    ]
    with deployment.worker() as worker:
        deployment.send(frames)
        deployment.read("dead", 3)
        assert terminate(worker) == 0
    return good


def test_letters_are_listed_shown_and_sent_again(deployment, with_letters, tmp_path):
    listed = [json.loads(line) for line in run(deployment, "list", "--json").stdout.splitlines()]
    assert sorted(one["reason"] for one in listed) == ["camera_not_allowed", "not_jpeg_or_png", "truncated"]
    (yard,) = [one for one in listed if one["reason"] == "camera_not_allowed"]
    assert (yard["camera"], yard["bytes"]) == ("yard", len(with_letters[1][1]))
    lines = run(deployment, "list", "--reason", "truncated").stdout.splitlines()
    assert len(lines) == 1
    assert "truncated" in lines[0]
    shown = run(deployment, "show", yard["place"], "--out", str(tmp_path / "frame"))
    assert "reason: camera_not_allowed" in shown.stdout
    assert (tmp_path / "frame").read_bytes() == with_letters[1][1]
    deployment.set(allowed_cameras=["door", "yard"])
    done = run(deployment, "republish", "--reason", "camera_not_allowed")
    assert "1 dead letters sent" in done.stderr
    with deployment.worker() as worker:
        (score,) = deployment.read("scores", 1)
        assert terminate(worker) == 0
    told = json.loads(score.value)
    assert (told["camera_id"], told["captured_at_ms"]) == ("yard", 1_790_000_000_456)
    assert len(run(deployment, "list").stdout.splitlines()) == 3


def test_headers_come_back_as_they_were(deployment, with_letters):
    assert run(deployment, "republish", "--reason", "truncated").returncode == 0
    consumer = KafkaConsumer(bootstrap_servers=deployment.servers, group_id=None, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(deployment.topics["frames"], number) for number in (0, 1)])
    records = []
    while len(records) < 4:
        records += [one for part in consumer.poll(500).values() for one in part]
    consumer.close()
    again = max((one for one in records if one.value == with_letters[0][1][:300]), key=lambda one: one.offset)
    headers = dict(again.headers)
    assert headers["trace"] == b"\xff"
    assert headers["captured-at-ms"] == b"1790000000123"
    assert headers["framewatch-republished-from"].startswith(deployment.topics["dead"].encode() + b"/0:")
    assert set(headers) == {"trace", "captured-at-ms", "framewatch-republished-from"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["republish"], "say which"),
        (["show", "seventeen"], "is no place of a dead letter"),
        (["show", "0:99"], "there is no dead letter at 0:99"),
        (["list", "--topic", "no-such-topic"], "topic no-such-topic is not on"),
    ],
)
def test_what_is_asked_wrongly_is_said_in_one_line(deployment, arguments, said):
    done = run(deployment, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_key_is_shown_without_what_a_terminal_would_obey():
    letter = DeadLetter(0, 1, 0, b"\x1b[31mred\n\xff", b"", ())
    assert letter.camera == "\\x1b[31mred\\n\\\\xff"
    assert not DeadLetter(0, 1, 0, b"", b"", (("framewatch-value-left-out", b"99"),)).is_whole
